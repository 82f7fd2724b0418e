"""Who may import whom: the rooms of the package, and the one file for each optional dependency."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "trb_lab"

RANKS = {
    **dict.fromkeys(["errors", "failpoints", "seeds", "cache", "spec"], 0),
    **dict.fromkeys(["store", "models", "tasks", "policy", "worker"], 1),
    **dict.fromkeys(["rollout", "train", "evaluate", "search", "launch", "report"], 2),
    **dict.fromkeys(["trial", "experiment", "driver", "sweep"], 3),
    **dict.fromkeys(["evaluation", "bench", "check", "diagnostics", "notebook"], 3),
    # __init__ offers the notebook's functions, and imports them when they are asked for (test_light_imports.py).
    **dict.fromkeys(["commands", "cli", "__init__"], 4),
}
SIDEWAYS = {
    2: {("train", "rollout"), ("evaluate", "rollout")},
}
"""Edges allowed within a rank; ranks that are not named here may import sideways."""
DRIVER = {"sweep", "driver"}
WORKER = {"experiment", "evaluation"}
ONLY = {
    "submitit": ("launch/slurm",),
    "optuna": ("search/optuna",),
    "mlflow": ("store/mlflow_", "store/ui"),
    "reasoning_gym": ("tasks/gym",),
    "datasets": ("tasks/hub",),
}
"""Package -> beginnings of the files that may import it."""


def imports(file: Path) -> Iterator[str]:
    """Every module that a file imports, anywhere in it, by its full name."""
    parts = ("trb_lab", *file.relative_to(PACKAGE).with_suffix("").parts)
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            origin = ".".join(parts[: -node.level]) if node.level else ""
            module = ".".join(filter(None, [origin, node.module]))
            yield from (f"{module}.{alias.name}" for alias in node.names)


def edges() -> Iterator[tuple[Path, str, str]]:
    """(file, its room, room that it imports) within the package."""
    for file in sorted(PACKAGE.rglob("*.py")):
        room = file.relative_to(PACKAGE).with_suffix("").parts[0]
        for name in imports(file):
            if name.startswith("trb_lab."):
                target = name.split(".")[1]
                if target != room and not target.startswith("__"):
                    yield file, room, target


def test_rooms_import_downwards() -> None:
    wrong = []
    for file, room, target in edges():
        if not {room, target} <= RANKS.keys():
            wrong.append(
                f"{file.relative_to(PACKAGE)} imports {target}: give a new room its rank in this test"
            )
            continue
        here, there = RANKS[room], RANKS[target]
        sideways = here == there and here in SIDEWAYS and (room, target) not in SIDEWAYS[here]
        if there > here or sideways:
            wrong.append(f"{file.relative_to(PACKAGE)} imports {target}")
    assert wrong == []


def test_driver_and_worker_meet_in_files_alone() -> None:
    pairs = {(room, target) for _, room, target in edges()}
    across = {(d, w) for d in DRIVER for w in WORKER} | {(w, d) for d in DRIVER for w in WORKER}
    assert not across & pairs


def test_an_optional_dependency_has_its_own_files() -> None:
    wrong = []
    for file in sorted(PACKAGE.rglob("*.py")):
        name = file.relative_to(PACKAGE).with_suffix("").as_posix()
        for module in {imported.split(".")[0] for imported in imports(file)}:
            if module in ONLY and not name.startswith(ONLY[module]):
                wrong.append(f"{name} imports {module}")
    assert wrong == []


def test_report_never_imports_torch() -> None:
    found = {name.split(".")[0] for file in (PACKAGE / "report").rglob("*.py") for name in imports(file)}
    assert not found & {"torch", "transformers"}
