"""How far a run may train before it pauses: `pause.json` of a run directory, absent for a run that goes to its end.

The file is the run's and not its search's: a sweep that plans the whole run takes it away, and the run goes on.
"""

from __future__ import annotations

from .run_dir import RunDir, read_json, write_json


def pause_after(run_dir: RunDir) -> int | None:
    """Updates after which the worker pauses; None where it trains to the end."""
    found = read_json(run_dir.pause)
    return int(found["after_steps"]) if found is not None else None


def set_pause(run_dir: RunDir, after_steps: int | None) -> None:
    """Let a run train until `after_steps` updates are made, or (None) to its end. A worker that lives sees it too."""
    if after_steps is None:
        run_dir.pause.unlink(missing_ok=True)
    elif pause_after(run_dir) != after_steps:
        write_json(run_dir.pause, {"after_steps": after_steps})
