"""Rollouts made up for tests."""

import torch

from trb_lab.rollout.engine import Rollouts


def made_rollouts(lengths, seed=0, vocabulary=6, prompts=None):
    """Random tokens and log-probs of responses of these lengths, 0 where masked out."""
    generator = torch.Generator().manual_seed(seed)
    shape = (len(lengths), max(lengths))
    mask_BT = torch.arange(shape[1]) < torch.tensor(lengths)[:, None]

    def values():
        return torch.rand(shape, generator=generator) * mask_BT

    return Rollouts(
        student_prompts=prompts or [[3, 4]] * len(lengths),
        teacher_prompts=[[*prompt, 2] for prompt in prompts or [[3, 4]] * len(lengths)],
        tokens_BT=torch.randint(2, vocabulary, shape, generator=generator) * mask_BT,
        mask_BT=mask_BT,
        finished_B=torch.zeros(len(lengths), dtype=torch.bool),
        student_logprob_BT=-values(),
        behavior_logprob_BT=-values(),
        kl_BT=values(),
        redraw_BT=values(),
        redrawn_BT=torch.zeros(shape, dtype=torch.bool),
        beta_BT=values(),
        teacher_logprob_BT=-values(),
        teacher_entropy_BT=values(),
    )
