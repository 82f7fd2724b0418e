"""What `status` says of a sweep's searches: how far each is, and the runs that are worth a look now."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trb_lab.store.run_dir import SweepDir
from trb_lab.store.search_log import decisions, rows_of

SHOWN_ROWS = 30
"""Of a search, in text."""
AT_REST = ("completed", "paused")
"""States of which text tells no more than the number."""
_TELLING = ("running", "waiting", "new", "interrupted", "failed", "cancelled", "paused", "completed")
"""The first of these that a run of a setting is in is the setting's state."""


@dataclass(frozen=True)
class SearchRows:
    """A search's log, as far as a look from outside needs it."""

    arm: str
    trials: int
    """Settings that it may ask for."""
    asked: int
    known: int
    """Settings that were there before, and count towards nothing."""
    rows: list[dict[str, Any]]
    """As in plan.json."""


def searches_of(sweep: SweepDir, plan: Mapping[str, Any]) -> list[SearchRows]:
    """The searches of a plan.json, each with what it has asked for so far."""
    found = []
    for arm, search in plan.get("searches", {}).items():
        decided = list(decisions(sweep.search_log(arm), search["context"]))
        origins = Counter(d.origin for d in decided if d.event == "proposal")
        found.append(
            SearchRows(
                arm=arm,
                trials=plan["spec"]["arms"][arm]["search"]["trials"],
                asked=origins["ask"],
                known=origins.total() - origins["ask"],
                rows=rows_of(decided),
            )
        )
    return found


def search_json(search: SearchRows, shown: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The search in numbers; `shown` are its rows with their states.

    `counts` has settings by state (of the runs that select), `confirmation` runs by state.
    """
    states: dict[int, set[str]] = {}
    confirmation: Counter[str] = Counter()
    for row in shown:
        if row["search"]["role"] == "select":
            states.setdefault(row["search"]["number"], set()).add(row["state"])
        else:
            confirmation[row["state"]] += 1
    counts = Counter(next(s for s in _TELLING if s in found) for found in states.values())
    return {
        "arm": search.arm,
        "asked": search.asked,
        "trials": search.trials,
        "known": search.known,
        "counts": dict(counts),
        "confirmation": dict(confirmation),
    }


def search_line(search: Mapping[str, Any]) -> str:
    """`search trb: 12 of 40 settings asked, 9 paused, 2 running; confirmation: 3 running`."""
    parts = [f"{search['asked']} of {search['trials']} settings asked"]
    parts += [f"{search['known']} known before"] if search["known"] else []
    parts += _in_words(search["counts"])
    text = f"search {search['arm']}: {', '.join(parts)}"
    confirmation = _in_words(search["confirmation"])
    return f"{text}; confirmation: {', '.join(confirmation)}" if confirmation else text


def worth_a_look(shown: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The last rows that are not at rest."""
    return [row for row in shown if row["state"] not in AT_REST][-SHOWN_ROWS:]


def rest_line(sweep: str, shown: Sequence[Mapping[str, Any]], listed: int) -> str:
    """What the rows come to that are not listed, and how to see them; empty where all are."""
    if listed == len(shown):
        return ""
    runs = "run" if len(shown) - listed == 1 else "runs"
    states = Counter(row["state"] for row in shown)
    resting = sum(states[state] for state in AT_REST)
    counts = {state: states[state] for state in AT_REST} | {"other": len(shown) - listed - resting}
    return (
        f"({len(shown) - listed} more {runs}: {', '.join(_in_words(counts))}; `trb-lab status {sweep} --json` "
        "lists all)"
    )


def called(row: Mapping[str, Any]) -> str:
    """The setting as the table has it: a run of the confirmation says so."""
    confirms = (row.get("search") or {}).get("role") == "confirm"
    return " ".join(filter(None, [row.get("setting"), "confirm" if confirms else ""]))


def _in_words(counts: Mapping[str, int]) -> list[str]:
    """`["9 paused", "2 running"]`."""
    return [f"{count} {state}" for state, count in sorted(counts.items()) if count]
