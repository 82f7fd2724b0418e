"""The chunked, micro-batched loss against one that holds all logits at once."""

import pytest
import torch

from tests.enumeration import ARMS
from tests.rollout.test_torch_engine import ROWS, V, unequal_request
from tests.tiny import STUDENT_EOS, tiny_pair
from trb_lab.policy import objectives
from trb_lab.policy.eos import canonical_log_probs
from trb_lab.rollout.torch_engine import TorchEngine
from trb_lab.spec.experiment import FullLoss, TopKLoss
from trb_lab.train.objective import backward_reverse_kl, what_to_keep

LOSSES = [
    TopKLoss(top_k=3),
    TopKLoss(kind="advantage", top_k=3),
    TopKLoss(kind="truncated", top_k=3),
    FullLoss(),
]


def rollouts_of(pair, arm, loss):
    engine = TorchEngine(pair, score_tokens=30, chunk_tokens=5)
    rollouts = engine.rollout(unequal_request(), ARMS[arm].behavior(ROWS), what_to_keep(loss))
    if rollouts.teacher_logprob_BT is None:
        engine.score(rollouts, what_to_keep(loss))
    return rollouts


def whole_loss(pair, rollouts, loss):
    """Token mean over rows one by one, no padding, no chunks, the teacher run afresh."""
    total = 0.0
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
        log_p, log_q = log_probs
        if isinstance(loss, FullLoss):
            total = total + objectives.full(log_p, log_q).sum()
        else:
            support = rollouts.support_BTK[row, :length]
            total = (
                total
                + objectives.TOP_K_LOSSES[loss.kind](
                    log_p.gather(-1, support), log_q.gather(-1, support)
                ).sum()
            )
    return total / rollouts.num_tokens


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
        assert found.keys() == reference.keys()
        for name, value in reference.items():
            torch.testing.assert_close(
                found[name], value, rtol=1e-4, atol=1e-5, msg=lambda m, name=name: f"{name}: {m}"
            )


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
