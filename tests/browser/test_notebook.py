"""The example notebook runs, from its first cell to its last."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.browser,  # starts a kernel
    pytest.mark.skipif(not os.environ.get("TRB_LAB_TEST_BROWSER"), reason="set TRB_LAB_TEST_BROWSER=1"),
]
NOTEBOOK = Path(__file__).parents[2] / "reports" / "notebook.ipynb"


def test_it_runs_and_shows_what_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    monkeypatch.delenv("TRB_LAB_STORE", raising=False)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    assert all(
        not cell.outputs and cell.execution_count is None
        for cell in notebook.cells
        if cell.cell_type == "code"
    )
    client = nbclient.NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(tmp_path)}})
    client.execute()
    shown = [
        output.get("data", {})
        for cell in notebook.cells
        if cell.cell_type == "code"
        for output in cell.outputs
    ]
    assert sum("image/png" in data for data in shown) == 1
    tables = [data["text/html"] for data in shown if "text/html" in data]
    assert len(tables) == 5
    assert "Runs(12 of kl_budget: 12 completed)" in tables[1]
    assert "half_width" in tables[2]
    assert "report.html" in tables[3]
