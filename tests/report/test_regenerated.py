"""The same report from run directories, from an archive of records, and from a tracking server alone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.report.synthetic import write_store
from trb_lab.cli import main
from trb_lab.errors import LabError, UsageError
from trb_lab.store.mlflow_mirror import sync_store
from trb_lab.store.run_dir import Store, write_json
from trb_lab.store.ui import free_port

pytestmark = pytest.mark.long

pytest.importorskip("mlflow")
DRAWN = (".svg", ".png", ".pdf", ".html")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Path]:
    """A mirrored sweep with a failed trial and one that never began, a diagnostic, and its report. Read only."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        root: Path = tmp_path_factory.mktemp("regenerated")
        store = write_store(root / "runs", arms={"opd": {}, "teacher_forced": {}, "veto": {}}, seeds=(0, 1),
                            steps=20, items=True, failed=(1,), missing=(5,))  # fmt: skip
        rate = {"value": 0.5, "stderr": 0.1}
        rates = [{"continuer": "teacher", "arm": a, "cut": c, "success": rate} for a in "ab" for c in (4, 8)]
        folder = store.diagnostic("gain")
        write_json(folder / "continuation.json", {"arms": [{"name": "a"}, {"name": "b"}], "rates": rates})
        status = sync_store(store)
        assert status.ok, status
        assert main(["--store", str(store.root), "report", "kl_budget", "--out", str(root / "report")]) == 0
    return store, root / "report"


def uri(store: Store) -> str:
    return f"sqlite:///{store.mlflow_db}"


def same(first: Path, second: Path) -> list[str]:
    """Names of the files, after both folders were found to hold the same, byte for byte, drawings apart."""
    sides = [{p.relative_to(f).as_posix(): p for p in f.rglob("*") if p.is_file()} for f in (first, second)]
    assert set(sides[0]) == set(sides[1])
    names = sorted(
        n for n in sides[0] if n.startswith("tables/") or not n.endswith((*DRAWN, "manifest.json"))
    )
    for name in names:
        assert sides[0][name].read_bytes() == sides[1][name].read_bytes(), name
    return names


def test_from_an_archive(made: tuple[Store, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, report = made
    monkeypatch.chdir(tmp_path)  # where there is no store
    packed = ["--store", str(store.root), "report", "kl_budget", "--out", "first", "--pack", "records.tar.xz"]
    assert main(packed) == 0
    assert main(["report", "kl_budget", "--out", "again", "--records", "records.tar.xz"]) == 0
    assert len(same(report, tmp_path / "again")) > 5
    assert main(["report", "kl_budget", "--out", str(report), "--records", "records.tar.xz", "--check"]) == 0
    assert not (tmp_path / "runs").exists()


def test_from_a_sqlite_uri(made: tuple[Store, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, report = made
    monkeypatch.chdir(tmp_path)
    assert main(["report", "kl_budget", "--out", "again", "--tracking-uri", uri(store)]) == 0
    same(report, tmp_path / "again")
    assert not (tmp_path / "runs").exists()


def test_a_store_made_of_a_server_has_what_the_other_has(made: tuple[Store, Path], tmp_path: Path) -> None:
    from trb_lab.store.mlflow_fetch import fetch
    from trb_lab.store.records import record_files
    from trb_lab.store.status import state_of

    store, _ = made
    again = fetch(uri(store), [["none", "kl_budget"]], tmp_path / "again", ["gain", "none"], None)
    wanted = {p.relative_to(store.root): p for p in record_files(store, "kl_budget", None)}
    wanted[Path("diagnostics/gain/continuation.json")] = store.diagnostic("gain") / "continuation.json"
    found = {p.relative_to(again.root): p for p in again.root.rglob("*") if p.is_file()}
    assert set(found) == set(wanted)
    assert all(found[name].read_bytes() == path.read_bytes() for name, path in wanted.items())
    runs = [*store.trials(), store.trial("never-begun")]
    assert [state_of(again.trial(r.run_id)) for r in runs] == [state_of(r) for r in runs]


def test_what_cannot_be_fetched(made: tuple[Store, Path], tmp_path: Path) -> None:
    from trb_lab.store.mlflow_fetch import fetch

    store, _ = made
    with pytest.raises(UsageError, match=r"no sweep 'kl_budgets'.*Did you mean 'kl_budget'"):
        fetch(uri(store), ["kl_budgets"], tmp_path / "a")
    with pytest.raises(LabError, match="there is no file"):
        fetch(f"sqlite:///{tmp_path}/none.db", ["kl_budget"], tmp_path / "a")
    assert not (tmp_path / "none.db").exists()
    with pytest.raises(LabError, match="does not answer"):
        fetch("http://127.0.0.1:9", ["kl_budget"], tmp_path / "a")


@pytest.mark.parametrize("what", ["gone", "changed", "unlisted"])
def test_an_upload_that_was_cut_short(made: tuple[Store, Path], tmp_path: Path, what: str) -> None:
    from trb_lab.store.mlflow_fetch import fetch

    store, _ = made
    run = next(r for r in store.trials() if r.result.exists())
    configs = (p for p in store.mlflow_artifacts.rglob("config.json") if run.run_id in p.read_text())
    listed = next(configs).with_name("records.json")
    path = listed if what == "unlisted" else listed.with_name("result.json")
    kept = path.read_bytes()
    try:
        if what == "changed":
            path.write_bytes(kept + b" ")
        else:
            path.unlink()
        with pytest.raises(LabError, match=f"not complete: {run.run_id} .*{path.name}.*trb-lab sync"):
            fetch(uri(store), ["kl_budget"], tmp_path / "again")
    finally:
        path.write_bytes(kept)


def test_options_that_do_not_go_together(
    made: tuple[Store, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    for options, told in (
        (["--records", "a", "--tracking-uri", "b", "--out", "c"], "give one of them"),
        (["--records", "a"], "--out DIR"),
        (["--tracking-uri", "a"], "--out DIR"),
        (["--records", "a", "--out", "b", "--sync"], "--sync shows the store's runs"),
    ):
        assert main(["report", "kl_budget", *options]) == 2
        assert told in capsys.readouterr().err


def test_from_a_server_over_http(
    made: tuple[Store, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A real server with its own files: sent to by `sync`, read from without the store."""
    import time
    import urllib.request

    from trb_lab.store.mlflow_tracking import QUIET_ENVIRONMENT

    store, report = made
    port = free_port("127.0.0.1")
    address = f"http://127.0.0.1:{port}"
    server = subprocess.Popen(
        [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", f"sqlite:///{tmp_path}/server.db",
         "--artifacts-destination", str(tmp_path / "files"), "--port", str(port), "--workers", "1"],
        env={**os.environ, **QUIET_ENVIRONMENT, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=tmp_path,
    )  # fmt: skip
    try:
        for _ in range(1200):
            try:
                urllib.request.urlopen(f"{address}/health", timeout=2).close()
                break
            except OSError:
                time.sleep(0.25)
        assert sync_store(store, address).ok
        (tmp_path / "nowhere").mkdir()
        monkeypatch.chdir(tmp_path / "nowhere")
        assert main(["report", "kl_budget", "--out", "../again", "--tracking-uri", address]) == 0
        same(report, tmp_path / "again")
    finally:
        server.terminate()
        server.wait(30)
