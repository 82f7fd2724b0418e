"""Problems from the Hugging Face hub, or from a local folder in the same layout (extra `hub`)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from trb_lab.errors import MissingExtra, UsageError, did_you_mean
from trb_lab.spec.dataset import HubDataset

from .problem import Problem, answer_text


def load_hub(spec: HubDataset, source: str) -> list[Problem]:
    """Rows of one split as problems.

    A folder is loaded by the same call as a hub id: parquet, JSONL or CSV files named after their split
    (`train.parquet`, `data/test-00000-of-00001.parquet`), as `hf download` leaves them.
    """
    rows = _load_rows(spec, source)
    for setting, column in (("prompt_column", spec.prompt_column), ("answer_column", spec.answer_column)):
        if column is not None and column not in rows.column_names:
            hint = " Set answer_column: null where there are no answers." if "answer" in setting else ""
            raise UsageError(
                f"{source}.{setting}: {spec.id} has no column '{column}', but {', '.join(rows.column_names)}."
                f"{did_you_mean(column, rows.column_names)}{hint}"
            )
    if spec.limit is not None:
        rows = rows.select(range(min(spec.limit, len(rows))))
    if len(rows) == 0:
        raise UsageError(f"{source}: split '{spec.split}' of {spec.id} is empty.")
    name = Path(spec.id).name if Path(spec.id).expanduser().is_dir() else spec.id
    prompts = rows[spec.prompt_column]
    answers = rows[spec.answer_column] if spec.answer_column is not None else [None] * len(rows)
    return [
        _problem(prompt, answer, f"{name}/{spec.split}/{index}", spec, source)
        for index, (prompt, answer) in enumerate(zip(prompts, answers, strict=True))
    ]


def _problem(prompt: Any, answer: Any, problem_id: str, spec: HubDataset, source: str) -> Problem:
    if not isinstance(prompt, str) or not prompt.strip():
        raise UsageError(
            f"{source}: row {problem_id}: column '{spec.prompt_column}' must be text that is not empty, "
            f"got {type(prompt).__name__} {prompt!r:.60}."
        )
    if isinstance(answer, list) and len(answer) == 1:  # OlympiadBench keeps its one answer in a list
        answer = answer[0]
    try:
        return Problem(prompt, answer_text(answer), problem_id)
    except ValueError as error:
        raise UsageError(f"{source}: row {problem_id}: column '{spec.answer_column}': {error}.") from None


def _load_rows(spec: HubDataset, source: str) -> Any:
    """The split as a `datasets.Dataset`, with the library's complaints turned into ours."""
    try:
        import datasets
    except ModuleNotFoundError:
        raise MissingExtra("A dataset of kind hub", "hub") from None
    folder = Path(spec.id).expanduser()
    is_folder = folder.is_dir()
    if not is_folder and (spec.id.startswith(("/", "~", ".")) or spec.id.count("/") != 1):
        raise UsageError(f"{source}.id: '{spec.id}' is neither a folder nor a hub id (owner/name).")
    datasets.disable_progress_bars()
    try:
        return datasets.load_dataset(
            str(folder) if is_folder else spec.id,
            name=spec.config,
            split=spec.split,
            revision=None if is_folder else spec.revision,
        )
    except ValueError as error:  # an unknown split or config: the library names those that exist
        raise UsageError(f"{source}: {spec.id}: {error}") from None
    except (FileNotFoundError, datasets.exceptions.DatasetsError) as error:
        if is_folder:
            why = f"{error}" + (f": {error.__cause__}" if error.__cause__ else "")
            raise UsageError(f"{source}.id: cannot load the folder {folder}: {why}") from None
        raise _unreachable(spec, source, error) from None
    except Exception as error:  # the hub's clients raise many kinds when there is no way through
        raise _unreachable(spec, source, error) from None


def _unreachable(spec: HubDataset, source: str, error: Exception) -> UsageError:
    revision = f" --revision {spec.revision}" if spec.revision else ""
    return UsageError(
        f"{source}: data set '{spec.id}' is not on this machine and did not come from the hub "
        f"({type(error).__name__}: {str(error).partition(chr(10))[0]}). "
        f"Where there is a network, fetch it ahead: hf download --repo-type dataset {spec.id}{revision} "
        f"--local-dir DIR, "
        f"then write id: DIR."
    )
