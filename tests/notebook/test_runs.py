"""Runs as frames: what they hold is what the files hold."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

import trb_lab as lab
from tests.report.synthetic import write_store
from trb_lab.bench.synthetic_store import METRICS, SETS, write_synthetic_store
from trb_lab.errors import UsageError
from trb_lab.store.run_dir import Store

NAMES = ["run_id", "arm", "setting", "label", "seed"]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Plain distillation and two TRB settings on two seeds, with item scores and samples."""
    root = tmp_path_factory.mktemp("notebook") / "runs"
    return write_synthetic_store(root, runs=6, steps=25, seeds=2, problems=4, samples=True, name="made_up")


@pytest.fixture(scope="module")
def runs(store: Store) -> lab.Runs:
    return lab.runs("made_up", store)


def lines(store: Store, run_id: str, name: str) -> list[dict]:
    return [json.loads(line) for line in (store.trial(run_id).path / name).read_text().splitlines()]


def test_one_row_a_run_with_its_scores_and_what_differs(store: Store, runs: lab.Runs) -> None:
    frame = runs.frame
    differs = [
        "warmup.kind",
        "warmup.kl_budget",
        "warmup.kl_budget_mode",
        "warmup.anneal.kind",
        "warmup.steps",
    ]
    assert list(frame.columns) == [*NAMES, "state", "score_mean", *SETS, *differs]
    assert len(frame) == len(runs) == 6
    assert set(frame["state"]) == {"completed"}
    for row in frame.to_dict("records"):
        result = json.loads(store.trial(row["run_id"]).result.read_text())["final"]["sets"]
        scores = [result[name]["pass_at_1"] for name in SETS]
        assert [row[name] for name in SETS] == scores
        assert row["score_mean"] == pytest.approx(sum(scores) / 3, abs=1e-12)
    blended = frame[frame["arm"] == "trb"]
    assert sorted(set(blended["warmup.kl_budget"])) == [0.001, 0.002]
    assert frame[frame["arm"] == "opd"]["warmup.kl_budget"].isna().all()
    assert frame["score_mean"].dtype == float


def test_metrics_are_those_of_the_files(store: Store, runs: lab.Runs) -> None:
    frame = runs.metrics()
    assert list(frame.columns[:6]) == [*NAMES, "step"]
    assert len(frame) == 6 * 25
    assert (frame["step"].dtype, frame["seed"].dtype) == ("int64", "int64")
    assert {str(dtype) for dtype in frame.dtypes.iloc[6:]} == {"float64"}
    for run_id, rows in frame.groupby("run_id"):
        written = lines(store, str(run_id), "metrics.jsonl")
        assert set(frame.columns[6:]) == {name for line in written for name in line} - {"step"}
        for line, row in zip(written, rows.to_dict("records"), strict=True):
            told = {name: row[name] for name in frame.columns[5:] if not pd.isna(row[name])}
            assert told == line


def test_long_metrics_have_a_row_for_each_value(runs: lab.Runs) -> None:
    frame = runs.metrics(["rollout/reward", "eval/*/pass_at_1"], long=True)
    assert list(frame.columns) == [*NAMES, "step", "metric", "value"]
    counts = frame["metric"].value_counts()
    assert counts["rollout/reward"] == 150
    assert {name: counts[f"eval/{name}/pass_at_1"] for name in (*SETS, "mean")} == dict.fromkeys(
        (*SETS, "mean"), 12
    )
    wide = runs.metrics("rollout/reward")
    assert frame[frame["metric"] == "rollout/reward"]["value"].tolist() == wide["rollout/reward"].tolist()


def test_timing_is_flat_and_counts_a_repeated_step_once(tmp_path: Path) -> None:
    store = write_synthetic_store(tmp_path / "runs", runs=1, steps=3, seeds=1)
    run = store.trials()[0]
    first = run.timing.read_text().splitlines()[1]
    again = json.loads(first) | {"attempt": 2, "time": 5.0}
    run.timing.write_text(run.timing.read_text() + json.dumps(again) + "\n")
    frame = lab.runs("synthetic", store).timing()
    assert frame["step"].tolist() == [0, 1, 2]
    assert frame["attempt"].tolist() == [1.0, 2.0, 1.0]
    assert frame.loc[1, "time"] == 5.0
    assert frame.loc[1, "seconds/rollout"] == again["seconds"]["rollout"]
    assert frame.loc[1, "cost/rollout/teacher_tokens"] == 2400
    assert set(lab.runs("synthetic", store).timing("seconds/*").columns) > {
        "seconds/total",
        "seconds/rollout",
    }


def test_items_and_samples_are_tidy(store: Store, runs: lab.Runs) -> None:
    items = runs.items()
    assert list(items.columns[:8]) == [*NAMES, "step", "set", "problem"]
    assert len(items) == 6 * 2 * len(SETS) * 4 * 2  # runs, evaluations, sets, problems, samples
    assert items["correct"].dtype == bool
    last = items[items["step"] == 24].groupby(["run_id", "set"])["correct"].mean()
    scores = runs.frame.set_index("run_id")[list(SETS)].stack()
    for key, value in scores.items():
        assert last.loc[key] == value
    samples = runs.samples(step=0)
    assert len(samples) == 6 * 3
    assert samples["tokens"].map("".join).tolist() == samples["response"].tolist()
    with pytest.raises(UsageError, match=r"no run has kept samples of step 7; they have kept of step 0\."):
        runs.samples(step=7)


def test_where_keeps_what_is_asked_for(runs: lab.Runs) -> None:
    kept = runs.where(arm="trb", seed=[0], **{"warmup.kl_budget": 0.002})
    assert len(kept) == 1
    assert kept.frame.loc[0, "setting"] == "kl_budget=0.002 steps=1"
    assert len(runs.where(state="completed")) == 6
    assert set(kept.metrics("train/loss")["arm"]) == {"trb"}


@pytest.mark.parametrize(
    ("wanted", "answer"),
    [
        ({"arm": "tbr"}, r"no run has arm='tbr'\. Did you mean 'trb'\? There are: opd, trb\."),
        ({"seed": 5}, r"no run has seed=5\. There are: 0, 1\."),
        ({"warmup.kl_buget": 0.1}, r"'warmup\.kl_buget'\. Did you mean 'warmup\.kl_budget'\?"),
        ({"arms": "trb"}, r"cannot be told apart by 'arms'\. Did you mean 'arm'\?"),
    ],
)
def test_a_filter_that_means_nothing_is_refused(runs: lab.Runs, wanted: dict, answer: str) -> None:
    with pytest.raises(UsageError, match=answer):
        runs.where(**wanted)


def test_names_that_are_not_there_are_refused(store: Store, runs: lab.Runs, tmp_path: Path) -> None:
    with pytest.raises(
        UsageError, match=r"no sweep 'made_upp' .* Did you mean 'made_up'\? Sweeps there: made_up\."
    ):
        lab.runs("made_upp", store)
    with pytest.raises(UsageError, match=r"no run has 'rollout/rewad'\. Did you mean 'rollout/reward'\?"):
        runs.metrics("rollout/rewad")
    with pytest.raises(UsageError, match=r"no store at .*TRB_LAB_STORE"):
        lab.runs("made_up", tmp_path / "nowhere")
    with pytest.raises(UsageError, match="empty list"):
        lab.runs([], store)


def test_several_sweeps_and_the_whole_store(tmp_path: Path) -> None:
    write_synthetic_store(tmp_path, runs=2, steps=20, seeds=1, name="one")
    store = write_synthetic_store(tmp_path, runs=1, steps=20, seeds=1, name="two")
    both = lab.runs(["one", "two"], store)
    assert both.frame["sweep"].tolist() == ["one", "one", "two"]
    assert both.metrics("train/loss").groupby("sweep").size().to_dict() == {"one": 40, "two": 20}
    everything = lab.runs(store=store)
    assert len(everything) == 2  # the sweeps share the run of plain distillation
    assert "sweep" not in everything.frame
    assert everything.frame["score_mean"].notna().all()


def test_runs_that_have_not_ended_are_rows_too(tmp_path: Path) -> None:
    store = write_store(tmp_path / "runs", steps=20)
    frame = lab.runs("kl_budget", store).frame
    assert frame["state"].value_counts().to_dict() == {"completed": 22, "failed": 1, "new": 1}
    assert frame.loc[frame["state"] != "completed", "score_mean"].isna().all()
    counted = lab.sweeps(store)
    assert counted[["sweep", "trials", "completed", "failed", "new"]].values.tolist() == [
        ["kl_budget", 24, 22, 1, 1]
    ]
    assert str(counted["created"].dt.tz) == "UTC"


def test_it_shows_itself_as_a_table(runs: lab.Runs) -> None:
    assert repr(runs) == "Runs(6 of made_up: 6 completed)"
    shown = runs._repr_html_()
    assert "<table" in shown
    score = runs.frame["score_mean"].iloc[0]
    assert f"{score:.1%}" in shown


def test_the_environment_names_the_store(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRB_LAB_STORE", str(store.root))
    assert len(lab.runs("made_up")) == 6


def test_importing_is_light_and_nothing_needs_torch() -> None:
    code = "import sys, trb_lab as lab; lab.runs; lab.Runs; print('torch' in sys.modules, 'mlflow' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
    with pytest.raises(AttributeError, match="In a notebook: Runs"):
        lab.run  # noqa: B018


def test_the_made_up_store_has_the_size_that_was_asked_for(tmp_path: Path) -> None:
    store = write_synthetic_store(tmp_path, runs=7, steps=21, metrics=30, seeds=2)
    assert len(store.trials()) == 8  # whole settings
    line = lines(store, store.trials()[0].run_id, "metrics.jsonl")[0]
    assert len(line) == 31
    assert set(METRICS) < set(line)
    again = write_synthetic_store(tmp_path / "again", runs=7, steps=21, metrics=30, seeds=2)
    for one, other in zip(store.trials(), again.trials(), strict=True):
        for name in ("metrics.jsonl", "timing.jsonl", "result.json"):
            assert (one.path / name).read_bytes() == (other.path / name).read_bytes()
