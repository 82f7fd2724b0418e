"""The end of a sweep: the report, and how it went."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from trb_lab.driver.candidates import SearchRun
from trb_lab.driver.plan import Plan, Row
from trb_lab.driver.searches import Searches
from trb_lab.errors import LabError
from trb_lab.launch.follow import Fleet
from trb_lab.store.run_dir import RunDir, Store
from trb_lab.store.status import TrialState, last_error, state_of

_NAMES_SHOWN = 3
DIVERGED = ("nan", "length_explosion", "kl_blow_up")
"""Classes of ends that tell something of the setting."""


def conclude(plan: Plan, fleet: Fleet, searches: Searches, store: Store, as_json: bool) -> int:
    """Make the report and tell how it went. Returns the exit code.

    A setting of a search that an alarm ended (diverged) is a result and no failure; any other failure is one.
    """
    outcome = [_outcome(row, fleet, store) for row in plan.rows]
    outcome += [_searched(run, fleet, store) for search in searches.all for run in search.runs()]
    references = [
        {"run_id": run_id, "name": f"{r.role} (reference)", **_standing(run_id, r.run_dir, fleet)}
        for run_id, r in plan.references.items()
    ]
    failed = [row for row in [*outcome, *references] if row["state"] == "failed" and not _is_told(row)]
    # Stopped by somebody else, or never started; one that was cancelled is as its owner wants it.
    left = [m for m in fleet.members.values() if m.standing in ("interrupted", "waiting")]
    unfinished = [m.run_id for m in left if state_of(m.job.run_dir) != TrialState.CANCELLED]
    paths: dict[str, str] = {}
    problem = None
    try:
        paths = report_files(store, plan.sweep.name)
    except Exception as error:  # whatever it is, the runs are done and the rest must still be told
        kind = "" if isinstance(error, LabError) else f"{type(error).__name__}: "
        problem = f"No report: {kind}{error}"
    if as_json:
        counts = dict(Counter(row["state"] for row in outcome))
        summary = {"counts": counts, "trials": outcome, "report": paths, "problem": problem}
        found = {"searches": searches.as_json()} if searches.all else {}
        print(json.dumps({**summary, **found, "halted": fleet.halted}))
    else:
        print(_closing(paths, failed, unfinished, problem, fleet.halted))
        for line in searches.lines():
            print(line)
    return 1 if failed or unfinished or problem or fleet.halted else 0


def report_files(store: Store, name: str) -> dict[str, str]:
    """Build the report; its files by what they are."""
    from trb_lab.report import build_report

    return {what: str(path) for what, path in build_report(store, name).items()}


def _searched(run: SearchRun, fleet: Fleet, store: Store) -> dict[str, Any]:
    row = run.row
    name = " ".join(filter(None, [row["arm"], row["setting"], f"seed={row['seed']}"]))
    told = {"run_id": run.run_id, "name": name, "search": row["search"]}
    return {**told, **_standing(run.run_id, run.run_dir, fleet)}


def _is_told(row: dict[str, Any]) -> bool:
    """Whether it is a setting of a search that diverged, which the sampler has been told."""
    return row.get("search", {}).get("role") == "select" and row["error_class"] in DIVERGED


def _outcome(row: Row, fleet: Fleet, store: Store) -> dict[str, Any]:
    return {"run_id": row.run_id, "name": row.name, **_standing(row.run_id, store.trial(row.run_id), fleet)}


def _standing(run_id: str, run_dir: RunDir, fleet: Fleet) -> dict[str, Any]:
    """How a run stands at the end. The fleet knows of failures that leave a completed trial completed."""
    member, error = fleet.members.get(run_id), last_error(run_dir) or {}
    if member is not None:
        return {
            "state": str(member.standing),
            "error": member.error,
            "error_class": error.get("error_class") if member.error else None,
        }
    return {"state": str(state_of(run_dir)), **{key: error.get(key) for key in ("error", "error_class")}}


def _closing(
    paths: dict[str, str],
    failed: list[dict[str, Any]],
    unfinished: list[str],
    problem: str | None,
    halted: str | None,
) -> str:
    """The report's table, what failed and why, and where things are."""
    lines = []
    if "table" in paths:
        lines += ["", Path(paths["table"]).read_text(encoding="utf-8").strip(), ""]
    lines += _failures(failed)
    if halted is not None:
        lines.append(
            "Nothing more was started, because every trial so far failed with the same error. Mend it, then: "
            "trb-lab sweep ... --retry-failed"
        )
    elif failed:
        lines.append("See `trb-lab logs TRIAL`; `trb-lab sweep ... --retry-failed` runs failed trials again.")
    if unfinished and halted is None:
        lines.append(
            f"{len(unfinished)} trials are not finished (stopped from outside); the same command goes on."
        )
    lines += [f"{name}: {path}" for name, path in paths.items()]
    return "\n".join([*lines, problem] if problem else lines)


def _failures(failed: list[dict[str, Any]]) -> list[str]:
    """A line for each failure; equal ones are told together."""
    alike: dict[tuple[Any, Any], list[str]] = {}
    for row in failed:
        alike.setdefault((row["error_class"], row["error"]), []).append(f"{row['name']} ({row['run_id']})")
    lines = []
    for (kind, error), names in alike.items():
        shown = ", ".join(names[:_NAMES_SHOWN])
        more = f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else ""
        lines.append(f"failed{f' ({kind})' if kind else ''}: {shown}{more}: {error}")
    return lines
