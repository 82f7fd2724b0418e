"""Frees disk by rule: shows what would go and how large it is, asks, and never touches what is running."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from trb_lab.driver.cluster import places_of
from trb_lab.driver.view import text_table
from trb_lab.errors import UsageError
from trb_lab.launch import claim
from trb_lab.launch.base import Phase
from trb_lab.launch.claim import live_worker
from trb_lab.store import locks
from trb_lab.store.plans import planned
from trb_lab.store.run_dir import RunDir, Store, read_json, write_json
from trb_lab.store.status import TrialState, state_of

RULES = {
    "checkpoints": "completed runs: all but the final weights (results, metrics and samples stay)",
    "failed": "runs that failed or were cancelled, whole; a sweep then takes them as new",
    "unplanned": "runs that no sweep plans, whole (runs started by hand are among them)",
    "paused": "checkpoints of runs that their search let pause and that no driver is at: one that goes on starts over",
}


@dataclass(frozen=True)
class Item:
    """Something that may go."""

    rule: str
    run: RunDir
    paths: tuple[Path, ...]
    """Files and folders; the run directory itself where the whole run goes."""
    bytes: int


def clean(
    store: Store,
    *,
    checkpoints: bool = False,
    failed: bool = False,
    unplanned: bool = False,
    paused: bool = False,
    older_than_days: float | None = None,
    yes: bool = False,
    as_json: bool = False,
) -> None:
    """Remove what the given rules (RULES) name; without a rule, only tell what each would free.

    Asks first, unless `yes`; with `as_json` and no `yes` it only lists. Runs with a live worker stay.
    """
    chosen = [rule for rule, on in zip(RULES, (checkpoints, failed, unplanned, paused), strict=True) if on]
    items = list(find_items(store, chosen or list(RULES), older_than_days))
    if as_json:
        freed = _remove_all(store, items) if yes and chosen else 0
        listed = [
            {"rule": i.rule, "run_id": i.run.run_id, "bytes": i.bytes, "paths": [str(p) for p in i.paths]}
            for i in items
        ]
        print(json.dumps({"items": listed, "bytes": sum(i.bytes for i in items), "freed_bytes": freed}))
        return
    if not chosen:
        print(_rules_text(items))
        return
    if not items:
        print("Nothing to remove.")
        return
    rows = [[i.run.run_id, i.rule, ", ".join(p.name for p in i.paths[:3]), size(i.bytes)] for i in items]
    print(text_table(["run id", "rule", "what goes", "size"], rows))
    print(f"{size(sum(i.bytes for i in items))} in {len(items)} runs.")
    if not yes and not confirmed("Remove them for good?"):
        print("Nothing was done.")
        return
    print(f"{size(_remove_all(store, items))} freed.")


def find_items(store: Store, rules: list[str], older_than_days: float | None = None) -> Iterator[Item]:
    """What the rules name, each run once (a whole run before its checkpoints)."""
    wanted: set[str] = set()  # by some plan
    driven: set[str] = set()  # by one that a driver is at now
    for sweep in store.sweeps():
        plan = planned(sweep) or {"trials": []}
        found = {entry["run_id"] for entry in [*plan["trials"], *plan.get("references", [])]}
        wanted |= found
        if locks.is_held(sweep.driver_lock):
            driven |= found
    references = [RunDir(path) for path in sorted((store.root / "references").glob("*"))]
    places = places_of(store)  # what a cluster is going to run stays too
    newest = time.time() - 86_400 * older_than_days if older_than_days is not None else None
    for run in [*store.trials(), *references]:
        if live_worker(run) or (newest is not None and _last_change(run) > newest):
            continue
        state = state_of(run)
        place = places.get(run.run_id)
        if state == TrialState.RUNNING or (place is not None and place.phase is not Phase.ENDED):
            continue
        item = None
        if "failed" in rules and state in (TrialState.FAILED, TrialState.CANCELLED):
            item = Item("failed", run, (run.path,), size_of(run.path))
        elif "unplanned" in rules and run.run_id not in wanted:
            item = Item("unplanned", run, (run.path,), size_of(run.path))
        elif "checkpoints" in rules and state == TrialState.COMPLETED:
            paths = tuple(_spare_checkpoints(run))
            item = Item("checkpoints", run, paths, sum(map(size_of, paths)))
        elif "paused" in rules and state == TrialState.PAUSED and run.run_id not in driven:
            paths = tuple(sorted(run.checkpoints.glob("*")))
            item = Item("paused", run, paths, sum(map(size_of, paths)))
        if item is not None and item.paths:
            yield item


def _spare_checkpoints(run: RunDir) -> Iterator[Path]:
    """All of a completed run's checkpoints but the last one, and the last one's optimiser state."""
    found = sorted(run.checkpoints.glob("step_*"))
    yield from found[:-1]
    yield from (path for last in found[-1:] if (path := last / "optimizer.safetensors").exists())


def _remove_all(store: Store, items: list[Item]) -> int:
    """Remove; returns the bytes freed. A run that somebody has taken up meanwhile is left out.

    The claim is what a launcher takes before its worker exists, so nobody can start one while we remove.
    """
    freed = 0
    for item in items:
        descriptor = claim.take(item.run, "clean") if item.run.path.exists() else None
        if descriptor is None:
            print(f"{item.run.run_id} is in use now and stays.", file=sys.stderr)
            continue
        try:
            _remove(store, item)
        finally:
            os.close(descriptor)
        freed += item.bytes
    return freed


def _remove(store: Store, item: Item) -> None:
    if item.paths == (item.run.path,):
        # Moved aside first: a run that is half removed must not look like a run.
        trash = store.root / "trash" / f"{item.run.run_id}.{os.getpid()}"
        trash.parent.mkdir(parents=True, exist_ok=True)
        item.run.path.rename(trash)
        shutil.rmtree(trash.parent)
        return
    for path in item.paths:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            _forget(path)
            path.unlink()


def _forget(path: Path) -> None:
    """Take a file out of its checkpoint's list, which says what a valid checkpoint holds."""
    state = path.with_name("state.json")
    listed = read_json(state)
    sizes = {name: size for name, size in listed["sizes"].items() if name != path.name}
    write_json(state, {**listed, "sizes": sizes})


def size_of(path: Path) -> int:
    """Bytes of a file, or of everything below a folder."""
    if path.is_file():
        return path.stat().st_size
    return sum(p.lstat().st_size for p in path.rglob("*") if p.is_file())


def size(num_bytes: float) -> str:
    """`1.4 MB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if num_bytes < 1000:
            return f"{num_bytes:.0f} B" if unit == "B" else f"{num_bytes:.1f} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:.1f} TB"


def confirmed(question: str) -> bool:
    """Ask on the terminal. Raises UsageError where nobody can answer."""
    if not sys.stdin.isatty():
        raise UsageError(f"{question} Nobody is here to answer: give --yes.")
    return input(f"{question} [y/N] ").strip().lower() in ("y", "yes")


def _last_change(run: RunDir) -> float:
    return max((path.lstat().st_mtime for path in run.path.glob("*")), default=run.path.stat().st_mtime)


def _rules_text(items: list[Item]) -> str:
    rows = []
    for rule, meaning in RULES.items():
        bytes_of = [item.bytes for item in items if item.rule == rule]
        rows.append([f"--{rule}", str(len(bytes_of)), size(sum(bytes_of)), meaning])
    table = text_table(["rule", "runs", "frees", "what goes"], rows)
    return f"{table}\nName at least one rule: trb-lab clean --checkpoints"
