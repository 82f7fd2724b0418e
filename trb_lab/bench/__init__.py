"""Benchmarks behind `trb-lab bench`: one part of the lab against a plain implementation, on this machine."""

from __future__ import annotations

import importlib
import json
from typing import NamedTuple

from trb_lab.errors import UsageError, did_you_mean

from .options import Options


class Bench(NamedTuple):
    what: str
    options: tuple[str, ...]
    """Fields of `Options` that it takes."""


BENCHES = {
    "solver": Bench("the trust-region solvers against 24 steps of bisection", ("eps", "repeats")),
    "rollout": Bench(
        "tokens a second of vanilla and TRB rollouts: against transformers.generate, lock-step and scoring",
        ("pair", "rows", "context", "new_tokens", "eps", "repeats"),
    ),
    "step": Bench(
        "seconds of one training step, vanilla and TRB warmup, by phase",
        ("pair", "rows", "context", "new_tokens", "eps", "repeats"),
    ),
    "loss-memory": Bench(
        "memory of the objective beyond its inputs, by chunk length", ("pair", "rows", "context")
    ),
    "search": Bench(
        "seconds to take up a search of 100 to 10,000 settings, and to ask for the next one", ("repeats",)
    ),
    "report": Bench(
        "seconds and memory of a sweep's report, by phase, against only reading its files",
        ("runs", "repeats"),
    ),
    "mirror": Bench(
        "values a second into a fresh MLflow database, against a bare loop of log_batch; kill and resume",
        ("runs",),
    ),
}
"""Name -> what it measures and takes. Each is the module of that name, with `run(options) -> Result`."""


def run_bench(name: str | None, options: Options | None = None, *, as_json: bool = False) -> None:
    """Run one benchmark and print its tables (or JSON); without a name, list them.

    Raises:
        UsageError: there is no benchmark of that name, or it does not take an option as given.
    """
    options = options or Options()
    if name is None:
        if options.given():
            raise UsageError(f"options without a benchmark: name one of {', '.join(BENCHES)}")
        listed = {known: bench.what for known, bench in BENCHES.items()}
        print(json.dumps(listed, indent=2) if as_json else _listing(listed))
        return
    if name not in BENCHES:
        raise UsageError(
            f"no benchmark '{name}'.{did_you_mean(name, BENCHES)} There are: {', '.join(BENCHES)}"
        )
    options.check(name, BENCHES[name].options)
    result = importlib.import_module(f"{__name__}.{name.replace('-', '_')}").run(options)
    if as_json:
        print(json.dumps(result.as_dict(), indent=2, allow_nan=False))
    else:
        print(result.as_text())


def _listing(listed: dict[str, str]) -> str:
    width = max(map(len, listed))
    return "\n".join(f"{name:<{width}}  {what}" for name, what in listed.items())
