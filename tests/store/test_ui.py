"""`trb-lab ui` with the real server: it answers, shows nested runs, follows, and leaves no process behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from typing import Any

import pytest

from trb_lab.store.run_dir import Store
from trb_lab.store.ui import free_port

from .fakes import completed_run, write_plan

pytest.importorskip("mlflow")

SERVE = """
import sys
from trb_lab.store.run_dir import Store
from trb_lab.store.ui import serve
serve(Store.locate(sys.argv[1]), echo=lambda text: print(text, flush=True))
"""


def post(url: str, body: dict[str, Any]) -> Any:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)


def runs(address: str, experiment: str) -> list[dict[str, Any]]:
    found = post(f"{address}/api/2.0/mlflow/experiments/search", {"max_results": 10})["experiments"]
    ids = [e["experiment_id"] for e in found if e["name"] == experiment]
    if not ids:
        return []
    rows = post(f"{address}/api/2.0/mlflow/runs/search", {"experiment_ids": ids}).get("runs", [])
    return [{**r["info"], **{t["key"]: t["value"] for t in r["data"]["tags"]}} for r in rows]


def processes_of_group(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.slow
def test_ui_serves_follows_and_ends(mirrored: Store) -> None:
    write_plan(mirrored, "budgets", {"a-s0": ("trb", "kl_budget=0.05", 0)})
    completed_run(mirrored, "a-s0")
    command = [sys.executable, "-c", SERVE, str(mirrored.root)]
    ui = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert ui.stdout is not None
    try:
        address = ui.stdout.readline().split()[1]
        by_name = {r["run_name"]: r for r in runs(address, "budgets")}
        child = by_name["trb kl_budget=0.05 seed 0"]
        assert child["mlflow.parentRunId"] == by_name["budgets"]["run_id"]
        url = f"{address}/get-artifact?path=result.json&run_uuid={child['run_id']}"
        with urllib.request.urlopen(url, timeout=30) as answer:
            assert json.load(answer)["state"] == "completed"
        completed_run(mirrored, "later", seed=1)
        end = time.monotonic() + 60
        states: list[str] = []
        while states != ["FINISHED"] and time.monotonic() < end:  # made as RUNNING, ended in the same pass
            time.sleep(0.5)
            states = [r["status"] for r in runs(address, "runs")]
        assert states == ["FINISHED"]
        found = subprocess.run(["pgrep", "-P", str(ui.pid)], capture_output=True, text=True, check=False)
        server = int(found.stdout.split()[0])
    finally:
        ui.send_signal(signal.SIGTERM)
        code = ui.wait(60)
        ui.stdout.close()
    assert code == 0
    assert not processes_of_group(server)


def test_free_port_passes_over_a_taken_one() -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert free_port("127.0.0.1", port) != port
