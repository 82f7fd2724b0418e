"""The benchmark of a search's driver: what it times is what it says. No clock is tested."""

from __future__ import annotations

from pathlib import Path

import pytest

from trb_lab.bench import search as search_bench
from trb_lab.bench.options import Options
from trb_lab.bench.search import take_up
from trb_lab.bench.search_store import fill, write_sweep
from trb_lab.search import optuna
from trb_lab.store.run_dir import Store

pytestmark = pytest.mark.long

pytest.importorskip("optuna")


def test_the_made_up_store_is_a_search_that_has_come_a_long_way(tmp_path: Path) -> None:
    path, store = write_sweep(tmp_path), Store(tmp_path / "runs")
    fill(path, store, 60)
    (search,) = take_up(path, store).all
    states = [candidate.state for candidate in search.candidates.values()]
    assert len(states) == search.asked == 60
    assert set(states) == {"complete", "paused"}
    for candidate in search.candidates.values():
        steps = candidate.starting[0].steps_done
        assert list(candidate.at_stops()) == [stop for stop in (2, 6) if stop <= steps]
    assert len(search.told()) == 60
    assert search.next_number == 60


def test_it_tells_of_every_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search_bench, "SIZES", (3, 12))
    asked = []
    ask = optuna.Asker.ask
    monkeypatch.setattr(optuna.Asker, "ask", lambda *given: asked.append(len(given[2])) or ask(*given))
    result = search_bench.run(Options(repeats=1))
    assert [line.what for line in result.tables[0].rows] == [
        f"{size} settings, {what}" for size in (3, 12) for what in ("no cache", "cached")
    ]
    assert asked == [3, 3, 12, 12]
    assert "no cache" in result.as_text()
