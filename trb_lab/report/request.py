"""What somebody asks for: a sweep's own report, or that of a definition; for the command line and notebooks alike."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from trb_lab.errors import UsageError, did_you_mean
from trb_lab.spec import ReportSpec, kind_of_file, load_report, load_sweep
from trb_lab.spec.report import ExcerptBlock, FigureBlock
from trb_lab.store.records import FIRST_STEP
from trb_lab.store.run_dir import Store


@dataclass(frozen=True)
class ReportRequest:
    """One report that is asked for, whatever store it will be made from."""

    what: str
    """As it was written: a sweep's name, its YAML, or a definition's."""
    sweep: str | None
    """The sweep, whose own report is asked for; None for a definition."""
    spec: ReportSpec | None
    """The definition; None for a sweep's own report."""
    command: str
    """What makes it again."""

    def folder(self, store: Store) -> Path:
        """Where it goes unless told otherwise."""
        return (
            store.report(self.spec.name) if self.spec is not None else store.sweep(self._known(store)).report
        )

    def build(self, store: Store, out: Path | None = None) -> dict[str, Path]:
        """Make it. Raises UsageError for sweeps that the store has not."""
        from . import build_defined, build_report

        if self.spec is not None:
            return build_defined(store, self.spec, self.command, out)
        return build_report(store, self._known(store), out)

    def read_by(self) -> tuple[list[list[str]], list[str], set[int]]:
        """What it reads: each source's sweeps by preference, diagnostics, and steps whose samples it shows."""
        if self.spec is None:
            return [[str(self.sweep)]], [], set(FIRST_STEP)
        diagnostics: list[str] = []
        steps = set(FIRST_STEP)
        for block in self.spec.blocks:
            if isinstance(block, FigureBlock) and block.diagnostic is not None:
                diagnostics += [block.diagnostic] if isinstance(block.diagnostic, str) else block.diagnostic
            if isinstance(block, ExcerptBlock):
                steps.add(block.step)
        return [source.sweeps for source in self.spec.sources.values()], diagnostics, steps

    def _known(self, store: Store) -> str:
        assert self.sweep is not None
        known = [s.name for s in store.sweeps()]
        if self.sweep not in known:
            listed = f"Sweeps there: {', '.join(known)}." if known else "It holds no sweep yet."
            hint = did_you_mean(self.sweep, known)
            raise UsageError(f"no sweep '{self.sweep}' in {store.root}.{hint} {listed}")
        return self.sweep


def report_request(
    what: str | Path, sweeps: Mapping[str, str] | None = None, sets: Sequence[str] = ()
) -> ReportRequest:
    """Read what is asked for. `sweeps`: source of the definition -> sweep to take for it ("" for the only source).

    Raises UsageError for a file with mistakes, for a source that it has not, and for changes of a sweep's own report.
    """
    what, sweeps = str(what), dict(sweeps or {})
    is_file = what.endswith((".yaml", ".yml"))
    if not is_file or kind_of_file(what) != "report":
        for option, given in (("--sweep", sweeps), ("--set", sets)):
            if given:
                raise UsageError(
                    f"{option} changes a report's definition (reports/NAME.yaml), and {what} is a sweep."
                )
        name = load_sweep(what).name if is_file else what
        return ReportRequest(what, name, None, shlex.join(["trb-lab", "report", what]))
    spec = load_report(what, sets)
    options = [word for s in sets for word in ("--set", s)]
    for source, sweep in sweeps.items():
        spec = _with_sweep(spec, source, sweep, what)
        options += ["--sweep", f"{source}={sweep}" if source else sweep]
    return ReportRequest(what, None, spec, shlex.join(["trb-lab", "report", what, *options]))


def _with_sweep(spec: ReportSpec, source: str, sweep: str, what: str) -> ReportSpec:
    if not source:
        if len(spec.sources) > 1:
            raise UsageError(
                f"--sweep {sweep}: which source? {', '.join(f'{s}={sweep}' for s in spec.sources)}"
            )
        source = next(iter(spec.sources))
    if source not in spec.sources:
        hint = did_you_mean(source, spec.sources)
        raise UsageError(
            f"--sweep {source}={sweep}: {what} has no source '{source}'.{hint} Sources: {', '.join(spec.sources)}."
        )
    changed = spec.sources[source].model_copy(update={"sweep": sweep})
    return spec.model_copy(update={"sources": {**spec.sources, source: changed}})
