"""What the rollouts of earlier steps have shown, for anneals that follow it instead of the calendar.

A signal's moving average is compared with its first value, and what remains is the lowest ratio so far: an anneal never
rises again. The state is part of the checkpoint.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from trb_lab.spec.schedule import AdaptiveAnneal

SIGNALS = {"reverse_kl": "train/reverse_kl", "binding_share": "policy/binding_share"}
"""Signal -> the metric that it follows."""

SMOOTHING = 0.8
"""Weight of the past in a signal's moving average: one step's rollouts say little."""


@dataclass(frozen=True)
class Feedback:
    """first, average and lowest average of each signal seen so far."""

    first: Mapping[str, float] = field(default_factory=dict)
    average: Mapping[str, float] = field(default_factory=dict)
    lowest: Mapping[str, float] = field(default_factory=dict)

    def after(self, metrics: Mapping[str, float]) -> Feedback:
        """With one more step's metrics. A signal that the step does not have stays as it is."""
        seen = {name: metrics[key] for name, key in SIGNALS.items() if key in metrics}
        first = {**seen, **self.first}
        average = dict(self.average)
        for name, value in seen.items():
            average[name] = SMOOTHING * average.get(name, value) + (1.0 - SMOOTHING) * value
        lowest = {name: min(value, self.lowest.get(name, value)) for name, value in average.items()}
        return Feedback(first, average, lowest)

    def remaining(self, anneal: AdaptiveAnneal) -> float:
        """What is left of the anneal's signal, in [0, 1]; 1 before the first step."""
        first = self.first.get(anneal.signal, 0.0)
        return min(1.0, max(0.0, self.lowest[anneal.signal] / first)) if first > 0 else 1.0
