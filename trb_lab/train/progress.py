"""Progress of one run: a live line on a terminal, plain lines otherwise."""

from __future__ import annotations

import sys
import time
from collections import deque
from typing import Any, Protocol

PLAIN_SECONDS = 10.0
"""At most one plain line in this time, but one for every evaluation."""
RATE_STEPS = 20


class Reporter(Protocol):
    """Shows a run's progress."""

    def step(self, step: int, metrics: dict[str, float], seconds: dict[str, float]) -> None:
        """A training step is over."""
        ...

    def supervised(self, update: int, updates: int, line: dict[str, Any]) -> None:
        """A supervised update of the phase before training is over; `line` as in sft.jsonl."""
        ...


def describe(seconds: float) -> str:
    """Seconds as 45s, 3m20s or 2h05m."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"


class ProgressLine:
    """Step, rate, time left, reward, KL and the last evaluation."""

    def __init__(self, steps: int, first_step: int = 0, first_update: int = 0) -> None:
        """Steps and supervised updates that were made before this worker are said once."""
        self.steps = steps
        self.live = sys.stdout.isatty()
        self.recent: deque[float] = deque(maxlen=RATE_STEPS)
        self.last_eval = ""
        self.last_plain = 0.0
        self.width = 0
        if first_update:
            self._print(f"resumes after {first_update} supervised updates")
        if first_step:
            self._print(f"resumes after {first_step} of {steps} steps")

    def step(self, step: int, metrics: dict[str, float], seconds: dict[str, float]) -> None:
        """Report 0-based `step`."""
        self.recent.append(seconds["total"])
        evaluated = "eval/mean/pass_at_1" in metrics
        if evaluated:
            self.last_eval = f"eval {100 * metrics['eval/mean/pass_at_1']:.1f}% after {step + 1}"
        pace = sum(self.recent) / len(self.recent)
        parts = [
            f"step {step + 1}/{self.steps}",
            f"{1 / pace:.2f} steps/s" if pace < 1 else f"{pace:.1f} s/step",
            f"{describe(pace * (self.steps - step - 1))} left",
            f"reward {metrics['rollout/reward']:.3f}" if "rollout/reward" in metrics else "",
            f"KL {metrics['train/reverse_kl']:.4f}",
            f"schedule {metrics['policy/schedule']:.4g}" if metrics["policy/schedule"] else "",
            self.last_eval,
        ]
        text = "  ".join(part for part in parts if part)
        self._show(text, last=step + 1 == self.steps, matters=evaluated)

    def supervised(self, update: int, updates: int, line: dict[str, Any]) -> None:
        """Report 0-based `update` of the phase before training."""
        cut = f"  {100 * line['truncated_share']:.0f}% cut" if line["truncated_share"] else ""
        text = f"SFT update {update + 1}/{updates}  loss {line['loss']:.4f}{cut}"
        self._show(text, last=update + 1 == updates)

    def _show(self, text: str, *, last: bool, matters: bool = False) -> None:
        """Over the line before on a terminal; elsewhere seldom, but always the last of a phase and what matters."""
        if self.live:
            self.width = max(self.width, len(text))
            sys.stdout.write("\r" + text.ljust(self.width) + ("\n" if last else ""))
            sys.stdout.flush()
        elif matters or last or time.monotonic() - self.last_plain >= PLAIN_SECONDS:
            self.last_plain = time.monotonic()
            self._print(text)

    def _print(self, text: str) -> None:
        print(text, flush=True)
