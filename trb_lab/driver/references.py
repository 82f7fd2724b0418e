"""Evaluations of models as they are: the teacher and the untrained student that a sweep is measured against."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from trb_lab.driver.action import Action, decide
from trb_lab.launch.base import JobStatus
from trb_lab.spec import ExperimentSpec
from trb_lab.spec.experiment import ModelSpec
from trb_lab.store.identity import canonical_json
from trb_lab.store.run_dir import RunDir, Store, read_json, write_json
from trb_lab.trial import CONFIG_FORMAT, model_fingerprint, set_fingerprint


@dataclass(frozen=True)
class Reference:
    """The evaluation of a model as it is, once for all trials that share it."""

    run_dir: RunDir
    role: str
    config: dict[str, Any]
    spec: ExperimentSpec
    action: Action
    error_class: str | None = None

    @property
    def model(self) -> str:
        return str(self.config["model"]["name"])

    @property
    def eval_sets(self) -> dict[str, str]:
        """Name -> fingerprint of every set that the result must hold."""
        return {s.name: set_fingerprint(s) for s in self.spec.eval.sets}

    def prepare(self) -> None:
        if read_json(self.run_dir.config) != self.config:
            write_json(self.run_dir.config, self.config)


def plan_references(
    specs: Iterable[ExperimentSpec], store: Store, retry: Collection[str], places: Mapping[str, JobStatus]
) -> dict[str, Reference]:
    """Teacher and untrained student of every distinct pair of models and evaluation settings."""
    found: dict[str, Reference] = {}
    seen: set[str] = set()
    for spec in specs:
        shared = canonical_json(_reference_settings(spec))
        if not spec.eval.sets or shared in seen:
            continue
        seen.add(shared)
        for role in ("teacher", "student"):
            config = reference_config(spec, role)
            run_dir = store.reference(config["run_id"])
            sets = {s.name: set_fingerprint(s) for s in spec.eval.sets}
            found.setdefault(
                run_dir.run_id,
                Reference(run_dir, role, config, spec, *decide(run_dir, sets, retry, places)),
            )
    return found


def _reference_settings(spec: ExperimentSpec) -> dict[str, Any]:
    """What of a spec an evaluation of its untrained models depends on, and the resources."""
    whole = spec.model_dump(mode="json")
    keys = ("student", "teacher", "prompt", "eval", "rollout", "dtype", "grader", "resources")
    return {key: whole[key] for key in keys}


def reference_config(spec: ExperimentSpec, role: str) -> dict[str, Any]:
    """config.json of a reference. Its id hashes what the evaluation depends on, models by content."""
    settings = _reference_settings(spec)
    model, partner = (spec.teacher, spec.student) if role == "teacher" else (spec.student, spec.teacher)
    evaluation = {key: value for key, value in settings["eval"].items() if key not in ("every", "sets")}
    if evaluation["at_k"] is None:  # as before there was a choice
        del evaluation["at_k"]
    identity = {
        "model": _model_identity(model),
        "partner": _model_identity(partner),
        "prompt": settings["prompt"],
        "eval": evaluation,
        "sets": [[s.name, set_fingerprint(s)] for s in spec.eval.sets],
        "max_prompt_tokens": spec.rollout.max_prompt_tokens,
        "max_new_tokens": spec.eval.max_new_tokens or spec.rollout.max_new_tokens,
        "dtype": spec.dtype,
        **({} if spec.grader == "math_verify" else {"grader": spec.grader}),
    }
    digest = hashlib.sha256(canonical_json(identity).encode()).hexdigest()
    return {
        "run_id": f"{role}-{digest[:10]}",
        "role": role,
        "format": CONFIG_FORMAT,
        "model": model.model_dump(mode="json"),
        "partner": partner.model_dump(mode="json"),
        "prompt": settings["prompt"],
        "eval": settings["eval"],
        "rollout": settings["rollout"],
        "dtype": spec.dtype,
        "grader": spec.grader,
        "resources": settings["resources"],
        "identity": identity,
    }


def _model_identity(model: ModelSpec) -> dict[str, Any]:
    return {"content": model_fingerprint(model), "template": model.template, "thinking": model.thinking}
