"""What a report of a large sweep costs: seconds by phase and memory, beside only reading the same files."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

import torch

from .measure import hardware, row
from .options import Options
from .report_phases import PHASES
from .synthetic_store import write_synthetic_store
from .table import Result, Row, Table

RUNS, STEPS, METRICS = 1000, 200, 30
REPEATS = 3
SWEEP = "synthetic"
LIMITS = "asked for at 1,000 runs: at most 10 s and 1 GB."


def run(options: Options | None = None) -> Result:
    """Every repeat is a process of its own, as a command is: imports count, and its peak memory is its own."""
    asked = options or Options()
    runs, repeats = asked.runs or RUNS, asked.repeats or REPEATS
    found = hardware(torch.device("cpu"))
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "runs"
        store = write_synthetic_store(root, runs=runs, steps=STEPS, metrics=METRICS, name=SWEEP)
        planned = len(store.trials())
        reports, floors = [], []
        for _ in range(repeats):
            floors.append(measured("read", root, Path(folder)))
            reports.append(measured("report", root, Path(folder)))
    floor = {"reading alone": [one["total"]["seconds"] for one in floors]}
    rows: list[Row] = []
    for phase in (*PHASES, "total"):
        seconds = [one[phase]["seconds"] for one in reports]
        cpu = sorted(one[phase]["cpu_seconds"] for one in reports)[repeats // 2]
        rows.append(
            row(phase, seconds, floor if phase in ("collect", "total") else None, {"cpu_seconds": cpu})
        )
    cpu = sorted(one["total"]["cpu_seconds"] for one in floors)[repeats // 2]
    rows.append(row("reading alone", floor["reading alone"], None, {"cpu_seconds": cpu}))
    memory = [
        row(n, [one["peak_bytes"] / 1e6 for one in of])
        for n, of in (("report", reports), ("reading alone", floors))
    ]
    size = f"{planned:,} runs x {STEPS} steps x {METRICS} metrics, {floors[0]['read_bytes'] / 1e6:,.0f} MB"
    tables = [
        Table(f"a report of {size}", "seconds", repeats, rows, (LIMITS,)),
        Table("peak memory of the process", "megabytes", repeats, memory),
    ]
    remark = (
        "reading alone: json.loads of every line of metrics.jsonl and timing.jsonl, and nothing done with it."
    )
    return Result("report", asdict(found), found.line(), tables, (remark,))


def measured(what: str, root: Path, folder: Path) -> dict:
    """What a process of `report_phases` says."""
    command = [
        sys.executable,
        "-m",
        "trb_lab.bench.report_phases",
        what,
        str(root),
        SWEEP,
        str(folder / "out"),
    ]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))
