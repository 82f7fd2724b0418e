"""What people write. Imported with every spec: no torch here."""

from typing import Literal

from pydantic import Field

from trb_lab.spec.warmup import ArmSpec


class NucleusWarmup(ArmSpec):
    """The student's distribution on the fewest teacher tokens that hold `mass`, renormalised."""

    kind: Literal["nucleus"] = "nucleus"
    mass: float = Field(0.95, gt=0, le=1)
    """Teacher mass of the nucleus."""
    steps: int = Field(25, ge=1)
    """Warmup horizon in training steps."""

    def horizon(self, steps: int) -> int:
        return self.steps
