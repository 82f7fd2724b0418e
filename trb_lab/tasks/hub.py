"""Problems of Hugging Face hub data sets, read from files on this machine (extra `hub`)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from trb_lab.errors import MissingExtra, UsageError
from trb_lab.seeds import generator
from trb_lab.spec.dataset import HubDataset

from .hub_columns import read_column
from .hub_files import find
from .problem import LoadedProblems, Problem, answer_text


def load_hub(spec: HubDataset, source: str) -> LoadedProblems:
    """Rows of one split as problems: those that `where` allows, each prompt once, in order or shuffled, up to `limit`.

    A folder is loaded by the same call as a snapshot of the hub: parquet, JSONL or CSV files named after their split
    (`train.parquet`, `data/test-00000-of-00001.parquet`), or as the folder's README.md says.
    """
    table = _load_table(spec, source)
    if table.num_rows == 0:
        raise UsageError(f"{source}: split '{spec.split}' of {spec.id} is empty.")
    prompts = read_column(table, spec.prompt_column, f"{source}.prompt_column", spec.id)
    rows = _allowed_rows(spec, table, source)
    if spec.unique:
        first: dict[Any, int] = {}
        for row in rows:
            first.setdefault(_hashable(prompts[row]), row)
        rows = list(first.values())
    if spec.shuffle_seed is not None:
        order = generator(spec.shuffle_seed, "dataset_order").permutation(len(rows)).tolist()
        rows = [rows[i] for i in order]
    rows = rows[: spec.limit]
    answers: list[Any] = [None] * table.num_rows
    if spec.answer_column is not None:
        answers = read_column(table, spec.answer_column, f"{source}.answer_column", spec.id)
    name = Path(spec.id).name if Path(spec.id).expanduser().is_dir() else spec.id
    problems = [
        _problem(prompts[row], answers[row], f"{name}/{spec.split}/{row}", spec, source) for row in rows
    ]
    if spec.unreadable_answers == "refuse":
        return LoadedProblems(problems, {})
    return _readable(problems, source)


def _hashable(prompt: Any) -> Any:
    return prompt if isinstance(prompt, str) else repr(prompt)


def _allowed_rows(spec: HubDataset, table: Any, source: str) -> list[int]:
    """Row numbers that `where` allows."""
    rows = list(range(table.num_rows))
    for column, allowed in spec.where.items():
        values = read_column(table, column, f"{source}.where", spec.id)
        wanted = allowed if isinstance(allowed, list) else [allowed]
        rows = [row for row in rows if values[row] in wanted]
        if not rows:
            there = sorted({repr(value) for value in values[:100_000]})[:10]
            raise UsageError(
                f"{source}.where: no row of {spec.id} is left with {column} = {allowed!r}. "
                f"'{column}' holds {', '.join(there)}."
            )
    return rows


def _problem(prompt: Any, answer: Any, problem_id: str, spec: HubDataset, source: str) -> Problem:
    if not isinstance(prompt, str) or not prompt.strip():
        raise UsageError(
            f"{source}: row {problem_id}: column '{spec.prompt_column}' must be text that is not empty, "
            f"got {type(prompt).__name__} {prompt!r:.60}."
        )
    if isinstance(answer, list) and answer:  # OlympiadBench keeps its answers in a list, nearly always of one
        answer = answer[0] if len(answer) == 1 else ", ".join(map(str, answer))
    try:
        text = answer_text(answer)
    except ValueError as error:
        raise UsageError(f"{source}: row {problem_id}: column '{spec.answer_column}': {error}.") from None
    if text is not None and spec.answer_after is not None:
        _, mark, text = text.rpartition(spec.answer_after)
        if not mark:
            raise UsageError(
                f"{source}: row {problem_id}: column '{spec.answer_column}' has no '{spec.answer_after}' "
                f"(answer_after) that its answer would follow, got {text!r:.60}."
            )
        text = text.strip()
    if text is not None:
        text = text.replace("\\$", "")  # MATH's dollar amounts: the sign would open a formula
    return Problem(prompt, text, problem_id)


def _readable(problems: list[Problem], source: str) -> LoadedProblems:
    """The problems whose answer math-verify reads; the others are counted."""
    from .grading import Grader, unreadable_golds

    with Grader() as grader:
        bad = {problem.id for problem, _ in unreadable_golds(problems, grader)}
    if not bad:
        return LoadedProblems(problems, {})
    kept = [problem for problem in problems if problem.id not in bad]
    if not kept:
        raise UsageError(f"{source}: math-verify can read none of its {len(problems)} reference answers.")
    return LoadedProblems(kept, {"an answer that math-verify cannot read": len(bad)})


def _load_table(spec: HubDataset, source: str) -> Any:
    """The split as an Arrow table, memory-mapped, with the library's complaints turned into ours."""
    try:
        import datasets
    except ModuleNotFoundError:
        raise MissingExtra("A dataset of kind hub", "hub") from None
    folder = find(spec, source).folder
    datasets.disable_progress_bars()
    try:
        return datasets.load_dataset(str(folder), name=spec.config, split=spec.split).data.table
    except ValueError as error:  # an unknown split or config: the library names those that exist
        raise UsageError(f"{source}: {spec.id}: {error}") from None
    except Exception as error:  # broken or missing files: the library and its readers raise many kinds
        why = f"{error}" + (f": {error.__cause__}" if error.__cause__ else "")
        raise UsageError(f"{source}.id: {spec.id}: cannot load the folder {folder}: {why}") from None
