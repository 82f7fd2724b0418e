"""What people write: experiments, data sets, sweeps, cluster profiles. Imports pydantic and nothing heavier."""

from .cluster import ClusterProfile, load_cluster
from .experiment import ExperimentSpec
from .loading import kind_of_file, load_experiment
from .report import ReportSpec, load_report
from .sweep import SweepSpec
from .sweeps import TrialDraft, expand_sweep, load_sweep

__all__ = [
    "ClusterProfile",
    "ExperimentSpec",
    "ReportSpec",
    "SweepSpec",
    "TrialDraft",
    "expand_sweep",
    "kind_of_file",
    "load_cluster",
    "load_experiment",
    "load_report",
    "load_sweep",
]
