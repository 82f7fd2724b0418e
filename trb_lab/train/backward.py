"""One backward pass over a batch, with the spec's memory settings."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from trb_lab.models.load import LanguageModel, Pair
from trb_lab.policy.arms import ArmStep
from trb_lab.rollout.engine import Rollouts
from trb_lab.spec import ExperimentSpec

from .objective import LossStats, backward_nll, backward_reverse_kl


@contextmanager
def _training_mode(student: LanguageModel, checkpointing: bool) -> Iterator[None]:
    """transformers checkpoints activations in training mode only."""
    student.network.train(checkpointing)
    try:
        yield
    finally:
        student.network.eval()


def distil(
    spec: ExperimentSpec, pair: Pair, rollouts: Rollouts, arm: ArmStep, after_backward: Callable[[], None]
) -> LossStats:
    """Accumulate the gradient of the distillation loss, as the arm has it."""
    resources = spec.resources
    with _training_mode(pair.student, resources.activation_checkpointing):
        return backward_reverse_kl(
            pair,
            rollouts,
            spec.loss,
            target=arm.target,
            imitates_BT=arm.imitates(rollouts) if arm.imitates else None,
            token_budget=resources.micro_batch_tokens,
            chunk_tokens=resources.loss_chunk_tokens,
            after_backward=after_backward,
        )


def imitate(
    spec: ExperimentSpec, student: LanguageModel, samples: Rollouts, after_backward: Callable[[], None]
) -> LossStats:
    """Accumulate the gradient of the samples' negative log-likelihood."""
    resources = spec.resources
    with _training_mode(student, resources.activation_checkpointing):
        return backward_nll(
            student,
            samples,
            token_budget=resources.micro_batch_tokens,
            chunk_tokens=resources.loss_chunk_tokens,
            after_backward=after_backward,
        )
