"""Load problems from whatever a spec names, and say in which order a run visits them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sized
from pathlib import Path
from typing import Any

from trb_lab.errors import UsageError, did_you_mean
from trb_lab.seeds import generator
from trb_lab.spec.dataset import (
    ArithDataset,
    ChampDataset,
    Dataset,
    HubDataset,
    JsonlDataset,
    ReasoningGymDataset,
)
from trb_lab.store.contents import hash_file

from .problem import LoadedProblems, Problem, answer_text

__all__ = ["ARITH_VERSION", "Problem", "PromptOrder", "dataset_version", "load_counted", "load_problems"]

ARITH_VERSION = 1
"""Raise it when the arith generator gives other problems for the same spec."""


def load_problems(spec: Dataset, *, source: str = "dataset") -> list[Problem]:
    """All problems of a data set, in its own order.

    Args:
        spec: what to load.
        source: the key path that names it, for error messages (`dataset`, `eval.sets[0].dataset`).

    Raises:
        UsageError: the file, task, column or id cannot be used; the message says which and what there is.
        NotAtHand: a hub data set is not on this machine.
        MissingExtra: the kind needs a package that is not installed.
    """
    return load_counted(spec, source=source).problems


def load_counted(spec: Dataset, *, source: str = "dataset") -> LoadedProblems:
    """As `load_problems`, with the number of rows that cannot be used."""
    if isinstance(spec, ArithDataset):
        return LoadedProblems(_load_arith(spec, source), {})
    if isinstance(spec, JsonlDataset):
        return LoadedProblems(_load_jsonl(spec, source), {})
    if isinstance(spec, ReasoningGymDataset):
        from .gym import load_gym

        return LoadedProblems(load_gym(spec, source), {})
    if isinstance(spec, ChampDataset):
        from .champ import load_champ

        return load_champ(spec)
    from .hub import load_hub

    return load_hub(spec, source)


def dataset_version(spec: Dataset) -> str:
    """What decides the content of a data set besides its spec; part of a trial's identity.

    Generated data: the generator's version. Files: a hash of their bytes. Hub ids: the commit of the snapshot in the
    hub's cache, or the revision where there is none. Generates and downloads nothing. Raises UsageError where the
    file is missing, MissingExtra where the package is.
    """
    if isinstance(spec, ArithDataset):
        return f"arith-{ARITH_VERSION}"
    if isinstance(spec, JsonlDataset):
        return _content_version([_existing_file(spec.path, "dataset")])
    if isinstance(spec, ReasoningGymDataset):
        from .gym import gym_version

        return gym_version()
    if isinstance(spec, ChampDataset):
        from .champ import champ_version

        return champ_version()
    assert isinstance(spec, HubDataset)
    from .hub_files import locate

    found = locate(spec)
    if found is None:
        return f"hub-{spec.revision or 'unpinned'}"
    return f"hub-{found.commit}" if found.commit else _content_version(found.files())


def _content_version(files: Iterable[Path]) -> str:
    return "sha256-" + hashlib.sha256("".join(map(hash_file, files)).encode()).hexdigest()[:16]


def _load_arith(spec: ArithDataset, source: str) -> list[Problem]:
    from .arith import generate

    try:
        problems = generate(spec)
    except ValueError as error:
        raise UsageError(f"{source}: {error}") from None
    prefix = f"arith/{spec.level or spec.split}/{spec.seed}"
    return [Problem(p.prompt, p.answer, f"{prefix}/{i}", p.solution) for i, p in enumerate(problems)]


def _existing_file(path: str, source: str) -> Path:
    file = Path(path).expanduser()
    if file.is_file():
        return file
    what = "is a folder, not a JSONL file" if file.is_dir() else "does not exist"
    folder = file.parent
    beside = [p.name for p in folder.glob("*.jsonl")] if folder.is_dir() else []
    raise UsageError(f"{source}.path: {file} {what}.{did_you_mean(file.name, beside)}")


def _load_jsonl(spec: JsonlDataset, source: str) -> list[Problem]:
    file = _existing_file(spec.path, source)
    problems = []
    for number, row in _json_lines(file, source):
        where = f"{source}: {file}:{number}"
        prompt = _value(row, spec.prompt_key, "prompt_key", where)
        if not isinstance(prompt, str) or not prompt.strip():
            raise UsageError(f"{where}: '{spec.prompt_key}' must be text, got {prompt!r:.60}.")
        try:
            answer = spec.answer_key and answer_text(_value(row, spec.answer_key, "answer_key", where))
        except ValueError as error:
            raise UsageError(f"{where}: '{spec.answer_key}': {error}.") from None
        problems.append(Problem(prompt, answer, f"{file.name}:{number}"))
        if spec.limit is not None and len(problems) >= spec.limit:
            break
    if not problems:
        raise UsageError(f"{source}: {file} holds no problems: one JSON object a line is expected.")
    return problems


def _json_lines(file: Path, source: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """(1-based line number, object) of every line that is not blank."""
    with open(file, "rb") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
            except ValueError as error:  # bad JSON and bad UTF-8 alike
                raise UsageError(f"{source}: {file}:{number}: not a line of JSON: {error}.") from None
            if not isinstance(row, dict):
                raise UsageError(
                    f"{source}: {file}:{number}: a JSON object is expected, like "
                    f'{{"prompt": "...", "answer": "..."}}; got a {type(row).__name__}.'
                )
            yield number, row


def _value(row: dict[str, Any], key: str, setting: str, where: str) -> Any:
    if key in row:
        return row[key]
    without = " Set answer_key: null where there are no answers." if setting == "answer_key" else ""
    raise UsageError(
        f"{where}: no key '{key}' ({setting}); available keys: {', '.join(row) or 'none'}."
        f"{did_you_mean(key, row)}{without}"
    )


class PromptOrder:
    """Which problems each step draws on: random access by step, so that a resumed run needs no replay.

    Every epoch is a permutation of all problems, and steps walk through the epochs without gaps. The order
    depends on the seed, the number of problems and the prompts a step; so it is the same for every arm.
    """

    def __init__(self, problems: Sized, seed: int, prompts_per_step: int) -> None:
        if len(problems) == 0 or prompts_per_step < 1:
            raise ValueError(f"needs problems and prompts, got {len(problems)} and {prompts_per_step} a step")
        self.num_problems = len(problems)
        self.seed = seed
        self.prompts_per_step = prompts_per_step
        self._epochs: dict[int, list[int]] = {}

    def at(self, step: int) -> list[int]:
        """Indices into the problems for the 0-based step, `prompts_per_step` of them."""
        first = step * self.prompts_per_step
        places = range(first, first + self.prompts_per_step)
        return [self._epoch(place // self.num_problems)[place % self.num_problems] for place in places]

    def _epoch(self, epoch: int) -> list[int]:
        if epoch not in self._epochs:
            for old in [e for e in self._epochs if e != epoch - 1]:
                del self._epochs[old]
            draws = generator(self.seed, "prompt_order", epoch)
            self._epochs[epoch] = draws.permutation(self.num_problems).tolist()
        return self._epochs[epoch]
