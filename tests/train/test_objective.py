"""The chunked, micro-batched loss against one that holds all logits at once."""

import pytest
import torch
from torch.nn.functional import cross_entropy

from tests.enumeration import ARMS
from tests.rollout.test_torch_engine import ROWS, V, unequal_request
from tests.tiny import STUDENT_EOS, tiny_pair
from trb_lab.errors import UsageError
from trb_lab.policy import objectives
from trb_lab.policy.arms import ArmContext, arm_at
from trb_lab.policy.eos import canonical_log_probs
from trb_lab.rollout.torch_engine import TorchEngine
from trb_lab.spec.experiment import FullLoss, SampledLoss, TopKLoss
from trb_lab.spec.warmup import SakiWarmup, VetoWarmup
from trb_lab.train.objective import USUAL_TOP_K, backward_nll, backward_reverse_kl, what_to_keep

LOSSES = [
    TopKLoss(top_k=3),
    TopKLoss(kind="advantage", top_k=3),
    TopKLoss(kind="truncated", top_k=3),
    FullLoss(),
    SampledLoss(),
]
OPTIONS = {"token_budget": 40, "chunk_tokens": 7, "after_backward": lambda: None}


def rollouts_of(pair, arm, loss, imitates=False):
    engine, keep = (
        TorchEngine(pair, score_tokens=30, chunk_tokens=5),
        what_to_keep(loss, V, imitates=imitates),
    )
    rollouts = engine.rollout(unequal_request(), ARMS[arm].behavior(ROWS), keep)
    if rollouts.teacher_logprob_BT is None:
        engine.score(rollouts, keep)
    return rollouts


def rows_of(pair, rollouts):
    """(row, tokens [t, 1], log_p [t, V], log_q [t, V]) row by row, no padding, no chunks, both models run afresh."""
    for row, length in enumerate(rollouts.lengths_B.tolist()):
        response = rollouts.tokens_BT[row, :length].tolist()
        log_probs = []
        for model, prompt in (
            (pair.student, rollouts.student_prompts[row]),
            (pair.teacher, rollouts.teacher_prompts[row]),
        ):
            ids = torch.tensor([prompt + response[:-1]])
            logits = model.network(input_ids=ids).logits[0, len(prompt) - 1 :]
            log_probs.append(canonical_log_probs(logits, model.stops))
        yield row, torch.tensor(response)[:, None], *log_probs


def base_losses(rollouts, loss, row, tokens, log_p, log_q, b=0.0):
    """The loss of a row's positions; Veto's exponent b by its definition, Q = q p^b / Z."""
    if isinstance(loss, SampledLoss):
        at_p, at_q = (side.gather(-1, tokens).squeeze(-1) for side in (log_p, log_q))
        return (at_p - at_q).detach() * at_p
    if b:
        # The stop id that is masked has no mass on either side.
        bridge = log_q.exp() * log_p.detach().exp() ** b
        log_q = (bridge / bridge.sum(-1, keepdim=True)).log()
    if isinstance(loss, FullLoss):
        return objectives.full(log_p, log_q)
    support = rollouts.support_BTK[row, : len(tokens)]
    return objectives.TOP_K_LOSSES[loss.kind](log_p.gather(-1, support), log_q.gather(-1, support))


def whole_loss(pair, rollouts, loss, b=0.0, imitates_BT=None):
    """Token mean; positions that imitate have the cross-entropy of the teacher's likeliest token."""
    total = 0.0
    for row, tokens, log_p, log_q in rows_of(pair, rollouts):
        losses = base_losses(rollouts, loss, row, tokens, log_p, log_q, b)
        if imitates_BT is not None:
            wanted = cross_entropy(log_p, log_q.argmax(-1), reduction="none")
            losses = torch.where(imitates_BT[row, : len(tokens)], wanted, losses)
        total = total + losses.sum()
    return total / rollouts.num_tokens


def assert_same_gradient(found, reference):
    assert found.keys() == reference.keys()
    for name, value in reference.items():
        torch.testing.assert_close(
            found[name], value, rtol=1e-4, atol=1e-5, msg=lambda m, name=name: f"{name}: {m}"
        )


def gradients_of(network):
    found = {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}
    network.zero_grad(set_to_none=True)
    return found


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.kind)
@pytest.mark.parametrize("arm", ["opd", "trb_0.05"])
def test_gradient_equals_the_whole_loss(arm, loss):
    pair = tiny_pair(V)
    rollouts = rollouts_of(pair, arm, loss)
    expected = whole_loss(pair, rollouts, loss)
    expected.backward()
    reference = gradients_of(pair.student.network)
    assert STUDENT_EOS in rollouts.tokens_BT[rollouts.mask_BT]  # the stop token is a position like any other
    for budget, chunk in ((10_000, 10_000), (40, 7), (1, 1)):
        calls = []
        stats = backward_reverse_kl(
            pair,
            rollouts,
            loss,
            token_budget=budget,
            chunk_tokens=chunk,
            after_backward=lambda calls=calls: calls.append(1),
        )
        assert stats.loss == pytest.approx(float(expected.detach()), abs=1e-5)
        assert len(calls) == (1 if budget == 10_000 else ROWS if budget == 1 else len(calls))
        found = gradients_of(pair.student.network)
        assert_same_gradient(found, reference)


def test_activation_checkpointing_gives_the_same_gradient():
    pair = tiny_pair(V)
    loss = TopKLoss(top_k=3)
    rollouts = rollouts_of(pair, "trb_0.05", loss)
    options = {"token_budget": 60, "chunk_tokens": 9, "after_backward": lambda: None}
    backward_reverse_kl(pair, rollouts, loss, **options)
    plain = gradients_of(pair.student.network)
    pair.student.checkpoint_activations()
    pair.student.network.train()
    backward_reverse_kl(pair, rollouts, loss, **options)
    for name, value in gradients_of(pair.student.network).items():
        torch.testing.assert_close(value, plain[name])


def test_the_reported_kl_is_that_of_the_support():
    pair = tiny_pair(V)
    rollouts = rollouts_of(pair, "opd", TopKLoss(top_k=V - 1))
    stats = backward_reverse_kl(
        pair,
        rollouts,
        TopKLoss(kind="advantage", top_k=V - 1),
        token_budget=100,
        chunk_tokens=8,
        after_backward=lambda: None,
    )
    full = rollouts_of(pair, "opd", FullLoss())
    expected = backward_reverse_kl(
        pair, full, FullLoss(), token_budget=100, chunk_tokens=8, after_backward=lambda: None
    )
    assert stats.reverse_kl == pytest.approx(expected.reverse_kl, rel=1e-4)


# ---- what arms change ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", [TopKLoss(top_k=3), FullLoss()], ids=lambda loss: loss.kind)
def test_veto_matches_the_bridge_and_reports_the_teacher(loss):
    pair, b = tiny_pair(V), 0.6
    arm = arm_at(VetoWarmup(b_start=b), ArmContext(step=0, rows=ROWS, seed=0, steps=10))
    rollouts = rollouts_of(pair, "veto", loss)
    expected = whole_loss(pair, rollouts, loss, b)
    expected.backward()
    reference = gradients_of(pair.student.network)
    stats = backward_reverse_kl(pair, rollouts, loss, target=arm.target, **OPTIONS)
    assert_same_gradient(gradients_of(pair.student.network), reference)
    assert stats.loss == pytest.approx(float(expected.detach()), abs=1e-5)
    plain = backward_reverse_kl(pair, rollouts, loss, **OPTIONS)
    assert stats.reverse_kl == pytest.approx(plain.reverse_kl, rel=1e-6)
    assert stats.loss != pytest.approx(plain.loss, rel=1e-2)


@pytest.mark.parametrize("kind", ["advantage", "truncated", "sampled"])
def test_a_target_without_its_normaliser_is_refused(kind):
    pair = tiny_pair(V)
    loss = SampledLoss() if kind == "sampled" else TopKLoss(kind=kind, top_k=3)
    with pytest.raises(UsageError, match=f"loss.kind is {kind} .* take renormalised or full"):
        backward_reverse_kl(pair, rollouts_of(pair, "opd", loss), loss, target=lambda p, q: q, **OPTIONS)


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.kind)
def test_redrawn_positions_imitate_and_the_others_keep_the_loss(loss):
    """SAKI in one backward pass, for every loss; the teacher's likeliest token is that of a fresh pass."""
    pair = tiny_pair(V)
    rollouts = rollouts_of(pair, "trb_0.5", loss, imitates=True)
    arm = arm_at(SakiWarmup(), ArmContext(step=0, rows=ROWS, seed=0, steps=100))
    imitates_BT = arm.imitates(rollouts)
    assert 0 < int(imitates_BT.sum()) < rollouts.num_tokens
    for row, tokens, _, log_q in rows_of(pair, rollouts):
        assert torch.equal(rollouts.teacher_top_BT[row, : len(tokens)], log_q.argmax(-1))
    expected = whole_loss(pair, rollouts, loss, imitates_BT=imitates_BT)
    expected.backward()
    reference = gradients_of(pair.student.network)
    stats = backward_reverse_kl(pair, rollouts, loss, imitates_BT=imitates_BT, **OPTIONS)
    assert_same_gradient(gradients_of(pair.student.network), reference)
    assert stats.loss == pytest.approx(float(expected.detach()), abs=1e-5)
    plain = backward_reverse_kl(pair, rollouts, loss, **OPTIONS)
    assert stats.reverse_kl == pytest.approx(plain.reverse_kl, rel=1e-6)


def test_nothing_redrawn_is_the_loss_itself():
    pair, loss = tiny_pair(V), TopKLoss(top_k=3)
    rollouts = rollouts_of(pair, "trb_0.0", loss, imitates=True)
    backward_reverse_kl(pair, rollouts, loss, **OPTIONS)
    reference = gradients_of(pair.student.network)
    backward_reverse_kl(pair, rollouts, loss, imitates_BT=rollouts.redrawn_BT, **OPTIONS)
    for name, value in gradients_of(pair.student.network).items():
        assert torch.equal(value, reference[name])


def test_nll_is_the_cross_entropy_of_the_tokens():
    """Supervised updates: the token mean over all samples, however they are cut into micro-batches."""
    pair = tiny_pair(V)
    samples = rollouts_of(pair, "teacher_forced", SampledLoss())
    expected = (
        sum(
            cross_entropy(log_p, tokens.squeeze(-1), reduction="sum")
            for _, tokens, log_p, _ in rows_of(pair, samples)
        )
        / samples.num_tokens
    )
    expected.backward()
    reference = gradients_of(pair.student.network)
    for budget, chunk in ((10_000, 10_000), (40, 7), (1, 1)):
        options = {**OPTIONS, "token_budget": budget, "chunk_tokens": chunk}
        stats = backward_nll(pair.student, samples, **options)
        assert stats.loss == pytest.approx(float(expected.detach()), abs=1e-5)
        assert_same_gradient(gradients_of(pair.student.network), reference)


@pytest.mark.parametrize("arm", ["opd", "teacher_forced"])
def test_sampled_reports_the_kl_of_the_students_likeliest_tokens(arm):
    """Whatever drew the tokens: drawn from q, their mean log p - log q is -KL(q||p)."""
    pair, loss = tiny_pair(V), SampledLoss()
    stats = backward_reverse_kl(pair, rollouts_of(pair, arm, loss), loss, **OPTIONS)
    wide = TopKLoss(top_k=min(USUAL_TOP_K, V))
    expected = backward_reverse_kl(pair, rollouts_of(pair, arm, wide), wide, **OPTIONS)
    assert stats.reverse_kl == pytest.approx(expected.reverse_kl, rel=1e-6) and stats.reverse_kl > 0
