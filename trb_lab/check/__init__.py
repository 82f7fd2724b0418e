"""`trb-lab check`: validate files, then preflight models and data without training."""

from .files import check_files

__all__ = ["check_files"]
