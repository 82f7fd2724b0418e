"""What a sweep shows while it runs: a live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import heapq
import statistics
import sys
import time
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol, TextIO

from trb_lab.launch.base import SILENT
from trb_lab.launch.follow import Event, Fleet, Member

if TYPE_CHECKING:
    from rich.live import Live
    from rich.table import Table

SUMMARY_SECONDS = 30.0
_SHOWN_AT_REST = 12
_FEWEST_ROWS = 10
_ROWS_AROUND = 7
"""Lines of a terminal that the table's frame and the caption take."""
_MARKS = {
    "waiting": "dim",
    "running": "cyan",
    "paused": "magenta",
    "completed": "green",
    "failed": "bold red",
    "interrupted": "yellow",
    "cancelled": "yellow",
}


def text_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Aligned columns. Plain text, so that a thousand rows print at once and can be piped."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines = [header, ["-" * width for width in widths], *rows]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def duration(seconds: float | None) -> str:
    """`2:05:09`, `3:20`; `?` where it is unknown."""
    if seconds is None:
        return "?"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def number(value: float | None, digits: int = 3) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


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
            goal = member.until or member.steps
            left = max(0, goal - member.progress.latest.done) * (pace or usual) + overhead
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
    return max(0, (member.until or member.steps) - progress.done) * progress.seconds_per_step


def totals(fleet: Fleet) -> str:
    """`4 completed, 2 running, 15 waiting; 12:30 left`."""
    counts = Counter[str](m.standing for m in fleet.members.values())
    order = ("completed", "running", "waiting", "paused", "failed", "interrupted", "cancelled")
    parts = [f"{counts[standing]} {standing}" for standing in order if counts[standing]]
    return f"{', '.join(parts)}; {duration(seconds_left(fleet))} left"


def waiting_for(fleet: Fleet) -> Counter[str]:
    """Why jobs wait, or what else keeps a cluster from telling of them, with the number of each."""
    found: Counter[str] = Counter()
    for member in fleet.members.values():
        status = member.status
        if status is not None and not member.ended and status.where:
            if member.standing == "waiting":
                found[status.where] += 1
            elif status.where == SILENT:
                found[SILENT] += 1
    return found


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
            for where, count in waiting_for(fleet).items():
                self.say(f"  {count} of them: {where}")
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
        # Drawn when there is something new: a table of many rows four times a second would cost half a core.
        self._live: Live = Live(auto_refresh=False, redirect_stderr=False)
        self._live.start()

    def show(self, events: Sequence[Event], fleet: Fleet) -> None:
        for event in events:
            if event.what == "restarts" or event.member.standing in ("failed", "interrupted", "cancelled"):
                self.say(event_line(event, self._names))
        rows = max(_FEWEST_ROWS, self._live.console.size.height - _ROWS_AROUND)
        self._live.update(live_table(fleet, self._names, rows), refresh=True)

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
    if event.what in ("restarts", "waits"):
        return f"{event.what:<9} {name}: {event.detail or 'back in the queue'}"
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


def live_table(fleet: Fleet, names: dict[str, str], rows: int | None = None) -> Table:
    """Failed and running trials, then as many of the others as fit into `rows`; totals below."""
    from rich.table import Table

    members = list(fleet.members.values())
    shown = _shown(members, rows)
    placed = any(m.status is not None and m.status.where for m in shown)
    table = Table(caption=totals(fleet), expand=False)
    headings = ("trial", "state", "step", "s/step", "left", "reward", "KL", "pass@1")
    for heading in (*headings, *(("where",) if placed else ())):
        left = heading in ("trial", "state", "where")
        table.add_column(heading, justify="left" if left else "right", no_wrap=True)
    for member in shown:
        progress = member.progress.latest
        running = member.standing == "running"
        where = member.status.where if member.status is not None and not member.ended else ""
        table.add_row(
            names[member.run_id],
            member.standing,
            f"{progress.done}/{member.steps}" if member.steps else "",
            number(progress.seconds_per_step, 2) if member.steps else "",
            duration(_time_left(member)) if running and member.steps else "",
            number(progress.reward),
            number(progress.reverse_kl),
            number(progress.pass_at_1),
            *((where,) if placed else ()),
            style=_MARKS[member.standing],
        )
    return table


def _shown(members: Sequence[Member], rows: int | None) -> list[Member]:
    """The members that get a row, in their order."""
    finished = [m for m in members if m.ended and m.standing != "failed"]
    waiting = [m for m in members if m.standing == "waiting"]
    groups = [
        [m for m in members if m.standing == "failed"],
        [m for m in members if m.standing == "running"],
        finished[-_SHOWN_AT_REST:],
        waiting[: _SHOWN_AT_REST // 3],
    ]
    chosen = {m.run_id for m in [m for group in groups for m in group][:rows]}
    return [m for m in members if m.run_id in chosen]
