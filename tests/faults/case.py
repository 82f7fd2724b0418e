"""Runs one case: a sweep is hurt as its scenario says, then run again until it is done, then checked."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from trb_lab.driver.plan import plan_sweep
from trb_lab.launch import claim
from trb_lab.launch.batches import BatchFiles
from trb_lab.store.run_dir import RunDir, Store, read_json
from trb_lab.store.status import attempt_count, state_of

from ..launch.conformance import REPOSITORY
from ..slurm_fakes import FakeSlurm
from ..slurm_fakes.world import ACTIVE, STRANGER
from . import invariants
from .catalogue import STEPS, Fault, Scenario

PATIENCE = 600.0
"""Seconds without any end in sight after which a case has failed. Nothing else is measured by the clock."""
MOST_DRIVERS = 15

FAKE_BASE = f"""
name: base
student: ./student
teacher: ./teacher
dataset: {{kind: arith}}
steps: {STEPS}
eval: {{sets: [arith/easy]}}
"""

REAL_BASE = f"""
name: base
student: arith-student
teacher: arith-teacher
dataset: {{kind: arith, split: train, num_examples: 60}}
steps: {STEPS}
optim: {{lr: 1e-3}}
rollout: {{prompts_per_step: 4, max_prompt_tokens: 32, max_new_tokens: 12}}
eval:
  sets: [{{name: easy, dataset: {{kind: arith, split: test, level: easy, num_examples: 8}}}}]
  samples: 1
  every: 100
checkpoint: {{every: 2, keep: 2}}
resources: {{device: cpu, cpu_threads: 1}}
"""

SWEEP = """
name: hurt
question: does everything survive?
base: base.yaml
seeds: [0]
parallel: 3
arms:
  opd: {overrides: {warmup: {kind: opd}}}
  trb:
    overrides: {warmup: {kind: trb, steps: 2}}
    grid: {warmup.kl_budget: [0.01, 0.1]}
"""


class Case:
    """A folder with a sweep, its store, and a cluster where the scenario has one."""

    def __init__(self, scenario: Scenario, root: Path) -> None:
        self.scenario, self.root = scenario, root
        self.store = Store(root / "runs")
        self.sweep = root / "sweep.yaml"
        self.behaviour = root / "behaviour.json"
        self.armed, self.audit = root / "armed", root / "audit"
        for folder in (self.armed, self.audit):
            folder.mkdir()
        for role in ("student", "teacher"):
            (root / role).mkdir()
            (root / role / "config.json").write_text(json.dumps({"role": role}))
        (root / "base.yaml").write_text(REAL_BASE if scenario.real else FAKE_BASE)
        self.sweep.write_text(SWEEP)
        pause = 0.5 if self._has("time limit") else 0.08
        self.behaviour.write_text(json.dumps({"": {"pause": pause, "checkpoint_every": 2}}))
        self.cluster: FakeSlurm | None = None
        if scenario.launcher == "slurm":
            self.cluster = FakeSlurm(root / "cluster", kill_wait=1.0, requeue_delay=0.1, cpus=3)
        self.driver: subprocess.Popen[bytes] | None = None
        self.drivers = 0
        self.codes: list[int] = []
        self.missed: list[Fault] = []
        self.failpoint: str | None = None
        self.runs = [self.store.trial(run_id) for run_id in plan_sweep(self.sweep, self.store).trials]
        self.settings = root / "settings.json"
        self.settings.write_text(json.dumps(self._settings()))

    def _has(self, name: str) -> bool:
        return any(fault.name == name for fault in self.scenario.faults)

    def _settings(self) -> dict[str, Any]:
        profile: dict[str, Any] | None = None
        if self.cluster is not None:
            profile = {"name": "fake", "time": "60m", "signal_delay_seconds": 1200, "poll_seconds": 0.15}
            for fault in self.scenario.faults:
                if fault.name == "packed":
                    profile |= fault.details
        return {
            "store": str(self.store.root),
            "sweep": str(self.sweep),
            "profile": profile,
            "mlflow": self.scenario.real,
        }

    # --- the whole way

    def run(self) -> None:
        """Hurt it, bring it to its end, check it."""
        try:
            for fault in self.scenario.faults:
                if fault.when == "before":
                    self._prepare(fault)
            self._start()
            for fault in self.scenario.faults:
                if fault.when != "before":
                    self._befall(fault)
            self._bring_to_its_end()
            invariants.check(self)
        except BaseException as error:
            error.add_note(
                self.scenario.text + f"\nfiles: {self.root}\ndrivers: {self.codes}\n" + self._told()
            )
            raise
        finally:
            self._clean_up()

    def _told(self) -> str:
        log = self.root / "driver.txt"
        return log.read_text()[-3000:] if log.exists() else ""

    def _clean_up(self) -> None:
        if self.driver is not None and self.driver.poll() is None:
            self.driver.kill()
            self.driver.wait()
        if self.cluster is not None:
            self.cluster.stop()
        for run_dir in self.everything():
            claim.send_signal(run_dir, signal.SIGKILL)

    def everything(self) -> list[RunDir]:
        references = sorted((self.store.root / "references").glob("*"))
        return [*self.store.trials(), *(RunDir(path) for path in references)]

    # --- drivers

    def environment(self) -> dict[str, str]:
        found = {
            **os.environ,
            "PYTHONPATH": REPOSITORY,
            "FAKE_WORKER": str(self.behaviour),
            "FAKE_WORKER_AUDIT": str(self.audit),
            "FAULTS_ARMED": str(self.armed),
        }
        found.pop("TRB_LAB_FAILPOINT", None)
        if self.scenario.real:
            found["FAULTS_REAL"] = "1"
        if self.cluster is not None:
            found |= self.cluster.environment()
        return found

    def _start(self, *options: str) -> subprocess.Popen[bytes]:
        """Start a driver; it is the case's driver from now on."""
        assert self.drivers < MOST_DRIVERS, "it never comes to its end"
        self.drivers += 1
        environment = self.environment()
        if self.failpoint is not None:
            environment["TRB_LAB_FAILPOINT"] = self.failpoint
            self.failpoint = None
        command = [sys.executable, "-m", "tests.faults.driver", str(self.settings), *options]
        with open(self.root / "driver.txt", "ab") as out:
            out.write(f"--- driver {self.drivers} {' '.join(options)}\n".encode())
            out.flush()
            self.driver = subprocess.Popen(
                command, env=environment, cwd=REPOSITORY, stdout=out, stderr=subprocess.STDOUT
            )
        return self.driver

    def _ended(self) -> int | None:
        """The driver's exit code once it has ended."""
        assert self.driver is not None
        code = self.driver.poll()
        if code is not None and (not self.codes or len(self.codes) < self.drivers):
            self.codes.append(code)
        return code

    def _wait(self, condition: Callable[[], object], what: str) -> None:
        until = time.monotonic() + PATIENCE
        while not condition():
            if time.monotonic() > until:
                states = {run.run_id: str(state_of(run)) for run in self.runs}
                raise TimeoutError(f"waited in vain for {what}: {states}")
            time.sleep(0.03)

    def completed(self) -> bool:
        return all(run.result.exists() for run in self.runs)

    def _bring_to_its_end(self) -> None:
        """Everything works again; the same command until nothing is left to do."""
        self._wait(lambda: self._ended() is not None, "the driver's end")
        self.heal()
        while not (self.codes[-1] == 0 and self.completed()):
            self._start("--retry-failed")
            self._wait(lambda: self._ended() is not None, "the driver's end")

    def heal(self) -> None:
        if self.cluster is not None:
            self.cluster.heal()
            self.cluster.script(minute=60.0, max_submit=None, accounting=True)

    # --- faults that are there from the start

    def _prepare(self, fault: Fault) -> None:
        match fault.name:
            case "driver dies at" | "mirror dies at":
                self.failpoint = fault.details["point"]
            case "worker dies at":
                name = self.runs[fault.details["trial"]].run_id
                (self.armed / f"{name}.json").write_text(json.dumps(fault.details))
            case "stale lock":
                lock = self.runs[fault.details["trial"]].lock
                lock.parent.mkdir(parents=True, exist_ok=True)
                now = time.time()
                dead = {"pid": 4_194_303, "host": os.uname().nodename, "time": now, "beat": now, "token": "x"}
                text = {"empty": "", "torn": '{"pid": 12, "ho', "dead": json.dumps(dead)}[
                    fault.details["what"]
                ]
                lock.write_text(text)
            case "packed":
                return
            case "time limit" | "accounting" | "sbatch" | "submit limit" | "small arrays":
                assert self.cluster is not None
                self.cluster.script(**fault.details)
            case _:
                raise ValueError(fault.name)

    # --- faults that strike while it runs

    def _busy(self, steps: int) -> RunDir | None:
        """A trial at work that has made so many steps; None when all have completed before that."""
        found: list[RunDir] = []

        def going() -> bool:
            code = self._ended()
            if self.completed():
                return True
            if code is not None:
                self.heal()
                self._start("--retry-failed")
            found[:] = [
                r for r in self.runs if not r.result.exists() and steps_of(r) >= steps and _at_work(r)
            ]
            return bool(found)

        self._wait(going, f"a trial with {steps} steps")
        return found[0] if found else None

    def _befall(self, fault: Fault) -> None:
        assert fault.when != "before"
        run_dir = self._busy(fault.when)
        if run_dir is None:
            self.missed.append(fault)
            return
        if fault.name.startswith(("driver", "second driver")):
            self._to_drivers(fault.name)
        elif fault.name in ("worker is killed", "torn line", "half a checkpoint"):
            self._to_worker(fault.name, run_dir)
        else:
            self._to_cluster(fault, run_dir)

    def _to_drivers(self, name: str) -> None:
        assert self.driver is not None
        before = self.driver
        match name:
            case "driver is killed":
                before.kill()
                before.wait()
            case "driver is stopped":
                before.terminate()
                self._wait(lambda: before.poll() is not None, "the stopped driver's end")
            case "second driver" | "driver is relieved":
                self._ended()
                self._start(*(["--take-over"] if name == "driver is relieved" else []))
                gone = before if name == "driver is relieved" else self.driver
                self._wait(lambda: gone.poll() is not None, "the end of one of two drivers")
                if name == "second driver":
                    refused, self.driver = self.driver.returncode, before
                    assert refused != 0 or self.completed()
                    self.drivers -= 1
                else:
                    assert before.returncode in (0, 1, 3), before.returncode
                    self.codes.append(before.returncode)

    def _to_worker(self, name: str, run_dir: RunDir) -> None:
        worker = claim.live_worker(run_dir)
        if worker is None or not worker.get("pid"):
            return
        pid = int(worker["pid"])
        if name != "worker is killed":
            try:
                os.kill(pid, signal.SIGSTOP)
            except ProcessLookupError:
                return
        if name == "torn line" and run_dir.metrics.exists():
            with open(run_dir.metrics, "a") as f:
                f.write('{"step": 99, "trai')
        elif name == "half a checkpoint":
            half = run_dir.checkpoints / "step_000999"
            half.mkdir(parents=True, exist_ok=True)
            (half / "student.safetensors").write_text("half")
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            return

    def element_of(self, run_dir: RunDir) -> str | None:
        """The job element that has a run, as the newest batch record says."""
        for batch in reversed(BatchFiles(self.store).open()):
            for index, runs in enumerate(batch.elements):
                if batch.job_id is not None and any(Path(run).name == run_dir.run_id for run in runs):
                    return batch.element(index)
        return None

    def _to_cluster(self, fault: Fault, run_dir: RunDir) -> None:
        cluster, element = self.cluster, self.element_of(run_dir)
        assert cluster is not None
        if element is None:
            self.missed.append(fault)
            return
        match fault.name:
            case "preempted":
                cluster.preempt(element, grace=fault.details["grace"])
            case "preempted without grace":
                cluster.script(kill_wait=0.0)
                cluster.preempt(element, grace=0)
            case "cancelled":
                cluster.cancel(element)
            case "requeued":
                cluster.requeue(element)
            case "node lost":
                cluster.node_fail(element)
            case "node lost, processes live on":
                self._cut_off(cluster, element, run_dir)
            case "out of memory":
                cluster.out_of_memory(element)
            case "id of somebody else":
                self._give_ids_away(cluster)
            case _:
                trouble: dict[str, Any] = {
                    "squeue fails": {"squeue": "fail"},
                    "squeue is slow": {"squeue": "slow:0.7"},
                    "unknown state": {"states": {"*": "TELEPORTING"}},
                    "unreachable": {"unreachable": True},
                }[fault.name]
                cluster.script(**trouble)
                time.sleep(1.0)
                cluster.heal()

    def _cut_off(self, cluster: FakeSlurm, element: str, run_dir: RunDir) -> None:
        """Slurm loses the node; its processes stand still until the next worker is at it, and then go on."""
        zombies = cluster.pids(element)
        send(zombies, signal.SIGSTOP)
        cluster.node_fail(element, zombie=True)
        before, until = attempt_count(run_dir), time.monotonic() + 15

        def followed() -> bool:
            if self._ended() is not None and not self.completed():
                self._start("--retry-failed")
            return attempt_count(run_dir) > before or self.completed() or time.monotonic() > until

        self._wait(followed, "the worker after the lost one")
        time.sleep(0.1)
        send(zombies, signal.SIGCONT)

    def _give_ids_away(self, cluster: FakeSlurm) -> None:
        """Other users get the ids of our jobs that have ended."""
        arrays: dict[int, bool] = {}
        for element in cluster.jobs().values():
            arrays[element["array"]] = arrays.get(element["array"], True) and element["state"] not in ACTIVE
        for array, over in arrays.items():
            if over:
                cluster.stranger(array)

    def submissions(self) -> int:
        return len(self.cluster.calls("sbatch")) if self.cluster is not None else 0

    def ours(self) -> dict[str, str]:
        """States of our elements."""
        if self.cluster is None:
            return {}
        return {name: e["state"] for name, e in self.cluster.jobs().items() if e["user"] != STRANGER}

    def sweep_again(self) -> int:
        self._start()
        self._wait(lambda: self._ended() is not None, "the driver's end")
        return self.codes[-1]


def send(pids: set[int], number: int) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def steps_of(run_dir: RunDir) -> int:
    try:
        return run_dir.metrics.read_bytes().count(b"\n")
    except FileNotFoundError:
        return 0


def _at_work(run_dir: RunDir) -> bool:
    return claim.live_worker(run_dir) is not None and read_json(run_dir.config) is not None
