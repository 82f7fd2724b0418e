"""Fixtures for tests on a real Slurm (slurm/dev-cluster/cluster up; TRB_LAB_TEST_SLURM=1)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest

from .invariants import final_weights
from .lab import ARMS, SEEDS, Lab


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Callable[[str], Lab]]:
    """Makes a lab by the name of its sweep."""
    made: list[Lab] = []

    def make(name: str) -> Lab:
        made.append(Lab(tmp_path / name, name))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], dict[str, str]]]:
    """Gives final weights by run id, of trials that ran on this machine, without Slurm and without a fault.

    They are made in the background from here on, and waited for when they are asked for.
    """
    lab = Lab(tmp_path_factory.mktemp("undisturbed"), "undisturbed").plan(list(ARMS), SEEDS)
    driver = lab.start("--inline", here=True)

    @cache
    def weights() -> dict[str, str]:
        assert driver.ends() == 0, lab.said()
        return {run.run_id: str(final_weights(run)) for run in lab.trials()}

    yield weights
    lab.close()
