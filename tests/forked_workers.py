"""Workers and drivers that are forked from the process that tests, which spares each of them a second of imports."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from trb_lab import failpoints
from trb_lab.errors import LabError
from trb_lab.launch import local
from trb_lab.store.run_dir import RunDir

from .launch import fake_worker


def forked(work: Callable[[], int], out: int, keep: Sequence[int] = ()) -> int:
    """Run `work` in a child; its id. It has no files but its output and those to keep."""
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        return pid
    code = 70
    try:
        os.setsid()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2):
            signal.signal(number, signal.SIG_DFL)
        os.dup2(out, 1)
        os.dup2(out, 2)
        before = 3
        for descriptor in sorted(keep):
            os.closerange(before, descriptor)
            before = descriptor + 1
        os.closerange(before, 4096)
        sys.stdout = os.fdopen(1, "w", buffering=1, closefd=False)
        sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
        failpoints._passed.clear()
        code = work()
        sys.stdout.flush()
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


class ForkedWorker:
    """In the place of subprocess.Popen: a worker in a child of this process."""

    work = staticmethod(fake_worker.work)

    def __init__(
        self,
        command: Sequence[str],
        *,
        stdout: Any,
        env: Mapping[str, str],
        pass_fds: Sequence[int],
        **_: Any,
    ) -> None:
        def work() -> int:
            os.environ.update(env)
            try:
                return self.work(RunDir(Path(command[-1])))
            except LabError as error:
                print(error, flush=True)
                return error.exit_code

        self.pid = forked(work, stdout.fileno(), pass_fds)
        self.returncode: int | None = None

    def wait(self) -> int:
        if self.returncode is None:
            self.returncode = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self.returncode

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)


def fork_workers(setattr: Any, worker: type[ForkedWorker] = ForkedWorker) -> None:
    setattr(local, "subprocess", SimpleNamespace(**{**vars(subprocess), "Popen": worker}))
