"""The fused verdict is the plain one: same drafts, same draws, with the kernels in Triton's interpreter."""

from __future__ import annotations

import torch

from tests.tiny import tiny_pair
from trb_lab.policy.behaviors import trust_region_rollouts
from trb_lab.policy.eos import canonical_log_probs
from trb_lab.policy.trust_region import trust_region
from trb_lab.rollout.engine import Keep
from trb_lab.rollout.judge import FusedJudge, PlainJudge, TeacherLook

from .test_attention_kernel import interpreted, needs_triton  # noqa: F401 (a fixture)

ROWS, BLOCK = 24, 4


def verdicts_agree() -> None:
    """Budgets from 0 to .5 in one batch; the stop id merged; every record and token, and some drafts redrawn."""
    pair, draws = tiny_pair(6), torch.Generator().manual_seed(0)
    behavior = trust_region_rollouts(torch.linspace(0, 0.5, ROWS), 0.5)
    keep = Keep(top_k=3, teacher_top=True)
    judges = [PlainJudge(pair, behavior, keep), FusedJudge(pair, keep)]
    student = [torch.randn(ROWS, 8, generator=draws) for _ in range(BLOCK)]
    teacher = torch.randn(ROWS * BLOCK, 11, generator=draws)
    uniform, kept, again = torch.rand(3, ROWS, BLOCK, generator=draws, dtype=torch.float64)
    drafts = [
        torch.stack([judge.draft(student[i].clone(), uniform[:, i]) for i in range(BLOCK)], 1)
        for judge in judges
    ]
    assert torch.equal(*drafts)
    looks = [TeacherLook(teacher.clone(), None, behavior.row_values, kept, again) for _ in judges]
    plain, fused = (judge.judge(drafts[0], look) for judge, look in zip(judges, looks, strict=True))
    assert torch.equal(plain.verified_A, fused.verified_A)
    assert torch.equal(plain.tokens_AG, fused.tokens_AG)
    assert plain.columns["redrawn"].any() and not plain.columns["redrawn"][0].any()
    assert plain.columns.keys() == fused.columns.keys() >= {"teacher_top"}
    for name, expected in plain.columns.items():
        if name == "support":
            assert torch.equal(expected.sort(-1).values, fused.columns[name].sort(-1).values)
        elif name == "teacher_support":
            torch.testing.assert_close(
                expected.sort(-1).values, fused.columns[name].sort(-1).values, rtol=0, atol=1e-4
            )
        else:
            torch.testing.assert_close(
                fused.columns[name], expected, rtol=0, atol=1e-4, msg=name, check_dtype=False
            )
    # The plain judge is right: its beta is the solver's on canonical log-probs.
    log_p = torch.stack([canonical_log_probs(part, pair.student.stops) for part in student], 1).flatten(0, 1)
    log_q = canonical_log_probs(teacher, pair.teacher.stops)
    beta = trust_region(log_p, log_q, behavior.row_values.repeat_interleave(BLOCK)).beta_B
    torch.testing.assert_close(plain.columns["beta"].flatten(), beta, rtol=0, atol=1e-6)


@needs_triton
def test_verdicts_agree(interpreted):  # noqa: F811
    interpreted(verdicts_agree)
