"""`trb-lab check --cluster`: verdicts on recorded answers, the node's side, and the whole on a real Slurm."""

from __future__ import annotations

import fcntl
import json
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from trb_lab.check import cluster_output as out
from trb_lab.check import cluster_rules as rules
from trb_lab.check import node_probe
from trb_lab.check.cluster_node import Here, judge_node
from trb_lab.check.cluster_probe import Probed, sbatch_options, script, smallest
from trb_lab.check.findings import Findings
from trb_lab.cli import main
from trb_lab.spec import ClusterProfile

ROOT = Path(__file__).parents[2]
RECORDED = Path(__file__).parent / "recorded"
PARTITIONS = out.partitions((RECORDED / "partitions.txt").read_text())
CONFIG = out.config((RECORDED / "config.txt").read_text())
ASSOCIATIONS = out.table("root||normal||||||\ndev||normal,tight|normal|||||\n", out.ASSOCIATION_FIELDS)


def profile(**values: Any) -> ClusterProfile:
    return ClusterProfile.model_validate(values)


def states(findings: Findings) -> dict[str, str]:
    return {f.subject: f.state for f in findings.all}


def told(findings: Findings) -> str:
    return "\n".join(f.text for f in findings.all)


def test_recorded_answers_are_read() -> None:
    assert list(PARTITIONS) == ["low", "scavenge", "high"]
    assert PARTITIONS["low"].is_default and PARTITIONS["low"].is_up
    assert (PARTITIONS["low"].max_seconds, PARTITIONS["high"].tier) == (86_400, 10)
    assert CONFIG["MaxArraySize"] == "1001" and CONFIG["PreemptType"] == "preempt/partition_prio"
    assert "Epilog" not in CONFIG  # (null)
    assert ASSOCIATIONS[1]["qos"] == "normal,tight"
    text = "Slurmctld(primary) at a is DOWN\nSlurmctld(backup) at b is UP\n"
    assert out.controllers_up(text) == [("primary a", False), ("backup b", True)]
    assert out.job("JobId=3 JobState=PENDING Reason=Resources NodeList=(null) ExitCode=0:0") == {
        "JobId": "3", "JobState": "PENDING", "Reason": "Resources", "ExitCode": "0:0"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("UNLIMITED", None), ("", None), ("1-00:00:00", 86_400), ("01:00:00", 3600), ("30 sec", 30), ("0 min", 0),
     ("15:00", 900), ("20", 20), ("INFINITE", None), ("what", None)],
)  # fmt: skip
def test_durations(text: str, seconds: int | None) -> None:
    assert out.duration(text) == seconds


def test_partitions() -> None:
    findings = Findings()
    assert rules.chosen_partition(profile(), PARTITIONS, findings) is PARTITIONS["low"]
    assert rules.chosen_partition(profile(partition="hi"), PARTITIONS, findings) is None
    assert "Did you mean 'high'?" in findings.all[-1].text
    down = out.partitions("PartitionName=x State=DRAIN MaxTime=UNLIMITED")
    rules.chosen_partition(profile(partition="x"), down, findings)
    rules.chosen_partition(profile(), down, findings)
    assert [f.state for f in findings.all] == ["ok", "fail", "fail", "fail"]


def test_a_job_that_is_too_long_for_its_partition() -> None:
    findings = Findings()
    rules.judge_time(profile(time="2d"), PARTITIONS["low"], findings)
    assert findings.failed and "at most 1440m" in told(findings)


@pytest.mark.parametrize(
    ("partition", "state", "words"),
    [
        ("low", "ok", "GraceTime 20 s"),
        ("scavenge", "warn", "checkpoint.every"),
        ("high", "ok", "not taken away"),
    ],
)
def test_preemption_by_partition(partition: str, state: str, words: str) -> None:
    findings = Findings()
    rules.judge_preemption(profile(), CONFIG, PARTITIONS[partition], PARTITIONS, {}, findings)
    assert states(findings)["preemption"] == state
    assert words in told(findings)


def test_preemption_by_qos_and_none() -> None:
    low = PARTITIONS["high"]
    settings = {
        "PreemptType": "preempt/qos",
        "PreemptMode": "REQUEUE",
        "PreemptParameters": "send_user_signal",
    }
    findings = Findings()
    rules.judge_preemption(
        profile(), settings, low, {}, {"gracetime": "00:02:00", "preemptmode": "cluster"}, findings
    )
    assert "GraceTime 120 s" in told(findings) and "SIGUSR2" in told(findings)
    findings = Findings()
    rules.judge_preemption(profile(requeue=False), settings, low, {}, {"preemptmode": "cancel"}, findings)
    assert "started again by the driver" in told(findings)
    findings = Findings()
    rules.judge_preemption(profile(), {"PreemptType": "preempt/none"}, low, {}, {}, findings)
    assert "not taken away" in told(findings)


def test_accounts_and_qos() -> None:
    def look(given: ClusterProfile, enforced: bool = True, rows: Any = ASSOCIATIONS) -> tuple[Any, Findings]:
        findings = Findings()
        return rules.association(given, rows, "low", "dev", enforced, findings), findings

    found, findings = look(profile())
    assert found["account"] == "dev" and states(findings) == {"account": "ok"}
    assert rules.qos_of(profile(), found) == "normal"
    assert states(look(profile(qos="tight"))[1]) == {"account": "ok", "qos": "ok"}
    _, findings = look(profile(qos="tigh"))
    assert states(findings)["qos"] == "fail" and "Did you mean 'tight'?" in told(findings)
    found, findings = look(profile(account="deve"))
    assert found is None and findings.failed and "Did you mean 'dev'?" in told(findings)
    assert states(look(profile(account="deve"), enforced=False)[1]) == {"account": "warn"}
    assert states(look(profile(), rows=[])[1]) == {"account": "fail"}
    elsewhere = [{**ASSOCIATIONS[1], "partition": "high"}]
    assert look(profile(), rows=elsewhere)[0] is None


def test_limits() -> None:
    def look(qos: dict[str, str], **association: str) -> Findings:
        findings = Findings()
        rules.judge_limits(profile(), association, qos, findings)
        return findings

    assert "no limit" in told(look({}))
    assert "at most 3 of your jobs in the queue (QOS tight)" in told(
        look({"name": "tight", "maxsubmitpu": "3"})
    )
    assert states(look({}, maxsubmit="1"))["limits"] == "warn"
    assert states(look({}, maxsubmit="0"))["limits"] == "fail"
    assert "at most 7 of your jobs run at once" in told(look({}, maxjobs="7"))
    assert states(look({"name": "n", "maxwall": "01:00:00"}))["time"] == "fail"


def test_settings() -> None:
    findings = Findings()
    rules.judge_settings(profile(), CONFIG, findings)
    assert states(findings) == {"requeue": "ok", "KillWait": "warn", "arrays": "ok", "MaxJobCount": "ok"}
    findings = Findings()
    odd = {"JobRequeue": "0", "KillWait": "30 sec", "MaxArraySize": "1", "MaxJobCount": "100"}
    rules.judge_settings(profile(), odd, findings)
    assert states(findings) == {"requeue": "ok", "KillWait": "ok", "arrays": "fail", "MaxJobCount": "warn"}
    findings = Findings()
    assert rules.has_accounting(CONFIG) and not rules.has_accounting({}) and rules.is_enforced(CONFIG)
    rules.judge_no_accounting(profile(), {"MinJobAge": "5 sec"}, findings)
    assert states(findings) == {"accounting": "warn", "poll_seconds": "warn"}


# --- what a node sees


HERE = Here("login", (3, 11, 7), {"torch": "2.13", "transformers": "5", "submitit": "1.5"}, "0.1.0", "abc")


def seen(**values: Any) -> dict[str, Any]:
    return {
        "host": "node1", "python": [3, 11, 7], "executable": "/p", "token": "t", "lock": "seen",
        "clock": {"asked": 100.0, "there": 100.2, "answered": 100.4},
        "versions": dict(HERE.versions), "lab": {"version": "0.1.0", "path": "/lab", "code": "abc"},
        "torch": {"gpus": 0, "cuda": "13"}, "nvidia_smi": 0, "scontrol": "/usr/bin/scontrol",
        "job": "JobId=3 JobState=RUNNING", "free_bytes": 10**12, **values,
    }  # fmt: skip


def verdict(given: ClusterProfile | None = None, **values: Any) -> Findings:
    findings = Findings()
    judge_node(given or profile(), seen(**values), HERE, "t", findings)
    return findings


def test_a_node_that_has_everything() -> None:
    assert set(states(verdict()).values()) == {"ok"}


@pytest.mark.parametrize(
    ("subject", "state", "values"),
    [
        ("store", "fail", {"token": "other"}),
        ("store", "warn", {"free_bytes": 10**9}),
        ("locks", "warn", {"lock": "unseen"}),
        ("locks", "fail", {"lock": "ENOLCK", "host": "login"}),
        ("clock", "warn", {"clock": {}}),
        ("clock", "fail", {"clock": {"asked": 100.0, "there": 160.0, "answered": 101.0}}),
        ("clock", "warn", {"clock": {"asked": 100.0, "there": 130.0, "answered": 160.0}}),
        ("python", "fail", {"python": [3, 6, 8]}),
        ("python", "warn", {"python": [3, 12, 1]}),
        ("trb_lab", "fail", {"lab": {"error": "ModuleNotFoundError: no"}}),
        ("trb_lab", "fail", {"lab": {"version": "0.2", "path": "/", "code": "abc"}}),
        ("trb_lab", "warn", {"lab": {"version": "0.1.0", "path": "/", "code": "xyz"}}),
        ("torch", "fail", {"torch": {"error": "OSError: libcuda"}}),
        ("submitit", "fail", {"versions": {"torch": "2.13", "transformers": "5"}}),
        ("transformers", "warn", {"versions": {**HERE.versions, "transformers": "6"}}),
        ("scontrol", "warn", {"scontrol": ""}),
        ("scontrol", "warn", {"job": ""}),
    ],
)
def test_a_node_that_lacks_something(subject: str, state: str, values: dict[str, Any]) -> None:
    found = verdict(**values)
    assert states(found)[subject] == state
    others = [f for f in found.all if f.subject != subject and f.state != "ok"]
    assert others == []


def test_gpus_seen() -> None:
    two = profile(gpus=2)
    assert states(verdict(two, torch={"gpus": 2, "cuda": "13"}))["gpus"] == "ok"
    assert "2 asked for, 0 seen" in told(verdict(two))
    assert "built for CUDA None" in told(verdict(two, torch={"gpus": 0, "cuda": None}, nvidia_smi=2))


def test_the_nodes_side_answers_the_other(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("abc\n")
    stop = threading.Event()

    def answer() -> None:
        while not stop.is_set():
            if (tmp_path / "hello.json").exists():
                (tmp_path / "reply.tmp").write_text('{"time": 5.0}')
                (tmp_path / "reply.tmp").rename(tmp_path / "reply.json")
                return

    with open(tmp_path / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        thread = threading.Thread(target=answer)
        thread.start()
        try:
            subprocess.run([sys.executable, node_probe.__file__, str(tmp_path)], check=True)
        finally:
            stop.set()
            thread.join()
    found = json.loads((tmp_path / "probe.json").read_text())
    assert (found["token"], found["lock"], found["clock"]["there"]) == ("abc", "seen", 5.0)
    assert found["lab"]["code"] == node_probe.code_digest(str(ROOT / "trb_lab"))
    assert node_probe.lock_seen(str(tmp_path / "lock")) == "unseen"
    assert node_probe.lock_seen(str(tmp_path / "none")) == "ENOENT"


def test_the_probes_job(tmp_path: Path) -> None:
    given = profile(
        partition="a,b", gpus=2, tasks_per_node=2, nodes=3, mem="64GB", cpus=8, time="2d", python="/p/python",
        container="box run", setup=["module load x"], environment={"A": "1"},
        sbatch={"exclusive": True, "licenses": "m:1", "hold": False},
    )  # fmt: skip
    options = sbatch_options(given)
    assert {"--partition=a,b", "--gpus-per-node=4", "--mem=65536MB", "--time=2880", "--nodes=3", "--exclusive",
            "--licenses=m:1", "--requeue"} <= set(options)  # fmt: skip
    assert not any(option.startswith("--hold") for option in options)
    small = sbatch_options(smallest(given))
    assert {"--gpus-per-node=4", "--mem=4096MB", "--time=10", "--nodes=1", "--no-requeue"} <= set(small)
    assert "--exclusive" not in small
    lines = script(given, tmp_path).splitlines()
    assert "export A=1" in lines and "module load x" in lines
    assert lines[-1] == f"box run /p/python {tmp_path}/probe.py {tmp_path}"


def test_setup_lines_that_fail_are_told(tmp_path: Path) -> None:
    given = profile(setup=["false", "true", "no-such-command load cuda"], python="true")
    subprocess.run(["bash", "-c", script(given, tmp_path)], check=True)
    log = (tmp_path / "log.txt").read_text().splitlines()
    assert Probed(log=log).failed_setup == ["false", "no-such-command load cuda"]


@pytest.mark.parametrize(("mode", "code"), [(None, 41), (stat.S_IRUSR | stat.S_IXUSR, 42)])
def test_a_store_that_a_node_cannot_use(tmp_path: Path, mode: int | None, code: int) -> None:
    folder = tmp_path / "f"
    if mode is not None:
        folder.mkdir()
        if os.geteuid() == 0:  # modes do not bind root: a folder in the log's place does
            (folder / "log.txt").mkdir()
        else:
            folder.chmod(mode)
    done = subprocess.run(["bash", "-c", script(profile(python="true"), folder)], capture_output=True)
    assert done.returncode == code


# --- the whole


def check(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, Any]]:
    code = main(["check", *arguments, "--json"])
    return code, json.loads(capsys.readouterr().out)


def by_subject(report: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {entry["subject"]: entry for entry in report["cluster"]["checks"]}


def test_a_machine_without_slurm(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    code, report = check(capsys, "--cluster", str(ROOT / "slurm" / "dev.yaml"))
    assert code == 1 and not report["ok"]
    assert by_subject(report)["commands"]["state"] == "fail"


def test_a_profile_that_is_written_wrongly(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text("partiton: low\n")
    code, report = check(capsys, "--cluster", str(tmp_path / "x.yaml"))
    assert code == 2
    assert "Did you mean 'partition'?" in report["cluster"]["checks"][0]["text"]


on_slurm = pytest.mark.skipif(
    os.environ.get("TRB_LAB_TEST_SLURM") != "1", reason="TRB_LAB_TEST_SLURM is not 1"
)


@pytest.mark.slurm
@on_slurm
def test_the_doctor_on_a_real_cluster(
    capsys: pytest.CaptureFixture[str], experiment: Path, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    code, report = check(
        capsys, str(experiment), "--cluster", str(ROOT / "slurm" / "dev.yaml"), "--store", str(store)
    )
    found = by_subject(report)
    assert code == 0, report
    assert {entry["state"] for subject, entry in found.items() if subject != "KillWait"} == {"ok"}
    assert {"request", "store", "locks", "clock", "python", "trb_lab", "torch", "gpus", "scontrol"} <= set(
        found
    )
    assert not store.exists()  # nothing stays


@pytest.mark.slurm
@on_slurm
@pytest.mark.parametrize(
    ("changes", "subject", "words"),
    [
        ("partition: lo", "partition", "Did you mean 'low'?"),
        ("account: devv", "account", "Did you mean 'dev'?"),
        ("gpus: 1", "request", "would be refused"),
        ("container: no-such-container exec", "probe", "no-such-container: command not found"),
    ],
)
def test_what_the_doctor_finds_on_a_real_cluster(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, changes: str, subject: str, words: str
) -> None:
    path = tmp_path / "there.yaml"
    path.write_text(f"extends: {ROOT / 'slurm' / 'dev.yaml'}\n{changes}\n")
    code, report = check(capsys, "--cluster", str(path), "--store", str(tmp_path / "store"))
    found = by_subject(report)[subject]
    assert (code, found["state"]) == (1, "fail")
    assert words in found["text"]


@pytest.mark.slurm
@on_slurm
def test_a_full_queue_is_no_failure(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "there.yaml"
    path.write_text(f"extends: {ROOT / 'slurm' / 'dev.yaml'}\nqos: tight\n")  # three jobs a user
    submit = [
        "sbatch",
        "--parsable",
        "-p",
        "low",
        "-q",
        "tight",
        "--begin=now+1hour",
        "-o",
        "/dev/null",
        "--wrap",
        "true",
    ]
    jobs: list[str] = []
    try:
        while len(jobs) < 4:
            done = subprocess.run(submit, capture_output=True, text=True)
            if done.returncode != 0:
                break
            jobs.append(done.stdout.strip())
        code, report = check(capsys, "--cluster", str(path), "--store", str(tmp_path / "store"))
    finally:
        subprocess.run(["scancel", *jobs], check=True)
    assert (code, by_subject(report)["request"]["state"]) == (0, "warn")
