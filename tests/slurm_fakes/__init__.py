"""A fake Slurm on the file system: commands for PATH, and a cluster that misbehaves as a test wishes."""

from .fake import FakeSlurm

__all__ = ["FakeSlurm"]
