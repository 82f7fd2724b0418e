"""The cost table that block lengths are chosen by, and what it predicts for rollouts that were measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from trb_lab.rollout.blocks import CostTable, committed_tokens

from .measure import Figures, column, middle, row
from .table import Row, Table

EXPLANATION = (
    "predicted: measured prefill + draft passes x seconds of a draft pass + rounds x seconds of a verification, for a "
    "full batch.",
    "mean rows: of a pass. rounds of a row: what the redraw rate predicts for the mean row; where more were needed, "
    "the slowest row decided.",
    "Drafting or verifying under its prediction: rows had left. Bookkeeping (commits, records) is not predicted.",
)


def cost_table(costs: CostTable, rates: Mapping[str, float]) -> Table:
    """Milliseconds of a draft pass and of verifications, and the tokens a second that they promise at each rate."""
    rows = [row("draft pass, 1 token a row", [1000 * costs.draft_seconds])]
    for block, seconds in costs.verify_seconds.items():
        promised = {
            f"tokens/s_at_{name}": costs.rows * costs.tokens_per_second(block, rate)
            for name, rate in rates.items()
        }
        rows.append(
            row(f"verification, {block} token{'s' if block > 1 else ''}", [1000 * seconds], notes=promised)
        )
    best = ", ".join(f"{costs.best(rate)} at {name} (redraw rate {rate:.4f})" for name, rate in rates.items())
    title = f"cost table, {costs.rows} rows, {costs.context} tokens in the cache"
    return Table(title, "milliseconds", 1, rows, (f"best block: {best}",))


def prediction_table(
    title: str, costs: CostTable, turns: Mapping[str, Sequence[Figures]], limit: float | None
) -> Table:
    """Measured seconds of each contestant beside the cost model's. `limit`: the length of every response, if fixed."""
    rows = [_predicted(name, costs, done, limit) for name, done in turns.items()]
    repeats = max(len(done) for done in turns.values())
    return Table(title, "seconds measured", repeats, rows, EXPLANATION)


def _predicted(name: str, costs: CostTable, done: Sequence[Figures], limit: float | None) -> Row:
    block, rounds, rate = int(done[0]["block"]), middle(done, "rounds"), middle(done, "redraw_rate")
    verified = block if middle(done, "verifying") > 0 and rate > 0 else None
    drafting = middle(done, "draft_passes") * costs.draft_seconds
    verifying = rounds * costs.verify_seconds[verified] if verified else 0.0
    predicted = middle(done, "prefill") + drafting + verifying
    notes: Figures = {
        "predicted": predicted,
        "measured/predicted": middle(done, "seconds") / predicted,
        "block": float(block),
        "redraw_rate": rate,
        "rounds": rounds,
        "mean_rows": middle(done, "drafted") / middle(done, "draft_passes"),
    }
    if limit is not None:
        notes["rounds_of_a_row"] = limit / committed_tokens(block, rate)
    notes |= {
        "prefill": middle(done, "prefill"),
        "drafting": middle(done, "drafting"),
        "drafting_predicted": drafting,
        "verifying": middle(done, "verifying"),
        "verifying_predicted": verifying,
        "bookkeeping": middle(done, "bookkeeping"),
    }
    return row(name, column(done, "seconds"), notes=notes)
