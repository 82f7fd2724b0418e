"""`diagnose continuation`: the rollouts that it cuts, what it compares, its files."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
import yaml

from tests.train.experiments import small_spec
from trb_lab.cli import main
from trb_lab.diagnostics.continuation import CONTINUERS, ArmOf, _first_step
from trb_lab.models.load import load_pair
from trb_lab.rollout.torch_engine import TorchEngine
from trb_lab.tasks.grading import Grader
from trb_lab.train.data import TrainingData


def written(folder: Path, name: str, **changes: object) -> str:
    spec = small_spec(**changes).model_dump(mode="json")
    file = folder / f"{name}.yaml"
    file.write_text(yaml.safe_dump({**spec, "name": name}))
    return str(file)


@pytest.mark.parametrize("arm", ["trb", "opd"])
def test_its_rollouts_are_those_that_the_run_trained_on(finished: SimpleNamespace, arm: str) -> None:
    """Fewer rows and fewer tokens change none of them."""
    kept = pd.read_parquet(
        getattr(finished, arm).samples, filters=[("step", "==", 0), ("source", "==", "rollout")]
    )
    spec = small_spec(
        **{"warmup": {"kind": "trb", "kl_budget": 0.1, "steps": 2} if arm == "trb" else {"kind": "opd"}}
    )
    pair = load_pair(spec.student, spec.teacher, torch.device("cpu"), torch.float32)
    with Grader() as grader:
        step = _first_step(
            ArmOf(arm, spec),
            TrainingData(spec, pair, grader),
            TorchEngine.of(pair, spec.resources, spec.rollout),
            rows=5,
            width=12,
        )
    for row, line in zip(range(5), kept.sort_values("row").itertuples(), strict=False):
        length = int(step.rollouts.lengths_B[row])
        pieces = [pair.student.tokenizer.decode([t]) for t in step.rollouts.tokens_BT[row, :length].tolist()]
        assert pieces == list(line.tokens[:length])
        assert step.problems[row].prompt == line.prompt
        assert step.rollouts.teacher_logprob_BT[row, :length].tolist() == pytest.approx(
            list(line.teacher_logprob[:length]), abs=1e-4
        )


def test_runs_and_files_give_the_same(
    finished: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trb = written(tmp_path, "a", warmup={"kind": "trb", "kl_budget": 0.1, "steps": 2}, steps=2)
    options = ["--cuts", "3,6", "--prompts", "6", "--samples", "2", "--json", "--store", str(finished.root)]
    found = []
    for arms in ([finished.trb.run_id, finished.opd.run_id], [trb]):
        assert main(["diagnose", "continuation", *arms, *options]) == 0
        found.append(json.loads(capsys.readouterr().out))
    by_run, by_file = found
    assert [arm["name"] for arm in by_file["arms"]] == ["a", "opd"]
    assert by_run["gains"] == by_file["gains"]

    folder = Path(by_file["folder"])
    assert folder == finished.root / "diagnostics" / "continuation-a-opd-s0"
    saved = json.loads((folder / "continuation.json").read_text())
    assert saved == by_file
    items = pd.read_parquet(folder / "items.parquet")
    assert len(by_file["rates"]) == 2 * 2 * len(CONTINUERS)
    for rate in by_file["rates"]:
        here = items[(items["arm"] == rate["arm"]) & (items["cut"] == rate["cut"])]
        mine = here[here["continuer"] == rate["continuer"]]
        assert rate["success"]["value"] == pytest.approx(mine.groupby("problem")["correct"].mean().mean())
        assert (rate["continued"], rate["ended"]) == (len(mine) // 2, int(here["continuer"].isna().sum()))
        assert rate["continued"] + rate["ended"] == 6
    rows = list(csv.DictReader((folder / "rates.csv").open()))
    assert [float(row["success"]) for row in rows] == pytest.approx(
        [r["success"]["value"] for r in saved["rates"]]
    )
    assert (folder / "figures" / "continuation.svg").exists()


def test_a_table_for_people(
    finished: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [
        "diagnose",
        "continuation",
        finished.trb.run_id,
        "--cuts",
        "4",
        "--prompts",
        "3",
        "--samples",
        "1",
    ]
    assert main([*command, "--out", str(tmp_path / "here"), "--store", str(finished.root)]) == 0
    out = capsys.readouterr().out
    assert "continued by the teacher:" in out
    assert "± standard error" in out
    assert f"written: {tmp_path / 'here'}" in out


@pytest.mark.parametrize(
    ("arms", "options", "message"),
    [
        (["opd"], [], "is vanilla OPD, which a single arm is compared with"),
        (["trb", "other_seed"], [], "differ in seed"),
        (["trb", "trb"], [], "both arms are"),
        (["trb", "opd"], ["--cuts", "48"], "tokens from 1 to 47"),
        (["trb", "opd"], ["--cuts", "0"], "tokens from 1 to 47"),
        (["trb", "opd"], ["--cuts", "4,x"], "--cuts 4,x: give whole numbers"),
        (["trb", "opd"], ["--prompts", "9"], "a step has 8 prompts"),
        (["trb", "opd"], ["--set", "seed=1"], "--set changes experiment files"),
        (["trb", "opd", "opd"], [], "name one or two"),
    ],
)
def test_what_cannot_be_compared(
    finished: SimpleNamespace,
    capsys: pytest.CaptureFixture[str],
    arms: list[str],
    options: list[str],
    message: str,
) -> None:
    names = [getattr(finished, arm).run_id for arm in arms]
    assert main(["diagnose", "continuation", *names, *options, "--store", str(finished.root)]) == 2
    assert message in capsys.readouterr().err


def test_supervised_updates_come_before_step_0(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = written(tmp_path, "s", warmup={"kind": "sft", "updates": 2})
    assert main(["diagnose", "continuation", file, "--store", str(tmp_path)]) == 2
    assert "the arm sft changes the student before step 0" in capsys.readouterr().err
