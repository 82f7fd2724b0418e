"""Figures of a definition: the numbers behind them, which of them are drawn, and what is refused."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from scipy import stats as scipy_stats

from tests.report.synthetic import write_store
from trb_lab.errors import UsageError
from trb_lab.report.best_scores import best_over_training, grid_layout
from trb_lab.report.collect import collect
from trb_lab.report.figures import FIGURES, draw
from trb_lab.report.plot_cost import score_along
from trb_lab.report.plot_curves import score_bands, seed_bands, seed_interval
from trb_lab.report.plot_support import seed_means
from trb_lab.report.sections import Context, make_sections
from trb_lab.report.settings import Setting, settings_of
from trb_lab.report.sources import open_sources
from trb_lab.report.step_costs import costs_by_update
from trb_lab.spec.report import FIGURES as NAMES
from trb_lab.spec.report import ReportSpec
from trb_lab.store.run_dir import Store, read_json, write_json

ARMS: dict[str, dict[str, Any]] = {
    "opd": {"label": "vanilla OPD"},
    "trb": {"label": "TRB", "grid": {"warmup.kl_budget": [0.005, 0.1], "warmup.steps": [10, 20]}},
    "skd": {"label": "SKD", "grid": {"warmup.top_k": [15, 25], "warmup.teacher_temperature": [0.2, 1.0]}},
    "teacher_forced": {"label": "teacher-forced"},
}
STEPS, SEEDS = 30, (0, 1, 2)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Two sweeps of four arms with ledgers a step, log-probs and AUROC; a trial of the first has not begun."""
    root: Path = tmp_path_factory.mktemp("figures") / "runs"
    for name, seeds, missing in (("one", SEEDS, (4,)), ("two", (0,), ())):
        store = write_store(
            root, name=name, arms=ARMS, seeds=seeds, steps=STEPS, items=True, failed=(), missing=missing
        )
    for run in store.trials():
        lines = [json.loads(line) for line in run.metrics.read_text().splitlines()]
        for line in lines:
            line["policy/teacher_logprob"] = -1 - line["rollout/reward"] / 2
            if line["step"] % 3:
                line["rollout/support_auroc"] = 0.5 + line["rollout/reward"] / 3
        run.metrics.write_text("".join(json.dumps(line) + "\n" for line in lines))
        times = [json.loads(line) for line in run.timing.read_text().splitlines()]
        for i, line in enumerate(times):
            phase = {"seconds": 0.5, "teacher_tokens": 100 + i, "student_tokens": 10}
            line["cost"] = {"rollout": phase, "eval": {"seconds": 99.0, "teacher_tokens": 99}}
        run.timing.write_text("".join(json.dumps(line) + "\n" for line in times))
    return store


@pytest.fixture(scope="module")
def settings(store: Store) -> dict[str, Setting]:
    return {s.key: s for s in settings_of(collect(store, "one"))}


def report(*blocks: dict[str, Any], sources: tuple[str, ...] = ("one",), **options: Any) -> ReportSpec:
    return ReportSpec.model_validate(
        {
            "name": "figures",
            "title": "Figures",
            "sources": {s: {"sweep": s} for s in sources},
            "blocks": [{"kind": "figure", **block} for block in blocks],
            "figures": {"formats": ["svg"], **options},
        }
    )


def drawn(store: Store, spec: ReportSpec, out: Path) -> list[Any]:
    return make_sections(Context(store, spec, open_sources(store, spec), out))


def data_of(out: Path, name: str) -> pd.DataFrame:
    return pd.read_csv(out / "figures" / f"{name}.csv", keep_default_na=True)


def metrics(store: Store, run_id: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in store.trial(run_id).metrics.read_text().splitlines()]


def test_every_name_of_a_definition_is_drawn() -> None:
    assert set(FIGURES) | {"continuation_gain"} == set(NAMES)


def test_bands_are_student_t_intervals(store: Store, settings: dict[str, Setting]) -> None:
    data = collect(store, "one")
    setting = settings["trb: kl_budget=0.1 steps=20"]
    frame = score_bands(data, setting, seed_interval)
    assert list(frame["updates"]) == [0, 10, 20, 30]
    assert frame["num_seeds"].iloc[0] == 0
    for row in frame.iloc[1:].to_dict("records"):
        values = [
            metrics(store, r)[int(row["updates"]) - 1]["eval/mean/pass_at_1"]
            for r in setting.run_ids.values()
        ]
        low, high = scipy_stats.t.interval(
            0.95, len(values) - 1, sum(values) / len(values), scipy_stats.sem(values)
        )
        assert row["mean"] == pytest.approx(sum(values) / len(values))
        assert (row["low"], row["high"]) == (pytest.approx(max(0, low)), pytest.approx(min(1, high)))


def test_one_seed_has_no_band(store: Store) -> None:
    data = collect(store, "two")
    frame = seed_bands(data, settings_of(data)[0], "policy/teacher_entropy", seed_interval)
    assert len(frame) == STEPS
    assert frame["low"].isna().all()
    assert frame["high"].isna().all()


def test_the_best_over_training_is_each_seeds_own(store: Store, settings: dict[str, Setting]) -> None:
    data = collect(store, "one")
    for setting in settings.values():
        expected = {}
        for seed, run in setting.run_ids.items():
            if setting.states[seed] != "completed":
                continue
            lines = metrics(store, run)
            scores = [line["eval/mean/pass_at_1"] for line in lines if "eval/mean/pass_at_1" in line]
            expected[seed] = max(*scores, read_json(store.trial(run).result)["final"]["mean_pass_at_1"])
        assert best_over_training(data, [setting])[setting.key] == pytest.approx(expected)
    key = "trb: kl_budget=0.005 steps=10"
    assert len(best_over_training(data, list(settings.values()))[key]) == 2


def test_grids_are_grouped_as_in_the_paper(store: Store, settings: dict[str, Setting]) -> None:
    data = collect(store, "one")
    trb = grid_layout(data, [s for s in settings.values() if s.arm == "trb"])
    assert (trb.group_key, trb.colour_key, trb.mark_key) == ("steps", "kl_budget", "")
    assert trb.values("group") == ["10", "20"]
    assert trb.values("colour") == ["0.005", "0.1"]
    place = trb.places["trb: kl_budget=0.1 steps=20"]
    assert (place.group, place.colour) == ("20", "0.1")
    skd = grid_layout(data, [s for s in settings.values() if s.arm == "skd"])
    assert (skd.group_key, skd.colour_key) == ("top_k", "teacher_temperature")


def test_support_and_reward_are_means_of_the_first_steps(store: Store, settings: dict[str, Setting]) -> None:
    frame = seed_means(collect(store, "one"), list(settings.values()), 12)
    assert len(frame) == sum(s.completed for s in settings.values())
    for row in frame.to_dict("records"):
        early = metrics(store, settings[row["setting"]].run_ids[int(row["seed"])])[:12]
        aurocs = [line["rollout/support_auroc"] for line in early if "rollout/support_auroc" in line]
        assert row["reward"] == pytest.approx(math.fsum(line["rollout/reward"] for line in early) / 12)
        assert row["support_auroc"] == pytest.approx(sum(aurocs) / len(aurocs))
        assert row["num_auroc_steps"] == len(aurocs) == 8


def test_costs_add_up_along_training_to_the_ledger(store: Store, settings: dict[str, Setting]) -> None:
    """What the ledger has beyond the steps was spent before the first; evaluation is no part of it."""
    run = store.trial(settings["opd"].run_ids[0])
    found = costs_by_update(run)
    ledger = read_json(run.result)["cost"]["phases"]
    tokens = sum(p["teacher_tokens"] for name, p in ledger.items() if name != "eval")
    steps = [100 + i for i in range(STEPS)]
    before = max(0, tokens - sum(steps))
    assert found[STEPS]["teacher_tokens"] == pytest.approx(before + sum(steps))
    assert found[1]["teacher_tokens"] == pytest.approx(before + 100)
    source = open_sources(store, report({"figure": "score_by_cost"}))["one"]
    frame = score_along(source, settings["opd"])
    assert list(frame["updates"]) == [10, 20, 30]
    assert frame["teacher_tokens"].iloc[0] == pytest.approx(before + sum(steps[:10]))


def test_arms_settings_and_steps_are_honoured(store: Store, tmp_path: Path) -> None:
    spec = report(
        {
            "figure": "trajectories",
            "arms": ["opd", "trb"],
            "settings": ["kl_budget=0.005 steps=20", "kl_budget=0.1 steps=10"],
            "steps": 20,
            "title": "My title",
            "caption": "My caption.",
        },
        {"figure": "early_rollouts", "name": "early", "arms": ["skd"], "steps": 4},
    )
    sections = drawn(store, spec, tmp_path)
    frame = data_of(tmp_path, "trajectories")
    assert set(frame["setting"]) == {"opd", "trb: kl_budget=0.005 steps=20", "trb: kl_budget=0.1 steps=10"}
    assert frame["updates"].max() == 20
    figure = sections[0].figures[0]
    assert (sections[0].title, figure.title, figure.caption) == ("My title", "My title", "My caption.")
    early = data_of(tmp_path, "early")
    assert {s.partition(":")[0] for s in early["setting"]} == {"skd"}
    assert early["step"].max() == 3


def test_several_sources_are_panels_or_figures_of_their_own(store: Store, tmp_path: Path) -> None:
    spec = report(
        {"figure": "trajectories"}, {"figure": "support_reward", "name": "support"}, sources=("one", "two")
    )
    panels, each = drawn(store, spec, tmp_path)
    assert [f.name for f in panels.figures] == ["trajectories"]
    assert set(data_of(tmp_path, "trajectories")["source"]) == {"one", "two"}
    assert [f.name for f in each.figures] == ["support-one", "support-two"]
    assert [f.title for f in each.figures] == ["Support and reward (one)", "Support and reward (two)"]


@pytest.mark.parametrize(
    ("block", "words"),
    [
        ({"figure": "trajectories", "arms": ["trp"]}, ["arms", "Did you mean 'trb'?", "skd"]),
        (
            {"figure": "score_by_cost", "settings": ["kl_budget=0.2 steps=10"]},
            ["settings", "kl_budget=0.1 steps=10"],
        ),
        ({"figure": "best_over_training", "steps": 5}, ["no axis of steps", "trajectories"]),
        ({"figure": "learning_curves", "diagnostic": "x"}, ["continuation_gain"]),
        ({"figure": "continuation_gain", "steps": 5}, ["no steps", "`diagnostic`"]),
        ({"figure": "continuation_gain", "sources": ["one"]}, ["no sources"]),
    ],
)
def test_what_a_figure_cannot_do_is_refused(
    store: Store, tmp_path: Path, block: dict[str, Any], words: list[str]
) -> None:
    with pytest.raises(UsageError) as error:
        drawn(store, report(block), tmp_path)
    assert all(word in str(error.value) for word in words), error.value


def test_the_continuation_is_read_from_a_diagnostic(store: Store, tmp_path: Path) -> None:
    spec = report({"figure": "continuation_gain", "diagnostic": ["absent", "mine"]})
    (section,) = drawn(store, spec, tmp_path)
    assert "trb-lab diagnose continuation" in section.absent
    rates = [
        {
            "continuer": continuer,
            "arm": arm,
            "cut": cut,
            "continued": 4,
            "ended": 0,
            "success": {"value": 0.5, "stderr": 0.1},
        }
        for continuer in ("teacher", "student")
        for arm in ("a", "b")
        for cut in (4, 8)
    ]
    arms = [{"name": n, "warmup": {"kind": k}} for n, k in (("a", "trb"), ("b", "opd"))]
    result = {"arms": arms, "rates": rates, "cuts": [4, 8], "prompts": 4, "samples": 1, "seed": 0}
    mine = Store(tmp_path / "store")
    write_json(mine.diagnostic("mine") / "continuation.json", result)
    context = Context(mine, spec, {}, tmp_path)
    block = spec.blocks[0].model_copy(update={"arms": ["b"]})
    assert not draw(context, block, "gain", []).absent  # type: ignore[arg-type]
    assert set(data_of(tmp_path, "gain")["arm"]) == {"b"}
    with pytest.raises(UsageError, match="has no arm 'c'"):
        draw(context, block.model_copy(update={"arms": ["c"]}), "gain", [])  # type: ignore[arg-type]
