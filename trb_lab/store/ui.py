"""`trb-lab ui`: MLflow's server on a store, with the mirror running beside it until Ctrl-C."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from trb_lab.errors import LabError

from .mlflow_mirror import sync_store
from .mlflow_tracking import QUIET_ENVIRONMENT, default_uri, local_uri, require_mlflow
from .run_dir import Store

FIRST_PORT = 5000
START_SECONDS = 120.0
STOP_SECONDS = 10.0
SERVER_WORKERS = 1


def free_port(host: str, first: int = FIRST_PORT, tries: int = 50) -> int:
    """The first free port from `first` on, else one that the system picks."""
    for port in [*range(first, first + tries), 0]:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise LabError(f"no free port on {host}")


def server_command(store: Store, host: str, port: int) -> list[str]:
    """The command line of `mlflow server` on the store's own database, every location absolute."""
    return [
        *(sys.executable, "-m", "mlflow", "server"),
        *("--backend-store-uri", local_uri(store)),
        *("--artifacts-destination", store.mlflow_artifacts.as_uri()),
        *("--host", host, "--port", str(port), "--workers", str(SERVER_WORKERS)),
    ]


def _start_server(store: Store, host: str, port: int, log: Path) -> subprocess.Popen[bytes]:
    environment = {
        **QUIET_ENVIRONMENT,
        **os.environ,
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # nothing here needs its job runners
    }
    with open(log, "wb") as output:
        return subprocess.Popen(
            server_command(store, host, port),
            stdout=output,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env=environment,
            cwd=store.root,
            start_new_session=True,  # its own group, so that all of its workers can be stopped at once
        )


def _stop_server(server: subprocess.Popen[bytes]) -> None:
    """End the server and every process of its group."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(server.pid, number)
        except ProcessLookupError:
            break
        try:
            server.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            continue
        end = time.monotonic() + STOP_SECONDS
        while _group_lives(server.pid) and time.monotonic() < end:
            time.sleep(0.05)  # the server is gone, its workers are about to
    server.wait()


def _group_lives(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def _wait_until_up(address: str, server: subprocess.Popen[bytes], stop: threading.Event, log: Path) -> None:
    """Raises LabError when the server ends or does not answer in time."""
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end and not stop.is_set():
        if server.poll() is not None:
            raise LabError(f"the MLflow server ended with code {server.returncode}; its output is in {log}")
        try:
            with urllib.request.urlopen(f"{address}/health", timeout=2) as answer:
                if answer.status == 200:
                    return
        except (urllib.error.URLError, OSError):
            stop.wait(0.25)
    if not stop.is_set():
        raise LabError(f"the MLflow server gave no answer in {START_SECONDS:.0f} s; its output is in {log}")


@contextmanager
def _stopped_by_signals(stop: threading.Event) -> Iterator[None]:
    """Ctrl-C, SIGTERM and a closed terminal set `stop` instead of ending the process with children alive."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, lambda *_: stop.set()) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def serve(
    store: Store,
    port: int | None = None,
    tracking_uri: str | None = None,
    host: str = "127.0.0.1",
    *,
    echo: Callable[[str], None] = print,
    stop: threading.Event | None = None,
) -> None:
    """Show what has run so far, start MLflow's server on it, and keep both until Ctrl-C (or `stop`).

    With a remote `tracking_uri` there is a server already: only the mirror runs, and its address is printed.
    Raises MissingExtra without MLflow, LabError when the server does not come up or the port is taken.
    """
    require_mlflow("trb-lab ui")
    stop = stop or threading.Event()
    with _stopped_by_signals(stop):
        uri = default_uri(store, tracking_uri)
        status = sync_store(store, uri, echo=echo, deadline_seconds=10.0)
        if uri != local_uri(store):
            echo(f"MLflow: {uri} (following {store.root}; Ctrl-C ends)")
            sync_store(store, uri, follow=True, stop=stop.is_set, echo=echo)
            return
        if not store.mlflow_db.exists():
            raise LabError(f"the MLflow database {store.mlflow_db} could not be made: {status.reason}")
        if port is not None and free_port(host, port, 1) != port:
            raise LabError(f"port {port} on {host} is taken. Leave out --port to take a free one.")
        _serve_local(store, port or free_port(host), host, status.runs, echo, stop)


def _serve_local(
    store: Store, port: int, host: str, runs: int, echo: Callable[[str], None], stop: threading.Event
) -> None:
    address = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    log = store.root / "mlflow-server.log"
    server = _start_server(store, host, port, log)
    done = threading.Event()
    mirror = threading.Thread(
        target=sync_store,
        args=(store, local_uri(store)),
        kwargs={"follow": True, "stop": done.is_set, "echo": echo},
        name="mirror",
    )
    try:
        _wait_until_up(address, server, stop, log)
        mirror.start()
        echo(f"MLflow: {address} ({runs} runs of {store.root}; Ctrl-C ends)")
        while not stop.wait(0.5):
            if server.poll() is not None:
                raise LabError(f"the MLflow server ended with code {server.returncode}; see {log}")
    finally:
        done.set()
        _stop_server(server)
        if mirror.ident is not None:
            mirror.join()
