"""run, eval, check: one experiment."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from .common import JsonOption, SetOption, print_json, progress_on_stderr, store_of


def register(app: typer.Typer) -> None:
    app.command()(run)
    app.command("eval")(evaluate)
    app.command()(check)


def run(
    context: typer.Context,
    file: Annotated[Path | None, typer.Argument(metavar="FILE", help="Experiment YAML.")] = None,
    sets: SetOption = None,
    run_dir: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Run directory. Default: a place in the store, by identity."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Train one experiment, or go on where it stopped.

    The same command again resumes an unfinished run and tells the result of a finished one. Without FILE, the
    settings come from the run directory.

    Example: trb-lab run experiments/arith.yaml --set warmup.kl_budget=0.05 --set seed=3
    """
    directory = _prepared(context, file, sets or [], run_dir)
    # Before torch is imported: threads that spin while they wait take the cores from whatever else runs.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from trb_lab.experiment import run_experiment

    with progress_on_stderr(as_json):
        result = run_experiment(directory)
    if as_json:
        print_json({**result, "run_dir": str(directory.path)})
    else:
        typer.echo(f"completed: {_scores(result)}\nrun directory: {directory.path}")


def _prepared(context: typer.Context, file: Path | None, sets: list[str], run_dir: Path | None) -> Any:
    """The run directory with its config.json."""
    from trb_lab.errors import UsageError
    from trb_lab.store.run_dir import RunDir

    if file is not None:
        from trb_lab.spec import load_experiment
        from trb_lab.store.pauses import set_pause
        from trb_lab.trial import prepare

        prepared = prepare(load_experiment(file, sets), store_of(context), run_dir)
        set_pause(prepared, None)  # all of it is wanted now, whatever a search says
        return prepared
    if run_dir is None:
        raise UsageError(
            "name what to run: trb-lab run FILE, or trb-lab run --run-dir DIR to go on with a run."
        )
    if sets:
        raise UsageError("--set needs FILE: the settings of an existing run directory do not change.")
    directory = RunDir(run_dir.absolute())
    if not directory.config.exists():
        raise UsageError(
            f"{run_dir} is no run directory (it has no config.json). Name the experiment: trb-lab run FILE"
        )
    return directory


def _scores(result: dict[str, Any]) -> str:
    final = result.get("final") or {}
    sets = {name: row["pass_at_1"] for name, row in (final.get("sets") or {}).items()}
    if not sets:
        return f"{result.get('steps')} steps"
    shown = ", ".join(f"{name} {value:.1%}" for name, value in sets.items())
    return f"{result.get('steps')} steps, pass@1 {shown}"


def evaluate(
    context: typer.Context,
    target: Annotated[
        str | None,
        typer.Argument(
            metavar="RUN_OR_MODEL", help="Run id, run directory, bundled model, model folder or hub id."
        ),
    ] = None,
    sets: Annotated[
        list[str] | None,
        typer.Option("--sets", metavar="SET", help="Evaluation set, repeatable: arith/hard."),
    ] = None,
    samples: Annotated[int | None, typer.Option(min=1, help="Samples a problem.")] = None,
    at_k: Annotated[
        list[int] | None,
        typer.Option(
            "--at-k",
            metavar="K",
            min=1,
            help="K of pass@k, mean@k and maj@k, repeatable. Default: all samples.",
        ),
    ] = None,
    seed: Annotated[
        int, typer.Option(min=0, help="Seed of the draws; a run's own gives its final scores.")
    ] = 0,
    max_new_tokens: Annotated[
        int | None, typer.Option(min=1, help="Longest response. Default: the run's, or 128 for a model.")
    ] = None,
    run_dir: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Evaluate what DIR/config.json says, and write its result there."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Score a trained run or a model on evaluation sets: pass@1, pass@k, mean@k, maj@k.

    Example: trb-lab eval arith-teacher --sets arith/hard --samples 8
    """
    from trb_lab.errors import UsageError

    if (target is None) == (run_dir is None):
        raise UsageError(
            "name one thing to score: trb-lab eval RUN_OR_MODEL (trb-lab models list names the bundled ones)."
        )
    from trb_lab import evaluation

    with progress_on_stderr(as_json):
        if run_dir is not None:
            from trb_lab.store.run_dir import RunDir

            result = evaluation.evaluate_reference(RunDir(run_dir.absolute()))
        else:
            assert target is not None
            result = evaluation.evaluate_target(
                target,
                store_of(context),
                sets=sets or (),
                samples=samples,
                at_k=at_k or (),
                seed=seed,
                max_new_tokens=max_new_tokens,
            )
    if as_json:
        print_json(result)
    else:
        _print_scores(result)


def _print_scores(result: dict[str, Any]) -> None:
    """A table: one line a set; k in ascending order, a dash where a set has no score of that k."""
    final = result.get("final", result)
    sets = final["sets"]
    ks = sorted(
        {int(key.removeprefix("maj_at_")) for row in sets.values() for key in row if "maj_at_" in key}
    )
    at_k = {f"{name}@{k}": f"{name}_at_{k}" for k in ks for name in ("pass", "mean", "maj")}
    shares = {name: f"{name}_share" for name in ("truncated", "unboxed", "empty")}
    lines = [["set", "problems", "samples", "pass@1", "stderr", *at_k, *shares, "time-outs"]]
    for name, row in sets.items():
        percents = ["pass_at_1", "stderr", *at_k.values(), *shares.values()]
        cells = [f"{row[key]:.1%}" if key in row else "-" for key in percents]
        timeouts = f"{row.get('timeouts', 0):.0f}"
        lines.append([name, str(row["num_problems"]), str(row["num_samples"]), *cells, timeouts])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for first, *rest in lines:
        numbers = (cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True))
        typer.echo("  ".join([first.ljust(widths[0]), *numbers]))
    typer.echo(f"mean of pass@1: {final['mean_pass_at_1']:.1%}")


def check(
    context: typer.Context,
    files: Annotated[
        list[str] | None,
        typer.Argument(metavar="FILE...", help="Experiment, sweep or report YAML (told apart by content)."),
    ] = None,
    schema: Annotated[
        bool,
        typer.Option(
            "--schema",
            help="Print a JSON Schema instead: `--schema experiment`, `sweep`, `cluster` or `report`.",
        ),
    ] = False,
    fetch: Annotated[
        bool,
        typer.Option("--fetch", help="First download the hub models and data sets that the files name."),
    ] = False,
    cluster: Annotated[
        Path | None,
        typer.Option(
            "--cluster",
            metavar="PROFILE",
            help="Look at a Slurm cluster through a profile (slurm/NAME.yaml), alone or for the FILEs.",
        ),
    ] = None,
    probe: Annotated[
        bool,
        typer.Option("--probe/--no-probe", help="With --cluster: submit a small job that looks at a node."),
    ] = True,
    probe_seconds: Annotated[
        float, typer.Option(min=1, metavar="SECONDS", help="How long to wait for that job.")
    ] = 180.0,
    as_json: JsonOption = False,
) -> int:
    """Validate files, and preflight models and data without training.

    Every trial of a sweep is validated. Then: files, vocabulary, end-of-sequence ids, prompt templates, data
    sizes, reference answers, evaluation problems that are trained on, and an estimate of the memory. Nothing is
    downloaded without --fetch.

    With --cluster: Slurm, partition, account, limits, preemption, accounting, and what a node sees of the
    store, Python, packages, GPUs and clock.

    Example: trb-lab check experiments/arith.yaml sweeps/kl_budget.yaml
    """
    from trb_lab.errors import UsageError

    if schema:
        from trb_lab.spec.schema import text

        for name in files or ["experiment"]:
            typer.echo(text(name), nl=False)
        return 0
    if not files and cluster is None:
        raise UsageError("name at least one file: trb-lab check FILE...")
    from trb_lab.check import ClusterCheck, check_files

    store = store_of(context)
    look = None if cluster is None else ClusterCheck(cluster, store, probe, probe_seconds)
    return check_files(
        [Path(f) for f in files or ()], store=store, as_json=as_json, fetch=fetch, cluster=look
    )
