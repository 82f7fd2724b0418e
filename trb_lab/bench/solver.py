"""The trust-region solver against bisection: time a call, at the accuracy that each reaches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial

import torch
from torch import Tensor

from trb_lab.policy.behaviors import StepBehavior, Target
from trb_lab.policy.coupling import kl_divergence
from trb_lab.policy.trust_region import trust_region

from .measure import Figures, hardware, row, take_turns, timed
from .reference import BISECTION_STEPS, bisection
from .setting import Setting, setting
from .table import Result, Table

BUDGETS = (0.05, 0.001)
"""The ends of the paper's range, nats."""
RANDOM_SHAPE = (32, 50_000)
GPU_SHAPE = (32, 151_936)
POSITIONS = 16
"""Decoded positions that the bundled pair's distributions are taken from."""

Solver = Callable[[Tensor, Tensor, float], Tensor]
"""(log p, log q, eps) -> beta, after making the blend itself."""

SOLVERS: dict[str, Solver] = {
    "trust_region": lambda p, q, eps: trust_region(p, q, eps).beta_B,
    f"bisection {BISECTION_STEPS}": lambda p, q, eps: bisection(p, q, eps).beta_B,
    f"bisection {BISECTION_STEPS} f32": lambda p, q, eps: bisection(p, q, eps, dtype=torch.float32).beta_B,
}


@dataclass(frozen=True)
class Case:
    """Log-probs that the solvers get."""

    name: str
    log_p_BV: Tensor
    log_q_BV: Tensor
    repeats: int


def run(pair_repeats: int = 40, random_repeats: int = 5, shape: tuple[int, int] = RANDOM_SHAPE) -> Result:
    """Both solvers on distributions of the bundled pair, on random ones, and on wide ones where there is a GPU."""
    cases = [
        pair_case(setting(max_new_tokens=POSITIONS), pair_repeats),
        random_case(shape, torch.device("cpu"), random_repeats),
    ]
    gpu = torch.cuda.is_available()
    found = hardware(torch.device("cuda" if gpu else "cpu"))
    if gpu:
        cases.append(random_case(GPU_SHAPE, torch.device("cuda"), pair_repeats))
    tables = [_table(case, eps) for case in cases for eps in BUDGETS]
    return Result("solver", asdict(found), found.line(), tables)


@torch.no_grad()
def pair_case(bundled: Setting, repeats: int) -> Case:
    """One call's worth of rows, spread over the positions of student rollouts, on the CPU."""
    seen: list[tuple[Tensor, Tensor]] = []

    def watch(log_p_BV: Tensor, log_q_BV: Tensor, teacher_rows_B: Tensor) -> Target:
        seen.append((log_p_BV.cpu(), log_q_BV.cpu()))
        return Target(log_p_BV, torch.zeros_like(log_p_BV[:, 0]))

    behavior = StepBehavior(0.0, watch, torch.zeros(bundled.rows, dtype=torch.bool))
    bundled.engine.rollout(bundled.request(0), behavior, bundled.keep)
    log_p_NV, log_q_NV = (torch.cat(parts) for parts in zip(*seen, strict=True))
    picked = torch.linspace(0, len(log_p_NV) - 1, bundled.rows).long()
    return Case("bundled pair", log_p_NV[picked], log_q_NV[picked], repeats)


def random_case(shape: tuple[int, int], device: torch.device, repeats: int) -> Case:
    """Gaussian logits; the teacher's are the student's with noise of half the scale."""
    draws = torch.Generator().manual_seed(0)
    logits_BV = 3.0 * torch.randn(shape, generator=draws)
    teacher_BV = logits_BV + 1.5 * torch.randn(shape, generator=draws)
    log_p_BV, log_q_BV = (torch.log_softmax(x.to(device), dim=-1) for x in (logits_BV, teacher_BV))
    return Case("random", log_p_BV, log_q_BV, repeats)


def _table(case: Case, eps: float) -> Table:
    contestants = {name: partial(_turn, case, eps, solver) for name, solver in SOLVERS.items()}
    found = {
        name: [turn["milliseconds"] for turn in turns]
        for name, turns in take_turns(contestants, case.repeats).items()
    }
    first = next(iter(SOLVERS))
    rows = []
    for name, values in found.items():
        beta_B = SOLVERS[name](case.log_p_BV, case.log_q_BV, eps)
        off, over, binding = accuracy(case, eps, beta_B)
        against = {} if name == first else {first: found[first]}
        notes = {"largest_KL_off_budget": off, "over_budget": over, "rows_at_budget": binding}
        rows.append(row(name, values, against, notes))
    shape = "[" + ", ".join(map(str, case.log_p_BV.shape)) + "]"
    title = f"{case.name} {shape} on {case.log_p_BV.device.type}, eps {eps:g}"
    return Table(title, "milliseconds a call", case.repeats, rows)


def _turn(case: Case, eps: float, solver: Solver, repeat: int) -> Figures:
    _, seconds = timed(case.log_p_BV.device, lambda: solver(case.log_p_BV, case.log_q_BV, eps))
    return {"milliseconds": 1000 * seconds}


def accuracy(case: Case, eps: float, beta_B: Tensor) -> tuple[float, float, int]:
    """Largest |KL/eps - 1| and largest KL/eps - 1 (0 if never above), of the rows with 0 < beta < 1; their number.

    KL(mu_beta || p) is computed anew in float64 from the beta that the solver returned.
    """
    binding_B = (beta_B > 0) & (beta_B < 1)
    if not bool(binding_B.any()):
        return 0.0, 0.0, 0
    log_p_BV, log_q_BV = (
        torch.log_softmax(x[binding_B].double(), -1) for x in (case.log_p_BV, case.log_q_BV)
    )
    beta_B1 = beta_B[binding_B].double()[:, None]
    tilted_BV = torch.where(
        torch.isfinite(log_p_BV), (1 - beta_B1) * log_p_BV + beta_B1 * log_q_BV, -torch.inf
    )
    gap_B = kl_divergence(torch.log_softmax(tilted_BV, -1), log_p_BV) / eps - 1
    return float(gap_B.abs().max()), float(gap_B.max().clamp_min(0.0)), int(binding_B.sum())
