"""A plan as text and as JSON: what `--dry-run` shows, and the lines that a run begins with."""

from __future__ import annotations

import json
import textwrap
from typing import Any

from trb_lab.driver.action import Action
from trb_lab.driver.plan import Plan
from trb_lab.driver.view import text_table

DIFFERENCE_CHARS = 90
"""Longest list of differences in the text of a plan; --json has them whole."""


def shown_overrides(overrides: dict[str, Any]) -> str:
    """`warmup.kind=trb warmup.kl_budget=0.05`; `-` for the base as it is."""
    return " ".join(f"{k}={v if isinstance(v, str) else json.dumps(v)}" for k, v in overrides.items()) or "-"


def plan_json(plan: Plan) -> dict[str, Any]:
    """What `--dry-run --json` prints."""
    return {
        "counts": plan.counts(),
        "trials": [
            {
                **row.as_json(),
                "action": str(row.action),
                "error_class": plan.trials[row.run_id].error_class,
            }
            for row in plan.rows
        ],
        "references": [
            {
                "run_id": run_id,
                "role": r.role,
                "model": r.model,
                "action": str(r.action),
                "error_class": r.error_class,
            }
            for run_id, r in plan.references.items()
        ],
        "no_longer_planned": list(plan.no_longer_planned),
    }


def plan_text(plan: Plan) -> str:
    """What `--dry-run` prints: every row, what differs from the base, what would be done."""
    rows = [
        [r.run_id, r.draft.arm, r.draft.setting or "-", str(r.draft.seed),
         textwrap.shorten(shown_overrides(r.draft.overrides), DIFFERENCE_CHARS, placeholder=" ..."),
         _action_text(r.action, plan.trials[r.run_id].error_class)]
        for r in plan.rows
    ]  # fmt: skip
    rows += [
        [run_id, r.role, "-", "-", f"model={r.model}", _action_text(r.action, r.error_class)]
        for run_id, r in plan.references.items()
    ]
    header = ["run id", "arm", "setting", "seed", "differs from the base", "action"]
    return "\n".join([text_table(header, rows), "", plan_summary(plan)])


def _action_text(action: Action, error_class: str | None) -> str:
    """`retry (oom)`; a cancelled trial needs no word more."""
    return f"{action} ({error_class})" if error_class and error_class != str(action) else str(action)


def plan_summary(plan: Plan) -> str:
    """One line of counts, and what needs a word of its own."""
    counts = plan.counts()
    found = [f"{counts[a]} {a}" for a in counts if a not in ("trials", "no_longer_planned") and counts[a]]
    rows = f" ({len(plan.rows)} rows, some share a trial)" if len(plan.rows) > len(plan.trials) else ""
    lines = [f"{plan.sweep.name}: {counts['trials']} trials{rows}: {', '.join(found)}"]
    left = plan.left_alone()
    if left:
        kinds = ", ".join(f"{count} {kind}" for kind, count in left.most_common())
        named = next((kind for kind, _ in left.most_common() if kind != "unknown"), None)
        only = f" (--retry-failed={named}: only those)" if named and len(left) > 1 else ""
        lines.append(
            f"{left.total()} failed or cancelled trials are left alone ({kinds}); "
            f"--retry-failed runs them again{only}."
        )
    if plan.no_longer_planned:
        shown = ", ".join(plan.no_longer_planned[:5]) + (", ..." if len(plan.no_longer_planned) > 5 else "")
        lines.append(f"{len(plan.no_longer_planned)} no longer planned (kept): {shown}")
    return "\n".join(lines)
