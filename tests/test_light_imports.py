"""Help, spec loading and planning start fast: no heavy package comes in with them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HEAVY = {"torch", "transformers", "mlflow", "optuna", "pandas", "pyarrow", "matplotlib", "scipy", "datasets"}


def loaded(code: str) -> set[str]:
    """Top-level packages in memory after running the code in a fresh interpreter."""
    program = f"{code}\nimport sys\nprint(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return set(done.stdout.splitlines()[-1].split())


STORE = "\n".join(
    f"import trb_lab.store.{file.stem}"
    for file in sorted((ROOT / "trb_lab" / "store").glob("*.py"))
    if file.stem != "__init__"
)


@pytest.mark.parametrize(
    "code",
    [
        "import trb_lab.spec, trb_lab.spec.schema",
        STORE,
        "from trb_lab.spec import expand_sweep; expand_sweep('sweeps/kl_budget.yaml')",
        "import trb_lab.check",
        "import trb_lab.trial",
        "import trb_lab as lab, trb_lab.notebook; lab.runs; lab.sweeps; lab.report",
    ],
    ids=["spec", "store", "expand", "check", "trial", "notebook"],
)
def test_no_heavy_package(code: str) -> None:
    assert not loaded(code) & HEAVY


def test_the_command_line_imports_next_to_nothing() -> None:
    assert not loaded("import trb_lab.cli") & {*HEAVY, "pydantic", "yaml", "numpy", "rich"}
