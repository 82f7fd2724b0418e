"""Sweeps on a real Slurm, driven as a user drives them: the command line in processes of its own."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from trb_lab.store import locks
from trb_lab.store.run_dir import RunDir, Store, read_json
from trb_lab.store.status import attempt_count, state_of

from ..launch.conformance import wait_for
from .invariants import batch_records, complaints, planned

ROOT = Path(__file__).parents[2]
PATIENCE = 300.0
"""Seconds for anything on this cluster to happen, however busy the machine is."""

Marks = [
    pytest.mark.slurm,
    pytest.mark.skipif(os.environ.get("TRB_LAB_TEST_SLURM") != "1", reason="TRB_LAB_TEST_SLURM is not 1"),
]
STEPS = 30
ARMS = {
    "opd": {"overrides": {"warmup": {"kind": "opd"}}},
    "trb": {"overrides": {"warmup": {"kind": "trb", "kl_budget": 0.1, "steps": 15}}},
}
"""Over soon. Those that something is to befall are held until then (Lab.frozen)."""
SEEDS = range(3)


class Lab:
    """One sweep of tiny trials of the bundled pair in a store of its own, and a profile."""

    def __init__(self, root: Path, name: str) -> None:
        root.mkdir(parents=True, exist_ok=True)
        self.root, self.name = root, name
        self.store = Store(root / "runs")
        self.file, self.profile = root / f"{name}.yaml", root / "profile.yaml"
        self.processes: list[subprocess.Popen[str]] = []

    def plan(
        self,
        arms: Mapping[str, Any] | Sequence[str],
        seeds: Sequence[int],
        overrides: Mapping[str, Any] | None = None,
        **profile: Any,
    ) -> Lab:
        """Write the sweep's file and the profile's, which differs from slurm/dev.yaml in what is given."""
        chosen = dict(arms) if isinstance(arms, Mapping) else {arm: ARMS[arm] for arm in arms}
        sweep = {
            "name": self.name,
            "question": "Does it survive?",
            "base": str(ROOT / "experiments" / "arith.yaml"),
            "seeds": list(seeds),
            "overrides": {
                "steps": STEPS,
                "rollout.prompts_per_step": 4,
                "dataset.num_examples": 100,
                "eval": {"sets": [], "every": None},
                "checkpoint.every": 10,
                "resources.cpu_threads": 1,
                **(overrides or {}),
            },
            "arms": chosen,
        }
        self.file.write_text(yaml.safe_dump(sweep, sort_keys=False))
        extends = {"extends": str(ROOT / "slurm" / "dev.yaml"), "mem": "1GB"}
        self.profile.write_text(yaml.safe_dump({**extends, **profile}))
        return self

    # --- the command line

    def start(self, *arguments: str, here: bool = False) -> Driver:
        """`trb-lab sweep FILE --on PROFILE ...` in the background; `here`: without a cluster."""
        on = [] if here else ["--on", str(self.profile)]
        return Driver(self, ["sweep", str(self.file), *on, *arguments])

    def sweep(self, *arguments: str) -> Driver:
        """The same, until it ends."""
        driver = self.start(*arguments)
        driver.process.wait(PATIENCE)
        return driver

    def call(self, *arguments: str) -> str:
        """What another command prints. It must succeed."""
        done = subprocess.run(
            self.command(arguments), capture_output=True, text=True, timeout=PATIENCE, cwd=self.root
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def command(self, arguments: Sequence[str]) -> list[str]:
        return [sys.executable, "-m", "trb_lab.cli", "--store", str(self.store.root), *arguments]

    def status(self) -> dict[str, dict[str, Any]]:
        """Of each trial, by `arm seed`."""
        shown = json.loads(self.call("status", self.name, "--json"))
        return {f"{t['arm']} {t['seed']}": t for t in shown["sweeps"][0]["trials"]}

    # --- what there is

    def trials(self) -> list[RunDir]:
        return planned(self.store, self.name)

    def trial(self, arm: str, seed: int) -> RunDir:
        for trial in read_json(self.store.sweep(self.name).plan)["trials"]:
            if (trial["arm"], trial["seed"]) == (arm, seed):
                return self.store.trial(trial["run_id"])
        raise KeyError(f"{arm} {seed}")

    def attempts(self) -> list[int]:
        return [attempt_count(run) for run in self.trials()]

    def submissions(self) -> int:
        return batch_records(self.store)

    def wait_until(self, condition: Any, what: str) -> None:
        try:
            wait_for(condition, PATIENCE)
        except TimeoutError:
            states = {run.run_id: str(state_of(run)) for run in self.trials()} if self.planned() else {}
            raise AssertionError(f"not {what}; trials: {states}\n{queue()}\n{self.said()}") from None

    def planned(self) -> bool:
        return self.store.sweep(self.name).plan.exists()

    def frozen(self, *runs: RunDir, attempt: int = 1, before: Sequence[RunDir] = ()) -> None:
        """Hold each worker of that attempt once it has made a step, wherever it is then; those in `before` sooner.

        So it is certain to be at work when something befalls it. Slurm lets it go on by itself (SIGCONT) when it
        asks a job to end.
        """
        left = [*runs, *before]

        def stopped() -> bool:
            for run in list(left):
                if run.result.exists():
                    raise AssertionError(f"{run.run_id} was over before it could be hit")
                pid = worker_pid(run)
                if pid and attempt_count(run) >= attempt and (run in before or steps_made(run, attempt)):
                    os.kill(pid, signal.SIGSTOP)
                    left.remove(run)
            return not left

        self.wait_until(stopped, f"at work in attempt {attempt}: {[run.run_id for run in left]}")

    def thaw(self, *runs: RunDir) -> None:
        """Let held workers go on."""
        for run in runs:
            if pid := worker_pid(run):
                os.kill(pid, signal.SIGCONT)

    def said(self) -> str:
        """What every driver of this lab printed."""
        return "\n".join(
            f"--- {path.name}\n{path.read_text()[:1500]}" for path in sorted(self.root.glob("driver_*.txt"))
        )

    # --- the end

    def close(self) -> None:
        """Leave nothing behind on the cluster or here."""
        for process in self.processes:
            process.kill()
            process.wait()
        names = [f"trb-{path.parent.name}" for path in self.store.slurm.glob("*/batch.json")]
        if names:
            subprocess.run(["scancel", "--quiet", "--name", ",".join(names)], capture_output=True)
        for run in self.store.trials():
            if pid := worker_pid(run):
                os.kill(pid, 9)


class Driver:
    """A `trb-lab` process of a lab; what it prints is in a file."""

    def __init__(self, lab: Lab, arguments: Sequence[str]) -> None:
        self.path = lab.root / f"driver_{len(lab.processes)}.txt"
        with open(self.path, "wb") as out:
            self.process = subprocess.Popen(
                lab.command(arguments), stdout=out, stderr=subprocess.STDOUT, text=True, cwd=lab.root,
                stdin=subprocess.DEVNULL,
            )  # fmt: skip
        lab.processes.append(self.process)

    @property
    def code(self) -> int | None:
        return self.process.poll()

    @property
    def text(self) -> str:
        return self.path.read_text()

    def ends(self) -> int:
        """Its exit code, waited for."""
        return self.process.wait(PATIENCE)


def steps_made(run: RunDir, attempt: int) -> int:
    """Steps that were made in this attempt or a later one."""
    text = run.timing.read_text() if run.timing.exists() else ""
    return sum(int(number) >= attempt for number in re.findall(r'"attempt": (\d+),', text))


def worker_pid(run: RunDir) -> int | None:
    """Of the live worker."""
    return locks.owner(run.lock).get("pid") if locks.is_held(run.lock) else None


def parent_of(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("PPid:")))


def are_well(labs: Mapping[Lab, int | None], weights: Mapping[str, str]) -> None:
    """Every invariant holds, so often was something submitted (None: no matter), and one more sweep submits nothing."""
    before = {lab: (lab.submissions(), lab.attempts()) for lab in labs}
    for lab, submissions in labs.items():
        assert submissions in (None, before[lab][0]), lab.said()
    agains = {lab: lab.start() for lab in labs}
    for lab, again in agains.items():
        assert again.ends() == 0, again.text
        assert (lab.submissions(), lab.attempts()) == before[lab], again.text
        found = complaints(lab.store, lab.name, weights)
        assert found == [], lab.said()


# --- the cluster


def cluster(verb: str) -> None:
    """`slurm/dev-cluster/cluster VERB`."""
    done = subprocess.run(
        [ROOT / "slurm/dev-cluster/cluster", verb], capture_output=True, text=True, timeout=PATIENCE
    )
    assert done.returncode == 0, done.stdout + done.stderr


def slurm(*command: str) -> str:
    """What one of Slurm's commands prints."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout.strip()


def queue() -> str:
    return subprocess.run(["squeue", "-r", "-t", "all"], capture_output=True, text=True).stdout


def outrank(seconds: float = 1) -> str:
    """A job of the highest partition that needs every processor that no job of that partition has; its id."""
    total = int(slurm("sinfo", "-h", "-o", "%C").split("/")[3])
    safe = sum(
        int(cpus) for cpus in slurm("squeue", "-h", "-r", "-p", "high", "-t", "R,CG", "-o", "%C").split()
    )
    size = ["-c", str(total - safe), "--mem=100"]
    return slurm("sbatch", "--parsable", "-p", "high", *size, "-o", "/dev/null", "--wrap", f"sleep {seconds}")
