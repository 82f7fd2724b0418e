"""Score a checkpoint, a model, or a sweep's reference models."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from trb_lab.errors import UsageError, did_you_mean
from trb_lab.evaluate.suite import Suite, mean_score
from trb_lab.models.load import load_pair, pick_device, pick_dtype
from trb_lab.rollout.torch_engine import TorchEngine
from trb_lab.spec import ExperimentSpec
from trb_lab.spec.dataset import EvalSet, EvalSetField
from trb_lab.spec.experiment import EvalSpec, ModelSpec, PromptSpec, ResourcesSpec, RolloutSpec
from trb_lab.spec.named_sets import evaluation_forms
from trb_lab.store.run_dir import RunDir, Store, read_json
from trb_lab.store.status import attempt_count
from trb_lab.tasks.graders import MATH_VERIFY
from trb_lab.tasks.grading import Grader
from trb_lab.train import checkpoint
from trb_lab.trial import set_fingerprint
from trb_lab.worker import StopFlag, attempt_at, write_result

DEFAULT_SETS = ("arith/easy", "arith/medium", "arith/hard")


def evaluate_model(
    model: ModelSpec,
    partner: ModelSpec,
    sets: Sequence[EvalSet],
    *,
    evaluation: EvalSpec,
    prompt: PromptSpec,
    rollout: RolloutSpec,
    resources: ResourcesSpec,
    dtype: Any = "auto",
    seed: int = 0,
    weights: dict[str, Any] | None = None,
    grader: str = MATH_VERIFY,
    items_in: RunDir | None = None,
    stop: StopFlag | None = None,
    fence: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Scores of `model` on the sets, as `final` of result.json. The partner shares its vocabulary and stop event.

    The item scores go to the run directory `items_in`, as those of an untrained model.
    """
    import torch

    if resources.cpu_threads is not None:
        torch.set_num_threads(resources.cpu_threads)
    device = pick_device(resources.device)
    pair = load_pair(model, partner, device, pick_dtype(dtype, device), weights)
    engine = TorchEngine.of(pair, resources, rollout)
    with Grader(resources.grading_workers, resources.grading_timeout_seconds, name=grader) as judge:
        suite = Suite(
            sets,
            evaluation,
            prompt,
            pair.student,
            engine,
            judge,
            seed=seed,
            max_prompt_tokens=rollout.max_prompt_tokens,
            max_new_tokens=evaluation.max_new_tokens or rollout.max_new_tokens,
        )
        scores = suite.evaluate(run_dir=items_in, stop=stop, fence=fence)
    return {"mean_pass_at_1": mean_score(scores), "sets": scores}


def evaluate_reference(run_dir: RunDir) -> dict[str, Any]:
    """Evaluate the untrained model of a reference directory, once; returns the content of result.json."""
    config = read_json(run_dir.config)
    if config is None:
        raise UsageError(f"{run_dir.path} has no config.json: it is not a run directory.")
    existing = read_json(run_dir.result)
    if existing is not None:
        return existing
    with attempt_at(run_dir) as attempt:
        started = time.time()
        evaluation = EvalSpec.model_validate(config["eval"])
        final = evaluate_model(
            ModelSpec.model_validate(config["model"]),
            ModelSpec.model_validate(config["partner"]),
            evaluation.sets,
            evaluation=evaluation,
            prompt=PromptSpec.model_validate(config["prompt"]),
            rollout=RolloutSpec.model_validate(config["rollout"]),
            resources=ResourcesSpec.model_validate(config.get("resources", {})),
            dtype=config["dtype"],
            grader=config.get("grader", MATH_VERIFY),
            items_in=run_dir,
            stop=attempt.stop,
            fence=attempt.fence,
        )
        for eval_set in evaluation.sets:
            final["sets"][eval_set.name]["fingerprint"] = set_fingerprint(eval_set)
        result = {
            "run_id": config["run_id"],
            "role": config["role"],
            "state": "completed",
            "steps": 0,
            "final": final,
            "seconds_total": time.time() - started,
            "attempts": attempt_count(run_dir),
            "finished": time.time(),
        }
        write_result(run_dir, result, attempt.fence)
    return result


def evaluate_target(
    target: str,
    store: Store,
    *,
    sets: Sequence[str] = (),
    samples: int | None = None,
    at_k: Sequence[int] = (),
    seed: int = 0,
    max_new_tokens: int | None = None,
) -> dict[str, Any]:
    """Score a run's newest checkpoint, or a model by name, folder or hub id.

    Args:
        target: run id (or a prefix of one), run directory, or model.
        sets: short forms such as arith/hard; none takes the run's own sets, or the bundled test sets.
        samples: samples a problem, of every set; None takes the run's settings, or 4.
        at_k: k of pass@k, mean@k and maj@k; none takes the run's, or the number of samples.
        seed: a run's own training seed gives the draws of its final evaluation.
    """
    run_dir = _find_run(target, store)
    if run_dir is None:
        chosen = parse_sets(sets or DEFAULT_SETS)
        model = _model_or_error(target, store)
        chosen, evaluation = _changed(chosen, EvalSpec(samples=4), samples, at_k, max_new_tokens)
        final = evaluate_model(
            model, model, chosen, evaluation=evaluation, prompt=PromptSpec(),
            rollout=RolloutSpec(max_new_tokens=max_new_tokens or 128), resources=ResourcesSpec(), seed=seed,
        )  # fmt: skip
        return {"target": target, "kind": "model", "seed": seed, **final}
    spec = ExperimentSpec.model_validate(read_json(run_dir.config)["spec"])
    saved = checkpoint.newest(run_dir)
    if saved is None:
        raise UsageError(f"{run_dir.path} has no checkpoint yet: let it run to its first one.")
    chosen = parse_sets(sets) if sets else spec.eval.sets
    if not chosen:
        raise UsageError(
            f"{run_dir.run_id} names no evaluation sets: give --sets, for example --sets arith/hard."
        )
    chosen, evaluation = _changed(chosen, spec.eval, samples, at_k, max_new_tokens)
    final = evaluate_model(
        spec.student, spec.teacher, chosen, evaluation=evaluation, prompt=spec.prompt,
        rollout=spec.rollout, resources=spec.resources, dtype=spec.dtype, seed=seed,
        weights=checkpoint.load_student(saved), grader=spec.grader,
    )  # fmt: skip
    return {"target": run_dir.run_id, "kind": "run", "updates": saved.step, "seed": seed, **final}


def _changed(
    sets: list[EvalSet], spec: EvalSpec, samples: int | None, at_k: Sequence[int], max_new_tokens: int | None
) -> tuple[list[EvalSet], EvalSpec]:
    """Sets and settings with what was asked for on top. Raises UsageError for a k that needs more samples."""
    if samples is not None:
        sets = [entry.model_copy(update={"samples": samples}) for entry in sets]
    fewest = min(entry.samples or spec.samples for entry in sets)
    largest = max(at_k, default=1)
    if largest > fewest:
        raise UsageError(
            f"--at-k {largest} needs as many samples of each problem, and there are {fewest}: "
            f"add --samples {largest}."
        )
    ks = list(at_k) or (spec.at_k and [k for k in spec.at_k if k <= fewest])
    return sets, spec.model_copy(
        update={
            "samples": samples or spec.samples,
            "at_k": ks,
            "max_new_tokens": max_new_tokens or spec.max_new_tokens,
        }
    )


def parse_sets(names: Sequence[str]) -> list[EvalSet]:
    """Evaluation sets from short forms. Raises UsageError for one that is not known."""
    adapter: TypeAdapter[EvalSet] = TypeAdapter(EvalSetField)
    found = []
    for name in names:
        try:
            found.append(adapter.validate_python(name))
        except ValueError:
            raise UsageError(
                f"evaluation set '{name}' is not known; short forms are {', '.join(evaluation_forms.names)}."
                f"{did_you_mean(name, evaluation_forms.names)}"
            ) from None
    return found


def _find_run(target: str, store: Store) -> RunDir | None:
    folder = Path(target).expanduser()
    if (folder / "config.json").exists() and (read_json(folder / "config.json") or {}).get("run_id"):
        return RunDir(folder.absolute())
    matches = [run for run in store.trials() if run.run_id == target] or [
        run for run in store.trials() if run.run_id.startswith(target)
    ]
    if len(matches) > 1:
        raise UsageError(
            f"'{target}' fits {len(matches)} runs: {', '.join(m.run_id for m in matches[:5])} ..."
        )
    return matches[0] if matches else None


def _model_or_error(target: str, store: Store) -> ModelSpec:
    from trb_lab.models.catalog import resolve

    model = ModelSpec(name=target)
    try:
        resolve(model)
    except UsageError as error:
        hint = did_you_mean(target, [run.run_id for run in store.trials()])
        raise UsageError(f"'{target}' is neither a run of {store.root} nor a model: {error}{hint}") from None
    return model
