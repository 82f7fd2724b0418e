"""Archives of records: what is in them, that they are made alike, and that nothing bad comes out of them."""

from __future__ import annotations

import io
import lzma
import tarfile
from pathlib import Path

import pytest

from trb_lab.errors import LabError, UsageError
from trb_lab.store.records import pack, record_files, unpack
from trb_lab.store.records_public import published
from trb_lab.store.run_dir import Store, read_json, write_json
from trb_lab.store.samples import write_samples
from trb_lab.store.status import begin_attempt, cancel, end_attempt, last_error, state_of

from .fakes import checkpoint, completed_run, make_run, train, write_plan


@pytest.fixture
def filled(store: Store) -> Store:
    """One trial in each state that ends, one that never began, and a run that no sweep plans."""
    planned = {name: ("opd", "", i) for i, name in enumerate(["done", "failed", "cancelled", "died", "new"])}
    write_plan(store, "budgets", planned)
    done = completed_run(store, "done")
    for step in (0, 9):
        write_samples(done, step, "rollout", [{"prompt": "1+1", "response": "2"}])
    write_samples(done, 0, "hard", [{"prompt": "1+1", "response": "2"}])
    write_json(done.data, {"problems": 1})
    checkpoint(done, 9, 1)
    failed = make_run(store, "failed")
    number = begin_attempt(failed)
    train(failed, 0, 3)
    end_attempt(failed, number, "failed", error="loss is nan", error_class="nan")
    begin_attempt(make_run(store, "died"))
    cancel(make_run(store, "cancelled"))
    completed_run(store, "unplanned")
    diagnostic = store.diagnostic("gain")
    write_json(diagnostic / "continuation.json", {"rates": []})
    (diagnostic / "figures").mkdir()
    (diagnostic / "figures" / "gain.png").write_bytes(b"png")
    return store


def names(folder: Path) -> set[str]:
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


def test_what_is_packed_comes_out_as_it_was(filled: Store, tmp_path: Path) -> None:
    archive = tmp_path / "records.tar.xz"
    count = pack(filled, ["budgets"], ["gain", "no such one"], archive)
    again = unpack(archive, tmp_path / "again")
    found = names(again.root)
    assert len(found) == count
    assert found == {
        "sweeps/budgets/plan.json",
        "diagnostics/gain/continuation.json",
        *(f"trials/done/{n}" for n in ("config.json", "provenance.json", "attempts.jsonl", "data.json")),
        *(f"trials/done/{n}" for n in ("metrics.jsonl", "timing.jsonl", "result.json")),
        "trials/done/samples.parquet/step_000000-rollout.parquet",
        *(f"trials/failed/{n}" for n in ("config.json", "provenance.json", "attempts.jsonl")),
        *(f"trials/failed/{n}" for n in ("metrics.jsonl", "timing.jsonl")),
        *(f"trials/{r}/{n}" for r in ("cancelled", "died") for n in ("config.json", "provenance.json")),
        *(f"trials/{r}/attempts.jsonl" for r in ("cancelled", "died")),
    }
    for name in found:
        assert (again.root / name).read_bytes() == published(name, (filled.root / name).read_bytes())
    for name in ("done", "failed", "cancelled", "died", "new"):
        assert state_of(again.trial(name)) == state_of(filled.trial(name))
        assert last_error(again.trial(name)) == last_error(filled.trial(name))


def test_the_same_records_give_the_same_bytes(filled: Store, tmp_path: Path) -> None:
    first, second = tmp_path / "a.tar.xz", tmp_path / "b.tar.xz"
    pack(filled, ["budgets"], ["gain"], first)
    for path in filled.root.rglob("*"):  # another owner's copy, made at another time
        path.touch()
    pack(unpack(first, tmp_path / "copy"), ["budgets"], ["gain"], second)
    assert first.read_bytes() == second.read_bytes()


def test_steps_that_a_report_shows_are_kept(filled: Store) -> None:
    kept = {p.name for p in record_files(filled, "budgets", {9}) if p.suffix == ".parquet"}
    assert kept == {"step_000009-rollout.parquet"}
    every = {p.name for p in record_files(filled, "budgets", None) if p.suffix == ".parquet"}
    assert every == {f"step_00000{n}.parquet" for n in ("0-rollout", "9-rollout", "0-hard")}


def test_an_unknown_sweep(filled: Store, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="Did you mean 'budgets'"):
        pack(filled, ["budget"], [], tmp_path / "a.tar.xz")
    assert not list(tmp_path.glob("*.xz"))


def tar(*entries: tuple[tarfile.TarInfo, bytes]) -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:
        for entry, content in entries:
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return lzma.compress(data.getvalue())


@pytest.mark.parametrize("name", ["/etc/evil", "../evil", "trials/../../evil", "trials/..\\evil"])
def test_a_path_that_leads_out_is_refused(tmp_path: Path, name: str) -> None:
    archive = tmp_path / "a.tar.xz"
    archive.write_bytes(tar((tarfile.TarInfo(name), b"x")))
    with pytest.raises(LabError, match="a path outside the store"):
        unpack(archive, tmp_path / "deep" / "store")
    assert names(tmp_path) == {"a.tar.xz"}


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_links_and_devices_are_refused(tmp_path: Path, kind: bytes) -> None:
    entry = tarfile.TarInfo("trials/a")
    entry.type, entry.linkname = kind, "/etc/passwd"
    archive = tmp_path / "a.tar.xz"
    archive.write_bytes(tar((entry, b"")))
    with pytest.raises(LabError, match=r"trials/a.* is not a plain file"):
        unpack(archive, tmp_path / "store")
    assert names(tmp_path) == {"a.tar.xz"}


def test_a_damaged_archive_is_named(filled: Store, tmp_path: Path) -> None:
    archive = tmp_path / "records.tar.xz"
    pack(filled, ["budgets"], [], archive)
    whole = archive.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 0xFF
    for content in (whole[: len(whole) // 2], bytes(flipped), b"", b"no archive at all", tar()):
        archive.write_bytes(content)
        with pytest.raises(LabError, match=r"records\.tar\.xz"):
            unpack(archive, tmp_path / "store")
    with pytest.raises(LabError, match="no such archive"):
        unpack(tmp_path / "none.tar.xz", tmp_path / "store")
    with pytest.raises(LabError, match="is a folder"):
        unpack(tmp_path, tmp_path / "store")


def test_an_archive_says_nothing_of_the_machine(tmp_path: Path) -> None:
    store = Store(tmp_path / "runs")
    run = store.trial("opd-s0-0123456789")
    write_json(
        store.sweep("one").plan, {"spec": {"base": "/home/me/arith.yaml"}, "trials": [{"run_id": run.run_id}]}
    )
    write_json(
        run.provenance,
        {
            "command": ["/home/me/bin/trb-lab", "run"],
            "environment": {"TOKEN": "s3cret"},
            "pid": 7,
            "host": {"name": "node7", "system": "Linux-6", "cpu": "a cpu"},
            "code": {"label": "0.1.0+g1"},
        },
    )
    begun = '{"attempt": 1, "event": "start", "time": 1.0'
    ended = '{"attempt": 1, "event": "end", "time": 2.0, "state": "interrupted"}\n'
    died = '{"attempt": 2, "event": "start", "time": 3.0, "pid": 8, "host": "node8"}\n{"torn'
    run.attempts.write_text(begun + ', "pid": 7, "host": "node7"}\n' + ended + died)
    pack(store, ["one"], [], tmp_path / "records.tar.xz")
    there = unpack(tmp_path / "records.tar.xz", tmp_path / "there")
    assert read_json(there.trial(run.run_id).provenance) == {
        "host": {"cpu": "a cpu"},
        "code": {"label": "0.1.0+g1"},
    }
    assert read_json(there.sweep("one").plan)["spec"]["base"] == "arith.yaml"
    told = there.trial(run.run_id).attempts.read_text()
    assert told == begun + "}\n" + ended + died  # who died is part of why
