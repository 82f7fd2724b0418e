"""Errors of a file system that takes no more writes: told apart from mistakes in the code, and put into words."""

from __future__ import annotations

import errno
import os
import re

from trb_lab.errors import LabError

DISK_WORDS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EROFS: "the file system cannot be written",
}
"""What a file system that takes no more writes says, by error number."""


class DiskTrouble(LabError):
    """A file could not be written for want of room or of a writable file system."""


def disk_trouble(error: BaseException) -> DiskTrouble | None:
    """The error in words where it is one of the disk; None for any other."""
    number = error.errno if isinstance(error, OSError) else _number_in(error)
    if number is None or number not in DISK_WORDS:
        return None
    name = getattr(error, "filename", None)
    return DiskTrouble(
        f"{DISK_WORDS[number]}: {name or os.strerror(number)}. What is saved is whole; make room for it "
        "and the same command goes on from the newest checkpoint."
    )


def _number_in(error: BaseException) -> int | None:
    """safetensors writes outside Python: the number is in its text alone."""
    if type(error).__name__ != "SafetensorError":
        return None
    found = re.search(r"os error (\d+)", str(error))
    return int(found[1]) if found else None
