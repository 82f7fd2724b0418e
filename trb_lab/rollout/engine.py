"""What a rollout engine takes and gives. Shape suffixes: B rows, T response positions, K support, H hidden width."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from trb_lab.policy.behaviors import StepBehavior


@dataclass(frozen=True)
class RolloutRequest:
    """Rows to decode. Prompts may have different ids in the two models; response tokens are shared."""

    student_prompts: list[list[int]]
    teacher_prompts: list[list[int]] | None
    """None where no teacher takes part."""
    uniforms_BT: np.ndarray
    """float64: the keyed draw of each row and position; T is the longest response."""


@dataclass(frozen=True)
class Keep:
    """What to record for the loss besides the statistics of the sampled tokens."""

    top_k: int | None = None
    """Ids and teacher log-probs of the student's K likeliest tokens at each position."""
    teacher_hidden: bool = False
    """The teacher's last hidden states, for a loss over the whole vocabulary."""


@dataclass
class Rollouts:
    """A batch of responses and what was seen while they were made. All tensors on the CPU, 0 where masked out.

    Teacher fields are None until the teacher has seen the tokens: during the rollout where the behaviour policy
    needs it, in a scoring pass otherwise.
    """

    student_prompts: list[list[int]]
    teacher_prompts: list[list[int]] | None
    tokens_BT: Tensor
    """int64, the stop token included."""
    mask_BT: Tensor
    """bool: real response positions."""
    finished_B: Tensor
    """bool: ended by the stop event; False means cut at the limit."""
    student_logprob_BT: Tensor
    behavior_logprob_BT: Tensor
    kl_BT: Tensor
    """KL(mu || p) at each position, nats."""
    redraw_BT: Tensor
    """TV(p, mu): the probability that a student draft would be redrawn."""
    beta_BT: Tensor | None = None
    teacher_logprob_BT: Tensor | None = None
    teacher_entropy_BT: Tensor | None = None
    support_BTK: Tensor | None = None
    """int64: the student's top-k tokens when the position was visited."""
    teacher_support_BTK: Tensor | None = None
    """Teacher log-probs on the support."""
    teacher_hidden_BTH: Tensor | None = None

    @property
    def lengths_B(self) -> Tensor:
        return self.mask_BT.sum(-1)

    @property
    def num_tokens(self) -> int:
        return int(self.mask_BT.sum())

    def responses(self) -> list[list[int]]:
        """Token ids of each response, the stop token left out."""
        rows = []
        for tokens, length, finished in zip(
            self.tokens_BT.tolist(), self.lengths_B.tolist(), self.finished_B.tolist(), strict=True
        ):
            rows.append(tokens[: length - 1] if finished else tokens[:length])
        return rows

    @staticmethod
    def concatenate(parts: list[Rollouts]) -> Rollouts:
        """Rows of several batches in order; shorter ones padded."""
        if len(parts) == 1:
            return parts[0]
        longest = max(part.tokens_BT.shape[1] for part in parts)
        joined: dict[str, Any] = {}
        for field in fields(Rollouts):
            values = [getattr(part, field.name) for part in parts]
            if any(value is None for value in values):
                joined[field.name] = None
            elif isinstance(values[0], list):
                joined[field.name] = [row for value in values for row in value]
            elif field.name.endswith("_B"):
                joined[field.name] = torch.cat(values)
            else:
                joined[field.name] = torch.cat([_pad_positions(value, longest) for value in values])
        return Rollouts(**joined)


def _pad_positions(value: Tensor, length: int) -> Tensor:
    missing = length - value.shape[1]
    return (
        value
        if missing == 0
        else torch.cat([value, value.new_zeros(value.shape[0], missing, *value.shape[2:])], dim=1)
    )


class RolloutEngine(Protocol):
    """Draws responses from a behaviour policy, and scores given responses with the teacher."""

    def rollout(self, request: RolloutRequest, behavior: StepBehavior, keep: Keep) -> Rollouts: ...

    def score(self, rollouts: Rollouts, keep: Keep) -> None:
        """Fill the teacher fields of rollouts that were made without it."""
        ...
