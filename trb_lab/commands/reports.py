"""report: from finished runs to tables, figures and a page."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .common import JsonOption, SetOption, store_of

if TYPE_CHECKING:
    from trb_lab.report.request import ReportRequest
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
    from trb_lab.report.request import report_request

    from .common import print_json

    _refuse_together(records, tracking_uri, out, sync, check, pack)
    request = report_request(what, _sources(sweep or []), sets or [])
    with _opened(store_of(context), request, records, tracking_uri) as store:
        if check:
            _check(request, store, out or request.folder(store), as_json)
        else:
            paths = request.build(store, out)
        if pack is not None:
            _pack(request, store, pack)
    if check:
        return
    if sync:
        from trb_lab.store.mlflow_mirror import sync_store

        # On stderr: the report is what was asked for, and a dead server must not cost it.
        sync_store(store, echo=lambda text: typer.echo(text, err=True))
    if as_json:
        print_json(paths)
        return
    typer.echo(paths["table"].read_text(encoding="utf-8"))
    typer.echo(f"{paths['page']}\n{len(paths)} files in {paths['page'].parent}")


def _refuse_together(
    records: Path | None,
    tracking_uri: str | None,
    out: Path | None,
    sync: bool,
    check: bool,
    pack: Path | None,
) -> None:
    from trb_lab.errors import UsageError

    if out is not None and out.exists() and not out.is_dir():
        raise UsageError(f"--out {out} is a file: name a folder for the report.")
    if pack is not None and pack.exists() and not pack.is_file():
        raise UsageError(
            f"--pack {pack} is no plain file: name one for the archive, as in --pack records.tar.xz."
        )
    if check and (pack is not None or sync):
        raise UsageError(f"--check only compares: leave out {'--pack' if pack is not None else '--sync'}.")
    if records is not None and tracking_uri is not None:
        raise UsageError("--records and --tracking-uri both say where the runs are: give one of them.")
    option = "--records" if records is not None else "--tracking-uri" if tracking_uri is not None else None
    if option and out is None:
        raise UsageError(f"{option} makes the report without the store: say where it goes with --out DIR.")
    if option and sync:
        raise UsageError(f"--sync shows the store's runs in MLflow, and with {option} the store is not read.")


def _sources(given: list[str]) -> dict[str, str]:
    """`SOURCE=SWEEP` or, for the only source, `SWEEP`, as source -> sweep."""
    return {source: sweep for source, _, sweep in (text.rpartition("=") for text in given)}


@contextmanager
def _opened(
    store: Store, request: ReportRequest, records: Path | None, tracking_uri: str | None
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
            sweeps, diagnostics, steps = request.read_by()
            yield fetch(tracking_uri, sweeps, Path(folder), diagnostics, steps)


def _pack(request: ReportRequest, store: Store, path: Path) -> None:
    from trb_lab.store.records import first_known, pack

    sweeps, diagnostics, steps = request.read_by()
    known = [s.name for s in store.sweeps()]
    files = pack(store, first_known(known, sweeps), diagnostics, path, steps)
    typer.echo(f"{path}: {files} files, {path.stat().st_size / 1e6:.2f} MB", err=True)


def _check(request: ReportRequest, store: Store, folder: Path, as_json: bool) -> None:
    """Say what differs; ends the command with code 1 where anything does."""
    import tempfile
    from dataclasses import asdict

    from trb_lab.errors import UsageError
    from trb_lab.report.checking import compare

    from .common import print_json

    if not folder.is_dir():
        raise UsageError(
            f"--check: there is no report in {folder}. Make it first: {request.command} --out {folder}"
        )
    with tempfile.TemporaryDirectory(prefix="trb-lab-check-") as temporary:
        anew = Path(temporary) / "report"
        files = request.build(store, anew)
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
