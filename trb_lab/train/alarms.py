"""Alarms: a run that is lost stops and says why, instead of spending the rest of its time.

They follow from the lines of metrics.jsonl alone, so that a resumed run rings at the same step.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trb_lab.spec.experiment import AlarmSpec
from trb_lab.worker import RunLost

TRUNCATED, REVERSE_KL = "rollout/truncated_share", "train/reverse_kl"
LEAST_KL = 0.01
"""Nats a token: a first KL below it counts as this much. Ten times next to nothing is no blow-up."""


class Alarms:
    """Hears each step's metrics. Two rules; NaN has its own error (store/metrics.py)."""

    def __init__(self, spec: AlarmSpec) -> None:
        self.spec = spec
        self.first: dict[str, float] = {}
        """Of the first step."""
        self.streaks = {TRUNCATED: 0, REVERSE_KL: 0}
        """Steps in a row that looked lost."""

    def hear(self, line: Mapping[str, Any]) -> None:
        """Take in one line of metrics.jsonl."""
        for key in self.streaks:
            value = float(line[key])
            first = self.first.setdefault(key, value)
            self.streaks[key] = self.streaks[key] + 1 if self._looks_lost(key, value, first) else 0

    def _looks_lost(self, key: str, value: float, first: float) -> bool:
        if key == TRUNCATED:
            return value >= self.spec.truncated_share > first
        return value >= self._highest_kl(first)

    def _highest_kl(self, first: float) -> float:
        return self.spec.kl_factor * max(first, LEAST_KL)

    def check(self, line: Mapping[str, Any]) -> None:
        """Raises RunLost where the line just heard makes a streak of `patience` steps."""
        patience = self.spec.patience
        if patience is None:
            return
        last = (
            f"steps {line['step'] - patience + 1}-{line['step']}" if patience > 1 else f"step {line['step']}"
        )
        silence = "alarms.patience gives it more steps, and null lets it go on regardless."
        if self.streaks[TRUNCATED] >= patience:
            raise RunLost(
                "length_explosion",
                f"length explosion: in {last} at least {self.spec.truncated_share:g} of the rollouts "
                f"(alarms.truncated_share) were cut at rollout.max_new_tokens, {line[TRUNCATED]:.3g} in the last one; "
                f"at the start it was {self.first[TRUNCATED]:.3g}. The student has stopped ending its responses: lower "
                f"optim.lr, raise rollout.max_new_tokens if good answers are that long, and look at the run's "
                f"samples. {silence}",
            )
        if self.streaks[REVERSE_KL] >= patience:
            first = self.first[REVERSE_KL]
            raise RunLost(
                "kl_blow_up",
                f"KL blow-up: in {last} the reverse KL was at least {self._highest_kl(first):.3g} nats a token, "
                f"{line[REVERSE_KL]:.3g} in the last one; at the start it was {first:.3g} (alarms.kl_factor is "
                f"{self.spec.kl_factor:g}). The student moves away from its teacher: lower optim.lr or "
                f"optim.grad_clip, or lengthen optim.lr_warmup_steps. {silence}",
            )
