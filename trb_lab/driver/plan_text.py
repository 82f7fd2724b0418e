"""A plan as text and as JSON: what `--dry-run` shows, and the lines that a run begins with."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Sequence
from typing import Any

from trb_lab.driver.action import Action
from trb_lab.driver.candidates import SearchRun
from trb_lab.driver.changes import changes_json, changes_text
from trb_lab.driver.estimate import estimate_json, estimate_text
from trb_lab.driver.outlook import Outlook
from trb_lab.driver.plan import Plan
from trb_lab.driver.search_counts import SearchCounts
from trb_lab.driver.view import text_table

DIFFERENCE_CHARS = 90
"""Longest list of differences in the text of a plan; --json has them whole."""
SETTINGS_SHOWN = 20
"""Settings of a search that the text of a plan lists; --json has them all."""
_ADAPTIVE = "adaptive: what follows depends on results"


def shown_overrides(overrides: dict[str, Any]) -> str:
    """`warmup.kind=trb warmup.kl_budget=0.05`; `-` for the base as it is."""
    return " ".join(f"{k}={v if isinstance(v, str) else json.dumps(v)}" for k, v in overrides.items()) or "-"


def plan_json(
    plan: Plan, outlook: Outlook | None = None, *, preview: Sequence[str] = (), limits: str = ""
) -> dict[str, Any]:
    """What `--dry-run --json` prints."""
    counts = plan.counts()
    found: dict[str, Any] = {
        "counts": {**counts, "reused": counts[Action.ADOPT], "running": counts[Action.ATTACH]},
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
        "preview": list(preview),
        "limits": limits or None,
    }
    if outlook is not None:
        found |= {
            "changes": changes_json(outlook.changes),
            "searches": {arm: counts.as_json() for arm, counts in outlook.searches.items()},
            "estimate": {**estimate_json(outlook.estimate), "slots": outlook.slots},
        }
    return found


def plan_text(
    plan: Plan, outlook: Outlook | None = None, *, preview: Sequence[str] = (), limits: str = ""
) -> str:
    """What `--dry-run` prints: every row, what differs from the base, what would be done; then `plan_summary`.

    `preview` are lines about what the searches would ask for next, `limits` what the jobs ask a cluster for.
    """
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
    parts = [*([text_table(header, rows), ""] if rows else []), plan_summary(plan, outlook)]
    if outlook is not None:
        parts += [search_text(counts) for counts in outlook.searches.values()]
    if preview:
        parts += ["  preview, if nothing new finishes first:", *(f"    {line}" for line in preview)]
    if outlook is not None:
        parts += filter(None, [estimate_text(outlook.estimate, outlook.slots)])
    return "\n".join([*parts, *filter(None, [limits])])


def search_text(counts: SearchCounts) -> str:
    """How far a search is, and which of its settings still have something to do."""
    more = f"{counts.left} more will be asked for." if counts.left else "no more will be asked for."
    lines = [f"{counts.sentence()}; {more}"]
    certain = counts.certain()
    if not certain:
        return f"{lines[0]}\n  {_ADAPTIVE}; nothing that was decided is left to do."
    lines.append(f"  {_ADAPTIVE}; only this is certain:")
    for setting, runs in certain[:SETTINGS_SHOWN]:
        lines.append(f"    {setting}: {', '.join(f'seed {run.seed} {_state(run)}' for run in runs)}")
    if len(certain) > SETTINGS_SHOWN:
        lines.append(f"    ... and {len(certain) - SETTINGS_SHOWN} more")
    return "\n".join(lines)


def _state(run: SearchRun) -> str:
    return "is to go on" if run.state == "paused" else run.state


def _action_text(action: Action, error_class: str | None) -> str:
    """`retry (oom)`; a cancelled trial needs no word more."""
    return f"{action} ({error_class})" if error_class and error_class != str(action) else str(action)


def plan_summary(plan: Plan, outlook: Outlook | None = None) -> str:
    """One line of counts, and what needs a word of its own: failures, changes, runs that are no longer planned."""
    counts = plan.counts()
    found = [f"{counts[a]} {a}" for a in counts if a not in ("trials", "no_longer_planned") and counts[a]]
    rows = f" ({len(plan.rows)} rows, some share a trial)" if len(plan.rows) > len(plan.trials) else ""
    parts = (
        [f"{counts['trials']} trials{rows}: {', '.join(found)}"] if plan.trials or not plan.searches else []
    )
    if plan.searches:
        count = len(plan.searches)
        parts.append(f"{count} search{'' if count == 1 else 'es'} ({', '.join(plan.searches)})")
    lines = [f"{plan.sweep.name}: {'; '.join(parts)}"]
    left = plan.left_alone()
    if left:
        kinds = ", ".join(f"{count} {kind}" for kind, count in left.most_common())
        named = next((kind for kind, _ in left.most_common() if kind != "unknown"), None)
        only = f" (--retry-failed={named}: only those)" if named and len(left) > 1 else ""
        lines.append(
            f"{left.total()} failed or cancelled trials are left alone ({kinds}); "
            f"--retry-failed runs them again{only}."
        )
    if outlook is not None:
        lines += filter(None, [changes_text(outlook.changes)])
    elif plan.no_longer_planned:
        shown = ", ".join(plan.no_longer_planned[:5]) + (", ..." if len(plan.no_longer_planned) > 5 else "")
        lines.append(f"{len(plan.no_longer_planned)} no longer planned (kept): {shown}")
    return "\n".join(lines)
