"""Tables of what runs have recorded: the first steps (figure 7 of arXiv 2605.31159), and position bins."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from trb_lab.driver.view import text_table
from trb_lab.errors import LabError, UsageError
from trb_lab.store.metrics import read_metrics
from trb_lab.store.run_dir import RunDir, Store

from .targets import NamedRun, run_named, targets

POSITION_COLUMNS = (
    "redraw_rate", "kl", "beta", "student_top_k_mass", "teacher_top_k_mass", "top_k_overlap",
)  # fmt: skip


def first_steps(names: Sequence[str], store: Store, steps: int) -> list[dict[str, Any]]:
    """One row a run: means over its first `steps` training steps of teacher log-prob, AUROC and reward.

    `auroc_steps` says in how many of them the AUROC is defined (some rollouts correct, some not).
    Raises LabError where none of the runs has made a step.
    """
    rows = [row for target in targets(names, store) if (row := _first_steps(target, steps)) is not None]
    if not rows:
        raise LabError(f"no run of {', '.join(names)} has made a step yet: trb-lab status")
    return rows


def _first_steps(target: NamedRun, steps: int) -> dict[str, Any] | None:
    lines = [line for line in read_metrics(target.run.metrics) if line["step"] < steps]
    if not lines:
        return None
    values = {
        name: [line[key] for line in lines if key in line]
        for name, key in (
            ("teacher_logprob", "policy/teacher_logprob"),
            ("auroc", "rollout/support_auroc"),
            ("reward", "rollout/reward"),
        )
    }
    return {
        "run_id": target.run.run_id,
        "arm": target.arm,
        "setting": target.setting,
        "seed": target.spec.seed,
        "kl_budget": getattr(target.spec.warmup, "kl_budget", None),
        "steps": len(lines),
        **{name: math.fsum(found) / len(found) if found else None for name, found in values.items()},
        "auroc_steps": len(values["auroc"]),
    }


def first_steps_table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows for a terminal."""
    header = ["run", "arm", "setting", "seed", "steps", "teacher log-prob", "AUROC", "(steps)", "reward"]
    return text_table(
        header,
        [
            [
                row["run_id"],
                row["arm"],
                row["setting"] or "-",
                str(row["seed"]),
                str(row["steps"]),
                _shown(row["teacher_logprob"]),
                _shown(row["auroc"]),
                str(row["auroc_steps"]),
                _shown(row["reward"]),
            ]
            for row in rows
        ],
    )


def positions(name: str, store: Store, step: int | None = None) -> tuple[RunDir, list[dict[str, Any]]]:
    """The run's lines of positions.jsonl; of one step where asked.

    Raises LabError where the run has none, UsageError for a step that was not sampled.
    """
    run = run_named(name, store)
    lines = read_metrics(run.positions)
    if not lines:
        raise LabError(
            f"{run.run_id} has no positions.jsonl: it has made no sampled step, or is of an older version."
        )
    if step is None:
        return run, lines
    chosen = [line for line in lines if line["step"] == step]
    if not chosen:
        sampled = ", ".join(str(line["step"]) for line in lines)
        raise UsageError(f"--step {step} was not sampled in {run.run_id}: sampled steps are {sampled}.")
    return run, chosen


def positions_table(lines: Sequence[dict[str, Any]]) -> str:
    """One line a step and bin of token positions."""
    header = ["step", "positions", "tokens", *(column.replace("_", " ") for column in POSITION_COLUMNS)]
    rows = []
    for line in lines:
        for i, (first, last) in enumerate(line["bins"]):
            values = [(line.get(column) or [])[i : i + 1] for column in POSITION_COLUMNS]
            rows.append(
                [
                    str(line["step"]),
                    f"{first}-{last}",
                    str(line["tokens"][i]),
                    *(_shown(value[0] if value else None) for value in values),
                ]
            )
    return text_table(header, rows)


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
