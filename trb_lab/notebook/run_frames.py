"""Runs of a store, and their files as tidy frames."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pandas as pd

from trb_lab.errors import UsageError, did_you_mean
from trb_lab.report.planned_sets import PlannedSets, keys_of, plain_mean
from trb_lab.report.step_columns import final_sets
from trb_lab.store.run_dir import RunDir, Store, read_json
from trb_lab.store.status import state_of

from . import reading

SHOWN_ROWS = 20
"""Rows of the table that a notebook shows."""
NAMED = 12
"""Values that an error lists."""


@dataclass(frozen=True)
class Run:
    """A planned trial: one seed of one setting."""

    sweep: str
    """Empty where runs were asked for without one."""
    run_id: str
    arm: str
    setting: str
    label: str
    """The arm's name for people."""
    seed: int
    spec: Mapping[str, Any]
    sets: PlannedSets
    """Evaluation sets that its plan names."""


class Runs:
    """Runs with their files as frames; shows itself as a table in a notebook.

    Every frame has the columns of `identity` first. Two settings of a sweep may share a trial, and so may two sweeps:
    its rows are then there once for each.
    """

    def __init__(self, store: Store, runs: Sequence[Run]) -> None:
        self.store = store
        self._runs = tuple(runs)

    @cached_property
    def frame(self) -> pd.DataFrame:
        """One row a run: identity, state, score_mean (over the sets that all trials of its sweep have), a column a set,
        then each value of the specs that differs between runs, by its dotted key.

        Scores are fractions of 1, NaN before a run has completed.
        """
        final = {run.run_id: final_sets(read_json(self._dir(run).result) or {}) for run in self._runs}
        differing = self._differing()
        rows = []
        for run, spec in zip(self._runs, self._specs, strict=True):
            sets = final[run.run_id]
            scores = {
                label: sets[key].get("pass_at_1") for label, key in keys_of(run.sets.sets, sets).items()
            }
            row: dict[str, Any] = {"state": self._states[run.run_id]}
            row["score_mean"] = plain_mean(scores, run.sets.common)
            row |= {label: scores.get(label) for label in self._labels}
            rows.append({**self._named(run), **row, **{key: spec.get(key) for key in differing}})
        columns = [*self.identity, "state", "score_mean", *self._labels, *differing]
        frame = pd.DataFrame(rows, columns=columns)
        return frame.astype(dict.fromkeys(["score_mean", *self._labels], float))

    def metrics(self, names: str | Iterable[str] | None = None, long: bool = False) -> pd.DataFrame:
        """One row a (run, step) of metrics.jsonl: identity, step, and a column a metric, NaN where a step has none.

        names: metrics to read, `*` stands for anything (`eval/*/pass_at_1`); all without it. long: one row a (run,
        step, metric) that there is, with columns metric and value. Raises UsageError for a metric that no run has.
        """
        return self._stepwise(reading.metric_columns, names, long, "metric")

    def timing(self, names: str | Iterable[str] | None = None, long: bool = False) -> pd.DataFrame:
        """One row a (run, step) of timing.jsonl, as `metrics`: `time`, `seconds/rollout`, `cost/rollout/seconds`.

        A step that was repeated after a resume is there as last timed.
        """
        return self._stepwise(reading.timing_columns, names, long, "quantity")

    def items(self) -> pd.DataFrame:
        """One row a graded sample of an evaluation: identity, step, set, problem, sample, correct, reason, answer,
        tokens, finished. `step` is that of the metrics with the scores; sets are called as in the run's result.
        """
        return self._rowwise(reading.item_table, reading.ITEM_COLUMNS)

    def samples(self, step: int | None = None, source: str | None = "rollout") -> pd.DataFrame:
        """One row a kept response: identity, step, source, row, prompt, response, ... (docs/files.md, samples.parquet).

        step: one step, all that were kept without it. source: `rollout` or an evaluation set; None for all. Raises
        UsageError for a step of which nothing was kept.
        """
        kept = {k for run in self._runs for k, _ in reading.kept_samples(self._dir(run))}
        if step is not None and step not in kept:
            there = f"of step {', '.join(map(str, sorted(kept)))}" if kept else "none at all"
            raise UsageError(f"no run has kept samples of step {step}; they have kept {there}.")
        return self._rowwise(lambda run: reading.sample_table(run, step, source), reading.SAMPLE_COLUMNS)

    def where(self, **wanted: Any) -> Runs:
        """The runs with these values: `where(arm="trb", seed=[0, 1], **{"warmup.kl_budget": 0.1})`.

        Keys are sweep, run_id, arm, setting, label, seed, state, or dotted keys of the spec; a list holds alternatives.
        Raises UsageError for a key or a value that no run has.
        """
        keep = [True] * len(self._runs)
        for key, value in wanted.items():
            present = self._values(key)
            options = list(value) if isinstance(value, list | tuple | set | range) else [value]
            for option in options:
                if not any(found == option for found in present):
                    known = list(dict.fromkeys(str(found) for found in present))
                    more = f", and {len(known) - NAMED} more" if len(known) > NAMED else ""
                    raise UsageError(
                        f"no run has {key}={option!r}.{did_you_mean(str(option), known)} "
                        f"There are: {', '.join(known[:NAMED])}{more}."
                    )
            keep = [k and any(found == o for o in options) for k, found in zip(keep, present, strict=True)]
        return Runs(self.store, [run for run, k in zip(self._runs, keep, strict=True) if k])

    @property
    def identity(self) -> list[str]:
        """Columns that every frame begins with; `sweep` only where there are several."""
        several = len({run.sweep for run in self._runs}) > 1
        return [*["sweep"][: int(several)], "run_id", "arm", "setting", "label", "seed"]

    def __len__(self) -> int:
        return len(self._runs)

    def __repr__(self) -> str:
        states = [self._states[run.run_id] for run in self._runs]
        counts = ", ".join(f"{states.count(s)} {s}" for s in dict.fromkeys(sorted(states)))
        sweeps = ", ".join(dict.fromkeys(run.sweep for run in self._runs if run.sweep)) or str(
            self.store.root
        )
        return f"Runs({len(self)} of {sweeps}: {counts or 'none'})"

    def _repr_html_(self) -> str:
        import html

        percent = dict.fromkeys(("score_mean", *self._labels), "{:.1%}".format)
        table = self.frame.to_html(
            max_rows=SHOWN_ROWS, index=False, na_rep="", formatters=percent, border=0, notebook=True
        )
        return f"<p>{html.escape(repr(self))}</p>{table}"

    def _dir(self, run: Run) -> RunDir:
        return self.store.trial(run.run_id)

    def _named(self, run: Run) -> dict[str, Any]:
        return {name: getattr(run, name) for name in self.identity}

    @cached_property
    def _states(self) -> dict[str, str]:
        return {run.run_id: str(state_of(self._dir(run))) for run in self._runs}

    @cached_property
    def _labels(self) -> list[str]:
        """Evaluation sets of all plans."""
        return list(dict.fromkeys(label for run in self._runs for label in run.sets.labels))

    @cached_property
    def _specs(self) -> list[dict[str, Any]]:
        return [reading.flat(run.spec) for run in self._runs]

    def _differing(self) -> list[str]:
        """Dotted keys whose values are not the same in all runs, the seed and names apart."""
        keys = list(dict.fromkeys(key for spec in self._specs for key in spec if key not in ("seed", "name")))
        first = self._specs[0] if self._specs else {}
        return [k for k in keys if any(s.get(k) != first.get(k) for s in self._specs)]

    def _values(self, key: str) -> list[Any]:
        """The key's value in every run."""
        if key == "state":
            return [self._states[run.run_id] for run in self._runs]
        if key in ("sweep", "run_id", "arm", "setting", "label", "seed"):
            return [getattr(run, key) for run in self._runs]
        known = dict.fromkeys(k for spec in self._specs for k in spec)
        if key not in known:
            plain = ["sweep", "run_id", "arm", "setting", "label", "seed", "state"]
            raise UsageError(
                f"runs cannot be told apart by '{key}'.{did_you_mean(key, [*plain, *known])} Keys: "
                f"{', '.join(plain)}, and dotted keys of the spec such as warmup.kl_budget."
            )
        return [spec.get(key) for spec in self._specs]

    def _stepwise(
        self, read: Callable[..., reading.Steps], names: str | Iterable[str] | None, long: bool, what: str
    ) -> pd.DataFrame:
        patterns = [names] if isinstance(names, str) else None if names is None else list(names)
        ids = dict.fromkeys(run.run_id for run in self._runs)
        found = {run_id: read(self.store.trial(run_id), patterns) for run_id in ids}
        if patterns is not None:
            self._check_names(patterns, found, read)
        frame = reading.stacked([(self._named(run), found[run.run_id]) for run in self._runs], self.identity)
        if not long:
            return frame
        molten = frame.melt([*self.identity, "step"], var_name=what, value_name="value")
        return molten.dropna(subset=["value"]).reset_index(drop=True)

    def _check_names(
        self, patterns: Sequence[str], found: Mapping[str, reading.Steps], read: Callable[..., reading.Steps]
    ) -> None:
        have = dict.fromkeys(name for steps in found.values() for name in steps.columns)
        begun = next((run_id for run_id, steps in found.items() if len(steps.steps)), None)
        for pattern in patterns:
            if begun is not None and not any(reading.fits(name, [pattern]) for name in have):
                known = list(read(self.store.trial(begun), None).columns)
                raise UsageError(
                    f"no run has '{pattern}'.{did_you_mean(pattern, known)} There are: {', '.join(known)}."
                )

    def _rowwise(self, read: Callable[[RunDir], pd.DataFrame | None], columns: Sequence[str]) -> pd.DataFrame:
        ids = dict.fromkeys(run.run_id for run in self._runs)
        tables = {run_id: read(self.store.trial(run_id)) for run_id in ids}
        parts = []
        for run in self._runs:
            table = tables[run.run_id]
            if table is not None and not table.empty:
                parts.append(pd.DataFrame(self._named(run), index=table.index).join(table))
        if not parts:
            return pd.DataFrame(columns=[*self.identity, *columns])
        return pd.concat(parts, ignore_index=True)
