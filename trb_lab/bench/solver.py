"""The trust-region solvers against bisection: time a call, at the accuracy that each reaches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from typing import Any

import torch
from torch import Tensor

from trb_lab.models.load import pick_device
from trb_lab.policy import fused
from trb_lab.policy.trust_region import trust_region

from .ceilings import Ceilings, Floor, measure_ceilings
from .measure import Figures, hardware, row, take_turns, timed
from .options import BUNDLED, Options
from .reference import BISECTION_STEPS, bisection, halve
from .setting import bundled_setting, load
from .solver_cases import Case, Input, accuracy, mild_case, pair_case, peaked_case
from .table import Result, Table

BUDGETS = (0.05, 0.001)
"""The ends of the paper's range, nats."""
ROWS, POSITIONS, PAIR_REPEATS, REPEATS = 64, 16, 40, 5
"""Rows of the bundled pair's case, positions that they are taken from, and how often each case is timed."""
CPU_SHAPE = (32, 50_000)
GPU_SHAPES = ((32, 151_936), (256, 151_936))

Solver = Callable[[Input, float], Tensor]
"""(scores, eps) -> beta, after making the blend itself."""

TRUST_REGION, FUSED = "trust_region", "fused.blend"
BISECTION = f"bisection {BISECTION_STEPS}"
COMPILED = f"{BISECTION} f32, compiled"


def _bisection(dtype: torch.dtype) -> Solver:
    return lambda given, eps: bisection(given.log_p_NV, given.log_q_NV, eps, dtype=dtype).beta_B


CPU_SOLVERS: dict[str, Solver] = {
    TRUST_REGION: lambda given, eps: trust_region(given.log_p_NV, given.log_q_NV, eps).beta_B,
    BISECTION: _bisection(torch.float64),
    f"{BISECTION} f32": _bisection(torch.float32),
}


def run(options: Options | None = None, shape: tuple[int, int] = CPU_SHAPE, rows: int = ROWS) -> Result:
    """The solvers on distributions of the bundled pair, on random ones, and on wide ones where there is a GPU."""
    options = options or Options()
    device, cpu = pick_device("auto"), torch.device("cpu")
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    repeats = options.repeats or REPEATS
    found, ceilings = hardware(device), measure_ceilings(device, dtype)
    if device.type == "cuda":
        cases = [peaked_case(wide, device, dtype, 2 * repeats) for wide in GPU_SHAPES]
        cases.append(mild_case(GPU_SHAPES[0], device, dtype, 2 * repeats))
    else:
        setting = bundled_setting(load(BUNDLED), rows, POSITIONS)
        cases = [
            pair_case(setting, options.repeats or PAIR_REPEATS),
            mild_case(shape, cpu, dtype, repeats),
            peaked_case(shape, cpu, dtype, repeats),
        ]
    with torch.no_grad():
        tables = [
            _table(case, eps, solvers_for(case), ceilings) for case in cases for eps in options.eps or BUDGETS
        ]
    described = {**asdict(found), "ceilings": asdict(ceilings)}
    remarks = (
        "fused.blend reads raw scores; the others get float32 log-probs (not timed) and write log mu out. floor: both "
        "inputs, in the dtype of the scores, read once at the copy bandwidth.",
    )
    return Result("solver", described, f"{found.line()}\n{ceilings.line()}", tables, remarks)


def solvers_for(case: Case) -> dict[str, Solver]:
    """Contestants; the fused kernels and the compiler take part on a GPU."""
    if case.device.type != "cuda":
        return CPU_SOLVERS
    compiled = torch.compile(halve, dynamic=False)
    solvers: dict[str, Solver] = {
        FUSED: lambda given, eps: fused.blend(given.p, given.q, eps).beta,
        TRUST_REGION: CPU_SOLVERS[TRUST_REGION],
        f"{BISECTION} f32": _bisection(torch.float32),
        COMPILED: lambda given, eps: (
            bisection(
                given.log_p_NV,
                given.log_q_NV,
                torch.full((), eps, device=case.device),  # a tensor: one compilation for all budgets
                dtype=torch.float32,
                halve=compiled,
            ).beta_B
        ),
    }
    return solvers if fused.available(case.device) else {k: v for k, v in solvers.items() if k != FUSED}


def _table(case: Case, eps: float, solvers: dict[str, Solver], ceilings: Ceilings) -> Table:
    solvers, remarks = _that_run(case, eps, solvers)
    contestants = {name: partial(_turn, case, eps, solver) for name, solver in solvers.items()}
    found = {
        name: [turn["milliseconds"] for turn in turns]
        for name, turns in take_turns(contestants, case.repeats).items()
    }
    first = next(iter(solvers))
    floor = 1000 * Floor(case.num_bytes, 0.0).seconds(ceilings)
    rows = []
    for name, values in found.items():
        against = {} if name == first else {first: found[first]}
        line = row(name, values, against)
        off, over, binding = accuracy(case, eps, solvers[name](case.inputs[0], eps))
        notes: dict[str, Any] = {"floor": floor, "share_of_floor_reached": floor / line.figure.median}
        notes |= {"largest_KL_off_budget": off, "over_budget": over, "rows_at_budget": binding}
        rows.append(row(name, values, against, notes))
    shape = "[" + ", ".join(map(str, case.p_NV.shape)) + "]"
    kind = str(case.p_NV.dtype).removeprefix("torch.")
    title = f"{case.name} {shape} {kind} on {case.device.type}, eps {eps:g}"
    return Table(title, "milliseconds a call", case.repeats, rows, remarks)


def _that_run(
    case: Case, eps: float, solvers: dict[str, Solver]
) -> tuple[dict[str, Solver], tuple[str, ...]]:
    """Without the compiled one where the compiler fails, and what it said."""
    if COMPILED not in solvers:
        return solvers, ()
    try:
        solvers[COMPILED](case.inputs[0], eps)
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        left = {name: solver for name, solver in solvers.items() if name != COMPILED}
        return left, (f"{COMPILED} is missing: torch.compile failed here ({reason[:150]})",)
    return solvers, ()


def _turn(case: Case, eps: float, solver: Solver, repeat: int) -> Figures:
    inputs = case.inputs

    def work() -> None:
        for call in range(case.calls):
            solver(inputs[call % len(inputs)], eps)

    _, seconds = timed(case.device, work)
    return {"milliseconds": 1000 * seconds / case.calls}
