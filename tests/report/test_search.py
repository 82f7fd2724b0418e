"""The report's section on searches, from summaries written by hand."""

from __future__ import annotations

import csv
import json
import math
import random
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from scipy import stats

from tests.report.synthetic import write_store
from trb_lab.report import build_report
from trb_lab.report.collect import collect
from trb_lab.report.search import SearchSection, search_sections
from trb_lab.report.search_data import Goal, Search, read_searches
from trb_lab.report.search_space import Axis, axes_of, choice_labels
from trb_lab.report.search_tables import best_table, confirmation_table
from trb_lab.report.tables import Row, Table
from trb_lab.store.run_dir import Store, write_json

pytestmark = pytest.mark.long

Pruned = tuple[dict[str, Any], SearchSection, Path]
ARMS = {"opd": {"label": "vanilla OPD"}, "trb": {"label": "TRB", "grid": {"warmup.kl_budget": [0.1]}}}
SCORE = [{"metric": "score", "direction": "maximize", "over": "last"}]
TWO_GOALS = [*SCORE, {"metric": "cost/seconds", "direction": "minimize", "over": "last"}]
COSINE, LINEAR = {"kind": "cosine", "floor": 0.1}, {"kind": "linear", "floor": 0.1}
SPACE = {
    "warmup.kl_budget": {"kind": "float", "low": 0.01, "high": 1.0, "log": True, "when": {}},
    "warmup.steps": {"kind": "int", "low": 5, "high": 40, "step": 5, "log": False, "when": {}},
    "warmup.anneal": {"kind": "choice", "values": [LINEAR, COSINE, None], "when": {}},
    "warmup.power": {
        "kind": "float",
        "low": 0.5,
        "high": 3.0,
        "log": False,
        "when": {"warmup.anneal": [LINEAR]},
    },
}
BOUND = {"policy/kl_mean": {"at_most": 0.05, "at_least": None, "over": "max"}}
PRUNING = {"pruning": {"kind": "asha", "first": 20, "factor": 3}, "stops": [20, 60], "steps": 180}


def summary(candidates: list[dict[str, Any]], **changes: Any) -> dict[str, Any]:
    """A finished search of TRB; counts and ranks follow from the candidates unless they are given."""
    done = [c for c in candidates if c["state"] == "complete" and c["feasible"] and c["mean"]]
    ranked = sorted(done, key=lambda c: -c["mean"].get("score", 0))
    states = [c["state"] for c in candidates]
    return {
        "arm": "trb",
        "label": "TRB",
        "sampler": {"kind": "tpe", "startup_trials": 10},
        "trials": len(candidates),
        "seed": 0,
        "steps": 60,
        "goals": SCORE,
        "constraints": {},
        "space": SPACE,
        "names": {k: k.split(".")[-1] for k in SPACE},
        "pruning": None,
        "stops": [],
        "seeds": {"start": [0], "all": [0, 1, 2], "fresh": [3, 4, 5]},
        "candidates": candidates,
        "best": ranked[0]["number"] if ranked else None,
        "front": [c["number"] for c in ranked[:1]],
        "race": [],
        "importance": {},
        "winners": [c["number"] for c in ranked[:1]],
        "confirmation": [],
        "counts": {s: states.count(s) for s in ("complete", "paused", "failed", "running")},
        "asked": len(candidates),
        "known": sum(c["origin"] == "warm" for c in candidates),
        "over": True,
        "stopped": None,
        **changes,
    }


def candidate(number: int, params: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    """A complete one of score 0.3 on seed 0, unless said otherwise; `values`: metric -> values of seeds 0, 1, ..."""
    values = changes.pop("values", {"score": [0.3]})
    by_seed = {m: {str(s): v for s, v in enumerate(vs)} for m, vs in values.items()}
    state = changes.get("state", "complete")
    runs = max([len(v) for v in values.values()], default=1)
    stops = {str(k): v for k, v in changes.pop("stops", {}).items()}
    done = 180 if state == "complete" else max(map(int, stops), default=0)
    return {
        "number": number,
        "origin": "ask",
        "setting": f"#{number} kl_budget=0.1",
        "params": params or {"warmup.kl_budget": 0.1, "warmup.steps": 10, "warmup.anneal": COSINE},
        "state": state,
        "time": 1.7e9 + number,
        "runs": [
            {"run_id": f"trb-s{s}-{number:04d}", "seed": s, "state": state, "steps_done": done}
            for s in range(runs)
        ],
        "values": by_seed,
        "mean": {m: sum(vs) / len(vs) for m, vs in values.items() if vs},
        "interval": dict.fromkeys(values),
        "stops": stops,
        "constraints": {},
        "feasible": True,
        "error": None,
        **changes,
    }


def fresh(arm: str, number: int | None, values: dict[str, list[float]], planned: int = 3) -> dict[str, Any]:
    """A row of the confirmation: values of seeds 3, 4, ...; the rest of `planned` runs are not there."""
    done = max(map(len, values.values()), default=0)
    return {
        "arm": arm,
        "number": number,
        "setting": "" if number is None else f"#{number} kl_budget=0.1",
        "runs": [
            {
                "run_id": f"{arm}-s{3 + i}-fresh",
                "seed": 3 + i,
                "state": "completed" if i < done else "missing",
                "steps_done": 60,
            }
            for i in range(planned)
        ],
        "values": {m: {str(3 + i): v for i, v in enumerate(vs)} for m, vs in values.items()},
    }


def drawn(rng: random.Random, number: int) -> dict[str, Any]:
    """Parameters of a candidate; `power` takes part for a linear anneal alone."""
    late = number / 40
    params: dict[str, Any] = {
        "warmup.kl_budget": 10 ** (-2 + 2 * (0.65 * late * 0.9 + (1 - 0.8 * late) * rng.random())),
        "warmup.steps": 5 * rng.randint(1, 8),
        "warmup.anneal": rng.choice([LINEAR, LINEAR, COSINE, None]),
    }
    params["warmup.kl_budget"] = min(1.0, params["warmup.kl_budget"])
    if params["warmup.anneal"] == LINEAR:
        params["warmup.power"] = 0.5 + 2.5 * rng.random()
    return params


def level(params: dict[str, Any]) -> float:
    """What a setting scores but for luck."""
    budget = math.log10(params["warmup.kl_budget"])
    return 0.42 - 0.06 * (budget + 0.9) ** 2 - 0.0001 * (params["warmup.steps"] - 20) ** 2


def pruned_search() -> dict[str, Any]:
    """40 settings with successive halving, a race, failures, a constraint and a confirmation."""
    rng = random.Random(1)
    candidates = []
    for number in range(40):
        params = drawn(rng, number)
        good = level(params)
        stops = {20: 0.6 * good + rng.gauss(0, 0.01)}
        body: dict[str, Any] = {"state": "paused", "values": {}, "stops": stops}
        if number in (7, 23):
            body = {"state": "failed", "values": {}, "stops": {}, "error": "train/loss is nan at step 12"}
        elif number in (0, 1):
            body = {"origin": "warm", "values": {"score": [good + rng.gauss(0, 0.01)]}}
        elif number % 3 == 0 or number > 34:
            body["stops"] = stops | {60: 0.85 * good + rng.gauss(0, 0.01)}
            if number % 2 == 0:
                body = {"values": {"score": [good + rng.gauss(0, 0.012)]}, "stops": body["stops"]}
        if body.get("state", "complete") == "complete":
            kl = 0.1 * params["warmup.kl_budget"]
            body |= {"constraints": {"policy/kl_mean": kl}, "feasible": kl <= 0.05}
        name = f"#{number} kl_budget={params['warmup.kl_budget']:.3g} steps={params['warmup.steps']}"
        candidates.append(candidate(number, params, setting=name, **body))
    entrants = sorted(
        (c for c in candidates if c["state"] == "complete" and c["feasible"]),
        key=lambda c: -c["mean"]["score"],
    )[:4]
    for c in entrants:
        values = [c["values"]["score"]["0"], *(level(c["params"]) + rng.gauss(0, 0.012) for _ in range(2))]
        c |= {
            "values": {"score": {str(s): v for s, v in enumerate(values)}},
            "mean": {"score": sum(values) / 3},
        }
    entrants.sort(key=lambda c: -c["mean"]["score"])
    leader = entrants[0]["number"]
    race = [{"number": leader, "verdict": "leader", "difference": None}]
    race += [
        {"number": c["number"], "verdict": "in", "difference": [-0.01, -0.03, 0.01]} for c in entrants[1:3]
    ]
    race += [{"number": entrants[3]["number"], "verdict": "out", "difference": [-0.03, -0.05, -0.01]}]
    won = {**fresh("trb", leader, {"score": [0.405, 0.41, 0.39]}), "setting": entrants[0]["setting"]}
    return summary(
        candidates,
        **PRUNING,
        constraints=BOUND,
        best=leader,
        front=[leader],
        winners=[leader],
        race=race,
        importance={
            "score": {
                "warmup.kl_budget": 0.71,
                "warmup.steps": 0.2,
                "warmup.anneal": 0.05,
                "warmup.power": 0.04,
            }
        },
        confirmation=[won, fresh("opd", None, {"score": [0.38, 0.39, 0.385]})],
    )


def two_goals_search() -> dict[str, Any]:
    """24 settings of two goals, some outside the constraint."""
    rng = random.Random(2)
    candidates = []
    for number in range(24):
        params = drawn(rng, number)
        seconds = 30 + 8 * params["warmup.steps"] * (0.6 + rng.random())
        score = 0.2 + 0.2 * (1 - math.exp(-seconds / 120)) + rng.gauss(0, 0.02)
        kl = 0.1 * params["warmup.kl_budget"]
        body = {"constraints": {"policy/kl_mean": kl}, "feasible": kl <= 0.05}
        candidates.append(
            candidate(number, params, values={"score": [score], "cost/seconds": [seconds]}, **body)
        )
    points = {
        c["number"]: (c["mean"]["score"], -c["mean"]["cost/seconds"]) for c in candidates if c["feasible"]
    }
    front = [
        n
        for n, p in points.items()
        if not any(q != p and q[0] >= p[0] and q[1] >= p[1] for q in points.values())
    ]
    weights = {"warmup.kl_budget": 0.1, "warmup.steps": 0.8, "warmup.anneal": 0.1, "warmup.power": 0.0}
    return summary(
        candidates,
        goals=TWO_GOALS,
        constraints=BOUND,
        best=None,
        front=sorted(front),
        winners=front[:2],
        importance={
            "score": {**weights, "warmup.steps": 0.5, "warmup.kl_budget": 0.4},
            "cost/seconds": weights,
        },
        confirmation=[
            fresh("trb", front[0], {"score": [0.33, 0.34, 0.35], "cost/seconds": [100, 101, 103]}),
            fresh("opd", None, {"score": [0.33, 0.31, 0.32], "cost/seconds": [80, 82, 81]}),
        ],
    )


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A sweep without any search."""
    return write_store(
        tmp_path_factory.mktemp("search") / "runs", arms=ARMS, seeds=(0, 1), failed=(), missing=()
    )


@pytest.fixture(scope="module")
def pruned(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Pruned:
    """A summary, its section, and the folder that its figures are in. Read only."""
    raw, out = pruned_search(), tmp_path_factory.mktemp("pruned")
    return raw, section(store, raw, out), out


def section(store: Store, raw: dict[str, Any], out: Path) -> SearchSection:
    """The section of one summary, in the report of the sweep without a search."""
    folder = out / "summaries"
    write_json(folder / f"{raw['arm']}.summary.json", raw)
    (found,) = search_sections(collect(store, "kl_budget"), folder, out)
    return found


def search_of(raw: dict[str, Any], folder: Path) -> Search:
    write_json(folder / f"{raw['arm']}.summary.json", raw)
    (found,) = read_searches(folder)
    return found


def words(found: SearchSection) -> str:
    return " ".join([found.headline, *found.paragraphs]).replace("\u00a0", " ")


def table(found: SearchSection, name: str) -> Table:
    return next(t for key, t in found.tables if key.endswith(f"-{name}"))


def cell(found: Table, row: Row, column: str) -> Any:
    return row.cells[found.columns.index(column)]


def plots(found: SearchSection) -> list[str]:
    return [f.name.removeprefix("search_trb_") for f in found.figures]


def test_a_report_without_a_search_says_nothing_of_one_and_forgets_one_that_was(store: Store) -> None:
    def contents() -> dict[str, bytes]:
        folder = store.sweep("kl_budget").report
        return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}

    paths = build_report(store, "kl_budget")
    before = contents()
    assert not any("search" in name or "confirmation" in name for name in before)
    assert "Search" not in paths["page"].read_text() and "Search" not in paths["markdown"].read_text()
    file = store.sweep("kl_budget").path / "search" / "trb.summary.json"
    write_json(file, pruned_search())
    build_report(store, "kl_budget")
    assert {"search_trb.csv", "confirmation_trb.csv", "figures/search_trb_history.png"} <= contents().keys()
    file.unlink()
    build_report(store, "kl_budget")
    assert contents() == before


@pytest.mark.slow  # two reports of two searches
def test_page_markdown_and_terminal_have_the_section(store: Store, tmp_path: Path) -> None:
    folder = store.sweep("kl_budget").path / "search"
    write_json(folder / "trb.summary.json", pruned_search())
    write_json(folder / "opd x.summary.json", {**two_goals_search(), "arm": "opd x", "label": "<OPD>"})
    try:
        paths = build_report(store, "kl_budget", tmp_path / "one")
        build_report(store, "kl_budget", tmp_path / "two")
    finally:
        for path in folder.iterdir():
            path.unlink()
    page = paths["page"].read_text()
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    targets = set(re.findall(r'href="#([^"]+)"', page) + re.findall(r"url\(#([^)]+)\)", page))
    assert {"search-trb", "search-opd-x"} <= targets <= set(ids)
    for link in re.findall(r'href="([^"#]+)"', page):
        assert (paths["page"].parent / link).exists()
    assert "Search: &lt;OPD&gt;" in page and "<OPD>" not in page
    markdown = paths["markdown"].read_text()
    for link in re.findall(r"\]\(([^)]+)\)", markdown):
        assert (paths["page"].parent / link).exists()
    assert "## Search: TRB" in markdown and "### Confirmation on fresh seeds" in markdown
    text = paths["table"].read_text()
    assert "Search: TRB\n\nBest settings\n" in text and "Confirmation on fresh seeds\n" in text
    assert "Search of TRB: Best on the selection seeds" in " ".join(text.split())
    assert max(map(len, text.splitlines())) <= 120
    for path in sorted((tmp_path / "one").rglob("*.*")):
        assert path.read_bytes() == (tmp_path / "two" / path.relative_to(tmp_path / "one")).read_bytes()


def test_a_summary_of_an_older_search_is_left_out(tmp_path: Path) -> None:
    folder = tmp_path / "search"
    for arm, context in (("trb", "new"), ("old", "before"), ("gone", "new"), ("silent", None)):
        raw = summary([candidate(0)], arm=arm)
        write_json(folder / f"{arm}.summary.json", raw if context is None else {**raw, "context": context})
    planned = {"trb": {"context": "new"}, "old": {"context": "new"}, "silent": {"context": "new"}}
    assert [s.arm for s in read_searches(folder, planned=planned)] == ["silent", "trb"]
    assert len(read_searches(folder)) == 4


def test_the_report_takes_the_searches_of_its_plan(store: Store, tmp_path: Path) -> None:
    folder, data = tmp_path / "search", collect(store, "kl_budget")
    write_json(folder / "trb.summary.json", {**summary([candidate(0)]), "context": "before"})
    for context, told in (("before", ["Search: TRB"]), ("now", [])):
        changed = replace(data, plan={**data.plan, "searches": {"trb": {"context": context}}})
        assert [s.title for s in search_sections(changed, folder, tmp_path / "out")] == told
    assert search_sections(data, folder, tmp_path / "out") == []  # the arm is no longer searched


def test_a_setting_of_the_grid_is_told_once(store: Store, tmp_path: Path) -> None:
    candidates = [candidate(0, origin="grid"), candidate(1, origin="warm"), candidate(2)]
    for counts in ({"known": 2}, {"known": 1, "grid": 1}):  # as written before, and now
        text = words(section(store, summary(candidates, **counts), tmp_path))
        assert "1 came from the arm's grid, 1 was known before from finished trials. Of the 3 in all" in text


def test_sentences_of_a_race_with_confirmation(pruned: Pruned) -> None:
    raw, found, _ = pruned
    text = words(found)
    best = next(c for c in raw["candidates"] if c["number"] == raw["best"])
    values = list(best["values"]["score"].values())
    low, high = stats.t.interval(0.95, 2, sum(values) / 3, stats.sem(values))
    assert (
        f"Best on the selection seeds is {best['setting']}, with score {100 * sum(values) / 3:.1f} % "
        f"(95 % interval {100 * low:.1f} to {100 * high:.1f}, 3 seeds)."
    ) in text
    inside = sum(c["state"] == "complete" and c["feasible"] for c in raw["candidates"])
    assert f"chosen as the best of {inside} on these very seeds, so this value is optimistic" in text
    assert "Of 3 others that raced it on more seeds, 1 left as worse" in text
    won, base = [0.405, 0.41, 0.39], [0.38, 0.39, 0.385]
    low, high = stats.t.interval(0.95, 2, sum(won) / 3, stats.sem(won))
    assert f"has score 40.2 % (95 % interval {100 * low:.1f} to {100 * high:.1f}, 3 seeds) after" in text
    test = stats.ttest_rel(won, base)
    low, high = test.confidence_interval()
    assert test.pvalue > 0.05
    assert f"is +1.7 points (95 % interval {100 * low:+.1f} to {100 * high:+.1f}, 3 seeds)" in text
    assert "the two cannot be told apart at the 5 % level" in text
    assert "38 settings of kl_budget, steps, anneal and power were" in text and "Of the 40 in all" in text
    assert "proposed by TPE (the first 10 at random), 2 were known before from finished trials" in text
    paused = [c for c in raw["candidates"] if c["state"] == "paused"]
    later = sum("60" in c["stops"] for c in paused)
    assert f"{len(paused)} paused ({len(paused) - later} at step 20, {later} at step 60) and 2 failed" in text
    outside = sum(not c["feasible"] for c in raw["candidates"])
    assert (
        f"{outside or 'None'} of " in text and "outside the constraints (policy/kl_mean (max) ≤ 0.05)" in text
    )
    assert "What failed said: train/loss is nan at step 12 (2)." in text
    assert "not over" not in text and "Not drawn" not in text


def test_tables_of_a_race_with_confirmation(pruned: Pruned) -> None:
    raw, found, _ = pruned
    best = table(found, "best")
    assert len(best.rows) == 10
    assert best.columns == [
        "kl_budget", "steps", "anneal", "power", "score (%)", "seeds", "race", "policy/kl_mean (max) ≤ 0.05", "state",
    ]  # fmt: skip
    first = best.rows[0]
    assert first.title == f"#{raw['best']}"
    values = [
        v for c in raw["candidates"] if c["number"] == raw["best"] for v in c["values"]["score"].values()
    ]
    half = stats.t.ppf(0.975, 2) * stats.sem(values)
    assert cell(best, first, "score (%)").value == pytest.approx(sum(values) / 3)
    assert cell(best, first, "score (%)").half_width == pytest.approx(half)
    assert cell(best, first, "race").text == "leader"
    assert "out: -3.0 [-5.0, -1.0]" in [cell(best, r, "race").text for r in best.rows]
    single = [r for r in best.rows if cell(best, r, "seeds").text == "1"]
    assert single
    assert all(
        cell(best, r, "score (%)").note == "1 seed" and not cell(best, r, "score (%)").bold for r in single
    )
    confirmed = table(found, "fresh")
    winner, reference = confirmed.rows
    assert (winner.kind, reference.kind, reference.title) == ("arm", "baseline", "vanilla OPD")
    gap = cell(confirmed, winner, "score (%): vs vanilla OPD")
    test = stats.ttest_rel([0.405, 0.41, 0.39], [0.38, 0.39, 0.385])
    low, high = test.confidence_interval()
    assert (gap.value - gap.half_width, gap.value + gap.half_width) == pytest.approx((low, high))
    assert cell(confirmed, winner, "score (%): selection mean").value == pytest.approx(sum(values) / 3)
    optimism = cell(confirmed, winner, "score (%): optimism")
    assert optimism.value == pytest.approx(sum(values) / 3 - (0.405 + 0.41 + 0.39) / 3)
    assert cell(confirmed, winner, "seeds").text == cell(confirmed, reference, "seeds").text == "3"


def test_csv_files_hold_every_candidate_and_every_seed(pruned: Pruned) -> None:
    raw, found, _ = pruned
    rows = list(csv.DictReader(found.files["search_trb.csv"].splitlines()))
    assert len(rows) == 40
    for row, c in zip(rows, raw["candidates"], strict=True):
        assert (int(row["number"]), row["state"]) == (c["number"], c["state"])
        assert float(row["warmup.kl_budget"]) == pytest.approx(c["params"]["warmup.kl_budget"], rel=1e-5)
        if isinstance(c["params"]["warmup.anneal"], dict):
            assert json.loads(row["warmup.anneal"]) == c["params"]["warmup.anneal"]
        assert (row["warmup.power"] == "") == ("warmup.power" not in c["params"])
        for seed, value in c["values"].get("score", {}).items():
            assert float(row[f"score_seed_{seed}"]) == pytest.approx(value, rel=1e-5)
        assert row["run_ids"].split() == [r["run_id"] for r in c["runs"]]
    (winner, reference) = csv.DictReader(found.files["confirmation_trb.csv"].splitlines())
    assert float(winner["seed_4"]) == 0.41 and float(reference["mean"]) == 0.385
    assert float(winner["p_value"]) == pytest.approx(
        stats.ttest_rel([0.405, 0.41, 0.39], [0.38, 0.39, 0.385]).pvalue, rel=1e-4
    )


def test_every_figure_of_a_pruned_search_with_its_data(pruned: Pruned) -> None:
    raw, found, out = pruned
    assert plots(found) == ["history", "curves", "slices", "parallel", "importance"]
    for figure in found.figures:
        for path in (figure.svg, figure.png, figure.csv):
            assert (out / path).stat().st_size > 100
    with open(out / "figures" / "search_trb_history.csv") as f:
        history = list(csv.DictReader(f))
    best = [float(r["best_so_far"]) for r in history if r["best_so_far"]]
    assert best == sorted(best)
    inside = [c["mean"]["score"] for c in raw["candidates"] if c["state"] == "complete" and c["feasible"]]
    assert best[-1] == pytest.approx(max(inside), rel=1e-5)
    with open(out / "figures" / "search_trb_curves.csv") as f:
        curves = list(csv.DictReader(f))
    assert {int(r["steps_done"]) for r in curves} == {20, 60, 180}


def test_two_goals_have_a_front_and_no_best(store: Store, tmp_path: Path) -> None:
    raw = two_goals_search()
    found = section(store, raw, tmp_path)
    text = words(found)
    assert "there is no single best setting" in text
    inside = sum(c["feasible"] for c in raw["candidates"])
    assert f"{len(raw['front'])} of {inside} settings are on the Pareto front" in text
    assert "Best on the selection seeds" not in text and "the highest" not in text
    assert plots(found) == ["history", "front", "slices", "slices_2", "parallel", "importance"]
    best = table(found, "best")
    shown = [int(r.title[1:]) for r in best.rows if cell(best, r, "Pareto").text == "front"]
    assert sorted(shown) == raw["front"]
    assert not any(c.bold for r in best.rows for c in r.cells)
    confirmed = table(found, "fresh")
    seconds = cell(confirmed, confirmed.rows[0], "cost/seconds: vs vanilla OPD")
    test = stats.ttest_rel([100, 101, 103], [80, 82, 81])
    assert seconds.value == pytest.approx(20.3333, rel=1e-4)
    assert seconds.half_width == pytest.approx(seconds.value - test.confidence_interval().low)
    # More seconds are worse, and 3 decimal places would say more than there is to say.
    assert "in cost/seconds on the same seeds is +20.3 (95 % interval" in text
    assert "worse at the 5 % level, corrected for 2 comparisons (Holm)" in text


def test_one_seed_names_no_winner(store: Store, tmp_path: Path) -> None:
    found = section(store, summary([candidate(0), candidate(1, values={"score": [0.351]})]), tmp_path)
    text = words(found)
    assert (
        "The highest score on the selection seeds is 35.1 %, of #1 kl_budget=0.1, on one seed: a single run, which "
        "names no winner, and as the best of 2 its value is optimistic besides."
    ) in text
    assert "Best on" not in text
    assert "The fresh seeds have not begun" in text


def test_one_fresh_seed_is_no_result(store: Store, tmp_path: Path) -> None:
    rows = [fresh("trb", 0, {"score": [0.34]}), fresh("opd", None, {"score": [0.33]})]
    text = words(section(store, summary([candidate(0)], confirmation=rows), tmp_path))
    assert "On the one fresh seed that finished (missing 2/3), #0 kl_budget=0.1 has score 34.0 %" in text
    assert "is +1.0 points (1 seed, no interval), which is no result" in text
    assert " better" not in text and "the best of 1" not in text


def test_fresh_differences_are_paired_even_where_seeds_are_missing(tmp_path: Path) -> None:
    rows = [fresh("trb", 0, {"score": [0.34, 0.36, 0.40]}), fresh("opd", None, {"score": [0.33, 0.31]})]
    search = search_of(summary([candidate(0)], confirmation=rows), tmp_path)
    found = confirmation_table(search, "opd", "OPD")
    assert found is not None
    gap = cell(found, found.rows[0], "score (%): vs OPD")
    test = stats.ttest_rel([0.34, 0.36], [0.33, 0.31])
    assert gap.value == pytest.approx(0.03)
    assert gap.half_width == pytest.approx(0.03 - test.confidence_interval().low)
    assert cell(found, found.rows[1], "seeds").note == "missing 1/3"


def test_no_fresh_seeds_planned(store: Store, tmp_path: Path) -> None:
    raw = summary([candidate(0)], seeds={"start": [0], "all": [0], "fresh": []})
    found = section(store, raw, tmp_path)
    assert "No fresh seeds are planned, so nothing says how much of this is luck." in words(found)
    assert [name for name, _ in found.tables] == ["search-trb-best"]
    assert list(found.files) == ["search_trb.csv"]


def test_a_search_that_is_at_work(store: Store, tmp_path: Path) -> None:
    at_work = candidate(1, state="running", values={}, stops={20: 0.2})
    raw = summary([candidate(0), at_work], trials=40, asked=2, over=False, **PRUNING)
    text = words(section(store, raw, tmp_path))
    assert (
        "The search is not over: 2 of 40 settings have been proposed, 1 is at work, and the numbers will change."
        in text
    )


def test_a_search_that_was_stopped(store: Store, tmp_path: Path) -> None:
    raw = summary([candidate(0)], trials=40, stopped="the budget of 20 GPU-hours is spent")
    text = words(section(store, raw, tmp_path))
    assert "The search ended early, after 1 of 40 settings: the budget of 20 GPU-hours is spent." in text


def test_all_failed(store: Store, tmp_path: Path) -> None:
    failed = [candidate(i, state="failed", values={}, error="out of memory") for i in range(3)]
    found = section(store, summary(failed, **PRUNING), tmp_path)
    text = words(found)
    assert "All 3 settings failed, so there is nothing to compare." in text
    assert "What failed said: out of memory (3)." in text
    assert found.figures == []
    assert "Not drawn: the optimisation history (every setting failed)" in text
    assert [cell(table(found, "best"), r, "state").text for r in table(found, "best").rows] == ["failed"] * 3


def test_nothing_tried_yet_and_a_single_one(store: Store, tmp_path: Path) -> None:
    found = section(store, summary([], trials=5, over=False), tmp_path / "none")
    assert found.tables == [] and found.figures == []
    assert "Nothing has been tried yet." in words(found)
    one = section(store, summary([candidate(0)]), tmp_path / "one")
    assert plots(one) == ["history", "slices", "parallel"]
    assert "Not drawn: the importance of parameters (too few settings ran to the end: 1)." in words(one)


def test_all_outside_the_constraints(store: Store, tmp_path: Path) -> None:
    outside = [candidate(i, feasible=False, constraints={"policy/kl_mean": 0.2}) for i in range(2)]
    found = section(store, summary(outside, constraints=BOUND), tmp_path)
    assert "No setting that ran to the end is inside the constraints" in words(found)
    row = table(found, "best").rows[0]
    assert cell(table(found, "best"), row, "policy/kl_mean (max) ≤ 0.05").note == "outside"


def test_a_metric_that_should_be_low_is_shown_as_a_number(store: Store, tmp_path: Path) -> None:
    goal = [{"metric": "train/loss", "direction": "minimize", "over": "last"}]
    losses = [[0.51234, 0.52, 0.53], [0.41234, 0.42, 0.431], [1.5, 1.6, 1.7]]
    rows = [candidate(i, values={"train/loss": v}) for i, v in enumerate(losses)]
    found = section(store, summary(rows, goals=goal, best=1, front=[1], winners=[1]), tmp_path)
    best = table(found, "best")
    assert [r.title for r in best.rows] == ["#1", "#0", "#2"]
    assert cell(best, best.rows[0], "train/loss").text.startswith("0.421 ± ")
    assert [cell(best, r, "train/loss").bold for r in best.rows] == [True, False, False]
    assert "with train/loss 0.421 (95 % interval" in words(found)


def test_settings_without_some_parameters(tmp_path: Path) -> None:
    search = search_of(summary([candidate(0)]), tmp_path)
    found = best_table(search)
    assert found is not None
    assert cell(found, found.rows[0], "power").text == "–"
    assert cell(found, found.rows[0], "anneal").text == "kind=cosine"


def test_choices_are_named_by_what_tells_them_apart() -> None:
    assert choice_labels([LINEAR, COSINE]) == ["kind=linear", "kind=cosine"]
    assert choice_labels(["a", None, True, 1, 0.25]) == ["a", "null", "true", "1", "0.25"]
    long = "x" * 60
    names = choice_labels([long + "a", long + "b"])
    assert len(set(names)) == 2 and max(map(len, names)) < 50


def test_axes_hold_what_was_tried_beside_the_space(tmp_path: Path) -> None:
    grid = candidate(0, {"warmup.kl_budget": 2.0, "warmup.anneal": "none"}, origin="grid")
    axes = {a.name: a for a in axes_of(search_of(summary([grid]), tmp_path))}
    assert axes["kl_budget"].high == 2.0 and axes["kl_budget"].share(2.0) == 1.0
    assert axes["anneal"].labels[-1] == "none"
    assert axes["steps"].at("many") is None


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0.01, 1.0, ["0.01", "0.1", "1"]),
        (1e-6, 1.0, ["1e-06", "0.0001", "0.01", "1"]),
        (1.0, 8.0, ["1", "2", "5"]),
        (3.1, 4.2, ["3.1", "4.2"]),
    ],
)
def test_log_ticks_are_round_and_few(low: float, high: float, ticks: list[str]) -> None:
    assert [label for _, label in Axis("k", "k", low, high, log=True).ticks(4)] == ticks


def test_numbers_of_goals() -> None:
    score, loss = Goal("eval/easy/pass_at_1", "maximize"), Goal("train/loss", "minimize")
    assert (score.title, score.words(0.3512), score.change(-0.0001)) == (
        "eval/easy/pass_at_1 (%)",
        "35.1 %",
        "0.0",
    )
    assert (loss.words(0.012345), loss.words(-12.345), loss.change(1.0)) == ("0.0123", "-12.3", "+1")
