"""Random cases of faults; the options in conftest.py say how many and which."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from .case import Case
from .catalogue import Scenario, draw
from .undisturbed import mlflow_shows_one_finished_run_each

pytestmark = pytest.mark.long


def test_a_sweep_survives(
    scenario: Scenario,
    tmp_path: Path,
    record_property: Callable[[str, object], None],
    request: pytest.FixtureRequest,
):
    undisturbed = request.getfixturevalue("undisturbed") if scenario.real else None
    case = Case(scenario, tmp_path)
    try:
        case.run()
        if undisturbed is not None:
            undisturbed.check(case)
            mlflow_shows_one_finished_run_each(case)
    finally:
        missed = f" (came too late: {', '.join(map(str, case.missed))})" if case.missed else ""
        record_property("faults", scenario.text + missed)


def test_a_seed_names_a_case():
    assert draw(7).text == draw(7).text
    assert len({draw(seed).text for seed in range(50)}) > 45
