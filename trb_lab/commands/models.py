"""models: the bundled pair, export, hub models."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .common import JsonOption, print_json, store_of

app = typer.Typer(help="List, make, export and fetch models.", no_args_is_help=True, rich_markup_mode=None)


@app.command("list")
def list_models(as_json: JsonOption = False) -> None:
    """List the models that a spec can name without a path.

    Example: trb-lab models list
    """
    from trb_lab.models import catalog

    rows = catalog.list_models()
    if as_json:
        print_json(rows)
        return
    width = max(len(row["name"]) for row in rows)
    for row in rows:
        typer.echo(f"{row['name']:<{width}}  {row['state']:<20}  {row['description']}")


@app.command("make-pair")
def make_pair(
    output_dir: Annotated[Path, typer.Argument(metavar="DIR", help="Where both model folders are written.")],
    seed: Annotated[int, typer.Option(min=0, help="Seed of weights and data.")] = 0,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads; they are part of the recipe.")] = 1,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    quick: Annotated[
        bool, typer.Option("--quick", help="A few steps of everything: models that know nothing.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Train the bundled student and teacher again, from scratch.

    Example: trb-lab models make-pair my_pair
    """
    from trb_lab.models.make_pair import make_pair as make

    from .common import progress_on_stderr

    with progress_on_stderr(as_json):
        record = make(output_dir, seed=seed, threads=threads, device=device, quick=quick, progress=print)
    if as_json:
        print_json(record)
    else:
        typer.echo(f"written: {output_dir}")


@app.command()
def export(
    context: typer.Context,
    run: Annotated[str, typer.Argument(metavar="RUN", help="Run id or run directory.")],
    output_dir: Annotated[Path, typer.Argument(metavar="DIR", help="New folder in transformers format.")],
) -> None:
    """Write a run's student as a plain transformers folder.

    Example: trb-lab models export trb-s0-1a2b3c4d5e my_student
    """
    from trb_lab.errors import UsageError, did_you_mean
    from trb_lab.store.run_dir import RunDir

    store = store_of(context)
    directory = RunDir(Path(run).absolute()) if Path(run).is_dir() else store.trial(run)
    if not directory.config.exists():
        hint = did_you_mean(run, [r.run_id for r in store.trials()])
        raise UsageError(
            f"'{run}' is neither a run directory nor a run in {store.root}.{hint} List them: trb-lab status"
        )
    from trb_lab.models.export import export_run

    typer.echo(f"written: {export_run(directory, output_dir)}")


@app.command()
def prune(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Bundled name, folder or hub id.")],
    output_dir: Annotated[
        Path | None,
        typer.Argument(
            metavar="[DIR]",
            help="New folder. Default, for bundled models: the cache, where the name MODEL-Nlayers stands for it.",
        ),
    ] = None,
    layers: Annotated[
        int | None, typer.Option("--layers", help="Layers to keep, spread evenly from the first to the last.")
    ] = None,
    keep: Annotated[
        str | None, typer.Option("--keep", metavar="LAYERS", help="Layers to keep instead, from 0: 0,1,5.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Write a copy with fewer layers, untrained: a weak student of a model's own family.

    Example: trb-lab models prune smollm2-135m --layers 27
    """
    from trb_lab.errors import UsageError
    from trb_lab.models import catalog
    from trb_lab.models.prune import prune_model
    from trb_lab.spec.experiment import ModelSpec

    try:
        chosen = None if keep is None else [int(part) for part in keep.split(",")]
    except ValueError:
        raise UsageError(f"--keep {keep}: give layers with commas between, such as 0,1,5.") from None
    folder, kept = prune_model(catalog.resolve(ModelSpec(name=model)), output_dir, layers=layers, keep=chosen)
    if as_json:
        print_json({"folder": str(folder), "kept_layers": kept})
    else:
        typer.echo(f"kept layers {', '.join(map(str, kept))}\nwritten: {folder}")


@app.command()
def fetch(
    name: Annotated[str, typer.Argument(metavar="HUB_ID", help="Model of the Hugging Face hub: owner/name.")],
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit.")] = None,
) -> None:
    """Download a hub model, so that runs need no network. For all that a file names: trb-lab check --fetch FILE

    Example: trb-lab models fetch Qwen/Qwen3-0.6B
    """
    from trb_lab.models import catalog

    typer.echo(catalog.fetch(name, revision))
