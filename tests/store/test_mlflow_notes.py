"""Descriptions in MLflow, and diagnostics shown there."""

from __future__ import annotations

import json
import re

import pytest

from trb_lab.store.mlflow_mirror import sync_store
from trb_lab.store.mlflow_notes import FINDING_CHARACTERS, sweep_note, trial_note
from trb_lab.store.mlflow_tracking import local_uri
from trb_lab.store.mlflow_views import view_links
from trb_lab.store.run_dir import Store, read_json, write_json

from .fakes import completed_run
from .mlflow_db import counts, query, run_of, steps, two_arm_sweep

pytest.importorskip("mlflow")


def test_descriptions_lead_to_the_report_once_there_is_one(mirrored: Store) -> None:
    two_arm_sweep(mirrored)
    plan = read_json(mirrored.sweep("budgets").plan)
    plan["created"] = 1_600_000_000.0
    plan["trials"][0]["overrides"] = {"warmup.kl_budget": 0.05, "warmup.kind": "a|b<i>"}
    write_json(mirrored.sweep("budgets").plan, plan)
    completed_run(mirrored, "a-s0")
    assert sync_store(mirrored).ok
    parent = run_of(mirrored, "sweep:budgets")
    note = run_of(mirrored, "a-s0")["tags"]["mlflow.note.content"]
    home = f"#/experiments/1/runs/{parent['id']}"
    assert note.startswith(f"Sweep: [budgets]({home})\n")
    changes = "`warmup.kl_budget: 0.05`, `warmup.kind: a\\|b&lt;i>`"
    assert f"| trb | kl_budget=0.05 | 0 | {changes} |" in note
    assert "which?" in parent["tags"]["mlflow.note.content"]
    assert "report.html" not in parent["tags"]["mlflow.note.content"]
    assert query(mirrored, "SELECT start_time FROM runs WHERE run_uuid = ?", parent["id"]) == [
        (1_600_000_000_000,)
    ]
    told = "SELECT value FROM experiment_tags WHERE key = 'mlflow.note.content'"
    (told_so,) = query(mirrored, told)[0]
    assert told_so.startswith("[trials by score](#/experiments/1/runs?viewStateShareKey=trials)")
    assert told_so.endswith("\n\nwhich?")

    report = mirrored.sweep("budgets").report
    report.mkdir()
    (report / "report.html").write_text("<p>")
    (report / "report.md").write_text("# A\n\n## What came out\n\nNothing did.\n\n## Scores\n")
    assert sync_store(mirrored).ok
    link = f"({home}/artifacts/report/report.html)"
    assert link in run_of(mirrored, "a-s0")["tags"]["mlflow.note.content"]
    parent_note = run_of(mirrored, "sweep:budgets")["tags"]["mlflow.note.content"]
    assert parent_note.startswith(f"[Report]{link}")
    assert "(#/experiments/1/runs?viewStateShareKey=settings&compareRunsMode=CHART)" in parent_note
    assert "Nothing did." in parent_note and "## Scores" not in parent_note
    before = counts(mirrored)
    assert sync_store(mirrored).values_sent == 0
    assert counts(mirrored) == before


def test_an_experiment_holds_the_views_that_its_links_name(mirrored: Store) -> None:
    two_arm_sweep(mirrored)
    completed_run(mirrored, "a-s0")
    assert sync_store(mirrored).ok
    tags = "SELECT key, value FROM experiment_tags WHERE key LIKE 'mlflow.sharedViewState.%'"
    views = {key.rpartition(".")[2]: json.loads(value) for key, value in query(mirrored, tags)}
    assert set(views) == set(re.findall(r"viewStateShareKey=(\w+)", view_links("1")))
    for view in views.values():
        shown = search_names(mirrored, view["searchFilter"], view.get("orderByKey"))
        assert "trb kl_budget=0.05 seed 0" in shown and "budgets" not in shown
    assert {key["groupByData"] for key in views["settings"]["groupBy"]["groupByKeys"]} == {"arm", "setting"}


def search_names(store: Store, filter_string: str, order: str | None) -> list[str]:
    """Names of the runs that MLflow finds."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(local_uri(store))
    found = client.search_runs(["1"], filter_string, order_by=[f"{order} DESC"] if order else None)
    return [str(run.info.run_name) for run in found]


def test_long_findings_fit_a_tag(mirrored: Store) -> None:
    report = mirrored.sweep("budgets").report
    report.mkdir(parents=True)
    (report / "report.html").write_text("<p>")
    (report / "report.md").write_text("## What came out\n" + "It is so.\n\n" * FINDING_CHARACTERS)
    assert len(sweep_note("which?", report, "#/experiments/1/runs/" + "a" * 32, view_links("1" * 9))) < 5000
    assert "| - |" in trial_note("a", [{"arm": "opd", "seed": 1}])


def test_a_diagnostic_is_shown_over_its_cuts_once(mirrored: Store) -> None:
    def rate(value: float | None) -> dict[str, float | None]:
        return {"value": value, "stderr": 0.1}

    rates = [
        {"continuer": "teacher", "arm": arm, "cut": cut, "success": rate(cut / 10 if arm == "trb" else None)}
        for arm in ("trb", "opd")
        for cut in (4, 8)
    ]
    folder = mirrored.diagnostic("gain")
    (folder / "figures").mkdir(parents=True)
    (folder / "figures" / "gain.png").write_bytes(b"png")
    arms = [{"name": "trb"}, {"name": "opd"}]
    write_json(folder / "continuation.json", {"arms": arms, "rates": rates, "seed": 3})
    assert sync_store(mirrored).ok
    run = run_of(mirrored, "diagnostic:gain")
    assert (run["name"], run["status"], run["params"]["seed"]) == ("gain", "FINISHED", "3")
    assert steps(run, "teacher/trb") == [4, 8]
    assert {value for key, _, value, _ in run["metrics"]} == {0.4, 0.8}
    assert (run["artifacts"] / "figures" / "gain.png").read_bytes() == b"png"
    assert (run["artifacts"] / "continuation.json").read_bytes() == (
        folder / "continuation.json"
    ).read_bytes()
    before = counts(mirrored)
    assert sync_store(mirrored).ok
    (mirrored.root / "diagnostics" / "mlflow.json").unlink()
    assert sync_store(mirrored).ok
    assert counts(mirrored) == before
