"""The cost table of a run: measured once, then read from its directory for ever, so that a resume repeats itself.

Runs of one user and machine share a measurement of the same models, run in the same way, through the cache folder
($TRB_LAB_CACHE, else ~/.cache/trb_lab): so two runs of one spec on one machine are alike to the last bit.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from trb_lab import __version__
from trb_lab.cache import cache_dir
from trb_lab.policy.behaviors import StepBehavior
from trb_lab.rollout.blocks import CostTable
from trb_lab.rollout.engine import Keep, RolloutEngine, RolloutRequest
from trb_lab.spec import ExperimentSpec
from trb_lab.store.run_dir import RunDir, read_json, write_json


def frozen_costs(
    run_dir: RunDir,
    spec: ExperimentSpec,
    engine: RolloutEngine,
    request: RolloutRequest,
    behavior: StepBehavior,
    keep: Keep,
    fence: Callable[[], None],
) -> CostTable:
    """The run's own table, else the machine's, else a new measurement, which then becomes both."""
    own = read_json(run_dir.rollout_costs)
    if own is not None:
        return CostTable.from_json(own)
    shared = cache_dir() / "costs" / f"{_key(run_dir, spec)}.json"
    value = read_json(shared)
    if value is None:
        value = _first(shared, engine.costs(request, behavior, keep).as_json())
    fence()
    write_json(run_dir.rollout_costs, value)
    return CostTable.from_json(value)


def _key(run_dir: RunDir, spec: ExperimentSpec) -> str:
    """What a measurement holds for: hardware, models, batch and arm."""
    cuda = torch.cuda.is_available() and spec.resources.device != "cpu"
    parts = {
        "device": torch.cuda.get_device_name() if cuda else "cpu",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "lab": __version__,
        "contents": read_json(run_dir.config)["identity"]["contents"],
        "rollout": spec.rollout.model_dump(mode="json"),
        "rows": spec.resources.rollout_rows,
        "loss": spec.loss.kind,
        "warmup": spec.warmup.kind,
        "dtype": spec.dtype,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:8]


def _first(path: Path, value: dict[str, Any]) -> dict[str, Any]:
    """Store the value unless somebody was faster; what is stored then."""
    mine = path.with_name(f"{path.stem}.{os.getpid()}.json")
    try:
        write_json(mine, value)
        os.link(mine, path)
    except FileExistsError:
        return read_json(path)  # type: ignore[no-any-return]
    except OSError:
        return value  # a home that cannot be written: the run keeps its own copy all the same
    finally:
        mine.unlink(missing_ok=True)
    return value
