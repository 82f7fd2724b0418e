"""Benchmarks behind `trb-lab bench`: one part of the lab against a plain implementation, on this machine."""

from __future__ import annotations

import importlib
import json

from trb_lab.errors import UsageError, did_you_mean

BENCHES = {
    "solver": "the trust-region solver against 24 steps of bisection",
    "rollout": "tokens a second of vanilla and TRB rollouts against transformers.generate",
    "step": "seconds of one training step, vanilla and TRB warmup, by phase",
}
"""Name -> what it measures. Each is the module of that name, with `run() -> Result`."""


def run_bench(name: str | None, *, as_json: bool = False) -> None:
    """Run one benchmark and print its tables (or JSON); without a name, list them.

    Raises:
        UsageError: there is no benchmark of that name.
    """
    if name is None:
        print(json.dumps(BENCHES, indent=2) if as_json else _listing())
        return
    if name not in BENCHES:
        raise UsageError(
            f"no benchmark '{name}'.{did_you_mean(name, BENCHES)} There are: {', '.join(BENCHES)}"
        )
    result = importlib.import_module(f"{__name__}.{name}").run()
    if as_json:
        print(json.dumps(result.as_dict(), indent=2, allow_nan=False))
    else:
        print(result.as_text())


def _listing() -> str:
    width = max(map(len, BENCHES))
    return "\n".join(f"{name:<{width}}  {what}" for name, what in BENCHES.items())
