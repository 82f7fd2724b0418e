"""The built-in engine: the student drafts with the weights that train, the teacher verifies.

The student drafts a block of tokens; one teacher pass scores the block; each token is kept or redrawn so that it
follows the behaviour policy mu exactly (policy/coupling.py); what was drafted after the first redrawn token is
dropped. Rows advance independently, finished ones leave and waiting prompts take their place. A block of one token is
lock-step decoding. The block length changes no token but by rounding, since each token's draws are its own (Draws).
The teacher is not run where the step's behaviour policy is the student itself.
"""

from __future__ import annotations

from contextlib import ExitStack

import torch
from torch import Tensor

from trb_lab.errors import UsageError
from trb_lab.models.load import Pair
from trb_lab.policy.behaviors import StepBehavior
from trb_lab.spec.experiment import ResourcesSpec, RolloutSpec

from .batch import Batch
from .blocks import CostTable
from .caches import Caches
from .costs import measure_costs
from .engine import Keep, RolloutRequest, Rollouts, Work
from .judge import Judge, TeacherLook, Verdict, judge_for
from .packing import sequence_tokens
from .recorder import Recorder
from .scoring import score_with_teacher

STUDENT_BLOCK = 8
"""Tokens drafted between two looks at which rows have ended, where no teacher takes part."""
DEFAULT_BLOCK = 4
"""Tokens drafted before the teacher looks, where nobody has chosen."""
MAX_BLOCK = 32
"""Longest block: room behind the longest response for drafts that are void."""


class TorchEngine:
    """Draft-and-verify decoding over a pair of models.

    Args:
        max_rows: rows decoded at once; the others wait for a free place. None is what fits.
        score_tokens: prompt and response tokens (padding counted) in one scoring or prefill pass.
        chunk_tokens: tokens whose logits exist at once while scoring.
        batch_invariant: a row's tokens do not depend, bit for bit, on the rows beside it (rows decode one by one).
    """

    def __init__(
        self,
        pair: Pair,
        max_rows: int | None = None,
        score_tokens: int = 16_384,
        chunk_tokens: int = 1024,
        batch_invariant: bool = False,
    ) -> None:
        self.pair = pair
        self.max_rows = max_rows
        self.score_tokens = score_tokens
        self.chunk_tokens = chunk_tokens
        self.batch_invariant = batch_invariant
        self.tokens = {"student": 0, "teacher": 0}
        models = (pair.student, pair.teacher)
        if batch_invariant and any(m.device.type != "cpu" or m.dtype != torch.float32 for m in models):
            raise UsageError(
                "rollout.batch_invariant holds on a CPU in float32 alone: set resources.device to cpu and dtype to "
                "float32, or leave it out."
            )
        self.caches = Caches(pair, score_tokens)
        if pair.student.device.type == "cuda":
            # cuDNN builds a plan for each new shape, and prompts and micro-batches have other shapes at each step.
            torch.backends.cuda.enable_cudnn_sdp(False)

    @classmethod
    def of(cls, pair: Pair, resources: ResourcesSpec, rollout: RolloutSpec) -> TorchEngine:
        """As an experiment asks for it."""
        return cls(
            pair,
            resources.rollout_rows,
            resources.micro_batch_tokens,
            resources.loss_chunk_tokens,
            rollout.batch_invariant,
        )

    @torch.no_grad()
    def rollout(self, request: RolloutRequest, behavior: StepBehavior, keep: Keep) -> Rollouts:
        """Draw one response a row from the behaviour policy."""
        _check(request, behavior)
        block = request.block_tokens or (DEFAULT_BLOCK if behavior.needs_teacher else STUDENT_BLOCK)
        judge, recorder = judge_for(self.pair, behavior, keep), Recorder(len(request.student_prompts))
        stop_id = self.pair.vocabulary.stop_id
        rounds = drafted = 0
        with ExitStack() as stack:
            batch = self.start(request, behavior, stack)
            while len(batch):
                rounds, drafted = rounds + 1, drafted + block * len(batch)
                rows_A, position_A = batch.rows_A.clone(), batch.position_A.clone()
                drafts_AG = self.draft(batch, judge, block)
                verdict = self.verify(batch, judge, drafts_AG, keep)
                if behavior.is_banked:
                    batch.save_up(verdict.columns["kl"], verdict.verified_A)
                count_A, ended = batch.commit(verdict.tokens_AG, verdict.verified_A, stop_id)
                recorder.add(rows_A, position_A, count_A, verdict.columns)
                for row, length, finished in ended:
                    recorder.end(row, length, finished)
        self._count(batch)
        work = Work(block, rounds, rounds * block, drafted, drafted if behavior.needs_teacher else 0)
        return recorder.rollouts(request, work)

    def start(self, request: RolloutRequest, behavior: StepBehavior, stack: ExitStack) -> Batch:
        """The request's first rows in their slots, prefilled. Models are ready for passes until `stack` closes."""
        prompts = {"student": request.student_prompts}
        if behavior.needs_teacher:
            if request.teacher_prompts is None:
                raise ValueError(
                    "the behaviour policy needs the teacher and the request has no teacher prompts"
                )
            prompts["teacher"] = request.teacher_prompts
        room = request.draws.draft_BT.shape[1] + MAX_BLOCK
        capacities = {role: max(map(len, texts)) + room for role, texts in prompts.items()}
        rows = 1 if self.batch_invariant else self.max_rows or self.caches.rows_that_fit(capacities)
        rows = min(rows, len(request.student_prompts))
        self.caches.trim(rows, capacities)
        models = {role: self.caches.ready(role, rows, tokens, stack) for role, tokens in capacities.items()}
        return Batch(request, rows, behavior, models["student"], models.get("teacher"))

    def draft(self, batch: Batch, judge: Judge, block: int) -> Tensor:
        """The student drafts `block` tokens a row [A, G]."""
        uniform_AG = batch.uniforms(batch.draft_BT, block)
        batch.student.place(batch.position_A)
        fed_A, drafts = batch.student.pending_S[: len(batch)], []
        for i in range(block):
            logits_AGW = batch.student.extend(fed_A[:, None]).logits_AGW
            fed_A = judge.draft(logits_AGW[:, 0], uniform_AG[:, i])
            drafts.append(fed_A)
        return torch.stack(drafts, dim=1)

    def verify(self, batch: Batch, judge: Judge, drafts_AG: Tensor, keep: Keep) -> Verdict:
        """One teacher pass over the block and the verdict on it; without a teacher every draft is kept."""
        teacher, block = batch.teacher, drafts_AG.shape[1]
        if teacher is None:
            return judge.judge(drafts_AG, None)
        teacher.place(batch.position_A)
        fed_AG = torch.cat([teacher.pending_S[: len(batch), None], drafts_AG[:, :-1]], dim=1)
        seen = teacher.extend(fed_AG)
        look = TeacherLook(
            seen.logits_AGW.flatten(0, 1),
            seen.hidden_AGH if keep.teacher_hidden else None,
            batch.values_A,
            batch.uniforms(batch.keep_BT, block),
            batch.uniforms(batch.redraw_BT, block),
            batch.bank_A,
        )
        return judge.judge(drafts_AG, look)

    def _count(self, batch: Batch) -> None:
        """Add what the batch's models were fed."""
        for role, model in (("student", batch.student), ("teacher", batch.teacher)):
            if model is not None:
                self.tokens[role] += model.fed_tokens
                model.fed_tokens = 0

    def make_room(self) -> None:
        """Give back caches that are too large to keep beside an update."""
        self.caches.release_if_large()

    def release(self) -> None:
        """Give back the memory of the caches; the next rollout allocates anew."""
        self.caches.release()

    def costs(self, request: RolloutRequest, behavior: StepBehavior, keep: Keep) -> CostTable:
        """What draft and verify passes of such a request cost here and now."""
        return measure_costs(self, request, behavior, keep)

    @torch.no_grad()
    def score(self, rollouts: Rollouts, keep: Keep) -> None:
        """One batched teacher pass over finished rollouts; fills their teacher fields."""
        score_with_teacher(self.pair.teacher, rollouts, keep, self.score_tokens, self.chunk_tokens)
        self.tokens["teacher"] += sequence_tokens(rollouts, rollouts.teacher_prompts or [])


def _check(request: RolloutRequest, behavior: StepBehavior) -> None:
    """Raises UsageError for a request that cannot be decoded."""
    rows, block = len(request.student_prompts), request.block_tokens
    if block is not None and not 1 <= block <= MAX_BLOCK:
        raise UsageError(f"block_tokens is {block}: give a number from 1 to {MAX_BLOCK}, or none.")
    if rows == 0 or not all(request.student_prompts):
        raise UsageError("a rollout needs at least one prompt, and each prompt at least one token.")
    if len(behavior.row_values) != rows or len(request.draws.draft_BT) != rows:
        raise UsageError(
            f"{rows} prompts, {len(behavior.row_values)} values of the behaviour policy and draws for "
            f"{len(request.draws.draft_BT)} rows: all three need the same number."
        )
    if behavior.needs_teacher and request.teacher_prompts is not None:
        if len(request.teacher_prompts) != rows or not all(request.teacher_prompts):
            raise UsageError("each row needs a teacher prompt of at least one token.")
        if request.draws.keep_BT is None or request.draws.redraw_BT is None:
            raise UsageError(
                "a rollout with a teacher needs its keep and redraw draws: make them with Draws.keyed."
            )
