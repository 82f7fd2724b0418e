from __future__ import annotations

from pathlib import Path

import pytest

from tests.report.synthetic import TEN_ARMS, write_store
from trb_lab.report import build_report
from trb_lab.store.run_dir import Store

HOSTILE = "Which budget? <script>alert('x')</script> & \"quotes\" | pipes"


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, dict[str, Path]]:
    """24 planned trials: one failed, one never begun; a hostile question. Read only."""
    root: Path = tmp_path_factory.mktemp("report") / "runs"
    store = write_store(root, question=HOSTILE)
    return store, build_report(store, "kl_budget")


@pytest.fixture(scope="session")
def ten_arms(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, dict[str, Path]]:
    """Every kind of arm on two seeds, with item scores and cost ledgers; one trial never begun. Read only."""
    root: Path = tmp_path_factory.mktemp("ten_arms") / "runs"
    store = write_store(
        root, name="baselines", arms=TEN_ARMS, seeds=(0, 1), steps=30, items=True, failed=(), missing=(5,)
    )
    return store, build_report(store, "baselines")
