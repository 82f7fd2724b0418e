"""What the verbs share: the store, options that mean the same everywhere, JSON for scripts."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from trb_lab.store.run_dir import Store

SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Change a setting: warmup.kl_budget=0.05. Types come from the schema.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON on stdout, for scripts.")]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
TrackingOption = Annotated[
    str | None,
    typer.Option(metavar="URI", help="MLflow tracking server. Default: the store's own database."),
]


def store_of(context: typer.Context) -> Store:
    """The store that --store, $TRB_LAB_STORE or the working directory names."""
    from trb_lab.store.run_dir import Store

    given: Path | None = context.obj
    return Store.locate(given)


def print_json(value: Any) -> None:
    typer.echo(json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False, default=str))


@contextlib.contextmanager
def progress_on_stderr(as_json: bool) -> Iterator[None]:
    """Keeps stdout for the JSON where it was asked for."""
    if as_json:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    else:
        yield
