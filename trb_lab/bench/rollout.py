"""Committed tokens a second of vanilla and TRB rollouts: the bundled pair, or random pairs at real shapes."""

from __future__ import annotations

from dataclasses import asdict

from . import rollout_bundled, rollout_random
from .ceilings import measure_ceilings
from .measure import hardware
from .options import BUNDLED, Options, defaults
from .setting import asked_pair, load, refuse_context
from .table import Result

REMARK = (
    "Prefill is part of every figure unless it says otherwise. A floor is the larger of bytes over bandwidth and "
    "operations over rate."
)


def run(options: Options | None = None) -> Result:
    """Contestants in turns on the same prompts; then passes against their floors, and the cost model."""
    options = options or Options()
    name = asked_pair(options)
    usual = defaults(name)
    if name == BUNDLED:
        refuse_context(options)
    pair = load(name)
    found = hardware(pair.student.device)
    ceilings = measure_ceilings(pair.student.device, pair.student.dtype)
    rows, new_tokens = options.rows or usual.rows, options.new_tokens or usual.new_tokens
    eps, repeats = options.eps or usual.eps, options.repeats or usual.repeats
    if name == BUNDLED:
        tables = rollout_bundled.tables(pair, rows, new_tokens, eps, repeats, ceilings)
        remarks: tuple[str, ...] = (f"pair: {name}; responses end by themselves or at {new_tokens} tokens",)
    else:
        tables, remarks = [], (f"pair: {name}", *rollout_random.remarks(pair))
        for context in options.context or usual.context:
            tables += rollout_random.tables(pair, rows, new_tokens, context, eps, repeats, ceilings)
    described = {**asdict(found), "ceilings": asdict(ceilings), "pair": name}
    line = f"{found.line()}\n{ceilings.line()}"
    return Result("rollout", described, line, tables, (*remarks, REMARK))
