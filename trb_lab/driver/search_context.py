"""What the trials of a search have in common, and which finished trials of the store are settings of it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

from trb_lab.spec.search_arm import SearchArm, at_key
from trb_lab.store.identity import canonical_json, flatten
from trb_lab.store.run_dir import RunDir, Store, read_json
from trb_lab.trial import plan_trial, set_fingerprint

_WIDTH = 16


def searched_blocks(arm: SearchArm) -> tuple[str, ...]:
    """Dotted keys that vary; a `kind` takes its whole block along, which has other fields with each kind."""
    return tuple(sorted({key.removesuffix(".kind") for key in arm.spec.space}))


def context_of(arm: SearchArm) -> str:
    """A hash of what the arm's trials share. Another base, model or data set gives another one."""
    blocks = searched_blocks(arm)
    written = {block: _less(at_key(arm.written, block), block, arm) for block in blocks}
    sets = sorted(set_fingerprint(s) for s in arm.example.eval.sets)  # no part of a trial, but of its score
    payload = [_shared(plan_trial(arm.example).identity, blocks), written, sets]
    return hashlib.sha256(canonical_json(payload).encode()).hexdigest()[:_WIDTH]


def _shared(identity: Mapping[str, Any], blocks: Iterable[str]) -> dict[str, Any]:
    """An identity without what varies: the searched blocks and the seed."""
    varying = [f"spec.{block}" for block in blocks] + ["spec.seed"]
    flat = flatten(dict(identity))
    return {k: v for k, v in flat.items() if not any(k == b or k.startswith(f"{b}.") for b in varying)}


def _less(value: Any, block: str, arm: SearchArm) -> Any:
    """What is written at a searched block besides what is searched."""
    if not isinstance(value, Mapping):
        return None  # a value that the search replaces
    return {
        key: _less(inner, f"{block}.{key}", arm) if isinstance(inner, Mapping) else inner
        for key, inner in value.items()
        if f"{block}.{key}" not in arm.spec.space
    }


def known_settings(arm: SearchArm, store: Store) -> list[dict[str, Any]]:
    """Settings of the search that finished trials of the store have tried with every starting seed.

    In the order in which they finished. A trial belongs here when the search, asked for its parameters and seed,
    would plan the very same trial.
    """
    blocks = searched_blocks(arm)
    shared = _shared(plan_trial(arm.example).identity, blocks)
    wanted = set(arm.starting_seeds)
    found: dict[str, tuple[float, dict[str, Any], set[int]]] = {}
    for run in store.trials():
        if not run.result.exists():
            continue
        config = read_json(run.config) or {}
        spec = config.get("spec") or {}
        if spec.get("seed") not in wanted or _shared(config.get("identity") or {}, blocks) != shared:
            continue
        params = arm.params_of(spec)
        if params is None or plan_trial(arm.draft(0, params, spec["seed"]).spec).run_id != run.run_id:
            continue
        _, _, seeds = found.setdefault(canonical_json(params), (_finished(run), params, set()))
        seeds.add(spec["seed"])
    return [params for _, params, seeds in sorted(found.values(), key=lambda f: f[0]) if seeds == wanted]


def _finished(run: RunDir) -> float:
    return float((read_json(run.result) or {}).get("finished") or 0.0)
