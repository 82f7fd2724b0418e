"""CHAMP: competition problems from the package champ-dataset (extra `champ`). Needs no hub.

The package holds 270 problems; many ask for a proof or answer in words ("No integer solutions"). Kept are those whose
whole answer is a number or one formula of numbers, single letters, square roots and + - * / ^ !. Of these the
factorisations are left out: there the question, multiplied out, equals the answer.
"""

from __future__ import annotations

import json
import re
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from trb_lab.errors import MissingExtra
from trb_lab.spec.dataset import ChampDataset

from .problem import LoadedProblems, Problem

_NUMBER = re.compile(r"-?\d+")
_FORMULA = re.compile(r"@@((?:sqrt(?=\()|(?<![a-z])[a-z](?![a-z])|[0-9+\-*/^()! ])+)@@")
"""The package marks formulas with @@."""
BOX_INSTRUCTION = r"Put the final answer in \boxed{}."


def champ_version() -> str:
    """`champ-dataset-<version>`. Raises MissingExtra without the package."""
    try:
        return f"champ-dataset-{version('champ-dataset')}"
    except PackageNotFoundError:
        raise MissingExtra("A dataset of kind champ", "champ") from None


def load_champ(spec: ChampDataset) -> LoadedProblems:
    """The problems that can be graded, in the package's order."""
    champ_version()
    package = find_spec("champ_dataset")
    if package is None or not package.submodule_search_locations:
        raise MissingExtra("A dataset of kind champ", "champ")
    folder = Path(next(iter(package.submodule_search_locations)))
    loaded = read_champ(folder / "dataset_files" / "v0.json")
    return LoadedProblems(list(loaded.problems[: spec.limit]), loaded.left_out)


@cache
def read_champ(file: Path) -> LoadedProblems:
    """Problems of the package's file (72 MB, most of it model responses)."""
    rows = json.loads(file.read_text(encoding="utf-8"))["problems"].values()
    problems = [problem for row in rows if (problem := _problem(row)) is not None]
    return LoadedProblems(problems, {"no short answer that can be graded": len(rows) - len(problems)})


def _problem(row: dict[str, Any]) -> Problem | None:
    answer = gradeable(row["_raw_answer"])
    if answer is None or row["_raw_text"].lower().startswith("factor"):
        return None
    steps = "\n".join(_plain(step["_raw_text"]) for step in row["solution"]["steps"])
    prompt = f"{_plain(row['_raw_text'])}\n{BOX_INSTRUCTION}"
    solution = f"{steps}\n\\boxed{{{answer.strip('$')}}}"
    return Problem(prompt, answer, f"champ/{row['identifier']}", solution)


def gradeable(raw: str) -> str | None:
    """The answer where it is a number or one formula (then between dollar signs), else None."""
    raw = raw.strip()
    if _NUMBER.fullmatch(raw):
        return raw
    formula = _FORMULA.fullmatch(raw)
    return f"${formula[1]}$" if formula else None


def _plain(text: str) -> str:
    return text.replace("@@", "")
