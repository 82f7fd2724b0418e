"""The files that ship: each loads, expands, says what it is for, and holds the settings that it claims."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml

from trb_lab.spec import ExperimentSpec, expand_sweep, load_experiment, load_report, load_sweep
from trb_lab.spec.warmup import ARM_SPECS

ROOT = Path(__file__).parents[1]
EXPERIMENTS = sorted((ROOT / "experiments").glob("*.yaml"))
SWEEPS = sorted((ROOT / "sweeps").glob("*.yaml"))
REPORTS = sorted((ROOT / "reports").glob("*.yaml"))
HEADER = ("Question", "Command", "Hardware", "Minutes", "Expected")
KINDS = [str(get_args(spec.model_fields["kind"].annotation)[0]) for spec in ARM_SPECS]
PAPER_PAIRS = {
    "1p7b": ("qwen3_1p7b_from_8b", "Qwen/Qwen3-1.7B-Base", "Qwen/Qwen3-8B"),
    "0p6b": ("qwen3_0p6b_from_4b", "Qwen/Qwen3-0.6B-Base", "Qwen/Qwen3-4B"),
}


def names(files: list[Path]) -> list[str]:
    return [file.stem for file in files]


def header(file: Path) -> dict[str, str]:
    """The header's entries, in order; what follows an entry belongs to it."""
    found: dict[str, str] = {}
    for line in file.read_text().splitlines()[1:]:
        if not line.startswith("#"):
            break
        entry = re.match(r"# (\w+): +(\S.*)", line)
        if entry:
            found[entry[1]] = entry[2]
        elif found:
            found[list(found)[-1]] += " " + line.removeprefix("#").strip()
    return found


@pytest.mark.parametrize("file", [*EXPERIMENTS, *SWEEPS], ids=names([*EXPERIMENTS, *SWEEPS]))
def test_it_opens_with_what_a_reader_asks(file: Path) -> None:
    kind = "sweep" if file in SWEEPS else "experiment"
    schema = f"# yaml-language-server: $schema=../trb_lab/spec/schemas/{kind}.schema.json"
    assert file.read_text().splitlines()[0] == schema
    found = header(file)
    assert tuple(found)[: len(HEADER)] == HEADER
    verb = "sweep" if kind == "sweep" else "run"
    assert f"trb-lab {verb} {file.relative_to(ROOT)}" in found["Command"]
    assert re.match(r"\d+(\.\d+)?\b|not measured", found["Minutes"])


@pytest.mark.parametrize("file", EXPERIMENTS, ids=names(EXPERIMENTS))
def test_an_experiment_loads_under_its_own_name(file: Path) -> None:
    assert load_experiment(file).name == file.stem


@pytest.mark.parametrize("file", SWEEPS, ids=names(SWEEPS))
def test_a_sweep_expands_under_its_own_name(file: Path) -> None:
    assert load_sweep(file).name == file.stem
    assert len(expand_sweep(file)) > 0


@pytest.mark.parametrize("kind", KINDS)
def test_every_arm_has_a_file_on_the_bundled_pair(kind: str) -> None:
    spec = load_experiment(ROOT / "experiments" / f"arith_{kind}.yaml")
    base = load_experiment(ROOT / "experiments" / "arith.yaml")
    assert spec.warmup.kind == kind
    assert spec.model_copy(update={"name": base.name, "warmup": base.warmup}) == base


def settings(sweep: str) -> dict[str, list[ExperimentSpec]]:
    """Arm -> the specs of its settings, of the first seed."""
    path = ROOT / "sweeps" / f"{sweep}.yaml"
    found: dict[str, list[ExperimentSpec]] = {}
    for trial in expand_sweep(path):
        if trial.seed == load_sweep(path).seeds[0]:
            found.setdefault(trial.arm, []).append(trial.spec)
    return found


def test_the_baselines_are_all_arms_with_five_seeds() -> None:
    found = settings("baselines")
    assert {spec.warmup.kind for specs in found.values() for spec in specs} == set(KINDS)
    assert len(load_sweep(ROOT / "sweeps" / "baselines.yaml").seeds) == 5
    for arm, (spec,) in found.items():  # the files of single arms are these arms
        single = {"mixture_token": "mixture", "mixture_sequence": None}.get(arm, arm)
        if single is not None:
            assert load_experiment(ROOT / "experiments" / f"arith_{single}.yaml").warmup == spec.warmup


def test_the_anneal_sweep_crosses_shape_budget_and_horizon() -> None:
    found = {(s.warmup.anneal.kind, s.warmup.kl_budget, s.warmup.steps) for s in settings("anneal")["trb"]}
    shapes, budgets, horizons = (set(column) for column in zip(*found, strict=True))
    assert shapes == {"linear", "cosine", "exponential", "step", "constant"}
    assert len(found) == len(shapes) * len(budgets) * len(horizons)
    assert min(len(budgets), len(horizons)) > 1


def test_the_adaptive_sweep_has_both_signals_and_the_sequence_budget() -> None:
    specs = [spec.warmup for (spec,) in settings("adaptive").values()]
    trb = [warmup for warmup in specs if warmup.kind == "trb"]
    assert {(w.anneal.kind, getattr(w.anneal, "signal", None), w.kl_budget_mode) for w in trb} == {
        ("linear", None, "token"),
        ("linear", None, "sequence"),
        ("adaptive", "reverse_kl", "token"),
        ("adaptive", "binding_share", "token"),
    }
    assert {(w.kl_budget, w.steps) for w in trb} == {(0.1, 25)}


@pytest.mark.parametrize("pair", PAPER_PAIRS)
def test_the_papers_settings(pair: str) -> None:
    """arXiv 2605.31159, sections 4 and 5 of the method's digest."""
    name, student, teacher = PAPER_PAIRS[pair]
    spec = load_experiment(ROOT / "experiments" / f"{name}.yaml")
    assert (spec.student.name, spec.teacher.name) == (student, teacher)
    assert (spec.steps, spec.rollout.prompts_per_step, spec.rollout.samples_per_prompt) == (400, 64, 4)
    assert spec.dataset.limit == spec.steps * spec.rollout.prompts_per_step == 25_600
    assert (spec.rollout.max_prompt_tokens, spec.rollout.max_new_tokens) == (1024, 7168)
    assert (spec.optim.lr, spec.optim.lr_warmup_steps, spec.optim.betas) == (1e-5, 15, (0.9, 0.999))
    assert (spec.optim.weight_decay, spec.optim.grad_clip) == (0.01, 1.0)
    assert (spec.loss.kind, spec.loss.top_k) == ("renormalised", 16)
    assert (spec.eval.every, spec.eval.max_new_tokens, spec.grader) == (20, 8192, "math_verify")
    samples = {
        "1p7b": {"math500": 64, "olympiadbench": 64, "amc": 512, "aime24": 512, "aime25": 512},
        "0p6b": {"gsm8k": 32, "math500": 64, "olympiadbench": 64, "amc": 512},
    }
    assert {entry.name: entry.samples for entry in spec.eval.sets} == samples[pair]


def values(specs: list[ExperimentSpec], *keys: str) -> set[Any]:
    return {tuple(getattr(spec.warmup, key) for key in keys) for spec in specs}


@pytest.mark.parametrize("pair", PAPER_PAIRS)
def test_the_papers_ranges(pair: str) -> None:
    """Section 3 of the method's digest: 43 settings."""
    found = settings(f"paper_table1_{pair}")
    budgets = (0.001, 0.005, 0.01, 0.02, 0.05)
    assert values(found["trb"], "kl_budget", "steps") == {(e, k) for e in budgets for k in (15, 25, 50)}
    assert {spec.warmup.anneal.kind for spec in found["trb"]} == {"linear"}
    assert values(found["fixed_epsilon"], "kl_budget") == {(e,) for e in budgets}
    assert values(found["veto"], "b_start") == {(0.2,), (0.4,), (0.6,), (0.8,)}
    assert values(found["skd"], "top_k", "teacher_temperature") == {
        (k, t) for k in (15, 25, 50) for t in (0.2, 0.6, 1)
    }
    assert values(found["temperature"], "temperature", "steps") == {
        (t, k) for t in (0.8, 0.9, 0.95) for k in (15, 25)
    }
    assert values(found["sft"], "updates", "samples_per_prompt") == {(n, 4) for n in (15, 25, 50)}
    assert [spec.warmup.kind for spec in found["opd"]] == ["opd"]
    assert sum(map(len, found.values())) == 43
    assert all(spec.student.name == PAPER_PAIRS[pair][1] for specs in found.values() for spec in specs)


def test_both_pairs_have_the_same_arms() -> None:
    first, second = (
        yaml.safe_load((ROOT / "sweeps" / f"paper_table1_{p}.yaml").read_text()) for p in PAPER_PAIRS
    )
    assert {**first, "name": "", "question": "", "base": ""} == {
        **second,
        "name": "",
        "question": "",
        "base": "",
    }


def test_smollm2_learns_from_the_model_that_it_was_pruned_from() -> None:
    for arm in ("trb", "opd"):
        spec = load_experiment(ROOT / "experiments" / f"smollm2_{arm}.yaml")
        assert (spec.warmup.kind, spec.steps) == (arm, 20)
        assert spec.student.name == f"{spec.teacher.name}-27layers"
        command = header(ROOT / "experiments" / f"smollm2_{arm}.yaml")["Command"]
        assert "trb-lab models prune smollm2-135m --layers 27" in command


@pytest.mark.parametrize("file", REPORTS, ids=names(REPORTS))
def test_a_report_says_how_to_make_it_and_loads(file: Path) -> None:
    """Its sources name sweeps that ship, the bundled pair's among them."""
    assert file.read_text().splitlines()[0] == (
        "# yaml-language-server: $schema=../trb_lab/spec/schemas/report.schema.json"
    )
    found = header(file)
    assert tuple(found)[:3] == ("Question", "Command", "Needs")
    assert f"trb-lab report {file.relative_to(ROOT)}" in found["Command"]
    spec = load_report(file)
    assert spec.name == file.stem
    shipped = {sweep.stem for sweep in SWEEPS}
    for source in spec.sources.values():
        assert set(source.sweeps) <= shipped
        assert any(not sweep.startswith("paper_") for sweep in source.sweeps)
