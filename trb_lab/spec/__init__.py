"""What people write: experiments, warmups, data sets, sweeps. Imports pydantic and nothing heavier."""

from .experiment import ExperimentSpec
from .sweep import SweepSpec

__all__ = ["ExperimentSpec", "SweepSpec"]
