"""What people write: experiments, warmups, data sets, sweeps. Imports pydantic and nothing heavier."""

from .experiment import ExperimentSpec
from .loading import kind_of_file, load_experiment
from .sweep import SweepSpec
from .sweeps import TrialDraft, expand_sweep, load_sweep

__all__ = [
    "ExperimentSpec",
    "SweepSpec",
    "TrialDraft",
    "expand_sweep",
    "kind_of_file",
    "load_experiment",
    "load_sweep",
]
