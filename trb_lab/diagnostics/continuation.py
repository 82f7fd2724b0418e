"""Continuation gain of two arms, from their specs to files and a table.

The rollouts of step 0 follow from spec and seed alone, so they are made again: nothing has to have run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from trb_lab.errors import UsageError
from trb_lab.evaluate.continuation import (
    Continuer,
    FirstStep,
    Item,
    as_rows,
    continue_first_step,
    gains,
    prefix_log_probs,
    rates,
)
from trb_lab.models.load import Pair, load_pair, pick_device, pick_dtype
from trb_lab.policy.arms import ArmContext, arm_at
from trb_lab.rollout.engine import Draws, Keep
from trb_lab.rollout.torch_engine import TorchEngine
from trb_lab.spec import ExperimentSpec, load_experiment
from trb_lab.spec.warmup import OpdWarmup
from trb_lab.store.run_dir import Store
from trb_lab.tasks.grading import Grader
from trb_lab.train.data import TrainingData

from .continuation_output import write_result
from .targets import run_named, spec_of

SAME = (
    "student", "teacher", "dataset", "prompt", "seed", "dtype", "grader", "rollout.prompts_per_step",
    "rollout.samples_per_prompt", "rollout.max_prompt_tokens", "rollout.max_new_tokens",
)  # fmt: skip
"""Keys in which two arms must agree, so that their rollouts answer the same prompts with the same draws."""
CONTINUERS = ("teacher", "student")


@dataclass(frozen=True)
class ArmOf:
    """An arm under the name that it has in the tables."""

    name: str
    spec: ExperimentSpec


def continuation_gain(
    names: Sequence[str],
    store: Store,
    *,
    cuts: Sequence[int],
    prompts: int | None = None,
    samples: int = 4,
    max_new_tokens: int | None = None,
    sets: Sequence[str] = (),
    out: Path | None = None,
) -> dict[str, Any]:
    """Continue both arms' rollouts of step 0 with both models; write the files and return `continuation.json`.

    Args:
        names: one or two experiment files or runs; one alone is compared with vanilla OPD.
        cuts: tokens after which rollouts are cut.
        prompts: how many of the step's prompts; None is all.
        samples: continuations of each prefix.
        max_new_tokens: longest response, prefix included; None takes rollout.max_new_tokens.
        sets: changes to experiment files, as --set.
        out: folder of the files; None is one in the store.
    """
    arms = _arms(names, store, sets)
    spec = arms[0].spec
    limit = max_new_tokens or spec.rollout.max_new_tokens
    cuts = _checked_cuts(cuts, limit, spec.rollout.max_new_tokens)
    folder = out or store.root / "diagnostics" / f"continuation-{arms[0].name}-{arms[1].name}-s{spec.seed}"
    items, prefixes = _measure(arms, cuts, prompts, samples, limit)
    labels = (arms[0].name, arms[1].name)
    result = {
        "arms": [{"name": arm.name, "warmup": arm.spec.warmup.model_dump(mode="json")} for arm in arms],
        "student": spec.student.name,
        "teacher": spec.teacher.name,
        "seed": spec.seed,
        "cuts": list(cuts),
        "samples": samples,
        "max_new_tokens": limit,
        "prompts": len({item.problem for item in items}),
        "prefixes": prefixes,
        "rates": as_rows(rates(items, labels, CONTINUERS, cuts)),
        "gains": as_rows(gains(items, labels, CONTINUERS, cuts)),
        "folder": str(folder),
    }
    write_result(folder, result, items)
    return result


def _arms(names: Sequence[str], store: Store, sets: Sequence[str]) -> list[ArmOf]:
    """Both arms. Raises UsageError where they cannot be compared."""
    arms = [_arm(name, store, sets) for name in names]
    if len(arms) == 1:
        spec = arms[0].spec
        if isinstance(spec.warmup, OpdWarmup):
            raise UsageError(
                f"{names[0]} is vanilla OPD, which a single arm is compared with: name another arm."
            )
        arms.append(ArmOf("opd", spec.model_copy(update={"warmup": OpdWarmup()})))
    first, second = arms
    different = [key for key in SAME if _value(first.spec, key) != _value(second.spec, key)]
    if different:
        raise UsageError(
            f"{names[0]} and {names[1]} differ in {', '.join(different)}: their rollouts do not answer the same "
            "prompts. Name two arms of one seed on the same models and data; --set changes experiment files."
        )
    if first.name == second.name:
        arms = [ArmOf(f"{arm.name}-{arm.spec.warmup.kind}", arm.spec) for arm in arms]
    if arms[0].name == arms[1].name:
        raise UsageError(f"both arms are {arms[0].name}: name two different ones.")
    for arm in arms:
        if arm.spec.warmup.kind == "sft":
            raise UsageError(
                f"{arm.name}: the arm sft changes the student before step 0, so its first rollouts do not follow from "
                "the spec alone. Compare other arms."
            )
    return arms


def _arm(name: str, store: Store, sets: Sequence[str]) -> ArmOf:
    if Path(name).suffix in (".yaml", ".yml"):
        spec = load_experiment(name, sets)
        return ArmOf(spec.name, spec)
    run = run_named(name, store)
    if sets:
        raise UsageError(f"--set changes experiment files, and {name} is a run: leave it out.")
    return ArmOf(run.run_id, spec_of(run))


def _value(spec: ExperimentSpec, key: str) -> Any:
    value: Any = spec
    for part in key.split("."):
        value = getattr(value, part)
    return value


def _checked_cuts(cuts: Sequence[int], limit: int, rollout_limit: int) -> list[int]:
    chosen = sorted(set(cuts))
    most = min(limit, rollout_limit + 1) - 1
    if not chosen or chosen[0] < 1 or chosen[-1] > most:
        raise UsageError(
            f"--cuts {','.join(map(str, cuts))}: give tokens from 1 to {most} "
            f"(responses have at most {min(limit, rollout_limit)})."
        )
    return chosen


def _measure(
    arms: Sequence[ArmOf], cuts: Sequence[int], prompts: int | None, samples: int, limit: int
) -> tuple[list[Item], list[dict[str, Any]]]:
    """All continuations, and what the prefixes look like to both models."""
    spec = arms[0].spec
    resources = spec.resources
    if resources.cpu_threads is not None:
        torch.set_num_threads(resources.cpu_threads)
    device = pick_device(resources.device)
    pair = load_pair(spec.student, spec.teacher, device, pick_dtype(spec.dtype, device))
    items: list[Item] = []
    prefixes: list[dict[str, Any]] = []
    with Grader(resources.grading_workers, resources.grading_timeout_seconds, name=spec.grader) as grader:
        data = TrainingData(spec, pair, grader)
        rows = _rows(spec, prompts)
        engine = TorchEngine.of(pair, spec.resources, spec.rollout)
        steps = [_first_step(arm, data, engine, rows, max(cuts)) for arm in arms]
        engine.release()
        continuers = _continuers(pair, spec)
        for step in steps:
            items += continue_first_step(
                step,
                continuers,
                cuts,
                samples=samples,
                max_new_tokens=limit,
                seed=spec.seed,
                decode=lambda ids: pair.student.tokenizer.batch_decode(ids, skip_special_tokens=True),
                grader=grader,
            )
            prefixes += [{"arm": step.arm, "cut": cut, **prefix_log_probs(step, cut)} for cut in cuts]
    return items, prefixes


def _rows(spec: ExperimentSpec, prompts: int | None) -> int:
    step = spec.rollout.prompts_per_step
    if prompts is not None and not 1 <= prompts <= step:
        raise UsageError(f"--prompts {prompts}: a step has {step} prompts (rollout.prompts_per_step).")
    return (prompts or step) * spec.rollout.samples_per_prompt


def _continuers(pair: Pair, spec: ExperimentSpec) -> list[Continuer]:
    """Each model as the student of an engine of its own: it decodes alone."""
    swapped = Pair(pair.teacher, pair.student, pair.vocabulary)
    return [
        Continuer(
            "teacher",
            TorchEngine.of(swapped, spec.resources, spec.rollout),
            lambda rollouts: rollouts.teacher_prompts or [],
        ),
        Continuer(
            "student",
            TorchEngine.of(pair, spec.resources, spec.rollout),
            lambda rollouts: rollouts.student_prompts,
        ),
    ]


def _first_step(arm: ArmOf, data: TrainingData, engine: TorchEngine, rows: int, width: int) -> FirstStep:
    """The arm's first rows of step 0, `width` tokens of them: a row's draws do not depend on the other rows."""
    prompts = data.prompts_at(0)
    problems = prompts.problems[:rows]
    unanswered = sum(problem.answer is None for problem in problems)
    if unanswered:
        raise UsageError(
            f"dataset: {unanswered} of {len(problems)} problems of step 0 have no answer to grade continuations "
            "against. Name its answers, or take another data set with --set."
        )
    behavior = arm_at(arm.spec.warmup, ArmContext(0, data.rows, arm.spec.seed, arm.spec.steps)).behavior
    behavior = replace(behavior, row_values=behavior.row_values[:rows])
    draws = prompts.request.draws
    assert (
        draws.keep_BT is not None
        and draws.redraw_BT is not None
        and prompts.request.teacher_prompts is not None
    )
    request = replace(
        prompts.request,
        student_prompts=prompts.request.student_prompts[:rows],
        teacher_prompts=prompts.request.teacher_prompts[:rows],
        draws=Draws(*(part[:rows, :width] for part in (draws.draft_BT, draws.keep_BT, draws.redraw_BT))),
        block_tokens=arm.spec.rollout.block_tokens,
    )
    rollouts = engine.rollout(request, behavior, Keep())
    if rollouts.teacher_logprob_BT is None:
        engine.score(rollouts, Keep())
    return FirstStep(arm.name, rollouts, problems)
