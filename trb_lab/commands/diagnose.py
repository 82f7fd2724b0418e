"""diagnose: what the rollouts are like, on experiments and on finished runs."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Annotated

import typer

from .common import JsonOption, SetOption, print_json, progress_on_stderr, store_of

app = typer.Typer(
    help="Look closer: continuation gain, excerpts, first steps, positions.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
StepOption = Annotated[int | None, typer.Option("--step", min=0, help="Training step, from 0.")]


@app.command()
def continuation(
    context: typer.Context,
    arms: Annotated[
        list[str],
        typer.Argument(
            metavar="ARM [ARM]",
            help="Experiment YAML or run, two of one seed; one alone is compared with vanilla OPD.",
        ),
    ],
    cuts: Annotated[
        str, typer.Option("--cuts", metavar="TOKENS", help="Where rollouts are cut.")
    ] = "4,8,16,32",
    prompts: Annotated[
        int | None, typer.Option("--prompts", min=1, help="Prompts of the first step. Default: all of them.")
    ] = None,
    samples: Annotated[int, typer.Option("--samples", min=1, help="Continuations of each prefix.")] = 4,
    max_new_tokens: Annotated[
        int | None,
        typer.Option(
            "--max-new-tokens", min=2, help="Longest response with its prefix. Default: the experiment's."
        ),
    ] = None,
    sets: SetOption = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", help="Where the files go. Default: diagnostics/ of the store."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Continuation gain: do an arm's early prefixes lead to more correct answers?

    Rollouts of step 0 are made again, cut after some tokens, and continued by the teacher and by the student;
    both arms with the same draws. Nothing has to have run.

    Example: trb-lab diagnose continuation experiments/arith_trb.yaml experiments/arith_opd.yaml --cuts 4,8,16
    """
    from trb_lab.errors import UsageError

    if len(arms) > 2:
        raise UsageError(f"{len(arms)} arms are given: name one or two.")
    lengths = _whole_numbers("--cuts", cuts)
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from trb_lab.diagnostics.continuation import continuation_gain
    from trb_lab.diagnostics.continuation_output import table

    with progress_on_stderr(as_json):
        result = continuation_gain(
            arms,
            store_of(context),
            cuts=lengths,
            prompts=prompts,
            samples=samples,
            max_new_tokens=max_new_tokens,
            sets=sets or (),
            out=out.absolute() if out is not None else None,
        )
    if as_json:
        print_json(result)
    else:
        typer.echo(table(result))


def _whole_numbers(option: str, text: str) -> list[int]:
    from trb_lab.errors import UsageError

    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise UsageError(
            f"{option} {text}: give whole numbers with commas between, such as 4,8,16."
        ) from None


@app.command()
def excerpts(
    context: typer.Context,
    first: Annotated[str, typer.Argument(metavar="RUN", help="Run id or run directory.")],
    second: Annotated[str, typer.Argument(metavar="RUN", help="Another of the same seed.")],
    step: Annotated[int, typer.Option("--step", min=0, help="Training step, from 0.")] = 0,
    rows: Annotated[int, typer.Option("--rows", min=1, help="Prompts at most.")] = 4,
    as_json: JsonOption = False,
) -> None:
    """Rollouts of two runs to the same prompts, side by side; redrawn tokens are marked.

    Example: trb-lab diagnose excerpts opd-s0-1a2b trb-s0-3c4d --step 0 --rows 2
    """
    from trb_lab.diagnostics import excerpts as found

    pairs = found.excerpts(first, second, store_of(context), step=step, rows=rows)
    if as_json:
        print_json(found.as_json(pairs))
    else:
        typer.echo(found.side_by_side(pairs, shutil.get_terminal_size((110, 24)).columns))


@app.command("first-steps")
def first_steps(
    context: typer.Context,
    names: Annotated[list[str], typer.Argument(metavar="SWEEP_OR_RUN...", help="Sweeps or runs.")],
    steps: Annotated[int, typer.Option("--steps", min=1, help="Training steps from the first.")] = 25,
    as_json: JsonOption = False,
) -> None:
    """Early rollouts in numbers: teacher log-prob, reward, and whether log q - log p tells correct ones (AUROC).

    Example: trb-lab diagnose first-steps kl_budget --steps 25
    """
    from trb_lab.diagnostics import recorded

    rows = recorded.first_steps(names, store_of(context), steps)
    if as_json:
        print_json(rows)
    else:
        typer.echo(recorded.first_steps_table(rows))


@app.command()
def positions(
    context: typer.Context,
    run: Annotated[str, typer.Argument(metavar="RUN", help="Run id or run directory.")],
    step: StepOption = None,
    as_json: JsonOption = False,
) -> None:
    """Redraws, KL, beta, top-k mass and overlap by token position, at the sampled steps.

    Example: trb-lab diagnose positions trb-s0-1a2b --step 0
    """
    from trb_lab.diagnostics import recorded

    found, lines = recorded.positions(run, store_of(context), step)
    if as_json:
        print_json({"run_id": found.run_id, "lines": lines})
    else:
        typer.echo(recorded.positions_table(lines))
