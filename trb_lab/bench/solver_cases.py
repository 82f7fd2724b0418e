"""What the solvers are given: raw scores of two models, in several copies where a cache would hold one."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from trb_lab.policy.behaviors import StepBehavior, Target
from trb_lab.policy.coupling import kl_divergence
from trb_lab.policy.eos import Scores

from .setting import Setting

ROTATED_BYTES = 200e6
"""On a GPU, calls rotate among copies of the inputs that are together larger than this: no cache holds them."""
ROTATED_CALLS = 8
"""Calls between two looks at the clock there: launches overlap as they do in a rollout."""
NO_STOP = -1
"""As a stop id: no coordinate is special."""


@dataclass(frozen=True)
class Case:
    """Scores of the two models in the dtype that a rollout has them in. Suffixes: N rows, V tokens."""

    name: str
    p_NV: Tensor
    q_NV: Tensor
    repeats: int

    @property
    def device(self) -> torch.device:
        return self.p_NV.device

    @property
    def num_bytes(self) -> float:
        """Both inputs once."""
        return float(self.p_NV.nbytes + self.q_NV.nbytes)

    @property
    def calls(self) -> int:
        return ROTATED_CALLS if self.device.type == "cuda" else 1

    @cached_property
    def inputs(self) -> list[Input]:
        """Copies of the same scores; a call takes the next one."""
        copies = 1
        if self.device.type == "cuda":
            copies = min(self.calls, 1 + int(ROTATED_BYTES / self.num_bytes))
        return [Input(self.p_NV.clone(), self.q_NV.clone()) for _ in range(copies)]


class Input:
    """One copy of a case's scores, as they are and as float32 log-probs."""

    def __init__(self, p_NV: Tensor, q_NV: Tensor) -> None:
        self.p, self.q = _scores(p_NV), _scores(q_NV)
        self.log_p_NV, self.log_q_NV = (torch.log_softmax(x.float(), dim=-1) for x in (p_NV, q_NV))


def _scores(logits_NV: Tensor) -> Scores:
    stop_N = torch.zeros(logits_NV.shape[0], dtype=torch.float32, device=logits_NV.device)
    return Scores(logits_NV, stop_N, NO_STOP, logits_NV.shape[1])


@torch.no_grad()
def pair_case(setting: Setting, repeats: int) -> Case:
    """One call's worth of rows, spread over the positions of student rollouts, on the CPU."""
    seen: list[tuple[Tensor, Tensor]] = []

    def watch(log_p_NV: Tensor, log_q_NV: Tensor, value_N: Tensor) -> Target:
        seen.append((log_p_NV.cpu(), log_q_NV.cpu()))
        return Target(log_p_NV, torch.zeros_like(log_p_NV[:, 0]))

    behavior = StepBehavior(0.0, watch, torch.zeros(setting.rows, dtype=torch.float64))
    setting.engine.rollout(setting.request(0, block_tokens=1), behavior, setting.keep)
    log_p_NV, log_q_NV = (torch.cat(parts) for parts in zip(*seen, strict=True))
    picked = torch.linspace(0, len(log_p_NV) - 1, setting.rows).long()
    return Case("bundled pair", log_p_NV[picked], log_q_NV[picked], repeats)


def mild_case(shape: tuple[int, int], device: torch.device, dtype: torch.dtype, repeats: int) -> Case:
    """Gaussian logits, flat (some 6 nats at 50,000 tokens); the teacher's are the student's with half as much noise."""
    draws = torch.Generator().manual_seed(0)
    logits_NV = 3.0 * torch.randn(shape, generator=draws)
    teacher_NV = logits_NV + 1.5 * torch.randn(shape, generator=draws)
    return Case("random, flat and close", logits_NV.to(device, dtype), teacher_NV.to(device, dtype), repeats)


def peaked_case(shape: tuple[int, int], device: torch.device, dtype: torch.dtype, repeats: int) -> Case:
    """Independent Gaussian logits as peaked as a real model's (about 1 nat): the budget binds in every row."""
    draws = torch.Generator().manual_seed(0)
    scale = 2.3 * (2.0 * torch.tensor(float(shape[1])).log()).sqrt()
    p_NV, q_NV = (scale * torch.randn(shape, generator=draws) for _ in range(2))
    name = "random, peaked and independent"
    return Case(name, p_NV.to(device, dtype), q_NV.to(device, dtype), repeats)


def accuracy(case: Case, eps: float, beta_N: Tensor) -> tuple[float, float, int]:
    """Largest |KL/eps - 1| and largest KL/eps - 1 (0 if never above), of the rows with 0 < beta < 1; their number.

    KL(mu_beta || p) is computed anew in float64 from the beta that the solver returned.
    """
    binding_N = (beta_N > 0) & (beta_N < 1)
    if not bool(binding_N.any()):
        return 0.0, 0.0, 0
    log_p_NV, log_q_NV = (torch.log_softmax(x[binding_N].double(), -1) for x in (case.p_NV, case.q_NV))
    beta_N1 = beta_N[binding_N].double()[:, None]
    tilted_NV = torch.where(
        torch.isfinite(log_p_NV), (1 - beta_N1) * log_p_NV + beta_N1 * log_q_NV, -torch.inf
    )
    gap_N = kl_divergence(torch.log_softmax(tilted_NV, -1), log_p_NV) / eps - 1
    return float(gap_N.abs().max()), float(gap_N.max().clamp_min(0.0)), int(binding_N.sum())
