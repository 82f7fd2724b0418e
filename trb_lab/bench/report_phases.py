"""One process that makes a report, or only reads its files, and says how long each phase took. Imports no torch.

`python -m trb_lab.bench.report_phases report|read STORE SWEEP OUT` prints one line of JSON: phase -> seconds, and
`peak_bytes`.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

PHASES = ("import", "collect", "tables", "words", "page", "figures", "write")
"""In the order of a report. `words`: findings, excerpts, failures and setup. `write`: all that is left.

Figures of large sweeps are drawn by processes of their own beside tables, words and page: the seconds of `figures` are
what is waited for them after these, the CPU seconds are theirs all the same.
"""


class Clock:
    """Seconds by phase; a phase within another counts as its own alone."""

    def __init__(self) -> None:
        self.seconds: dict[str, dict[str, float]] = {}
        self._inner = [0.0, 0.0]

    def measure(self, phase: str, work: Callable[[], Any]) -> Any:
        outer, self._inner = self._inner, [0.0, 0.0]
        start = time.perf_counter(), cpu_seconds()
        result = work()
        took = time.perf_counter() - start[0], cpu_seconds() - start[1]
        known = self.seconds.setdefault(phase, {"seconds": 0.0, "cpu_seconds": 0.0})
        known["seconds"] += took[0] - self._inner[0]
        known["cpu_seconds"] += took[1] - self._inner[1]
        self._inner = [outer[0] + took[0], outer[1] + took[1]]
        return result


def cpu_seconds() -> float:
    """Of this process and of those of its children that have ended."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def make_report(root: Path, sweep: str, out: Path) -> dict[str, Any]:
    """Phases of `trb-lab report SWEEP`, from the first import on."""
    clock = Clock()
    clock.measure("write", lambda: _make(clock, root, sweep, out))
    total = {k: sum(one[k] for one in clock.seconds.values()) for k in ("seconds", "cpu_seconds")}
    none = {"seconds": 0.0, "cpu_seconds": 0.0}
    return {**{phase: clock.seconds.get(phase, none) for phase in PHASES}, "total": total}


def _make(clock: Clock, root: Path, sweep: str, out: Path) -> None:
    build, page, sections = clock.measure("import", _rooms)
    from trb_lab.report import build_report
    from trb_lab.store.run_dir import Store

    open_sources, make_page, source_data = build.open_sources, page.page, page.source_data
    make_section, drawn_aside = sections.make_section, sections.drawn_aside
    kinds = {"table": "tables", "figure": "figures", "search": "figures"}
    build.open_sources = lambda *a: clock.measure("collect", lambda: open_sources(*a))
    page.page = lambda *a: clock.measure("page", lambda: make_page(*a))
    page.source_data = lambda *a: clock.measure("page", lambda: source_data(*a))
    sections.drawn_aside = lambda *a: clock.measure("figures", lambda: drawn_aside(*a))
    sections.make_section = lambda c, block: clock.measure(
        kinds.get(block.kind, "words"), lambda: make_section(c, block)
    )
    build_report(Store(root), sweep, out)


def _rooms() -> tuple[Any, Any, Any]:
    import pandas  # noqa: F401
    import scipy.special  # noqa: F401

    from trb_lab.report import build, page, sections

    return build, page, sections


def only_read(root: Path) -> dict[str, Any]:
    """The floor: every line of every run parsed by the standard library, and thrown away."""
    from trb_lab.store.run_dir import Store

    clock, size = Clock(), 0

    def read() -> None:
        nonlocal size
        for run in Store(root).trials():
            for path in (run.metrics, run.timing):
                with open(path, "rb") as lines:
                    for line in lines:
                        json.loads(line)
                        size += len(line)

    clock.measure("total", read)
    return {**clock.seconds, "read_bytes": size}


def peak_bytes() -> int:
    """At most: the peak of this process, and that of its largest child as often as there are children at once; pages
    that they share count in each.
    """
    from trb_lab.report.forked import PROCESSES

    unit = 1 if sys.platform == "darwin" else 1024
    own, child = (resource.getrusage(w).ru_maxrss for w in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return (own + PROCESSES * child) * unit


def main(what: str, root: str, sweep: str, out: str) -> None:
    found = make_report(Path(root), sweep, Path(out)) if what == "report" else only_read(Path(root))
    found["peak_bytes"] = peak_bytes()
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
