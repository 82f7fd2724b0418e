"""Two arms of one seed that have run a little, in one store."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.train.experiments import small_spec
from trb_lab.experiment import run_experiment
from trb_lab.store.run_dir import Store
from trb_lab.trial import prepare


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """`store`, and the runs `trb`, `opd` and `other_seed`, two steps each."""
    store = Store(tmp_path_factory.mktemp("store"))
    specs = {
        "trb": {"warmup": {"kind": "trb", "kl_budget": 0.1, "steps": 2}},
        "opd": {"warmup": {"kind": "opd"}},
        "other_seed": {"warmup": {"kind": "opd"}, "seed": 1},
    }
    runs = {}
    for name, changes in specs.items():
        runs[name] = prepare(small_spec(name=name, steps=2, **changes), store)
        run_experiment(runs[name])
    return SimpleNamespace(store=store, root=Path(store.root), **runs)
