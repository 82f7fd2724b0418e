"""report: from finished runs to tables, figures and a page."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .common import JsonOption, SetOption, store_of

if TYPE_CHECKING:
    from trb_lab.spec import ReportSpec
    from trb_lab.store.run_dir import Store


def register(app: typer.Typer) -> None:
    app.command()(report)


def report(
    context: typer.Context,
    what: Annotated[
        str, typer.Argument(metavar="SWEEP|FILE", help="Name of a sweep, its YAML, or a report's YAML.")
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Where to write. Default: the sweep's directory, or <store>/reports/NAME."
        ),
    ] = None,
    sweep: Annotated[
        list[str] | None,
        typer.Option(
            "--sweep", metavar="[SOURCE=]SWEEP", help="Take another sweep for a source of the definition."
        ),
    ] = None,
    sets: SetOption = None,
    records: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Read an archive that --pack wrote, in place of the store."),
    ] = None,
    tracking_uri: Annotated[
        str | None,
        typer.Option(
            metavar="URI", help="Read an MLflow tracking server (or sqlite:///FILE), in place of the store."
        ),
    ] = None,
    pack: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Write the records that the report reads as an archive (tar.xz) too."
        ),
    ] = None,
    check: Annotated[
        bool,
        typer.Option("--check", help="Write nothing: make it anew elsewhere, and say what differs from DIR."),
    ] = False,
    sync: Annotated[bool, typer.Option("--sync", help="Bring MLflow up to date too.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Write tables, figures and the page of a report again, from finished runs alone.

    Example: trb-lab report reports/paper_table1.yaml
    """
    from .common import print_json

    _refuse_together(records, tracking_uri, out, sync)
    spec = _definition(what, sweep or [], sets or [])
    command = _command(what, sweep or [], sets or [])
    with _opened(store_of(context), what, spec, records, tracking_uri) as store:
        made = Making(store, what, spec, command)
        if check:
            _check(made, out or made.folder, as_json)
        else:
            paths = made.build(out)
        if pack is not None:
            _pack(made, pack)
    if check:
        return
    if sync:
        from trb_lab.store.mlflow_mirror import sync_store

        # On stderr: the report is what was asked for, and a dead server must not cost it.
        sync_store(store, echo=lambda text: typer.echo(text, err=True))
    if as_json:
        print_json(paths)
        return
    typer.echo(paths["table"].read_text())
    typer.echo(f"{paths['page']}\n{len(paths)} files in {paths['page'].parent}")


def _refuse_together(records: Path | None, tracking_uri: str | None, out: Path | None, sync: bool) -> None:
    from trb_lab.errors import UsageError

    if records is not None and tracking_uri is not None:
        raise UsageError("--records and --tracking-uri both say where the runs are: give one of them.")
    option = "--records" if records is not None else "--tracking-uri" if tracking_uri is not None else None
    if option and out is None:
        raise UsageError(f"{option} makes the report without the store: say where it goes with --out DIR.")
    if option and sync:
        raise UsageError(f"--sync shows the store's runs in MLflow, and with {option} the store is not read.")


@dataclass(frozen=True)
class Making:
    """One report, and the store that it is made from."""

    store: Store
    what: str
    spec: ReportSpec | None
    """None for a sweep's own report."""
    command: str

    @property
    def folder(self) -> Path:
        """Where it goes unless told otherwise."""
        if self.spec is not None:
            return self.store.report(self.spec.name)
        return self.store.sweep(_sweep_name(self.store, self.what)).report

    def build(self, out: Path | None) -> dict[str, Path]:
        from trb_lab.report import build_defined, build_report

        if self.spec is not None:
            return build_defined(self.store, self.spec, self.command, out)
        return build_report(self.store, _sweep_name(self.store, self.what), out)


@contextmanager
def _opened(
    store: Store, what: str, spec: ReportSpec | None, records: Path | None, tracking_uri: str | None
) -> Iterator[Store]:
    """The store itself, or one made of an archive or a server, which is gone afterwards."""
    import tempfile

    if records is None and tracking_uri is None:
        yield store
        return
    with tempfile.TemporaryDirectory(prefix="trb-lab-records-") as folder:
        if records is not None:
            from trb_lab.store.records import unpack

            yield unpack(records, Path(folder))
        else:
            from trb_lab.store.mlflow_fetch import fetch

            assert tracking_uri is not None
            sweeps, diagnostics, steps = _read_by(what, spec)
            yield fetch(tracking_uri, sweeps, Path(folder), diagnostics, steps)


def _read_by(what: str, spec: ReportSpec | None) -> tuple[list[list[str]], list[str], set[int]]:
    """What a report reads: each source's sweeps by preference, diagnostics, and steps whose samples it shows."""
    from trb_lab.spec.report import ExcerptBlock, FigureBlock
    from trb_lab.store.records import FIRST_STEP

    if spec is None:
        return [[_sweep_of(what)]], [], set(FIRST_STEP)
    diagnostics: list[str] = []
    steps = set(FIRST_STEP)
    for block in spec.blocks:
        if isinstance(block, FigureBlock) and block.diagnostic is not None:
            diagnostics += [block.diagnostic] if isinstance(block.diagnostic, str) else block.diagnostic
        if isinstance(block, ExcerptBlock):
            steps.add(block.step)
    return [source.sweeps for source in spec.sources.values()], diagnostics, steps


def _pack(made: Making, path: Path) -> None:
    from trb_lab.store.records import first_known, pack

    sweeps, diagnostics, steps = _read_by(made.what, made.spec)
    known = [s.name for s in made.store.sweeps()]
    files = pack(made.store, first_known(known, sweeps), diagnostics, path, steps)
    typer.echo(f"{path}: {files} files, {path.stat().st_size / 1e6:.2f} MB", err=True)


def _check(made: Making, folder: Path, as_json: bool) -> None:
    """Say what differs; ends the command with code 1 where anything does."""
    import tempfile
    from dataclasses import asdict

    from trb_lab.errors import UsageError
    from trb_lab.report.checking import compare

    from .common import print_json

    if not folder.is_dir():
        raise UsageError(
            f"--check: there is no report in {folder}. Make it first: {made.command} --out {folder}"
        )
    with tempfile.TemporaryDirectory(prefix="trb-lab-check-") as temporary:
        anew = Path(temporary) / "report"
        files = made.build(anew)
        changes = compare(folder, anew)
    if as_json:
        print_json({"folder": folder, "equal": not changes, "changes": [asdict(c) for c in changes]})
    elif changes:
        typer.echo("\n".join(c.as_text() for c in changes))
        typer.echo(f"{folder}: {len(changes)} of its files are not what the runs give")
    else:
        typer.echo(f"{folder}: all {len(files)} files are as the runs give them")
    if changes:
        raise typer.Exit(1)


def _definition(what: str, sweeps: list[str], sets: list[str]) -> ReportSpec | None:
    """The definition that a file holds; None for a sweep's name or YAML."""
    from trb_lab.errors import UsageError, did_you_mean
    from trb_lab.spec import kind_of_file, load_report

    if not what.endswith((".yaml", ".yml")) or kind_of_file(what) != "report":
        for option, given in (("--sweep", sweeps), ("--set", sets)):
            if given:
                raise UsageError(
                    f"{option} changes a report's definition (reports/NAME.yaml), and {what} is a sweep."
                )
        return None
    spec = load_report(what, sets)
    for text in sweeps:
        source, found, name = text.rpartition("=")
        if not found:
            if len(spec.sources) > 1:
                raise UsageError(
                    f"--sweep {text}: which source? {', '.join(f'{s}={text}' for s in spec.sources)}"
                )
            source = next(iter(spec.sources))
        if source not in spec.sources:
            hint = did_you_mean(source, spec.sources)
            raise UsageError(
                f"--sweep {text}: {what} has no source '{source}'.{hint} Sources: {', '.join(spec.sources)}."
            )
        changed = spec.sources[source].model_copy(update={"sweep": name})
        spec = spec.model_copy(update={"sources": {**spec.sources, source: changed}})
    return spec


def _command(what: str, sweeps: list[str], sets: list[str]) -> str:
    import shlex

    options = [word for s in sweeps for word in ("--sweep", s)] + [w for s in sets for w in ("--set", s)]
    return shlex.join(["trb-lab", "report", what, *options])


def _sweep_of(what: str) -> str:
    """The sweep's name, where its YAML may be given."""
    if what.endswith((".yaml", ".yml")):
        from trb_lab.spec import load_sweep

        return load_sweep(what).name
    return what


def _sweep_name(store: Store, what: str) -> str:
    from trb_lab.errors import UsageError, did_you_mean

    name = _sweep_of(what)
    known = [s.name for s in store.sweeps()]
    if name not in known:
        listed = f"Sweeps there: {', '.join(known)}." if known else "It holds no sweep yet."
        raise UsageError(f"no sweep '{name}' in {store.root}.{did_you_mean(name, known)} {listed}")
    return name
