"""Cluster profiles: what may be written, what is refused and in which words, and what a trial makes of one."""

from __future__ import annotations

from pathlib import Path

import pytest

from trb_lab.errors import UsageError
from trb_lab.spec import ClusterProfile, load_cluster
from trb_lab.spec.cluster import python_command, setup_lines
from trb_lab.spec.experiment import ResourcesSpec
from trb_lab.spec.quantities import megabytes_of, minutes_of, seconds_of
from trb_lab.spec.schema import FOLDER

ROOT = Path(__file__).parents[2]
PROFILES = sorted((ROOT / "slurm").glob("*.yaml"))


def refusal(tmp_path: Path, text: str) -> str:
    path = tmp_path / "there.yaml"
    path.write_text(text)
    with pytest.raises(UsageError) as caught:
        load_cluster(path)
    return str(caught.value)


def resources(**values: object) -> ResourcesSpec:
    return ResourcesSpec.model_validate(values)


@pytest.mark.parametrize("path", PROFILES, ids=lambda p: p.stem)
def test_shipped_profiles_load_and_say_what_they_are_for(path: Path) -> None:
    profile = load_cluster(path)
    assert profile.name == path.stem
    assert profile.for_driver().gpus == 0
    first, *rest = path.read_text().splitlines()
    reference = first.removeprefix("# yaml-language-server: $schema=")
    assert (path.parent / reference).resolve() == FOLDER / "cluster.schema.json"
    for heading in ("# For: ", "# Command: ", "# Change: "):
        assert any(line.startswith(heading) for line in rest)


def test_the_examples_that_are_promised() -> None:
    assert {"dev", "dev_scavenge", "gpu", "gpu_node", "apptainer"} <= {path.stem for path in PROFILES}
    node = load_cluster(ROOT / "slurm" / "gpu_node.yaml")
    assert (node.gpus, node.pack_parallel, node.partition) == (4, 4, "gpu")
    assert python_command(load_cluster(ROOT / "slurm" / "apptainer.yaml")).startswith("apptainer exec")


def test_the_committed_schema_is_current() -> None:
    from trb_lab.spec.schema import text

    assert (FOLDER / "cluster.schema.json").read_text() == text("cluster")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("30m", 1800), ("12h", 43_200), ("1d12h", 129_600), ("90", 5400), ("90s", 90), ("1H30M", 5400),
        ("08:30:00", 30_600), ("2-00:00:00", 172_800), ("2-12", 216_000), ("1-02:30", 95_400),
    ],
)  # fmt: skip
def test_times(text: str, seconds: int) -> None:
    assert seconds_of(text) == seconds
    assert ClusterProfile.model_validate({"time": text, "signal_delay_seconds": 1}).time_seconds == seconds


def test_a_time_in_seconds_is_rounded_up() -> None:
    assert minutes_of("61s") == 2


@pytest.mark.parametrize("text", ["", "soon", "0", "0m", "-5", "1:2:3:4", "1.5h", "12:30"])
def test_what_is_no_time(text: str) -> None:
    with pytest.raises(ValueError, match=r"no time|may mean hours:minutes or minutes:seconds"):
        seconds_of(text)


@pytest.mark.parametrize(
    ("text", "size"), [("512MB", 512), ("64GB", 65_536), ("64g", 65_536), ("1TiB", 1 << 20)]
)
def test_memory(text: str, size: int) -> None:
    assert megabytes_of(text) == size


def test_every_problem_is_told_with_its_line(tmp_path: Path) -> None:
    text = refusal(
        tmp_path,
        "partiton: low\nwalltime: 3h\ntime: 12:30\nmem: 64\ngpus: two\nsbatch: {mem: 3}\n"
        "environment: {X: true}\npython: venv/bin/python\n",
    )
    lines = text.splitlines()
    assert len(lines) == 8
    assert ":1: partiton: unknown key" in lines[0]
    assert "Keys of this file: name, partition, account, qos" in lines[0]
    assert lines[0].endswith("Did you mean 'partition'?")
    assert lines[1].endswith("Did you mean 'time'?")
    assert "Write 12h30m, or 12m30s." in lines[2]
    assert "64GB or 64MB" in lines[3]
    assert "two is not allowed here. It takes a whole number, at least 0." in lines[4]
    assert "write `mem` beside `sbatch`" in lines[5]
    assert "environment.X: true is not allowed here" in lines[6]
    assert "is relative" in lines[7]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("time: 1m", "signal_delay_seconds is 120 and time is 1m"),
        ("driver: {time: 1m}", "driver.time is 1m"),
        ("pack_parallel: 2", "pack_parallel is 2 and pack is 1"),
        ("{pack: 2, pack_parallel: 2, nodes: 2}", "trials side by side have one task each"),
        ("{gpus: 3, pack: 2, pack_parallel: 2}", "cannot be shared evenly"),
        ("sbatch: {array: 1-3}", "set by the launcher"),
        ("sbatch: {time: 3}", "write `time` beside `sbatch`"),
        ("container: apptainer exec 'x", "Close the quote"),
        ("environment: {A-B: 1}", "no name of a variable"),
        ("{arms: {}, name: x}", "is a sweep, and a cluster profile is wanted here"),
        ("{student: x}", "is an experiment, and a cluster profile is wanted here"),
    ],
)
def test_what_does_not_fit_together(tmp_path: Path, text: str, message: str) -> None:
    assert message in refusal(tmp_path, text)


def test_a_profile_extends_another(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("partition: low\ndriver: {cpus: 2, mem: 1GB}\n")
    (tmp_path / "mine.yaml").write_text("extends: base.yaml\ntime: 90\ndriver: {mem: 2GB}\n")
    profile = load_cluster(tmp_path / "mine.yaml")
    assert (profile.name, profile.partition, profile.time_minutes) == ("mine", "low", 90)
    assert profile.driver is not None and (profile.driver.cpus, profile.driver.mem) == (2, "2GB")
    assert ClusterProfile.model_validate(profile.model_dump(mode="json")) == profile


def test_a_trial_says_what_it_needs() -> None:
    profile = ClusterProfile(gpus=4, mem="64GB", time="4h")
    assert profile.for_trial(resources()) == profile
    own = profile.for_trial(resources(gpus=1, mem="8GB", time="1h", cpu_threads=3))
    assert (own.gpus, own.mem_megabytes, own.time_minutes, own.cpus) == (1, 8192, 60, 3)
    assert profile.for_trial(resources(device="cpu")).gpus == 0


def test_a_job_of_several_trials_gets_what_they_need_together() -> None:
    profile = ClusterProfile(pack=6, pack_parallel=2)
    own = profile.for_trial(resources(gpus=1, mem="8GB", time="1h"))
    assert (own.gpus, own.mem_megabytes, own.time_minutes) == (2, 16_384, 180)


def test_a_trial_of_several_tasks_shares_its_gpus() -> None:
    profile = ClusterProfile(tasks_per_node=4)
    assert profile.for_trial(resources(gpus=8)).gpus == 2
    with pytest.raises(UsageError, match=r"resources\.gpus is 3 and the profile has 4 tasks"):
        profile.for_trial(resources(gpus=3))


def test_a_trials_time_must_leave_room_to_save() -> None:
    with pytest.raises(UsageError, match="signal_delay_seconds is 120 and time is 1m"):
        ClusterProfile(name="x").for_trial(resources(time="1m"))


def test_the_drivers_job_asks_for_no_gpus() -> None:
    profile = ClusterProfile.model_validate(
        {"gpus": 4, "constraint": "h100", "qos": "big", "sbatch": {"exclusive": True, "comment": "x"},
         "driver": {"partition": "cpu", "time": "2d"}}
    )  # fmt: skip
    small = profile.for_driver()
    assert (small.gpus, small.constraint, small.partition, small.qos) == (0, None, "cpu", "big")
    assert (small.time_minutes, small.sbatch, small.driver) == (2880, {"comment": "x"}, None)


def test_the_lines_of_a_job() -> None:
    profile = ClusterProfile.model_validate(
        {"environment": {"A": "b c", "N": 3}, "setup": ["module load cuda"], "container": "apptainer exec x.sif",
         "python": "$HOME/bin/python"}
    )  # fmt: skip
    assert setup_lines(profile) == ["export A='b c'", "export N=3", "module load cuda"]
    assert python_command(profile, ["-m", "a b"]) == "apptainer exec x.sif $HOME/bin/python -m 'a b'"
