"""Progress of one run: a live line on a terminal, plain lines otherwise."""

from __future__ import annotations

import sys
import time
from collections import deque

PLAIN_SECONDS = 10.0
"""At most one plain line in this time, but one for every evaluation."""
RATE_STEPS = 20


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

    def __init__(self, steps: int, first_step: int = 0) -> None:
        self.steps = steps
        self.live = sys.stdout.isatty()
        self.recent: deque[float] = deque(maxlen=RATE_STEPS)
        self.last_eval = ""
        self.last_plain = 0.0
        self.width = 0
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
        last = step + 1 == self.steps
        if self.live:
            self.width = max(self.width, len(text))
            sys.stdout.write("\r" + text.ljust(self.width) + ("\n" if last else ""))
            sys.stdout.flush()
        elif evaluated or last or time.monotonic() - self.last_plain >= PLAIN_SECONDS:
            self.last_plain = time.monotonic()
            self._print(text)

    def _print(self, text: str) -> None:
        print(text, flush=True)
