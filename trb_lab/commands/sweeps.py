"""sweep: one question, many trials."""

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
    retry_failed: Annotated[
        str | None,
        typer.Option(
            "--retry-failed",
            metavar="[=CLASS,...]",
            help="Run failed and cancelled trials again; or only those that ended so: =oom,time_limit.",
        ),
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(metavar="ARM", help="Only this arm (repeatable); the plan stays whole."),
    ] = None,
    inline: Annotated[
        bool,
        typer.Option("--inline", help="Run the trials in this process, one after another (for a debugger)."),
    ] = False,
    on: Annotated[
        Path | None,
        typer.Option("--on", metavar="PROFILE", help="Run the trials on a cluster: slurm/NAME.yaml."),
    ] = None,
    detach: Annotated[
        bool, typer.Option("--detach", help="With --on: submit, and leave; a last job makes the report.")
    ] = False,
    driver: Annotated[
        str | None,
        typer.Option(
            "--driver", metavar="slurm", help="With --on: drive the sweep from a small job of its own."
        ),
    ] = None,
    take_over: Annotated[
        bool, typer.Option("--take-over", help="Drive it from here, although another driver is at it.")
    ] = False,
    budget: Annotated[
        str | None,
        typer.Option(
            metavar="HOURS", help="Searches start nothing more once it is spent: 20gpuh, 40cpuh, 3h."
        ),
    ] = None,
    cancel_removed: Annotated[
        bool,
        typer.Option(
            "--cancel-removed", help="Cancel what runs or waits of settings that are no longer in the file."
        ),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Run a sweep, and report. Safe to run again at any time.

    Finished trials are adopted, running ones attached to, interrupted ones resumed;
    only what is missing runs.

    Example: trb-lab sweep sweeps/kl_budget.yaml --dry-run
    """
    from trb_lab.driver.budget import parse_budget
    from trb_lab.driver.cluster import cluster_of
    from trb_lab.driver.retry import retry_classes
    from trb_lab.launch.local import InlineLauncher, ProcessLauncher
    from trb_lab.sweep import run_sweep

    if int(os.environ.get("TRB_LAB_INCARNATION", 0)) > 0:
        # A driver's job that is back from the queue: what it was told to do once, it has done.
        retry_failed, take_over = None, False
    retry = retry_classes(retry_failed) if retry_failed is not None else False
    options = [
        *(["--parallel", str(parallel)] if parallel is not None else []),
        *([f"--retry-failed={retry_failed}"] if retry_failed is not None else []),
        *(word for arm in only or [] for word in ("--only", arm)),
        *(["--take-over"] if take_over else []),
        *(["--budget", budget] if budget is not None else []),
        *(["--cancel-removed"] if cancel_removed else []),
        *(["--json"] if as_json else []),
        *(["--on", str(on.absolute())] if on is not None else []),
    ]
    arguments = ["sweep", str(file.absolute()), *options]
    code = run_sweep(
        file,
        store_of(context),
        parallel=parallel,
        retry_failed=retry,
        dry_run=dry_run,
        as_json=as_json,
        only=only or None,
        launcher=(lambda slots: InlineLauncher(_run_here)) if inline else ProcessLauncher,
        cluster=cluster_of(on, arguments=arguments, detach=detach, driver=driver, inline=inline),
        take_over=take_over,
        budget=parse_budget(budget) if budget is not None else None,
        cancel_removed=cancel_removed,
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
