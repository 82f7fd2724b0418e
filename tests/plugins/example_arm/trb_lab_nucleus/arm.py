"""What the arm does at a step: mu = p 1[nucleus of q] / Z. The engine couples it with the student by itself."""

import torch
from torch import Tensor

from trb_lab.policy.arms import ArmContext, ArmStep
from trb_lab.policy.behaviors import StepBehavior, student_rollouts
from trb_lab.policy.coupling import Target, kl_divergence

from .spec import NucleusWarmup


def in_nucleus(log_p_NV: Tensor, log_q_NV: Tensor, mass_N: Tensor) -> Target:
    q_NV, order_NV = log_q_NV.exp().sort(-1, descending=True)
    before_NV = q_NV.cumsum(-1) - q_NV
    inside_NV = torch.zeros_like(log_q_NV, dtype=torch.bool)
    inside_NV.scatter_(-1, order_NV, before_NV < mass_N[:, None])
    log_mu_NV = log_p_NV.masked_fill(~inside_NV, -torch.inf).log_softmax(-1)
    return Target(log_mu_NV, kl_divergence(log_mu_NV, log_p_NV))


def nucleus(warmup: NucleusWarmup, at: ArmContext) -> ArmStep:
    if at.step >= warmup.steps:
        return ArmStep(student_rollouts(at.rows))
    mass = torch.full((at.rows,), warmup.mass, dtype=torch.float64)
    return ArmStep(StepBehavior(warmup.mass, in_nucleus, mass, expected_redraws=1.0 - warmup.mass))
