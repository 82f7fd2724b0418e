"""Identity of a trial: a hash of what changes its result, and of nothing else.

Two specs with the same identity are the same trial and share a run directory, whatever they are called,
wherever their models lie and however many threads they get. Model and data enter by content. The hash is
taken of the validated model's canonical JSON, never of the YAML, so that `1e-2` and `0.01` agree, and in a
float field `1` and `1.0`.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from trb_lab.spec import ExperimentSpec

IDENTITY_VERSION = 2
"""Raised when the same spec comes to mean another result; every trial is then new."""

EXCLUDED = (
    "name",  # what people call it
    "resources",  # where and how large; none of it is meant to change the result
    "checkpoint",  # how often state is saved; resume is exact
    "alarms",  # whether a lost run goes on
    "eval.at_k",  # what is computed of the same samples
    "rollout.block_tokens",  # how fast; tokens are the same up to rounding
    "eval.sets",  # sets may be added to a finished run; training does not see them
    "student.name",  # content hash instead
    "student.revision",
    "teacher.name",
    "teacher.revision",
    "dataset.path",  # JSONL: content hash instead
)
"""Dotted keys that are left out."""

OMITTED_AT_VALUE: dict[str, Any] = {
    "rollout.batch_invariant": False,
    "grader": "math_verify",
    "warmup.kl_budget_mode": "token",
    "dataset.answer_after": None,
    "dataset.where": {},
    "dataset.unique": False,
    "dataset.shuffle_seed": None,
    "dataset.unreadable_answers": "refuse",
}
"""Dotted key -> value at which a field is left out.

A field that is added to the spec later enters here with the value that keeps the old behaviour, so that the
runs made before it keep their identity.
"""

CONTENT_ROLES = ("student", "teacher", "dataset")


def _drop(tree: dict[str, Any], dotted: str) -> None:
    *parents, leaf = dotted.split(".")
    for key in parents:
        child = tree.get(key)
        if not isinstance(child, dict):
            return
        tree = child
    tree.pop(leaf, None)


def _without_negative_zero(value: Any) -> Any:
    """-0.0 and 0.0 are the same setting and differ in repr."""
    if isinstance(value, dict):
        return {key: _without_negative_zero(v) for key, v in value.items()}
    if isinstance(value, list):
        return [_without_negative_zero(v) for v in value]
    return value + 0.0 if isinstance(value, float) else value


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as dotted keys; lists and empty mappings are leaves."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def identity(spec: ExperimentSpec, contents: dict[str, str]) -> dict[str, Any]:
    """What is hashed: `{"version", "contents", "spec": the spec less EXCLUDED}`.

    `contents` holds a fingerprint of each of CONTENT_ROLES: the models' files and the data.
    """
    missing = [role for role in CONTENT_ROLES if role not in contents]
    if missing:
        raise ValueError(f"identity needs a content fingerprint of {missing}")
    tree = _without_negative_zero(spec.model_dump(mode="json"))
    flat = flatten(tree)
    for dotted in EXCLUDED:
        _drop(tree, dotted)
    dataset = tree["dataset"]
    if dataset["kind"] == "hub" and Path(dataset["id"]).expanduser().is_dir():
        _drop(tree, "dataset.id")  # a local folder in the hub's layout: content hash instead
    for dotted, value in OMITTED_AT_VALUE.items():
        if dotted in flat and flat[dotted] == value:
            _drop(tree, dotted)
    return {
        "version": IDENTITY_VERSION,
        "contents": {role: contents[role] for role in CONTENT_ROLES},
        "spec": tree,
    }


def canonical_json(payload: Any) -> str:
    """Sorted keys, no spaces, floats by repr; NaN and infinity are refused."""
    return json.dumps(payload, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=True)


def run_id(spec: ExperimentSpec, payload: dict[str, Any]) -> str:
    """`<warmup kind>-s<seed>-<10 hex digits of the identity>`."""
    digest = hashlib.sha256(canonical_json(payload).encode()).hexdigest()
    return f"{spec.warmup.kind}-s{spec.seed}-{digest[:10]}"


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Lines `dotted.key: old -> new` for every field in which two identities differ."""
    a, b = flatten(old), flatten(new)
    absent = "(absent)"

    def short(flat: dict[str, Any], key: str) -> str:
        text = json.dumps(flat[key]) if key in flat else absent
        return text if len(text) <= 60 else text[:57] + "..."

    keys = sorted(key for key in a.keys() | b.keys() if a.get(key, absent) != b.get(key, absent))
    return [f"{key.removeprefix('spec.')}: {short(a, key)} -> {short(b, key)}" for key in keys]
