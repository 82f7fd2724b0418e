"""The file for Optuna's dashboard shows what was told, as Optuna reads it, whatever happened to the file."""

from __future__ import annotations

import json
import math
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from trb_lab.search.optuna_file import StudyFile
from trb_lab.search.told import Told
from trb_lab.spec.search import SearchSpec

pytest.importorskip("optuna")
import optuna
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

pytestmark = pytest.mark.long

SPACE: dict[str, Any] = {
    "warmup.kl": {"kind": "float", "low": 0.01, "high": 1.0, "log": True},
    "steps": {"kind": "int", "low": 2, "high": 20, "step": 3},
    "anneal": {"kind": "choice", "values": ["linear", {"kind": "cosine", "end": 0.1}]},
    "end": {"kind": "float", "low": 0, "high": 1, "when": {"anneal": "linear"}},
}
SPEC = SearchSpec.model_validate(
    {"space": SPACE, "trials": 9, "constraints": {"policy/kl_mean": {"at_most": 0.1}}, "pruning": "asha"}
)
LINEAR = {"warmup.kl": 0.1, "steps": 5, "anneal": "linear", "end": 0.25}
COSINE = {"warmup.kl": 0.2, "steps": 20, "anneal": {"kind": "cosine", "end": 0.1}}
KL = "policy/kl_mean"
TOLD = [
    Told(0, LINEAR, "complete", (0.5,), {3: 0.2, 9: 0.4}, {KL: -0.05}, {"tpe:relative_params:0": "{}"}),
    Told(1, COSINE, "complete", (0.7,), {3: 0.3}, {KL: 0.4}),
    Told(2, LINEAR, "pruned", (), {3: 0.1}),
    Told(4, COSINE, "failed"),
    Told(5, LINEAR, "running"),
]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "search" / "trb.journal"


def load(path: Path, name: str = "kl/trb") -> optuna.Study:
    storage = optuna.storages.JournalStorage(JournalFileBackend(str(path)))
    return optuna.load_study(study_name=name, storage=storage)


def rows(path: Path) -> list[Any]:
    """What Optuna reads of each trial, but for times."""
    return [
        (
            t.user_attrs["candidate"],
            t.state.name,
            t.params,
            t.values,
            t.intermediate_values,
            t.constraints.get(KL),
        )
        for t in load(path).get_trials()
    ]


def expected(told: list[Told], over: bool) -> list[Any]:
    """The same, from what was told."""
    found = []
    for one in told:
        paused = "PRUNED" if over else "RUNNING"
        state = {"complete": "COMPLETE", "failed": "FAIL", "running": "RUNNING", "pruned": paused}[one.state]
        params = {**one.params}
        if isinstance(params["anneal"], dict):
            params["anneal"] = "{kind: cosine, end: 0.1}"
        last = one.intermediate[max(one.intermediate)] if one.intermediate else None
        pruned = [last] if state == "PRUNED" and last is not None else None
        values = list(one.values) if one.values else pruned
        found.append((one.number, state, params, values, one.intermediate, one.constraints.get(KL)))
    return found


def test_shows_what_was_told(path: Path) -> None:
    StudyFile(path, "kl/trb", SPEC).update(TOLD, over=False)
    study = load(path)
    assert study.directions == [optuna.study.StudyDirection.MAXIMIZE]
    assert study.metric_names == ["score"]
    assert rows(path) == expected(TOLD, over=False)
    trial = study.get_trials()[0]
    assert trial.distributions["warmup.kl"] == optuna.distributions.FloatDistribution(0.01, 1.0, log=True)
    assert trial.distributions["steps"] == optuna.distributions.IntDistribution(2, 20, step=3)
    assert trial.system_attrs["constraints"] == [-0.05]  # the form that the dashboard knows
    assert not any(key.startswith("tpe:") for key in trial.system_attrs)
    assert study.best_trial.user_attrs["candidate"] == 0  # 1 is outside its bounds
    assert study.get_trials(states=(TrialState.RUNNING,))[0].datetime_complete is None


def test_several_goals(path: Path) -> None:
    goals = [{"metric": "score"}, {"metric": "cost/seconds", "direction": "minimize"}]
    spec = SearchSpec.model_validate({"space": SPACE, "trials": 9, "objectives": goals})
    StudyFile(path, "kl/trb", spec).update([Told(0, LINEAR, "complete", (0.5, 60.0))], over=True)
    study = load(path)
    assert [d.name for d in study.directions] == ["MAXIMIZE", "MINIMIZE"]
    assert study.metric_names == ["score", "cost/seconds"]
    assert study.get_trials()[0].values == [0.5, 60.0]


def test_follows_a_search_by_appending(path: Path) -> None:
    file = StudyFile(path, "kl/trb", SPEC)
    stages: list[tuple[list[Told], bool]] = [
        ([], False),
        ([Told(0, LINEAR, "running")], False),
        ([Told(0, LINEAR, "running", (), {3: 0.2}), Told(1, COSINE, "running")], False),
        ([Told(0, LINEAR, "pruned", (), {3: 0.2}), Told(1, COSINE, "running", (), {3: math.inf})], False),
        ([Told(0, LINEAR, "pruned", (), {3: 0.25}), Told(1, COSINE, "failed", (), {3: 0.3})], False),
        ([Told(0, LINEAR, "running", (), {3: 0.25}), Told(1, COSINE, "failed", (), {3: 0.3})], False),
        ([Told(0, LINEAR, "pruned", (), {3: 0.25, 9: 0.5}), Told(1, COSINE, "failed", (), {3: 0.3})], False),
        ([Told(0, LINEAR, "pruned", (), {3: 0.25, 9: 0.5}), Told(1, COSINE, "failed", (), {3: 0.3})], True),
    ]
    before = b""
    for told, over in stages:
        file.update(told, over)
        assert rows(path) == expected(told, over)
        text = path.read_bytes()
        assert text.startswith(before)
        before = text


def test_a_complete_one_brings_its_constraints(path: Path) -> None:
    file = StudyFile(path, "kl/trb", SPEC)
    file.update([Told(0, LINEAR, "running", (), {3: 0.2})], over=False)
    before = path.read_bytes()
    file.update(TOLD[:1], over=False)
    assert path.read_bytes().startswith(before)
    assert rows(path) == expected(TOLD[:1], over=False)


def test_writes_nothing_when_nothing_changed(path: Path) -> None:
    odd = [
        *TOLD,
        Told(6, LINEAR, "complete", (math.inf,), {3: math.nan}, {KL: math.nan}),
        Told(7, LINEAR, "running"),
    ]
    odd[-1] = replace(odd[-1], intermediate={3: float("nan")})
    file = StudyFile(path, "kl/trb", SPEC)
    file.update(odd, over=False)
    before = path.stat()
    for other in (file, StudyFile(path, "kl/trb", SPEC), StudyFile(path, "kl/trb", SPEC)):
        other.update(
            [replace(one, intermediate={k: float(v) for k, v in one.intermediate.items()}) for one in odd],
            False,
        )
        other.update([*odd], over=False)
    after = path.stat()
    assert (before.st_ino, before.st_mtime_ns, before.st_size) == (
        after.st_ino,
        after.st_mtime_ns,
        after.st_size,
    )


def test_goes_on_with_the_file_of_another_process(path: Path) -> None:
    StudyFile(path, "kl/trb", SPEC).update(TOLD, over=False)
    before = path.read_bytes()
    told = [*TOLD[:-1], replace(TOLD[-1], state="complete", values=(0.9,), constraints={KL: 0.0})]
    told.append(Told(8, COSINE, "running"))
    StudyFile(path, "kl/trb", SPEC).update(told, over=False)
    assert path.read_bytes().startswith(before)
    assert rows(path) == expected(told, over=False)


@pytest.mark.parametrize(
    "changed",
    [
        [*TOLD[:2], replace(TOLD[2], state="running"), *TOLD[3:]],  # goes on after the search was over
        [replace(TOLD[0], values=(0.55,)), *TOLD[1:]],  # another seed
        [*TOLD[:3], replace(TOLD[3], state="running"), TOLD[4]],  # tried again
        TOLD[:3],
        [*TOLD[:4], Told(5, COSINE, "running")],
        [*TOLD[:4], Told(6, LINEAR, "running")],
        TOLD[1:],
    ],
    ids=["goes on", "another seed", "tried again", "fewer", "other setting", "other number", "first gone"],
)
def test_is_written_anew_where_a_finished_trial_changed(path: Path, changed: list[Told]) -> None:
    file = StudyFile(path, "kl/trb", SPEC)
    file.update(TOLD, over=True)
    times = {
        t.user_attrs["candidate"]: (t.datetime_start, t.datetime_complete) for t in load(path).get_trials()
    }
    inode = path.stat().st_ino
    time.sleep(0.01)
    file.update(changed, over=False)
    assert rows(path) == expected(changed, over=False)
    assert path.stat().st_ino != inode
    for trial in load(path).get_trials():
        began, ended = times.get(trial.user_attrs["candidate"], (trial.datetime_start, None))
        assert trial.datetime_start == began
        if trial.state.is_finished() and ended is not None:
            assert trial.datetime_complete == ended
    file.update([*changed, Told(9, LINEAR, "running")], over=False)
    assert rows(path) == expected([*changed, Told(9, LINEAR, "running")], over=False)


def other_study(path: Path) -> None:
    path.unlink()
    storage = optuna.storages.JournalStorage(JournalFileBackend(str(path)))
    optuna.create_study(study_name="mine", storage=storage)


def second_study(path: Path) -> None:
    storage = optuna.storages.JournalStorage(JournalFileBackend(str(path)))
    optuna.create_study(study_name="mine", storage=storage)


def other_direction(path: Path) -> None:
    path.unlink()
    storage = optuna.storages.JournalStorage(JournalFileBackend(str(path)))
    optuna.create_study(study_name="kl/trb", storage=storage, direction="minimize")


@pytest.mark.parametrize("again", [False, True], ids=["same process", "another process"])
@pytest.mark.parametrize(
    "harm",
    [
        Path.unlink,
        lambda path: path.write_bytes(path.read_bytes()[:-7]),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"SQLite format 3\0\n\xff\n"),
        lambda path: path.write_text('{"op_code": 99}\n[]\n'),
        lambda path: path.write_text(path.read_text() + '{"torn\n'),
        lambda path: path.write_text("\n".join(path.read_text().splitlines()[:3]) + "\n"),
        other_study,
        second_study,
        other_direction,
    ],
    ids=[
        "deleted",
        "torn",
        "empty",
        "binary",
        "no journal",
        "bad line",
        "cut",
        "other",
        "second",
        "direction",
    ],
)
def test_a_harmed_file_is_mended(path: Path, harm: Any, again: bool) -> None:
    file = StudyFile(path, "kl/trb", SPEC)
    file.update(TOLD, over=False)
    harm(path)
    told = [*TOLD, Told(7, LINEAR, "running")]
    if again:
        file = StudyFile(path, "kl/trb", SPEC)
    file.update(told, over=False)
    assert rows(path) == expected(told, over=False)
    assert len(optuna.get_all_study_names(optuna.storages.JournalStorage(JournalFileBackend(str(path))))) == 1
    file.update(told[:-1], over=True)
    assert rows(path) == expected(TOLD, over=True)


def test_notes_of_the_dashboard_stay(path: Path) -> None:
    file = StudyFile(path, "kl/trb", SPEC)
    file.update(TOLD, over=False)
    load(path)._storage.set_study_system_attr(0, "dashboard:note_str:0:0", "look at this")
    for told in ([*TOLD, Told(7, LINEAR, "running")], [replace(TOLD[0], values=(0.9,)), *TOLD[1:]]):
        file.update(told, over=False)
        assert rows(path) == expected(told, over=False)
        storage = load(path)._storage
        assert storage.get_study_system_attrs(0)["dashboard:note_str:0:0"] == "look at this"


def test_no_infinite_violation_for_the_dashboard(path: Path) -> None:
    StudyFile(path, "kl/trb", SPEC).update([replace(TOLD[0], constraints={})], over=False)
    (violation,) = load(path).get_trials()[0].system_attrs["constraints"]
    assert violation > 1e300 and json.loads(json.dumps(violation, allow_nan=False)) == violation


def test_a_file_that_cannot_be_written(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error comes out, and the next update makes up for it."""
    file = StudyFile(path, "kl/trb", SPEC)
    path.parent.write_text("a file where the folder should be")
    with pytest.raises(OSError):  # noqa: PT011
        file.update(TOLD, over=False)
    path.parent.unlink()
    file.update(TOLD, over=False)
    assert rows(path) == expected(TOLD, over=False)

    def full(self: JournalFileBackend, logs: list[dict[str, Any]]) -> None:
        with open(self._file_path, "ab") as f:
            f.write(json.dumps(logs[0]).encode()[:20])
        raise OSError(28, "No space left on device")

    told = [*TOLD, Told(7, LINEAR, "running"), Told(8, LINEAR, "running")]
    with monkeypatch.context() as patch:
        patch.setattr(JournalFileBackend, "append_logs", full)
        with pytest.raises(OSError, match="No space left"):
            file.update(told, over=False)
    file.update(told, over=False)
    assert rows(path) == expected(told, over=False)
    assert sorted(found.name for found in path.parent.iterdir()) == [path.name]


def test_two_thousand_candidates(path: Path) -> None:
    told = [replace(TOLD[i % 5], number=i) for i in range(2000)]
    file = StudyFile(path, "kl/trb", SPEC)
    file.update(told, over=False)
    file.update([*told, Told(2000, LINEAR, "running")], over=False)
    assert len(load(path).get_trials()) == 2001
