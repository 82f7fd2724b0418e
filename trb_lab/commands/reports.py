"""report: from finished runs to tables, figures and a page."""

from __future__ import annotations

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
    sync: Annotated[bool, typer.Option("--sync", help="Bring MLflow up to date too.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Write tables, figures and the page of a report again, from finished runs alone.

    Example: trb-lab report reports/paper_table1.yaml
    """
    from trb_lab.report import build_defined, build_report

    from .common import print_json

    store = store_of(context)
    spec = _definition(what, sweep or [], sets or [])
    if spec is not None:
        paths = build_defined(store, spec, _command(what, sweep or [], sets or []), out)
    else:
        paths = build_report(store, _sweep_name(store, what), out)
    if sync:
        from trb_lab.store.mlflow_mirror import sync_store

        # On stderr: the report is what was asked for, and a dead server must not cost it.
        sync_store(store, echo=lambda text: typer.echo(text, err=True))
    if as_json:
        print_json(paths)
        return
    typer.echo(paths["table"].read_text())
    typer.echo(f"{paths['page']}\n{len(paths)} files in {paths['page'].parent}")


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


def _sweep_name(store: Store, what: str) -> str:
    from trb_lab.errors import UsageError, did_you_mean

    if what.endswith((".yaml", ".yml")):
        from trb_lab.spec import load_sweep

        what = load_sweep(what).name
    known = [s.name for s in store.sweeps()]
    if what not in known:
        listed = f"Sweeps there: {', '.join(known)}." if known else "It holds no sweep yet."
        raise UsageError(f"no sweep '{what}' in {store.root}.{did_you_mean(what, known)} {listed}")
    return what
