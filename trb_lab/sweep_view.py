"""What a sweep shows: its plan, its progress (a live table on a terminal, plain lines elsewhere), its end."""

from __future__ import annotations

import heapq
import json
import statistics
import sys
import textwrap
import time
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol, TextIO

from trb_lab.launch.follow import Event, Fleet, Member
from trb_lab.sweep_plan import Plan

if TYPE_CHECKING:
    from rich.live import Live
    from rich.table import Table

SUMMARY_SECONDS = 30.0
_SHOWN_AT_REST = 12
_MARKS = {
    "waiting": "dim",
    "running": "cyan",
    "completed": "green",
    "failed": "bold red",
    "interrupted": "yellow",
    "cancelled": "yellow",
}

DIFFERENCE_CHARS = 90
"""Longest list of differences in the text of a plan; --json has them whole."""


def text_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Aligned columns. Plain text, so that a thousand rows print at once and can be piped."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines = [header, ["-" * width for width in widths], *rows]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def shown_overrides(overrides: dict[str, Any]) -> str:
    """`warmup.kind=trb warmup.kl_budget=0.05`; `-` for the base as it is."""
    return " ".join(f"{k}={v if isinstance(v, str) else json.dumps(v)}" for k, v in overrides.items()) or "-"


def duration(seconds: float | None) -> str:
    """`2:05:09`, `3:20`; `?` where it is unknown."""
    if seconds is None:
        return "?"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def number(value: float | None, digits: int = 3) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def plan_json(plan: Plan) -> dict[str, Any]:
    """What `--dry-run --json` prints."""
    return {
        "counts": plan.counts(),
        "trials": [
            {
                "run_id": row.run_id,
                "arm": row.draft.arm,
                "setting": row.draft.setting,
                "seed": row.draft.seed,
                "overrides": row.draft.overrides,
                "action": str(row.action),
            }
            for row in plan.rows
        ],
        "references": [
            {"run_id": run_id, "role": r.role, "model": r.model, "action": str(r.action)}
            for run_id, r in plan.references.items()
        ],
        "no_longer_planned": list(plan.no_longer_planned),
    }


def plan_text(plan: Plan) -> str:
    """What `--dry-run` prints: every row, what differs from the base, what would be done."""
    rows = [
        [r.run_id, r.draft.arm, r.draft.setting or "-", str(r.draft.seed),
         textwrap.shorten(shown_overrides(r.draft.overrides), DIFFERENCE_CHARS, placeholder=" ..."), str(r.action)]
        for r in plan.rows
    ]  # fmt: skip
    rows += [
        [run_id, r.role, "-", "-", f"model={r.model}", str(r.action)] for run_id, r in plan.references.items()
    ]
    header = ["run id", "arm", "setting", "seed", "differs from the base", "action"]
    return "\n".join([text_table(header, rows), "", plan_summary(plan)])


def plan_summary(plan: Plan) -> str:
    """One line of counts, and what needs a word of its own."""
    counts = plan.counts()
    found = [f"{counts[a]} {a}" for a in counts if a not in ("trials", "no_longer_planned") and counts[a]]
    rows = f" ({len(plan.rows)} rows, some share a trial)" if len(plan.rows) > len(plan.trials) else ""
    lines = [f"{plan.sweep.name}: {counts['trials']} trials{rows}: {', '.join(found)}"]
    left = counts["failed"] + counts["cancelled"]
    if left:
        lines.append(f"{left} failed or cancelled trials are left alone; --retry-failed runs them again.")
    if plan.no_longer_planned:
        shown = ", ".join(plan.no_longer_planned[:5]) + (", ..." if len(plan.no_longer_planned) > 5 else "")
        lines.append(f"{len(plan.no_longer_planned)} no longer planned (kept): {shown}")
    return "\n".join(lines)


def seconds_left(fleet: Fleet) -> float | None:
    """Time until everything has ended at the pace seen so far; None before there is one."""
    members = [m for m in fleet.members.values() if m.steps]
    paces = [m.progress.latest.seconds_per_step for m in members]
    known = [pace for pace in paces if pace]
    if not known:
        return None
    usual = statistics.median(known)
    # What a whole run takes beyond its steps: start-up and the last evaluation.
    overheads = [
        m.seconds - m.steps * pace
        for m, pace in zip(members, paces, strict=True)
        if m.standing == "completed" and pace and m.began_at_step == 0
    ]
    overhead = max(0.0, statistics.median(overheads)) if overheads else 0.0
    ends: list[float] = []
    waiting: list[float] = []
    for member, pace in zip(members, paces, strict=True):
        if not member.ended:
            left = (member.steps - member.progress.latest.done) * (pace or usual) + overhead
            (ends if member.standing == "running" else waiting).append(left)
    ends += [0.0] * (fleet.launcher.slots - len(ends))
    heapq.heapify(ends)
    for left in waiting:  # each takes the slot that is free first
        heapq.heapreplace(ends, ends[0] + left)
    return max(ends)


def _time_left(member: Member) -> float | None:
    progress = member.progress.latest
    if progress.seconds_per_step is None or not member.steps:
        return None
    return (member.steps - progress.done) * progress.seconds_per_step


def totals(fleet: Fleet) -> str:
    """`4 completed, 2 running, 15 waiting; 12:30 left`."""
    counts = Counter[str](m.standing for m in fleet.members.values())
    order = ("completed", "running", "waiting", "failed", "interrupted", "cancelled")
    parts = [f"{counts[standing]} {standing}" for standing in order if counts[standing]]
    return f"{', '.join(parts)}; {duration(seconds_left(fleet))} left"


class View(Protocol):
    """Shows a fleet at work."""

    def show(self, events: Sequence[Event], fleet: Fleet) -> None: ...

    def say(self, text: str) -> None: ...

    def close(self) -> None: ...


class PlainView:
    """A line when a trial starts or ends, and a summary now and then: for logs and pipes."""

    def __init__(self, names: dict[str, str], out: TextIO | None = None) -> None:
        """`names` says what each run id is called."""
        self._names = names
        self._out = out or sys.stdout
        self._next_summary = time.monotonic() + SUMMARY_SECONDS

    def show(self, events: Sequence[Event], fleet: Fleet) -> None:
        for event in events:
            self.say(event_line(event, self._names))
        if time.monotonic() >= self._next_summary:
            self._next_summary = time.monotonic() + SUMMARY_SECONDS
            self.say(totals(fleet))
            for member in fleet.members.values():
                if member.standing == "running":
                    self.say(f"  {self._names[member.run_id]}: {progress_text(member)}")

    def say(self, text: str) -> None:
        print(text, file=self._out, flush=True)

    def close(self) -> None:
        """Nothing to put back."""


class LiveView:
    """A table that keeps itself up to date on a terminal; what ends badly also stays above it as a line."""

    def __init__(self, names: dict[str, str]) -> None:
        from rich.live import Live

        self._names = names
        self._live: Live = Live(refresh_per_second=4, redirect_stderr=False)
        self._live.start()

    def show(self, events: Sequence[Event], fleet: Fleet) -> None:
        for event in events:
            if event.what == "restarts" or event.member.standing in ("failed", "interrupted", "cancelled"):
                self.say(event_line(event, self._names))
        self._live.update(live_table(fleet, self._names))

    def say(self, text: str) -> None:
        self._live.console.print(text, highlight=False, markup=False)

    def close(self) -> None:
        self._live.stop()


def event_line(event: Event, names: dict[str, str]) -> str:
    """One line about something that happened."""
    member = event.member
    name = f"{names[member.run_id]} ({member.run_id})"
    if event.what == "started":
        done = member.progress.latest.done
        return f"started   {name}" + (f" from step {done}" if done else "")
    if event.what == "attached":
        return f"attached  {name}: its worker is at step {member.progress.latest.done}"
    if event.what == "restarts":
        return f"restarts  {name}: {event.detail}"
    if member.standing == "completed":
        return f"completed {name} in {duration(member.seconds)}: {progress_text(member)}"
    return f"{member.standing:<9} {name}" + (f": {event.detail}" if event.detail else "")


def progress_text(member: Member) -> str:
    """`step 40/100, 0.52 s/step, 0:31 left, reward 0.410, KL 0.012, pass@1 0.380`."""
    progress = member.progress.latest
    if not member.steps:
        return "evaluation"
    parts = [f"step {progress.done}/{member.steps}"]
    if progress.seconds_per_step is not None and not member.ended:
        parts.append(f"{progress.seconds_per_step:.2f} s/step, {duration(_time_left(member))} left")
    for label, value in (
        ("reward", progress.reward), ("KL", progress.reverse_kl), ("pass@1", progress.pass_at_1)
    ):  # fmt: skip
        if value is not None:
            parts.append(f"{label} {value:.3f}")
    return ", ".join(parts)


def live_table(fleet: Fleet, names: dict[str, str]) -> Table:
    """Running and failed trials, then as many of the others as fit; totals below."""
    from rich.table import Table

    table = Table(caption=totals(fleet), expand=False)
    for heading in ("trial", "state", "step", "s/step", "left", "reward", "KL", "pass@1"):
        table.add_column(heading, justify="left" if heading in ("trial", "state") else "right", no_wrap=True)
    members = list(fleet.members.values())
    shown = {m.run_id for m in members if m.standing in ("running", "failed")}
    finished = [m.run_id for m in members if m.ended and m.run_id not in shown]
    waiting = [m.run_id for m in members if m.standing == "waiting"]
    shown |= {*finished[-_SHOWN_AT_REST:], *waiting[: _SHOWN_AT_REST // 3]}
    for member in members:
        if member.run_id not in shown:
            continue
        progress = member.progress.latest
        running = member.standing == "running"
        table.add_row(
            names[member.run_id],
            member.standing,
            f"{progress.done}/{member.steps}" if member.steps else "",
            number(progress.seconds_per_step, 2) if member.steps else "",
            duration(_time_left(member)) if running and member.steps else "",
            number(progress.reward),
            number(progress.reverse_kl),
            number(progress.pass_at_1),
            style=_MARKS[member.standing],
        )
    return table
