"""`trb-lab check`: validate files, then preflight models and data without training."""

from .cluster import ClusterCheck
from .files import check_files

__all__ = ["ClusterCheck", "check_files"]
