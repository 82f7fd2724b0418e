"""What MLflow's own pages show of a sweep, through `trb-lab ui`: the runs, the report, samples, descriptions."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.report.synthetic import write_store
from trb_lab.store.run_dir import Store

pytest.importorskip("mlflow")
pytestmark = pytest.mark.browser

MILLISECONDS = 60_000


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Store, str]]:
    """(store, address) of a mirrored sweep with a report, served as a user would."""
    from trb_lab.report import build_report
    from trb_lab.store.ui import serve

    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        root: Path = tmp_path_factory.mktemp("ui")
        store = write_store(root / "runs", arms={"opd": {}, "teacher_forced": {}}, seeds=(0,), steps=20)
        build_report(store, "kl_budget")
        said: list[str] = []
        stop = threading.Event()
        server = threading.Thread(target=serve, args=(store,), kwargs={"echo": said.append, "stop": stop})
        server.start()
        try:
            while not said and server.is_alive():
                time.sleep(0.1)
            yield store, said[0].split()[1]
        finally:
            stop.set()
            server.join()


def mlflow_ids(store: Store) -> dict[str, str]:
    """Value of trb.run_id -> MLflow's run id, and `experiment`."""
    import sqlite3
    from contextlib import closing

    with closing(sqlite3.connect(store.mlflow_db)) as connection:
        runs = connection.execute("SELECT value, run_uuid FROM tags WHERE key = 'trb.run_id'").fetchall()
        experiment = connection.execute("SELECT experiment_id FROM experiments WHERE name = 'kl_budget'")
        return {**dict(runs), "experiment": str(experiment.fetchone()[0])}


def test_the_report_opens_in_the_artifact_viewer(served: tuple[Store, str], page: Any) -> None:
    store, address = served
    ids = mlflow_ids(store)
    run = f"{address}/#/experiments/{ids['experiment']}/runs/{ids['sweep:kl_budget']}"
    page.goto(f"{run}/artifacts/report/report.html")
    frame = page.frame_locator("iframe").first
    frame.get_by_role("heading", name="What came out").first.wait_for(timeout=MILLISECONDS)


def test_a_trial_leads_to_its_sweep_and_shows_its_samples(served: tuple[Store, str], page: Any) -> None:
    store, address = served
    ids = mlflow_ids(store)
    trial = next(t for t in ids if t.startswith("teacher_forced"))
    run = f"{address}/#/experiments/{ids['experiment']}/runs/{ids[trial]}"
    page.goto(run)
    page.get_by_text("teacher_forced seed 0").first.wait_for(timeout=MILLISECONDS)
    link = page.locator(f"a[href*='{ids['sweep:kl_budget']}/artifacts/report/report.html']").first
    link.wait_for(timeout=MILLISECONDS)
    page.goto(f"{run}/artifacts/samples/step_000000.html")
    page.frame_locator("iframe").first.get_by_text("Compute 12 + 7 - 0.").first.wait_for(timeout=MILLISECONDS)
    page.goto("about:blank")  # another hash alone would not load the page anew
    page.goto(f"{run}/artifacts/samples/step_000000.json")
    page.get_by_text("View as table").first.wait_for(timeout=MILLISECONDS)
    page.get_by_text("Compute 12 + 7 - 0.").first.wait_for(timeout=MILLISECONDS)


@pytest.mark.parametrize(
    ("link", "shown"),
    [
        ("trials by score", "teacher_forced seed 0"),
        ("charts by setting", "eval/mean"),
        ("samples side by side", "samples/step_000000.json"),
    ],
)
def test_the_links_above_the_runs_open_views(
    served: tuple[Store, str], page: Any, link: str, shown: str
) -> None:
    store, address = served
    page.goto(f"{address}/#/experiments/{mlflow_ids(store)['experiment']}/runs")
    target = page.get_by_role("link", name=link).first.get_attribute("href", timeout=MILLISECONDS)
    page.goto("about:blank")  # a click opens a window of its own
    page.goto(f"{address}/{target}")
    page.get_by_text(shown).first.wait_for(timeout=MILLISECONDS)
    assert page.get_by_text("Error loading shared view state").count() == 0
