"""`trb-lab check --cluster PROFILE`: is this cluster ready for our jobs, and if not, what to do."""

from __future__ import annotations

import getpass
import importlib.util
import re
import shutil
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import trb_lab
from trb_lab.errors import LabError, UsageError
from trb_lab.launch.slurm_commands import SlurmError, call
from trb_lab.spec import ExperimentSpec, load_cluster
from trb_lab.spec.cluster import ClusterProfile
from trb_lab.store.run_dir import Store

from . import cluster_output, cluster_rules, node_probe
from .cluster_node import Here, judge_node
from .cluster_output import ASSOCIATION_FIELDS, QOS_FIELDS, Partition
from .cluster_probe import run_probe, sbatch_options
from .findings import Findings

COMMANDS = ("sbatch", "squeue", "scontrol", "scancel", "sacct")
_QUEUE_FULL = re.compile(r"\w*MaxSubmitJob\w*Limit")
"""sbatch's words where only the number of jobs is in the way."""


@dataclass(frozen=True)
class ClusterCheck:
    """What to look at."""

    profile: Path
    store: Store
    probe: bool = True
    probe_seconds: float = 180.0

    def run(
        self, specs: Sequence[ExperimentSpec], findings: Findings, show: Callable[[], None] = lambda: None
    ) -> int:
        """Add a finding for each thing looked at; `show` is called as they come. Returns the exit code.

        2 where the profile is written wrongly, 1 where something failed. `specs`: experiments to be run there.
        """
        try:
            profile = load_cluster(self.profile)
        except UsageError as error:
            for message in str(error).splitlines():
                findings.fail("", message)
            show()
            return 2
        findings.ok("profile", f"'{profile.name}' is valid: {_summary(profile)}")
        _check_here(findings)
        if _check_commands(findings):
            # Without an answer from the controller nothing else can be asked.
            with findings.guard("controller"):
                settings = _settings(findings)
                show()
                partition = _check_cluster(profile, settings, findings)
                show()
                requested = _check_requests(profile, specs, findings)
                show()
                if self.probe and requested and partition is not None:
                    _check_node(profile, self.store, self.probe_seconds, findings)
                elif self.probe:
                    findings.warn("probe", "not submitted: first see to what is said above.")
        show()
        return int(findings.failed)


def _summary(profile: ClusterProfile) -> str:
    nodes = "" if profile.nodes == 1 else f"{profile.nodes} nodes, "
    tasks = "" if profile.tasks_per_node == 1 else f"{profile.tasks_per_node} tasks a node, "
    pack = "" if profile.pack == 1 else f", {profile.pack} trials a job ({profile.pack_parallel} at once)"
    memory = profile.mem or "default memory"
    return f"{nodes}{tasks}{_count(profile.gpus, 'GPU')}, {_count(profile.cpus, 'CPU')}, {memory}, {profile.time}{pack}"


def _count(number: int, what: str) -> str:
    return f"{number or 'no'} {what}{'' if number == 1 else 's'}"


def _check_here(findings: Findings) -> None:
    if importlib.util.find_spec("submitit") is None:
        findings.fail("submitit", "is not installed here. Install it with: pip install 'trb-lab[slurm]'")


def _check_commands(findings: Findings) -> bool:
    missing = [name for name in COMMANDS if shutil.which(name) is None]
    if "sacct" in missing and len(missing) == 1:
        findings.warn(
            "commands", "sacct is missing: how jobs ended is told by squeue and the run directories alone."
        )
        return True
    if missing:
        findings.fail(
            "commands",
            f"{', '.join(missing)} not found. Run this on a machine of the cluster (a login node), or add Slurm's "
            "commands to PATH.",
        )
        return False
    findings.ok("commands", f"{', '.join(COMMANDS)}")
    return True


def _settings(findings: Findings) -> dict[str, str]:
    """`scontrol show config`. Raises SlurmError where no controller answers."""
    try:
        settings = cluster_output.config(call(["scontrol", "show", "config"]))
    except SlurmError as error:
        raise SlurmError(
            f"{error}. Try later; is this a machine of the cluster, and $SLURM_CONF right?"
        ) from None
    controllers = cluster_output.controllers_up(call(["scontrol", "ping"]))
    name = f"{settings.get('ClusterName', 'cluster')}, Slurm {settings.get('SLURM_VERSION', 'of unknown version')}"
    down = [who for who, up in controllers if not up]
    if down and len(down) == len(controllers):
        findings.fail(
            "controller", f"{', '.join(down)} does not answer. Try later, or ask the cluster's staff."
        )
    elif down:
        findings.warn("controller", f"{name}; {', '.join(down)} is down, another one answers")
    else:
        findings.ok("controller", f"{name}")
    return settings


def _check_cluster(profile: ClusterProfile, settings: dict[str, str], findings: Findings) -> Partition | None:
    """The partition that jobs go to; None where it cannot take them."""
    known = cluster_output.partitions(call(["scontrol", "show", "partition", "--oneliner"]))
    partition = cluster_rules.chosen_partition(profile, known, findings)
    found: Mapping[str, str] | None = None
    qos: Mapping[str, str] = {}
    if cluster_rules.has_accounting(settings):
        with findings.guard("accounting"):
            found, qos = _check_accounting(profile, settings, partition, findings)
    else:
        cluster_rules.judge_no_accounting(profile, settings, findings)
    if partition is not None:
        account = profile.account or (found["account"] if found else None)
        cluster_rules.judge_time(profile, partition, findings)
        cluster_rules.judge_access(partition, "AllowAccounts", account, "account", findings)
        cluster_rules.judge_access(partition, "AllowQos", profile.qos, "qos", findings)
        cluster_rules.judge_preemption(profile, settings, partition, known, qos, findings)
    cluster_rules.judge_settings(profile, settings, findings)
    return partition


def _check_accounting(
    profile: ClusterProfile, settings: dict[str, str], partition: Partition | None, findings: Findings
) -> tuple[Mapping[str, str] | None, Mapping[str, str]]:
    call(["sacct", "-n", "-X", "-P", "-o", "JobID", "-S", "now-1minutes"])
    findings.ok("accounting", "slurmdbd; sacct answers")
    if shutil.which("sacctmgr") is None:
        findings.warn("account", "could not be checked: sacctmgr is missing here.")
        return None, {}
    user = getpass.getuser()
    where = [f"user={user}", f"cluster={settings.get('ClusterName', '')}"]
    show = ["sacctmgr", "-n", "-P", "show"]
    rows = cluster_output.table(
        call([*show, "assoc", "where", *where, f"format={','.join(ASSOCIATION_FIELDS)}"]), ASSOCIATION_FIELDS
    )
    default = call([*show, "user", "where", f"name={user}", "format=defaultaccount"]).strip().rstrip("|")
    found = cluster_rules.association(
        profile,
        rows,
        partition.name if partition else None,
        default,
        cluster_rules.is_enforced(settings),
        findings,
    )
    name = cluster_rules.qos_of(profile, found)
    every = cluster_output.table(call([*show, "qos", f"format={','.join(QOS_FIELDS)}"]), QOS_FIELDS)
    qos = next((row for row in every if row["name"] == name), {})
    cluster_rules.judge_limits(profile, found, qos, findings)
    return found, qos


def _check_requests(profile: ClusterProfile, specs: Sequence[ExperimentSpec], findings: Findings) -> bool:
    """Ask Slurm whether jobs of these sizes could ever run. Submits nothing."""
    sizes: dict[str, ClusterProfile] = {}
    good = True
    for spec in specs:
        try:
            sized = profile.for_trial(spec.resources)
        except LabError as error:
            findings.fail("resources", str(error))
            good = False
            continue
        sizes.setdefault(sized.model_dump_json(), sized)
    for sized in sizes.values() or [profile]:
        wrap = ["--wrap", "true", "--output=/dev/null"]
        try:
            call(["sbatch", "--test-only", *sbatch_options(sized), *wrap])
        except SlurmError as error:
            good = False
            if _QUEUE_FULL.search(str(error)):
                findings.warn(
                    "request",
                    f"could not be checked, as you may submit no more jobs now ({error}). Sweeps wait for places; "
                    "look again when some of your jobs have ended.",
                )
            else:
                refused = f"a job of {_summary(sized)} would be refused: {error}"
                findings.fail("request", f"{refused}. Change the profile.")
        else:
            findings.ok("request", f"a job of {_summary(sized)} would be accepted")
    return good


def _check_node(profile: ClusterProfile, store: Store, seconds: float, findings: Findings) -> None:
    print(f"  ...   a small job looks at a node (at most {seconds:.0f} s)", file=sys.stderr, flush=True)
    probed = run_probe(profile, store, seconds)
    if probed.found is None:
        report = findings.warn if probed.waiting else findings.fail
        job = f"job {probed.job_id}: " if probed.job_id else ""
        report("probe", "\n".join([f"{job}{probed.problem}", *probed.log]))
        return
    findings.ok("probe", f"job {probed.job_id} ran on {probed.found['host']}")
    for line in probed.failed_setup:
        findings.warn(
            "setup", f"`{line}` failed on the node, and jobs go on without it. Mend it or remove it."
        )
    here = Here(
        socket.gethostname(),
        sys.version_info[:3],
        node_probe.versions(),
        trb_lab.__version__,
        node_probe.code_digest(str(Path(trb_lab.__file__).resolve().parent)),
    )
    judge_node(profile, probed.found, here, probed.token, findings)
