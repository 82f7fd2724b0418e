"""One study as the lines of an Optuna journal: made in memory, so that many changes reach the disk in one write.

Imports optuna, so it is imported late.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import BaseJournalBackend, JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from trb_lab.spec.search import SearchSpec

from .optuna_study import directions_of, quiet


class _Lines(BaseJournalBackend):
    """What a storage wrote and no file has yet; what was read or taken is forgotten."""

    def __init__(self, logs: list[dict[str, Any]]) -> None:
        self.logs = logs
        self._before = 0  # how many came before those

    def read_logs(self, log_number_from: int) -> list[dict[str, Any]]:
        return self.logs[log_number_from - self._before :]

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        self.logs += logs

    def take(self) -> list[dict[str, Any]]:
        taken, self.logs = self.logs, []
        self._before += len(taken)
        return taken


class Journal:
    """A study that is written to a file as it grows."""

    def __init__(self, name: str, spec: SearchSpec, logs: list[dict[str, Any]] | None = None) -> None:
        """A new study, or the one of such a name that `logs` tell of.

        Raises ValueError where they tell of something else, and anything at all where they are no journal.
        """
        self._lines = _Lines(logs or [])
        self._storage = JournalStorage(self._lines)
        directions, metrics = directions_of(spec), [goal.metric for goal in spec.goals]
        with quiet():
            if logs is None:
                study = optuna.create_study(storage=self._storage, study_name=name, directions=directions)
                study.set_metric_names(metrics)
            elif [found.study_name for found in self._storage.get_all_studies()] != [name]:
                raise ValueError(f"not the study {name}")
            else:
                self._lines.take()
                study = optuna.load_study(storage=self._storage, study_name=name)
                if study.directions != directions or study.metric_names != metrics:
                    raise ValueError("other goals")
        self._study_id = self._storage.get_study_id_from_name(name)

    @classmethod
    def read(cls, path: Path, name: str, spec: SearchSpec) -> Journal | None:
        """The study in a file; None where the file is missing, torn, or holds anything but that study.

        Raises OSError for a file that cannot be read.
        """
        try:
            text = path.read_bytes()
        except FileNotFoundError:
            return None
        if not text.endswith(b"\n"):
            return None
        try:
            return cls(name, spec, [json.loads(line) for line in text.splitlines()])
        except Exception:  # whatever replaying a foreign file may run into
            return None

    @property
    def trials(self) -> list[FrozenTrial]:
        """As they are now."""
        return self._storage.get_all_trials(self._study_id, deepcopy=False)

    @property
    def notes(self) -> dict[str, Any]:
        """What else stands of the study: the dashboard's notes on it and on its trials."""
        return self._storage.get_study_system_attrs(self._study_id)

    def note(self, notes: Mapping[str, Any]) -> None:
        """Take over another journal's notes on the same trials."""
        for key, value in _news(self.notes, notes).items():
            self._storage.set_study_system_attr(self._study_id, key, value)

    def add(self, trial: FrozenTrial) -> None:
        """Put one more at the end."""
        self._storage.create_new_trial(self._study_id, trial)

    def change(self, trial: FrozenTrial, wanted: FrozenTrial) -> bool:
        """Make a trial what is wanted, but for its times; False where Optuna's rules do not allow that."""
        if _shown(trial) == _shown(wanted):
            return True
        if trial.state.is_finished() or _setting(trial) != _setting(wanted):
            return False
        if not trial.intermediate_values.keys() <= wanted.intermediate_values.keys():
            return False
        if not trial.constraints.keys() <= wanted.constraints.keys():
            return False
        number = trial._trial_id
        for step, value in _news(trial.intermediate_values, wanted.intermediate_values).items():
            self._storage.set_trial_intermediate_value(number, step, value)
        for key, value in _news(trial.system_attrs, wanted.system_attrs).items():
            self._storage.set_trial_system_attr(number, key, value)
        if wanted.state != TrialState.RUNNING:
            self._storage.set_trial_state_values(number, wanted.state, wanted.values)
        return True

    def text(self) -> str:
        """All lines, of a journal that was written to no file yet."""
        return "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in self._lines.take())

    def append(self, path: Path) -> None:
        """Append the lines that are not in the file yet, if any, under Optuna's lock. Raises OSError."""
        if logs := self._lines.take():
            JournalFileBackend(str(path)).append_logs(logs)


def _setting(trial: FrozenTrial) -> tuple[Any, ...]:
    return trial.params, trial.distributions, trial.user_attrs


def _shown(trial: FrozenTrial) -> tuple[Any, ...]:
    """All that is ours; the dashboard keeps notes among the attributes. nan equals itself here."""
    numbers = repr(
        [trial.values, sorted(trial.intermediate_values.items()), sorted(trial.constraints.items())]
    )
    return (*_setting(trial), trial.state, numbers)


def _news(old: Mapping[Any, Any], new: Mapping[Any, Any]) -> dict[Any, Any]:
    return {key: value for key, value in new.items() if key not in old or repr(old[key]) != repr(value)}
