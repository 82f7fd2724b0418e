"""Leases: who may take one, who finds out, and what other machines see."""

from __future__ import annotations

import errno
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from trb_lab.errors import LabError
from trb_lab.store import locks

HOLDER = """
import sys, time
from pathlib import Path
from trb_lab.store import locks
locks.BEAT_SECONDS = 0.05
with locks.hold(Path(sys.argv[1]), "the thing", note={"job": "7", "incarnation": 0}) as lease:
    print("up", flush=True)
    for line in sys.stdin:
        print(lease.is_mine(), flush=True)
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "folder" / "thing.lock"


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """From now on this process says that it runs on another host."""
    return lambda host: monkeypatch.setattr(socket, "gethostname", lambda: host)


@pytest.fixture
def holder(path: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", HOLDER, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        yield process
        process.kill()


def note_of(path: Path, host: str, **changes: Any) -> None:
    """A file that an owner on `host` left, whom no flock tells of."""
    path.parent.mkdir(exist_ok=True)
    now = time.time()
    about = {"pid": 1, "host": host, "time": now, "beat": now, "token": "theirs"}
    path.write_text(json.dumps({**about, **changes}))


def take_over(who: dict[str, Any]) -> bool:
    return True


def names(path: Path) -> list[str]:
    return sorted(p.name for p in path.parent.iterdir())


def test_held_for_the_block_and_released_after_it(path: Path) -> None:
    assert not locks.is_held(path)
    with locks.hold(path, "the thing", note={"on": "here"}) as lease:
        assert locks.is_held(path)
        assert lease.is_mine()
        lease.check()
        who = locks.owner(path)
        assert (who["pid"], who["host"], who["on"]) == (os.getpid(), socket.gethostname(), "here")
        assert "ended" not in who
        with pytest.raises(locks.Locked, match=rf"the thing is in use by process {os.getpid()} on"):
            locks.hold(path, "the thing").__enter__()
    assert not locks.is_held(path)
    assert locks.owner(path)["ended"] >= who["beat"]
    assert names(path) == ["thing.lock"]
    with locks.hold(path, "the thing") as again:
        assert again.token != lease.token


def test_a_killed_owner_holds_nothing(path: Path, holder: subprocess.Popen[str]) -> None:
    assert locks.is_held(path)
    holder.kill()
    holder.wait()
    assert not locks.is_held(path)
    with locks.hold(path, "the thing") as lease:
        assert lease.is_mine()


def test_a_lease_beats(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "BEAT_SECONDS", 0.01)
    with locks.hold(path, "the thing") as lease:
        first = locks.owner(path)["beat"]
        while locks.owner(path)["beat"] == first:
            time.sleep(0.01)
        assert lease.is_mine()


def test_status_queries_are_in_nobodys_way(path: Path) -> None:
    over = threading.Event()

    def ask() -> None:
        while not over.is_set():
            locks.is_held(path)

    askers = [threading.Thread(target=ask) for _ in range(4)]
    for asker in askers:
        asker.start()
    try:
        for _ in range(50):
            with locks.hold(path, "the thing") as lease:
                lease.check()
    finally:
        over.set()
        for asker in askers:
            asker.join()


class TestTakeOver:
    def test_a_live_owner_is_asked_about(self, path: Path, holder: subprocess.Popen[str]) -> None:
        with pytest.raises(locks.Locked, match="gave a sign of life"):
            locks.hold(path, "the thing", may_take=lambda who: who["incarnation"] < 0).__enter__()
        with locks.hold(path, "the thing", may_take=lambda who: who["incarnation"] < 1) as lease:
            assert lease.is_mine()
            assert locks.owner(path)["pid"] == os.getpid()

    def test_the_old_owner_finds_out_and_its_beats_reach_nobody(
        self, path: Path, holder: subprocess.Popen[str]
    ) -> None:
        assert holder.stdin is not None and holder.stdout is not None
        os.kill(holder.pid, signal.SIGSTOP)
        with locks.hold(path, "the thing", may_take=take_over) as lease:
            os.kill(holder.pid, signal.SIGCONT)
            holder.stdin.write("is it mine?\n")
            holder.stdin.flush()
            assert holder.stdout.readline() == "False\n"
            holder.stdin.close()
            holder.wait()  # it has beaten, and written that it has ended
            assert lease.is_mine()
            assert "ended" not in locks.owner(path)
            assert locks.is_held(path)

    def test_losing_it_is_an_error_that_says_to_whom(self, path: Path) -> None:
        with locks.hold(path, "the thing") as old, locks.hold(path, "the thing", may_take=take_over) as new:
            old.beat()
            with pytest.raises(
                locks.Lost, match=rf"is lost to this process: process {os.getpid()} on"
            ) as lost:
                old.check()
            assert lost.value.exit_code == 3
            new.check()

    def test_a_removed_file_is_a_lost_lease(self, path: Path) -> None:
        with locks.hold(path, "the thing") as lease:
            path.unlink()
            with pytest.raises(locks.Lost, match="is gone"):
                lease.check()

    def test_of_two_takers_one_wins(self, path: Path) -> None:
        """Each may take the lease from the owner before both, and not from each other."""
        with locks.hold(path, "the thing", note={"incarnation": 0}) as old, ExitStack() as taken:
            taking = threading.Barrier(8)
            won: list[locks.Lease] = []
            refused: list[locks.Locked] = []

            def take() -> None:
                taking.wait()
                try:
                    hold = locks.hold(
                        path,
                        "the thing",
                        note={"incarnation": 1},
                        may_take=lambda who: who["incarnation"] < 1,
                    )
                    won.append(taken.enter_context(hold))
                except locks.Locked as error:
                    refused.append(error)

            takers = [threading.Thread(target=take) for _ in range(8)]
            for taker in takers:
                taker.start()
            for taker in takers:
                taker.join()
            assert (len(won), len(refused)) == (1, 7)
            assert won[0].is_mine()
            assert not old.is_mine()

    def test_what_a_killed_taker_left_is_swept_up(self, path: Path) -> None:
        path.parent.mkdir()
        (path.parent / ".thing.lock.taking").write_text("")
        (path.parent / ".thing.lock.abc.tmp").write_text("")
        with locks.hold(path, "the thing"):
            assert names(path) == ["thing.lock"]


class TestOtherHosts:
    def test_a_fresh_owner_counts_without_a_flock(self, path: Path) -> None:
        note_of(path, "node-b")
        assert locks.is_held(path)
        with pytest.raises(locks.Locked, match="process 1 on node-b, which gave a sign of life 0 s ago"):
            locks.hold(path, "the thing").__enter__()

    def test_a_silent_one_is_dead(self, path: Path) -> None:
        note_of(path, "node-b", beat=time.time() - locks.LEASE_SECONDS - 1)
        assert not locks.is_held(path)
        with locks.hold(path, "the thing") as lease:
            assert lease.is_mine()

    def test_one_that_ended_holds_nothing(self, path: Path) -> None:
        note_of(path, "node-b", ended=time.time())
        assert not locks.is_held(path)

    def test_an_earlier_incarnation_is_not_waited_for(self, path: Path) -> None:
        note_of(path, "node-b", job="7", incarnation=0)
        with locks.hold(path, "the thing", may_take=lambda who: who["job"] == "7") as lease:
            assert lease.is_mine()

    def test_waiting_ends_when_the_owner_has_been_silent_for_long(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(locks, "LEASE_SECONDS", 0.2)
        note_of(path, "node-b")
        with locks.hold(path, "the thing", wait=60.0) as lease:
            assert lease.is_mine()

    def test_our_own_lease_is_seen_from_there(self, path: Path, elsewhere: Callable[[str], None]) -> None:
        with locks.hold(path, "the thing"):
            elsewhere("node-c")
            assert locks.is_held(path)
        assert not locks.is_held(path)

    def test_a_file_without_beats_is_a_plain_lock(self, path: Path) -> None:
        path.parent.mkdir()
        path.write_text(json.dumps({"pid": 1, "host": "node-b", "time": time.time()}))
        assert not locks.is_held(path)


def test_a_store_that_cannot_be_written_is_named(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **options: object) -> int:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    path.parent.mkdir()
    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(LabError, match=r"cannot take the thing: Read-only file system .*thing\.lock"):
        locks.hold(path, "the thing").__enter__()
