"""sweep, report: one question, many trials."""

from __future__ import annotations

import os
import signal
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trb_lab.errors import LabError

from .common import JsonOption, store_of

if TYPE_CHECKING:
    from trb_lab.launch.base import Job


def register(app: typer.Typer) -> None:
    app.command()(sweep)
    app.command()(report)


def sweep(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Sweep YAML.")],
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="List the trials, what differs, and what would be done; do nothing."),
    ] = False,
    parallel: Annotated[
        int | None, typer.Option(min=1, help="Trials at once. Default: the file's, else by hardware.")
    ] = None,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Run failed trials again.")] = False,
    only: Annotated[
        list[str] | None,
        typer.Option(metavar="ARM", help="Only this arm (repeatable); the plan stays whole."),
    ] = None,
    inline: Annotated[
        bool,
        typer.Option("--inline", help="Run the trials in this process, one after another (for a debugger)."),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Run a sweep, and report. Safe to run again at any time.

    Finished trials are adopted, running ones attached to, interrupted ones resumed;
    only what is missing runs.

    Example: trb-lab sweep sweeps/kl_budget.yaml --dry-run
    """
    from trb_lab.launch.local import InlineLauncher, ProcessLauncher
    from trb_lab.sweep import run_sweep

    code = run_sweep(
        file,
        store_of(context),
        parallel=parallel,
        retry_failed=retry_failed,
        dry_run=dry_run,
        as_json=as_json,
        only=only or None,
        launcher=(lambda slots: InlineLauncher(_run_here)) if inline else ProcessLauncher,
    )
    # Not a plain return: the driver tells of Ctrl-C itself, and its 130 is no KeyboardInterrupt of ours.
    raise SystemExit(code)


def _run_here(job: Job) -> int:
    """A worker's work in this process; a failure is in the run directory, as it would be of a worker."""
    from trb_lab.worker import Stopped

    try:
        if job.verb == "eval":
            from trb_lab.evaluation import evaluate_reference

            evaluate_reference(job.run_dir)
        else:
            from trb_lab.experiment import run_experiment

            run_experiment(job.run_dir)
    except LabError as error:
        typer.echo(error, err=True)
        if isinstance(error, Stopped):  # the signal was meant for the driver too
            os.kill(os.getpid(), signal.SIGINT)
        return error.exit_code
    except Exception:
        traceback.print_exc()
        return 1
    return 0


def report(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="SWEEP", help="Name of the sweep, or its YAML.")],
    as_json: JsonOption = False,
) -> None:
    """Write tables and figures of a sweep again, from finished runs alone.

    Example: trb-lab report kl_budget
    """
    from trb_lab.errors import UsageError, did_you_mean

    store = store_of(context)
    if name.endswith((".yaml", ".yml")):
        from trb_lab.spec import load_sweep

        name = load_sweep(name).name
    known = [s.name for s in store.sweeps()]
    if name not in known:
        listed = f"Sweeps there: {', '.join(known)}." if known else "It holds no sweep yet."
        raise UsageError(f"no sweep '{name}' in {store.root}.{did_you_mean(name, known)} {listed}")
    from trb_lab.report import build_report

    paths = build_report(store, name)
    from .common import print_json

    if as_json:
        print_json(paths)
        return
    typer.echo(paths["table"].read_text())
    for path in paths.values():
        typer.echo(path)
