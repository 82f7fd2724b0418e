"""Budgets of a sweep: what `--budget 20gpuh` says, and how much of it the workers have taken."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from trb_lab.errors import UsageError, did_you_mean
from trb_lab.store import locks
from trb_lab.store.metrics import read_metrics
from trb_lab.store.run_dir import RunDir, Store, read_json
from trb_lab.store.status import attempts

Unit = Literal["gpuh", "cpuh", "h"]
NAMES: Mapping[Unit, str] = {"gpuh": "GPU-hours", "cpuh": "core-hours", "h": "hours"}
FORMS = "20gpuh (GPU-hours of the sweep's workers), 40cpuh (core-hours of them) or 3h (time that this command runs)"

_GIVEN = re.compile(r"\s*([0-9]*\.?[0-9]+)\s*([A-Za-z-]*)\s*")
_OTHER_NAMES: Mapping[str, Unit] = {
    "gpu-hours": "gpuh",
    "gpuhours": "gpuh",
    "gpu-h": "gpuh",
    "gpu": "gpuh",
    "cpu-hours": "cpuh",
    "cpuhours": "cpuh",
    "core-hours": "cpuh",
    "corehours": "cpuh",
    "coreh": "cpuh",
    "cpu-h": "cpuh",
    "cpu": "cpuh",
    "hours": "h",
    "hour": "h",
    "hrs": "h",
}


@dataclass(frozen=True)
class Budget:
    """An amount that may be spent."""

    amount: float
    unit: Unit

    @property
    def written(self) -> str:
        """As one gives it: `20gpuh`."""
        return f"{self.amount:g}{self.unit}"

    def __str__(self) -> str:
        return f"{self.amount:g} {NAMES[self.unit]}"


def parse_budget(text: str) -> Budget:
    """`20gpuh`, `1.5gpuh`, `40cpuh`, `3h`. Raises UsageError for anything else."""
    found = _GIVEN.fullmatch(text)
    if found is None:
        raise UsageError(f"--budget {text}: this is no number with a unit. It takes {FORMS}.")
    amount, unit = float(found[1]), found[2].lower()
    if not unit:
        raise UsageError(f"--budget {text}: the unit is missing. It takes {FORMS}.")
    units: tuple[Unit, ...] = get_args(Unit)
    for known in units:
        if unit == known and amount > 0:
            return Budget(amount, known)
    if unit in units:
        raise UsageError(f"--budget {text}: nothing could run with it. It takes a number above 0.")
    right = _OTHER_NAMES.get(unit)
    hint = f" Did you mean '{found[1]}{right}'?" if right else did_you_mean(unit, units)
    raise UsageError(f"--budget {text}: there is no unit '{found[2]}'.{hint} It takes {FORMS}.")


def budget_text(budget: Budget, spent: float) -> str:
    """`3.2 of 20 GPU-hours`; `spent` is in the budget's unit."""
    shown = f"{spent:.2f}" if spent < 10 else f"{spent:.1f}"
    return f"{shown} of {budget}"


@dataclass(frozen=True)
class _Span:
    """An attempt as its run directory tells it: Unix times, and what it occupied."""

    begin: float
    end: float
    gpus: int
    threads: int


@dataclass(frozen=True)
class _Known:
    """What was read of a run, for as long as its files stay as they are."""

    stamps: tuple[Any, ...]
    spans: tuple[_Span, ...]
    alive: bool
    """The last span goes on: it ends now, whenever that is."""


_Stamp = tuple[int, int] | None


class Meter:
    """What workers have occupied since the sweep began. Runs are read once, and again where their files change."""

    def __init__(self, store: Store, since: float) -> None:
        """`since` is a Unix time (a sweep's `created`). The clock of `h` starts here and now."""
        self.store, self.since = store, since
        self._began = time.monotonic()
        self._known: dict[str, _Known] = {}
        self._logs: dict[str, str] = {}

    def spent(self, runs: Iterable[RunDir], unit: Unit) -> float:
        """Hours that the workers of these runs have occupied, times GPUs (`gpuh`) or threads (`cpuh`).

        Each run counts once, and only since `since`; evaluations of finished runs do not count. GPUs that packed runs
        share count for each of them. `h` is the time since the meter was made, whatever ran.
        """
        if unit == "h":
            return (time.monotonic() - self._began) / 3600
        total, now = 0.0, time.time()
        for run in {run.run_id: run for run in runs}.values():
            known = self._look(run)
            for place, span in enumerate(known.spans):
                alive = known.alive and place == len(known.spans) - 1
                seconds = (now if alive else span.end) - max(span.begin, self.since)
                total += max(0.0, seconds) * (span.gpus if unit == "gpuh" else span.threads)
        return total / 3600

    def _look(self, run: RunDir) -> _Known:
        key = run.run_id
        if key not in self._logs:
            self._logs[key] = str(run.attempts)
        stamp = _stamp(self._logs[key])
        before = self._known.get(key)
        if before is not None and before.stamps == (stamp,):
            return before  # every attempt has ended, and no other one has begun
        found = _look(run, stamp, before) if stamp else _Known((None,), (), False)
        self._known[key] = found
        return found


def _look(run: RunDir, stamp: _Stamp, before: _Known | None) -> _Known:
    """At a run that has begun: cheap again where the files of its open attempt are as before."""
    if before is None or before.stamps[0] != stamp:
        spans, is_open = _spans(run)
        if not is_open:
            return _Known((stamp,), spans, False)
    alive = locks.is_held(run.lock)
    # While it lives the files change all the time, and nothing of them counts but what it occupies.
    files = [run.provenance] if alive else [run.provenance, run.timing, run.sft_timing, run.lock]
    stamps = (stamp, alive, *(_stamp(file) for file in files))
    if before is not None and before.stamps == stamps:
        return before
    return _Known(stamps, _spans(run)[0], alive)


def _stamp(path: Path | str) -> _Stamp:
    try:
        stat = os.stat(path)
    except FileNotFoundError:
        return None
    return stat.st_mtime_ns, stat.st_size


def _spans(run: RunDir) -> tuple[tuple[_Span, ...], bool]:
    """Every attempt of a run, and whether the last one never logged its end."""
    found: list[_Span] = []
    start: dict[str, Any] | None = None
    signs: _Signs | None = None

    def close(begin: Mapping[str, Any], latest: float) -> None:
        nonlocal signs
        signs = signs or _Signs.of(run)
        found.append(_span(run, begin, signs.end_of(begin, latest)))

    for event in attempts(run):
        if start is not None:
            if _is_the_workers_word(event):
                found.append(_span(run, start, _time(event)))
            else:
                close(start, _time(event))
        start = event if event["event"] == "start" else None
    if start is not None:
        close(start, time.time())
    return tuple(found), start is not None


def _is_the_workers_word(event: Mapping[str, Any]) -> bool:
    """Whether the worker wrote this end as it ended. Others write it when they find out, perhaps days later."""
    if event["event"] != "end" or event.get("state") == "cancelled":
        return False
    return event.get("state") != "failed" or "traceback" in event


def _time(event: Mapping[str, Any]) -> float:
    return float(event.get("time") or 0.0)


@dataclass(frozen=True)
class _Signs:
    """When workers that ended without a word last gave a sign of life."""

    steps: Mapping[int, float]
    """Attempt -> when it last wrote a step down."""
    owner: Mapping[str, Any]
    """Who had the lease last, with the time of the last beat."""

    @classmethod
    def of(cls, run: RunDir) -> _Signs:
        steps: dict[int, float] = {}
        for path in (run.timing, run.sft_timing):
            for line in read_metrics(path):
                attempt = int(line.get("attempt") or 0)
                steps[attempt] = max(steps.get(attempt, 0.0), _time(line))
        return cls(steps, locks.owner(run.lock))

    def end_of(self, start: Mapping[str, Any], latest: float) -> float:
        """Of the attempt that began so, and was over at `latest`."""
        same = all(self.owner.get(key) == start.get(key) for key in ("pid", "host"))
        beat = float(self.owner.get("beat") or 0.0) if same else 0.0
        last = max(self.steps.get(int(start.get("attempt") or 0), 0.0), beat)
        return max(_time(start), min(latest, last))


def _span(run: RunDir, start: Mapping[str, Any], end: float) -> _Span:
    """What an attempt occupied: what its provenance says, else what the run asks for."""
    number = int(start.get("attempt") or 0)
    about = _read(run.path / "provenance" / f"attempt_{number:03d}.json") or _read(run.provenance)
    wanted = (_read(run.config).get("spec") or {}).get("resources") or {}
    device = str((about.get("device") or {}).get("kind") or wanted.get("device") or "cpu")
    gpus = 1 if wanted.get("gpus") is None else int(wanted["gpus"])
    threads = about.get("threads") or wanted.get("cpu_threads") or 1
    return _Span(_time(start), end, gpus if device.startswith("cuda") else 0, int(threads))


def _read(path: Path) -> dict[str, Any]:
    try:
        found = read_json(path)
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
