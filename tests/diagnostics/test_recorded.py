"""`diagnose first-steps`, `positions` and `excerpts`: what runs have recorded, as tables and JSON."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest

from tests.train.experiments import small_spec
from trb_lab.cli import main
from trb_lab.diagnostics.excerpts import excerpts, side_by_side
from trb_lab.diagnostics.recorded import first_steps, positions, positions_table
from trb_lab.store.metrics import read_metrics
from trb_lab.store.run_dir import Store, write_json
from trb_lab.trial import prepare

LINES = [
    {"step": 0, "rollout/reward": 0.0, "policy/teacher_logprob": -2.0},
    {"step": 1, "rollout/reward": 0.5, "policy/teacher_logprob": -1.0, "rollout/support_auroc": 0.75},
    {"step": 2, "rollout/reward": 1.0, "policy/teacher_logprob": -0.3, "rollout/support_auroc": 0.25},
]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A sweep of two trials, one of which has begun."""
    store = Store(tmp_path)
    begun = prepare(small_spec(), store)
    begun.metrics.write_text("".join(json.dumps(line) + "\n" for line in LINES))
    planned = [
        {"run_id": begun.run_id, "arm": "blend", "setting": "steps=4"},
        {"run_id": "later", "arm": "opd"},
    ]
    write_json(store.sweep("s").plan, {"name": "s", "trials": planned})
    return store


def test_means_over_the_first_steps(store: Store) -> None:
    (row,) = first_steps(["s"], store, 2)
    assert (row["arm"], row["setting"], row["steps"], row["auroc_steps"]) == ("blend", "steps=4", 2, 1)
    assert (row["teacher_logprob"], row["auroc"], row["reward"], row["kl_budget"]) == (-1.5, 0.75, 0.25, 0.1)
    assert first_steps(["s"], store, 25)[0]["auroc"] == 0.5
    assert first_steps(["s"], store, 1)[0]["auroc"] is None


def test_first_steps_of_runs_and_sweeps_on_the_command_line(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    (run,) = store.trials()
    assert main(["diagnose", "first-steps", "s", run.run_id, "--store", str(store.root), "--json"]) == 0
    assert [row["run_id"] for row in json.loads(capsys.readouterr().out)] == [run.run_id]  # once
    assert main(["diagnose", "first-steps", run.run_id, "--store", str(store.root)]) == 0
    assert "-1.100" in capsys.readouterr().out
    assert main(["diagnose", "first-steps", "nothing", "--store", str(store.root)]) == 2
    run.metrics.unlink()
    assert main(["diagnose", "first-steps", "s", "--store", str(store.root)]) == 1
    assert "has made a step yet" in capsys.readouterr().err


def test_positions_as_the_run_wrote_them(
    finished: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    written = read_metrics(finished.trb.path / "positions.jsonl")
    _, lines = positions(finished.trb.run_id, finished.store)
    assert lines == written
    assert (
        main(["diagnose", "positions", finished.trb.run_id, "--step", "0", "--store", str(finished.root)])
        == 0
    )
    out = capsys.readouterr().out.splitlines()
    assert len(out) == 2 + len(written[0]["bins"])
    assert f"{written[0]['redraw_rate'][0]:.3f}" in out[2]
    assert (
        main(["diagnose", "positions", finished.trb.run_id, "--step", "7", "--store", str(finished.root)])
        == 2
    )
    assert "sampled steps are 0, 1" in capsys.readouterr().err


def test_what_a_line_lacks_is_a_dash() -> None:
    line = {
        "step": 3,
        "bins": [[1, 1], [2, 3]],
        "tokens": [4, 8],
        "redraw_rate": [0.5, None],
        "kl": [0.1, 0.2],
    }
    first, second = positions_table([line]).splitlines()[2:]
    assert first.split() == ["3", "1-1", "4", "0.500", "0.100", "-", "-", "-", "-"]
    assert second.split()[3:5] == ["-", "0.200"]


def test_a_run_without_positions(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    (run,) = store.trials()
    assert main(["diagnose", "positions", run.run_id, "--store", str(store.root)]) == 1
    assert "has no positions.jsonl" in capsys.readouterr().err


def test_excerpts_pair_responses_to_one_prompt_and_mark_redraws(finished: SimpleNamespace) -> None:
    pairs = excerpts(finished.opd.run_id, str(finished.trb.path), finished.store, step=0, rows=3)
    assert len(pairs) == 3
    kept = pd.read_parquet(finished.trb.samples, filters=[("step", "==", 0), ("source", "==", "rollout")])
    for pair in pairs:
        opd, trb = pair.responses
        assert (opd.run_id, trb.run_id) == (finished.opd.run_id, finished.trb.run_id)
        assert not any(token.redrawn for token in opd.tokens)
        line = kept[kept["prompt"] == pair.prompt].iloc[0]
        assert [token.redrawn for token in trb.tokens] == list(line["redrawn"])
    text = side_by_side(pairs, 80)
    assert max(map(len, text.splitlines())) <= 80
    assert text.count("«") == 1 + sum(token.redrawn for pair in pairs for token in pair.responses[1].tokens)


def test_excerpts_on_the_command_line(finished: SimpleNamespace, capsys: pytest.CaptureFixture[str]) -> None:
    command = [
        "diagnose",
        "excerpts",
        finished.opd.run_id,
        finished.trb.run_id,
        "--store",
        str(finished.root),
    ]
    assert main([*command, "--rows", "1"]) == 0
    assert "tokens were redrawn." in capsys.readouterr().out
    assert main([*command, "--rows", "2", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert len(found) == 2
    assert len(found[0]["responses"][1]["tokens"]) == len(found[0]["responses"][1]["redrawn"])


def test_excerpts_that_do_not_exist(
    finished: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ["--store", str(finished.root)]
    assert (
        main(["diagnose", "excerpts", finished.opd.run_id, finished.trb.run_id, "--step", "9", *where]) == 1
    )
    assert "kept no rollouts of step 9: kept are 0, 1" in capsys.readouterr().err
    # The other seed has other prompts at step 0.
    other = tmp_path / "other"
    shutil.copytree(finished.other_seed.path, other)
    assert main(["diagnose", "excerpts", finished.opd.run_id, str(other), *where]) == 1
    assert "share no prompt at step 0" in capsys.readouterr().err
