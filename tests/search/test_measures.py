from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from trb_lab.search import measures as module
from trb_lab.search.measures import Measured, Measures
from trb_lab.spec.search import SearchSpec
from trb_lab.store.run_dir import RunDir, Store, write_json

SETS = {"easy": "print-easy"}
BOTH = {**SETS, "hard": "print-hard"}


def spec_of(**search: Any) -> SearchSpec:
    space = {"warmup.steps": {"kind": "int", "low": 1, "high": 9}}
    return SearchSpec.model_validate({"space": space, "trials": 4, **search})


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    """A completed run of four steps, evaluated on two sets."""
    found = Store(tmp_path / "runs").trial("r0")
    scores = {"easy": {"pass_at_1": 0.5, "fingerprint": "print-easy"}}
    scores["hard"] = {"pass_at_1": 0.1, "fingerprint": "print-hard"}
    write_json(found.result, {"state": "completed", "final": {"sets": scores}, "cost": {}})
    lines = [{"step": step, "train/reverse_kl": step / 10, "rollout/reward": 0.5} for step in range(4)]
    found.metrics.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return found


def test_other_evaluation_sets_are_another_question(run: RunDir, tmp_path: Path) -> None:
    cache = tmp_path / "values.json"
    asked = Measures(spec_of(), (), cache)
    assert asked.of(run, SETS).values == {"score (last)": 0.5}
    assert asked.of(run, BOTH).values == {"score (last)": pytest.approx(0.3)}
    asked.save()
    again = Measures(spec_of(), (), cache)
    assert again.of(run, SETS).values == {"score (last)": 0.5}
    assert again.of(run, {"easy": "print-hard"}).values == {"score (last)": 0.1}


def test_what_a_completed_run_lacks_is_named_beside_what_it_has(
    run: RunDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    constraints = {"train/reverse_kll": {"at_most": 1.0}, "train/reverse_kl": {"at_most": 1.0}}
    asked, cache = spec_of(constraints=constraints), tmp_path / "values.json"
    measures = Measures(asked, (), cache)
    found = measures.of(run, SETS)
    assert found.values == {"score (last)": 0.5, "train/reverse_kl (max)": 0.3}
    assert found.missing == {
        "train/reverse_kll": "The search wants `train/reverse_kll` of its runs, and r0 has no such metric. "
        "Did you mean 'train/reverse_kl'? It has: rollout/reward, train/reverse_kl."
    }
    measures.save()
    monkeypatch.setattr(module, "iter_lines", None)  # the cache tells it all
    assert Measures(asked, (), cache).of(run, SETS) == found


def test_a_run_that_was_not_evaluated_on_every_set_lacks_its_score(run: RunDir, tmp_path: Path) -> None:
    found = Measures(spec_of(), (), tmp_path / "values.json").of(run, {**BOTH, "new": "print-new"})
    assert found.values == {}
    assert list(found.missing) == ["score"]


def test_a_run_at_work_lacks_nothing_yet(run: RunDir, tmp_path: Path) -> None:
    run.result.unlink()
    asked = Measures(spec_of(metric="rollout/reward", pruning="asha"), (2, 6), tmp_path / "values.json")
    assert asked.of(run, SETS) == Measured({}, {2: 0.5}, {})


def test_a_cache_of_an_older_form_is_read_again(run: RunDir, tmp_path: Path) -> None:
    cache = tmp_path / "values.json"
    old = [[stat.st_mtime_ns, stat.st_size] for stat in (run.result.stat(), run.metrics.stat())]
    known = {"r0": {"stamp": old, "values": {"score (last)": 0.9}, "stops": {}}}
    cache.write_text(json.dumps({"asked": [["score (last)"], []], "runs": known}))
    assert Measures(spec_of(), (), cache).of(run, SETS).values == {"score (last)": 0.5}
