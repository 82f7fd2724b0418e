"""Places where a test may kill a process, to prove that a death there loses nothing.

`TRB_LAB_FAILPOINT=name` (or `name:3` for the third time) makes the process kill itself with SIGKILL when it
comes there; without the variable, passing one costs a dictionary look-up. docs/faults.md lists the names.
"""

from __future__ import annotations

import os
import signal

_passed: dict[str, int] = {}


def reach(name: str) -> None:
    """Note that the process is at `name`; it ends here when it was told to."""
    wanted = os.environ.get("TRB_LAB_FAILPOINT")
    if wanted is None:
        return
    chosen, _, nth = wanted.partition(":")
    if chosen != name:
        return
    _passed[name] = _passed.get(name, 0) + 1
    if _passed[name] == int(nth or 1):
        os.kill(os.getpid(), signal.SIGKILL)
