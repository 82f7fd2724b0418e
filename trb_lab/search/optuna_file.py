"""A search as a journal file of Optuna, for its dashboard: `optuna-dashboard PATH`. A view: nothing depends on it.

What changed is appended, and a dashboard that is open follows that. Finished trials cannot change in Optuna;
where one has to (it got another seed, or its candidate goes on after all), the file is written anew, and an
open dashboard has to be started again.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from trb_lab.spec.search import SearchSpec
from trb_lab.store.run_dir import write_atomic

from .told import Told

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

    from .optuna_journal import Journal

CANDIDATE = "candidate"
"""The user attribute of a trial that has the candidate's number."""


class StudyFile:
    """Keeps the file at `path` up to date; the study in it is called `name`.

    A trial's times are those at which the file first showed that it began and ended. Those and notes that
    someone made in the dashboard stay when the file is written anew. Needs optuna, which an Asker looks for.
    """

    def __init__(self, path: Path, name: str, spec: SearchSpec) -> None:
        from .optuna_study import Space

        self.path, self.name, self.spec = path, name, spec
        self._space = Space(spec)
        self._journal: Journal | None = None
        self._left: tuple[int, ...] | None = None  # the file as it was when last read or written
        self._shown: list[Told] = []  # what the journal is known to show

    def update(self, told: Sequence[Told], over: bool) -> None:
        """Show the candidates as they stand, in order of number; writes nothing where nothing changed.

        Paused candidates are shown as running until the search is `over`: they may go on. A file that is
        torn, was deleted or holds something else is replaced. Raises OSError where the file cannot be
        written; the next call begins with what is in it then.
        """
        from .optuna_journal import Journal

        wanted = [
            replace(one, state="running") if one.state == "pruned" and not over else one for one in told
        ]
        left, self._left = self._left, None  # not known until all went well
        if left is None or left != _state_of(self.path):
            self._journal, self._shown = Journal.read(self.path, self.name, self.spec), []
        if self._journal is not None and self._bring_up(self._journal, wanted):
            self._journal.append(self.path)
        else:
            self._journal = self._anew(self._journal, wanted)
            write_atomic(self.path, self._journal.text())
        self._left, self._shown = _state_of(self.path), wanted

    def _bring_up(self, journal: Journal, wanted: Sequence[Told]) -> bool:
        """Enter what changed; False where Optuna's rules do not allow that."""
        trials = journal.trials
        if len(wanted) < len(trials):
            return False
        for position, one in enumerate(wanted):
            if position < len(self._shown) and one == self._shown[position]:
                continue
            if position >= len(trials):
                journal.add(self._trial(one, None))
            elif not journal.change(trials[position], self._trial(one, None)):
                return False
        return True

    def _anew(self, old: Journal | None, wanted: Sequence[Told]) -> Journal:
        """The study from nothing, with the times that the old one had."""
        from .optuna_journal import Journal

        before = {} if old is None else {trial.user_attrs.get(CANDIDATE): trial for trial in old.trials}
        journal = Journal(self.name, self.spec)
        if old is not None:
            journal.note(old.notes)
        for one in wanted:
            journal.add(self._trial(one, before.get(one.number)))
        return journal

    def _trial(self, one: Told, before: FrozenTrial | None) -> FrozenTrial:
        from .optuna_study import trial_of

        trial = trial_of(one, self._space, self.spec, attrs=False)
        trial.set_user_attr(CANDIDATE, one.number)
        if violations := trial.constraints.values():
            # The dashboard (0.21) knows only the form without names, and no infinity there.
            trial.system_attrs["constraints"] = [min(v, sys.float_info.max) for v in violations]
        now = datetime.now()
        trial.datetime_start = (before and before.datetime_start) or now
        if trial.state.is_finished():
            trial.datetime_complete = (before and before.datetime_complete) or now
        return trial


def _state_of(path: Path) -> tuple[int, ...] | None:
    """Differs once someone else wrote or replaced the file; None without one."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns
