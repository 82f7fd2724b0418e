"""The worker: one experiment in one run directory, from its config.json to its result.json."""

from __future__ import annotations

import os
import time
from typing import Any

import torch

from trb_lab.errors import LabError
from trb_lab.evaluate.suite import Suite, as_metrics, mean_score
from trb_lab.models.load import LanguageModel, Pair, load_pair, load_weights, pick_device, pick_dtype
from trb_lab.models.vocabulary import check_support
from trb_lab.rollout.blocks import BlockChooser
from trb_lab.rollout.torch_engine import DEFAULT_BLOCK, TorchEngine
from trb_lab.spec import ExperimentSpec
from trb_lab.spec.dataset import EvalSet
from trb_lab.store.identity import differences
from trb_lab.store.items import rename_set
from trb_lab.store.metrics import read_metrics
from trb_lab.store.provenance import collect
from trb_lab.store.run_dir import RunDir, read_json, write_json
from trb_lab.store.status import attempt_count, missing_sets
from trb_lab.tasks.grading import Grader
from trb_lab.train import checkpoint
from trb_lab.train.data import TrainingData
from trb_lab.train.ledger import run_cost, run_seconds
from trb_lab.train.progress import ProgressLine
from trb_lab.train.trainer import Trainer
from trb_lab.trial import plan_trial, set_fingerprint
from trb_lab.worker import StopFlag, attempt_at, lease_of, write_result


def run_experiment(run_dir: RunDir) -> dict[str, Any]:
    """Train, resume, or evaluate what is missing; returns the content of result.json.

    A completed run is left as it is, but for evaluation sets that its spec names and its result lacks: those are
    evaluated from the final checkpoint.
    """
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise LabError(
            f"This is one of WORLD_SIZE={os.environ['WORLD_SIZE']} processes, and the trainer uses one a trial. "
            "Start it without torchrun; in a cluster profile set nodes and tasks_per_node to 1."
        )
    config = read_json(run_dir.config)
    if config is None:
        raise LabError(f"{run_dir.path} has no config.json: it is not a run directory.")
    spec = ExperimentSpec.model_validate(config["spec"])
    result = read_json(run_dir.result)
    if result is not None:
        return _add_missing_sets(run_dir, spec, result)
    with attempt_at(run_dir) as attempt:
        started = time.time()
        _refuse_changed(config, spec)
        saved = checkpoint.newest(run_dir)
        with attempt.stop.interruptible():
            pair = _load(spec, saved)
        attempt.fence()
        collect(run_dir, spec, attempt.number, device=pair.student.device)
        with _grader(spec) as grader:
            engine = TorchEngine.of(pair, spec.resources, spec.rollout)
            suite = _suite(spec, spec.eval.sets, pair.student, engine, grader)
            trainer = Trainer(
                spec=spec,
                run_dir=run_dir,
                attempt=attempt,
                pair=pair,
                data=TrainingData(spec, pair, grader),
                engine=engine,
                grader=grader,
                evaluate=lambda step: as_metrics(
                    suite.evaluate(step, run_dir=run_dir, stop=attempt.stop, fence=attempt.fence)
                ),
                reporter=_progress(spec, saved),
                blocks=BlockChooser(_fixed_block(spec)),
            )
            trainer.run()
        result = _result(run_dir, spec, suite, trainer, started)
        write_result(run_dir, result, attempt.fence)
    return _add_missing_sets(run_dir, spec, result)


def _refuse_changed(config: dict[str, Any], spec: ExperimentSpec) -> None:
    """The spec, models and data of an unfinished run must still be those of its run id."""
    changed = differences(config["identity"], plan_trial(spec).identity)
    if changed:
        raise LabError(
            f"run {config['run_id']} is not what it was planned as; changed since:\n  "
            + "\n  ".join(changed)
            + "\nPut the old files and config.json back to go on, or start the new settings as a run of their own."
        )


def _load(spec: ExperimentSpec, saved: checkpoint.SavedState | None) -> Pair:
    device = pick_device(spec.resources.device)
    threads = spec.resources.cpu_threads or (saved.cpu_threads if saved else None)
    if threads is not None:
        torch.set_num_threads(threads)
    pair = load_pair(spec.student, spec.teacher, device, pick_dtype(spec.dtype, device))
    check_support(spec.loss, pair.vocabulary, spec.warmup)
    return pair


def _fixed_block(spec: ExperimentSpec) -> int | None:
    """The spec's block length. An adaptive one follows the redraws of all rows, which batch invariance rules out."""
    return spec.rollout.block_tokens or (DEFAULT_BLOCK if spec.rollout.batch_invariant else None)


def _progress(spec: ExperimentSpec, saved: checkpoint.SavedState | None) -> ProgressLine:
    return ProgressLine(spec.steps, saved.step, saved.sft_updates or 0) if saved else ProgressLine(spec.steps)


def _grader(spec: ExperimentSpec) -> Grader:
    resources = spec.resources
    return Grader(resources.grading_workers, resources.grading_timeout_seconds, name=spec.grader)


def _suite(
    spec: ExperimentSpec, sets: list[EvalSet], model: LanguageModel, engine: TorchEngine, grader: Grader
) -> Suite:
    return Suite(
        sets,
        spec.eval,
        spec.prompt,
        model,
        engine,
        grader,
        seed=spec.seed,
        max_prompt_tokens=spec.rollout.max_prompt_tokens,
        max_new_tokens=spec.eval.max_new_tokens or spec.rollout.max_new_tokens,
    )


def _final_sets(run_dir: RunDir, spec: ExperimentSpec, suite: Suite) -> dict[str, dict[str, Any]]:
    """Scores of the last step's line, as result.json lists them.

    Sets that were added after that line was written are not in it.
    """
    last = read_metrics(run_dir.metrics)[-1]
    prints = {s.name: set_fingerprint(s) for s in spec.eval.sets}
    sets: dict[str, dict[str, Any]] = {}
    for loaded in suite.sets:
        prefix = f"eval/{loaded.name}/"
        entry = {key.removeprefix(prefix): value for key, value in last.items() if key.startswith(prefix)}
        if not entry:
            continue
        sets[loaded.name] = {**entry, "fingerprint": prints[loaded.name], **loaded.counts()}
    return sets


def _result(
    run_dir: RunDir, spec: ExperimentSpec, suite: Suite, trainer: Trainer, started: float
) -> dict[str, Any]:
    sets = _final_sets(run_dir, spec, suite)
    return {
        "run_id": read_json(run_dir.config)["run_id"],
        "state": "completed",
        "steps": spec.steps,
        "final": {"mean_pass_at_1": mean_score(sets), "sets": sets},
        "tokens": trainer.tokens,
        "cost": run_cost(run_dir, trainer.gpus),
        "prompts_dropped": trainer.data.num_dropped,
        "seconds_total": run_seconds(run_dir),
        "seconds_last_attempt": time.time() - started,
        "attempts": attempt_count(run_dir),
        "finished": time.time(),
    }


def _add_missing_sets(run_dir: RunDir, spec: ExperimentSpec, result: dict[str, Any]) -> dict[str, Any]:
    prints = {s.name: set_fingerprint(s) for s in spec.eval.sets}
    names = missing_sets(result, prints)
    if not names:
        return result
    with lease_of(run_dir) as lease, StopFlag().installed() as stop:
        result = read_json(run_dir.result)  # somebody else may have added sets before the lock was ours
        names = missing_sets(result, prints)
        if not names:
            return result
        missing = [s for s in spec.eval.sets if s.name in names]
        saved = checkpoint.newest(run_dir)
        if saved is None:
            raise LabError(f"{run_dir.path} has no checkpoint left to evaluate {', '.join(names)} from.")
        pair = _load(spec, saved)
        load_weights(pair.student.network, checkpoint.load_student(saved))
        with _grader(spec) as grader:
            suite = _suite(
                spec, missing, pair.student, TorchEngine.of(pair, spec.resources, spec.rollout), grader
            )
            sets = dict(result["final"]["sets"])
            for name in names:
                old = sets.get(name)
                if old is not None:  # another sweep's set of that name: its scores stay, under a longer one
                    lease.check()
                    longer = f"{name}@{old.get('fingerprint')}"
                    sets[longer] = old
                    rename_set(run_dir, name, longer)
            scores = suite.evaluate(saved.step - 1, run_dir=run_dir, stop=stop, fence=lease.check)
        for name, entry in scores.items():
            sets[name] = {**entry, "fingerprint": prints[name]}
        mean = mean_score({name: entry for name, entry in sets.items() if name in prints})
        result = {**result, "final": {"mean_pass_at_1": mean, "sets": sets}, "finished": time.time()}
        lease.check()
        write_json(run_dir.result, result)
    return result
