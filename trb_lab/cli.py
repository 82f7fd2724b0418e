"""The command line: verbs only. Parse first, import later: help and a bad YAML answer without torch.

`main` turns failures into exit codes: 0 success, 1 a failure that the message explains, 2 something written
wrongly, 130 Ctrl-C. What is no LabError is a bug and keeps its traceback.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from trb_lab import __version__
from trb_lab.commands import diagnose, experiments, looking, models, reports, sweeps
from trb_lab.errors import LabError

app = typer.Typer(
    help="Experiments and sweeps for on-policy distillation with Trust-Region Behavior Blending.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,  # rich costs more time than everything else that --help needs
    pretty_exceptions_enable=False,
)
experiments.register(app)
sweeps.register(app)
reports.register(app)
looking.register(app)
app.add_typer(diagnose.app, name="diagnose")
app.add_typer(models.app, name="models")


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback(epilog="Start with: trb-lab sweep sweeps/kl_budget.yaml --dry-run")
def root(
    context: typer.Context,
    store: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Directory of runs and sweeps. Default: $TRB_LAB_STORE, else ./runs."
        ),
    ] = None,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    context.obj = store


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code."""
    given = _retry_all(_store_first(list(sys.argv[1:] if arguments is None else arguments)))
    try:
        code = app(given, prog_name="trb-lab", standalone_mode=False)
    except LabError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    except OSError as error:
        from trb_lab.store.disk import disk_trouble

        trouble = disk_trouble(error)
        if trouble is None:
            raise
        print(trouble, file=sys.stderr)
        return trouble.exit_code
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except typer.Abort:
        print("Nothing was done.", file=sys.stderr)
        return 1
    except typer.TyperException as error:
        return _show_usage_error(error)
    code = code if isinstance(code, int) else 0
    if code == 130:
        print("Stopped by Ctrl-C. The same command goes on from here.", file=sys.stderr)
    return code


def _store_first(arguments: list[str]) -> list[str]:
    """`--store` may stand anywhere: moved before the verb, where the parser looks for it."""
    front: list[str] = []
    rest: list[str] = []
    position = 0
    while position < len(arguments):
        argument = arguments[position]
        if argument == "--":
            rest += arguments[position:]
            break
        if argument == "--store" and position + 1 < len(arguments):
            front = arguments[position : position + 2]
            position += 1
        elif argument.startswith("--store="):
            front = [argument]
        else:
            rest.append(argument)
        position += 1
    return front + rest


def _retry_all(arguments: list[str]) -> list[str]:
    """`--retry-failed` alone means all of them: the parser knows no option whose value may be left out."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    full = ["--retry-failed=all" if a == "--retry-failed" else a for a in arguments[:end]]
    return full + arguments[end:]


def _show_usage_error(error: typer.TyperException) -> int:
    context = getattr(error, "ctx", None)
    text = error.format_message()
    if not text.startswith("Usage:"):  # a command without arguments shows its whole help
        text += f"\nSee: {context.command_path if context is not None else 'trb-lab'} --help"
    print(text, file=sys.stderr)
    return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
