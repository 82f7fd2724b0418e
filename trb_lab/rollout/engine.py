"""What a rollout engine takes and gives. Shape suffixes: B rows, T response positions, K support, H hidden width."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from torch import Tensor

from trb_lab.policy.behaviors import StepBehavior
from trb_lab.seeds import uniforms

if TYPE_CHECKING:
    from .blocks import CostTable


@dataclass(frozen=True)
class Draws:
    """Uniforms of each row and position, float64 [B, T]; T is the longest response.

    A token is a function of its prefix and of its own three draws. Hence the block length changes no token: a draft
    that is dropped because an earlier one was redrawn is drafted again, after the right prefix, from the same draw.
    """

    draft_BT: np.ndarray
    """Picks the student's draft; the token itself where the student drives."""
    keep_BT: np.ndarray | None = None
    """The draft is kept where this lies under its probability of being kept. None where no teacher takes part."""
    redraw_BT: np.ndarray | None = None
    """Picks the replacement of a rejected draft."""

    @staticmethod
    def keyed(
        seed: int, stream: str, step: int, rows: Iterable[int], width: int, *, coupled: bool = True
    ) -> Draws:
        """Keyed by (seed, stream, step, row, position); not `coupled` leaves out what only a teacher needs."""
        rows = list(rows)
        named = [stream, f"{stream}/keep", f"{stream}/redraw"] if coupled else [stream]
        return Draws(*(uniforms(seed, name, step, rows, width) for name in named))


@dataclass(frozen=True)
class RolloutRequest:
    """Rows to decode. Prompts may have different ids in the two models; response tokens are shared."""

    student_prompts: list[list[int]]
    teacher_prompts: list[list[int]] | None
    """None where no teacher takes part."""
    draws: Draws
    block_tokens: int | None = None
    """Tokens that the student drafts before the teacher looks at them; None leaves it to the engine."""


@dataclass(frozen=True)
class Keep:
    """What to record for the loss besides the statistics of the sampled tokens."""

    top_k: int | None = None
    """Ids and teacher log-probs of the student's K likeliest tokens at each position."""
    teacher_hidden: bool = False
    """The teacher's last hidden states, for a loss over the whole vocabulary."""
    teacher_top: bool = False
    """The teacher's likeliest token at each position, where it takes part in the rollout."""


@dataclass(frozen=True)
class Work:
    """What a rollout cost in passes, for cost models."""

    block_tokens: int
    rounds: int
    """Blocks drafted; each is one teacher pass where the teacher takes part."""
    draft_passes: int
    drafted_tokens: int
    """Rows of all draft passes together."""
    verified_tokens: int
    """Tokens that teacher passes looked at."""


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
    """The probability that the student's draft is redrawn; TV(p, mu) under the maximal coupling, and where mu is drawn
    from without a teacher: nothing is redrawn there."""
    redrawn_BT: Tensor
    """bool: the token was redrawn."""
    beta_BT: Tensor | None = None
    teacher_logprob_BT: Tensor | None = None
    teacher_entropy_BT: Tensor | None = None
    support_BTK: Tensor | None = None
    """int64: the student's top-k tokens when the position was visited."""
    teacher_support_BTK: Tensor | None = None
    """Teacher log-probs on the support."""
    teacher_hidden_BTH: Tensor | None = None
    teacher_top_BT: Tensor | None = None
    """int64: the teacher's likeliest token."""
    work: Work | None = None
    """How the batch was made."""

    def first(self, rows: int) -> Rollouts:
        """The first rows alone."""
        parts: dict[str, Any] = {
            field.name: value[:rows]
            if isinstance(value := getattr(self, field.name), Tensor | list)
            else value
            for field in fields(self)
        }
        return Rollouts(**parts)

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


class RolloutEngine(Protocol):
    """Draws responses from a behaviour policy, and scores given responses with the teacher."""

    tokens: dict[str, int]
    """Positions that have gone through "student" and "teacher" so far, prompts included."""

    def rollout(self, request: RolloutRequest, behavior: StepBehavior, keep: Keep) -> Rollouts: ...

    def make_room(self) -> None:
        """The step's rollouts are made and scored: give back what an update needs more."""
        ...

    def costs(self, request: RolloutRequest, behavior: StepBehavior, keep: Keep) -> CostTable:
        """What draft and verify passes of such a request cost here and now."""
        ...

    def score(self, rollouts: Rollouts, keep: Keep) -> None:
        """Fill the teacher fields of rollouts that were made without it."""
        ...
