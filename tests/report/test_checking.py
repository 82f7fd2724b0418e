"""`--check`: what was changed, lost or added in a report's folder is named; an untouched one is equal."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.report.synthetic import write_store
from trb_lab.cli import main
from trb_lab.report import build_report
from trb_lab.report.checking import MANIFEST, Change, compare
from trb_lab.store.run_dir import Store

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Path]:
    """A small sweep's store, and its report. Read only."""
    root: Path = tmp_path_factory.mktemp("checking")
    store = write_store(root / "runs", arms={"opd": {}, "teacher_forced": {}}, seeds=(0, 1), steps=20, items=True,
                        failed=(), missing=())  # fmt: skip
    build_report(store, "kl_budget", root / "report")
    return store, root / "report"


@pytest.fixture
def copy(made: tuple[Store, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(made[1], tmp_path / "copy"))


def kinds(changes: list[Change]) -> dict[str, str]:
    return {c.file: c.what for c in changes}


def test_an_untouched_report_is_equal(made: tuple[Store, Path], copy: Path) -> None:
    (copy / "records.tar.xz").write_bytes(b"what lies beside a report is nobody's business")
    assert compare(copy, made[1]) == []


def test_every_kind_of_change_is_named(made: tuple[Store, Path], copy: Path) -> None:
    drawing = next(p for p in sorted(copy.glob("figures/*.svg")))
    lost = next(p for p in sorted(copy.glob("figures/*.png")))
    drawing.write_text(drawing.read_text() + "\n")
    lost.unlink()
    lines = (copy / "trials.csv").read_text().split("\n")
    lines[2] = lines[2].replace("completed", "finished")
    (copy / "trials.csv").write_text("\n".join(lines))
    (copy / "report.md").write_text((copy / "report.md").read_text() + "More.\n")
    (copy / "tables" / "mine.md").write_text("x")
    changes = compare(copy, made[1])
    assert kinds(changes) == {
        f"figures/{drawing.name}": "edited",
        f"figures/{lost.name}": "missing",
        "trials.csv": "differs",
        "report.md": "differs",
        "tables/mine.md": "extra",
    }
    told = {c.file: c for c in changes}
    original = (made[1] / "trials.csv").read_text().split("\n")[2]
    assert (told["trials.csv"].line, told["trials.csv"].here, told["trials.csv"].anew) == (
        3,
        lines[2],
        original,
    )
    assert (told["report.md"].here, told["report.md"].anew) == ("More.", "")


def test_a_drawing_of_another_version_is_no_change(
    made: tuple[Store, Path], copy: Path, tmp_path: Path
) -> None:
    """Drawn anew with other bytes: only what was noted in the folder's own manifest counts."""
    anew = Path(shutil.copytree(made[1], tmp_path / "anew"))
    drawing = next(p for p in sorted(anew.glob("figures/*.svg")))
    drawing.write_text(drawing.read_text() + "<!-- drawn by another version -->\n")
    assert compare(copy, anew) == []


def test_the_manifest(made: tuple[Store, Path], copy: Path) -> None:
    kept = json.loads((copy / MANIFEST).read_text())
    assert set(kept["files"]) == {
        p.relative_to(copy).as_posix() for p in copy.rglob("*") if p.is_file() and p.name != MANIFEST
    }
    assert kept["code_versions"] == {"0.1.0+ge4144b8a": 4}
    assert all(len(digest) == 64 for digest in kept["files"].values())
    kept["config_sha256"]["sweep"] = {}
    (copy / MANIFEST).write_text(json.dumps(kept))
    assert kinds(compare(copy, made[1])) == {f"{MANIFEST}: config_sha256": "differs"}
    (copy / MANIFEST).write_text("{torn")
    assert kinds(compare(copy, made[1])) == {MANIFEST: "missing"}


def test_the_command(made: tuple[Store, Path], copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--store", str(made[0].root), "report", "kl_budget", "--out", str(copy), "--check"]
    assert main(arguments) == 0
    assert "files are as the runs give them" in capsys.readouterr().out
    before = sorted((p, p.read_bytes()) for p in copy.rglob("*") if p.is_file())
    (copy / "table.txt").unlink()
    assert main([*arguments, "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert (told["equal"], [c["file"] for c in told["changes"]]) == (False, ["table.txt"])
    assert not (copy / "table.txt").exists()  # nothing is written
    assert len(before) == 1 + len([p for p in copy.rglob("*") if p.is_file()])
