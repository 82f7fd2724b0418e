"""status, logs, cancel, ui, sync, clean, bench: what runs, what ran, and what it left."""

from __future__ import annotations

from typing import Annotated

import typer

from .common import JsonOption, TrackingOption, YesOption, store_of


def register(app: typer.Typer) -> None:
    for verb in (status, logs, cancel, ui, sync, clean, bench):
        app.command()(verb)


def status(
    context: typer.Context,
    sweep: Annotated[str | None, typer.Argument(metavar="SWEEP", help="Only this sweep.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Show every sweep and trial: state, attempts, score, place, and why a trial failed.

    Example: trb-lab status kl_budget
    """
    from trb_lab.driver.overview import show_status

    show_status(store_of(context), sweep=sweep, as_json=as_json)


def logs(
    context: typer.Context,
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME", help="Run id, or the beginning of one; a sweep: its driver, where that is a job."
        ),
    ],
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as the log grows.")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", min=1, help="Lines from the end.")] = 50,
) -> None:
    """Print what a trial's worker printed, or the driver of a sweep that drives itself as a job.

    Example: trb-lab logs trb-s0-1a2b --follow
    """
    from trb_lab.driver.overview import show_logs

    show_logs(store_of(context), name, follow=follow, lines=lines)


def cancel(
    context: typer.Context,
    target: Annotated[
        str, typer.Argument(metavar="TARGET", help="A sweep, one arm of it (SWEEP/ARM), or a run id.")
    ],
    yes: YesOption = False,
) -> None:
    """Stop a sweep, an arm or a trial. Workers save first; nothing of it starts again by itself.

    Example: trb-lab cancel kl_budget/trb
    """
    from trb_lab.driver.cancelling import cancel as cancel_target

    cancel_target(store_of(context), target, yes=yes)


def ui(
    context: typer.Context,
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Port. Default: the first free one from 5000.")
    ] = None,
    tracking_uri: TrackingOption = None,
) -> None:
    """Open MLflow on what has run so far.

    Example: trb-lab ui --port 5000
    """
    from trb_lab.store.ui import serve

    serve(store_of(context), port=port, tracking_uri=tracking_uri)


def sync(
    context: typer.Context,
    tracking_uri: TrackingOption = None,
    sweep: Annotated[str | None, typer.Option("--sweep", metavar="SWEEP", help="Only this sweep.")] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as runs grow, until Ctrl-C.")] = False,
    until_pid: Annotated[
        int | None, typer.Option(metavar="PID", help="With --follow: until this process has ended.")
    ] = None,
) -> int:
    """Bring MLflow up to date with the files of the store.

    Example: trb-lab sync --tracking-uri http://mlflow.example:5000
    """
    import signal
    import threading

    from trb_lab.store.mlflow_mirror import sync_store

    stop = threading.Event()
    if follow:
        # Asked to end, it makes one last pass: what the files hold by then is shown.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: stop.set())
    status = sync_store(
        store_of(context),
        tracking_uri,
        sweep,
        follow=follow,
        until_pid=until_pid,
        stop=stop.is_set,
        echo=typer.echo,
    )
    for problem in status.problems:
        typer.echo(problem, err=True)
    if status.ok:
        typer.echo(f"{status.tracking_uri} shows {status.runs} runs")
    return 0 if status.ok else 1


def clean(
    context: typer.Context,
    checkpoints: Annotated[
        bool, typer.Option("--checkpoints", help="Checkpoints of completed runs (their results stay).")
    ] = False,
    failed: Annotated[
        bool, typer.Option("--failed", help="Runs that failed or were cancelled, whole.")
    ] = False,
    unplanned: Annotated[bool, typer.Option("--unplanned", help="Runs that no sweep plans, whole.")] = False,
    paused: Annotated[
        bool,
        typer.Option(
            "--paused", help="Checkpoints of runs that a search let pause: one that goes on starts over."
        ),
    ] = False,
    older_than_days: Annotated[
        float | None, typer.Option(min=0, metavar="DAYS", help="Only what has not changed for so long.")
    ] = None,
    yes: YesOption = False,
    as_json: JsonOption = False,
) -> None:
    """Free disk space by rule. Shows what would go, and asks.

    Example: trb-lab clean --checkpoints --older-than-days 7
    """
    from trb_lab.driver.cleanup import clean as clean_store

    clean_store(
        store_of(context),
        checkpoints=checkpoints,
        failed=failed,
        unplanned=unplanned,
        paused=paused,
        older_than_days=older_than_days,
        yes=yes,
        as_json=as_json,
    )


def bench(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="Benchmark; without one they are listed.")
    ] = None,
    pair: Annotated[
        str | None,
        typer.Option("--pair", metavar="PAIR", help="bundled, qwen3-1p7b-8b, qwen3-0p6b-4b or tiny-qwen3."),
    ] = None,
    rows: Annotated[int | None, typer.Option(help="Rows decoded at once.")] = None,
    context: Annotated[
        list[str] | None,
        typer.Option("--context", metavar="TOKENS", help="Tokens in a row's cache: 1024,4096."),
    ] = None,
    new_tokens: Annotated[int | None, typer.Option(help="Tokens of a response.")] = None,
    eps: Annotated[
        list[str] | None, typer.Option("--eps", metavar="NATS", help="KL budgets: 0.01,0.001.")
    ] = None,
    repeats: Annotated[int | None, typer.Option(help="Measurements of each figure.")] = None,
    runs: Annotated[int | None, typer.Option(help="Runs of a made-up sweep.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Measure one part of the lab on this machine.

    Example: trb-lab bench rollout --pair qwen3-1p7b-8b --context 1024,4096
    """
    from trb_lab.bench import run_bench
    from trb_lab.bench.options import Options, numbers

    options = Options(
        pair=pair,
        rows=rows,
        context=numbers("--context", context, int),
        new_tokens=new_tokens,
        eps=numbers("--eps", eps, float),
        repeats=repeats,
        runs=runs,
    )
    run_bench(name, options, as_json=as_json)
