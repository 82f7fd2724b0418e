"""Verdicts on what a cluster says of itself, against a profile. Pure: values in, findings out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from trb_lab.errors import did_you_mean
from trb_lab.spec.cluster import ClusterProfile

from .cluster_output import Partition, duration, number
from .findings import Findings

SHORT_KILL_WAIT = 20
"""Seconds below which a checkpoint of a larger model may not be written in time."""


def in_words(seconds: int) -> str:
    """`90 s`, `12 h`, `1 d 12 h`."""
    if seconds < 120:
        return f"{seconds} s"
    parts = {"d": seconds // 86_400, "h": seconds // 3600 % 24, "min": seconds // 60 % 60}
    return " ".join(f"{n} {unit}" for unit, n in parts.items() if n)


def chosen_partition(
    profile: ClusterProfile, known: Mapping[str, Partition], findings: Findings
) -> Partition | None:
    """The profile's partition or the default one, judged; None where there is none."""
    names = ", ".join(known)
    if profile.partition is None:
        found = next((p for p in known.values() if p.is_default), None)
        if found is None:
            findings.fail(
                "partition", f"the profile names none and no partition is the default. Take one of: {names}."
            )
            return None
    else:
        # sbatch takes several, separated by commas; the first stands for them here.
        for name in profile.partition.split(","):
            if name not in known:
                hint = did_you_mean(name, known)
                findings.fail(
                    "partition",
                    f"'{name}' does not exist (or is hidden from you). Partitions: {names}.{hint}",
                )
                return None
        found = known[profile.partition.split(",")[0]]
    if not found.is_up:
        findings.fail(
            "partition",
            f"{found.name} is {found.get('State')}: jobs wait until it is UP. Take another, or wait.",
        )
        return found
    findings.ok("partition", f"{found.name} is up, {found.get('TotalNodes', '?')} node(s)")
    return found


def judge_time(profile: ClusterProfile, partition: Partition, findings: Findings) -> None:
    limit = partition.max_seconds
    if limit is not None and profile.time_seconds > limit:
        findings.fail(
            "time",
            f"{profile.time} is more than partition {partition.name} allows ({in_words(limit)}): jobs would wait for "
            f"ever. Set time to at most {max(1, limit // 60)}m; trials resume after it.",
        )
    else:
        allowed = "no limit" if limit is None else f"up to {in_words(limit)}"
        findings.ok("time", f"{in_words(profile.time_seconds)}; {partition.name} allows {allowed}")


def judge_access(partition: Partition, key: str, given: str | None, what: str, findings: Findings) -> None:
    """AllowAccounts and AllowQos of a partition."""
    allowed = partition.allowed(key)
    if given is not None and allowed is not None and given not in allowed:
        hint = did_you_mean(given, allowed)
        findings.fail(
            what,
            f"partition {partition.name} does not take {what} '{given}'. It takes: {', '.join(allowed)}.{hint}",
        )


def association(
    profile: ClusterProfile,
    rows: Sequence[Mapping[str, str]],
    partition: str | None,
    default_account: str,
    enforced: bool,
    findings: Findings,
) -> Mapping[str, str] | None:
    """The user's association that the jobs would be charged to; None, with a line, where there is none."""
    report = findings.fail if enforced else findings.warn
    if not rows:
        report(
            "account",
            "the accounting knows no association of yours. Ask the cluster's staff for an account to charge.",
        )
        return None
    accounts = sorted({row["account"] for row in rows})
    account = profile.account or default_account
    mine = [row for row in rows if row["account"] == account and row["partition"] in ("", partition)]
    if not mine:
        given = f"'{account}' is none of yours" if account else "you have no default account"
        hint = did_you_mean(account, accounts)
        report("account", f"{given}. Set account to one of: {', '.join(accounts)}.{hint}")
        return None
    found = next((row for row in mine if row["partition"]), mine[0])
    findings.ok("account", account if profile.account else f"{account}, your default")
    qualities = [name for name in found["qos"].split(",") if name]
    if profile.qos is not None and profile.qos not in qualities:
        hint = did_you_mean(profile.qos, qualities)
        report(
            "qos",
            f"'{profile.qos}' is not open to account {account}. Open to it: {', '.join(qualities)}.{hint}",
        )
    elif profile.qos is not None:
        findings.ok("qos", profile.qos)
    return found


def qos_of(profile: ClusterProfile, found: Mapping[str, str] | None) -> str:
    """The QOS that jobs get."""
    default = found["defaultqos"] if found else ""
    return profile.qos or default or "normal"


def judge_preemption(
    profile: ClusterProfile,
    settings: Mapping[str, str],
    partition: Partition,
    known: Mapping[str, Partition],
    qos: Mapping[str, str],
    findings: Findings,
) -> None:
    """Whether jobs may be taken away, how, and how long they have then."""
    kind = settings.get("PreemptType", "preempt/none").removeprefix("preempt/")
    mode, grace = "OFF", 0
    if kind == "partition_prio":
        mode = partition.get("PreemptMode", settings.get("PreemptMode", "OFF")).upper()
        grace = duration(partition.get("GraceTime", "0")) or 0
        above = [p.name for p in known.values() if p.tier > partition.tier and _share_nodes(p, partition)]
        if not above:
            mode = "OFF"
    elif kind == "qos":
        own = qos.get("preemptmode", "cluster")
        mode = (settings.get("PreemptMode", "OFF") if own in ("", "cluster") else own).upper()
        grace = duration(qos.get("gracetime", "0")) or duration(partition.get("GraceTime", "0")) or 0
    mode = mode.replace("GANG,", "").replace(",GANG", "")
    if mode in ("OFF", "", "GANG"):
        findings.ok("preemption", f"jobs in {partition.name} are not taken away for others")
        return
    if mode == "SUSPEND":
        findings.ok("preemption", "jobs are suspended for others and go on afterwards; nothing to do")
        return
    again = (
        "put back into the queue"
        if mode == "REQUEUE" and profile.requeue
        else "ended, and started again by the driver"
    )
    if mode == "REQUEUE" and not profile.requeue:
        again += " (the profile has requeue: false)"
    text = f"jobs may be taken away ({mode}) and are {again}; GraceTime {grace} s"
    if grace == 0:
        findings.warn(
            "preemption",
            f"{text}: they are killed at once and resume from their last checkpoint. Lower checkpoint.every so that "
            "little is lost, or take a partition with grace.",
        )
    else:
        findings.ok("preemption", f"{text} to save in")
    if "send_user_signal" in settings.get("PreemptParameters", "") + settings.get("SlurmctldParameters", ""):
        findings.ok("signals", "SIGUSR2 and SIGTERM come before a job is taken away; trials save on either")
    else:
        findings.ok(
            "signals", "SIGTERM comes before a job is taken away (no send_user_signal); trials save on it"
        )


def _share_nodes(first: Partition, second: Partition) -> bool:
    """Whether partitions may have nodes in common: only lists of plain names can be told apart."""
    one, other = first.get("Nodes"), second.get("Nodes")
    if "[" in one + other or not one or not other:
        return True
    return bool(set(one.split(",")) & set(other.split(",")))


def judge_settings(profile: ClusterProfile, settings: Mapping[str, str], findings: Findings) -> None:
    """Requeue, KillWait, sizes, accounting: what `scontrol show config` says."""
    if not profile.requeue:
        findings.ok("requeue", "off in the profile: the driver starts a trial again after it lost its job")
    elif settings.get("JobRequeue") == "0":
        findings.ok("requeue", "off by default here (JobRequeue=0); jobs ask for it with --requeue")
    else:
        findings.ok("requeue", "allowed (JobRequeue=1)")
    wait = duration(settings.get("KillWait", "30")) or 0
    text = f"{wait} s between a cancelled job's SIGTERM and its end"
    if wait < SHORT_KILL_WAIT:
        findings.warn(
            "KillWait",
            f"{text}: a large model's checkpoint may not be written by then, and the trial would resume from the one "
            "before. Lower checkpoint.every where that costs much (before the time limit trials have "
            f"signal_delay_seconds, {profile.signal_delay_seconds} s).",
        )
    else:
        findings.ok(
            "KillWait",
            f"{text}; signal_delay_seconds before the time limit is {profile.signal_delay_seconds}",
        )
    size, jobs = number(settings.get("MaxArraySize", "")), number(settings.get("MaxJobCount", ""))
    if size is not None and size < 2:
        findings.fail(
            "arrays", "job arrays are switched off (MaxArraySize). Ask the cluster's staff for at least 2."
        )
    else:
        findings.ok(
            "arrays",
            f"up to {(size or 1001) - 1} jobs each (MaxArraySize); longer sweeps are cut into several",
        )
    if jobs is not None and jobs <= profile.array_parallelism:
        findings.warn(
            "MaxJobCount",
            f"the whole cluster keeps {jobs} jobs, and array_parallelism is {profile.array_parallelism}. "
            f"Set max_jobs to {max(1, jobs // 2)} or less.",
        )
    else:
        findings.ok("MaxJobCount", f"{jobs or 'unknown'} jobs of all users")


def has_accounting(settings: Mapping[str, str]) -> bool:
    return settings.get("AccountingStorageType", "accounting_storage/none").endswith("slurmdbd")


def is_enforced(settings: Mapping[str, str]) -> bool:
    """Whether a job without a valid association is refused."""
    return "associations" in settings.get("AccountingStorageEnforce", "")


def judge_no_accounting(profile: ClusterProfile, settings: Mapping[str, str], findings: Findings) -> None:
    age = duration(settings.get("MinJobAge", "300")) or 0
    findings.warn(
        "accounting",
        "none: states come from the run directories and squeue alone, and account and qos could not be checked. "
        f"squeue forgets a job {age} s after its end (MinJobAge).",
    )
    if age < 3 * profile.poll_seconds:
        findings.warn(
            "poll_seconds", f"{profile.poll_seconds:g} is long for a MinJobAge of {age} s. Lower it."
        )


def judge_limits(
    profile: ClusterProfile, found: Mapping[str, str] | None, qos: Mapping[str, str], findings: Findings
) -> None:
    """What one user may submit, run, and for how long."""
    sources = [(found or {}, "your association"), (qos, f"QOS {qos.get('name', '')}")]
    keys = {"maxsubmit": "submit", "maxsubmitpu": "submit", "grpsubmit": "submit",
            "maxjobs": "run", "maxjobspu": "run", "grpjobs": "run"}  # fmt: skip
    limits: dict[str, list[tuple[int, str]]] = {"submit": [], "run": []}
    for values, where in sources:
        for key, what in keys.items():
            if (limit := number(values.get(key, ""))) is not None:
                limits[what].append((limit, where))
        wall = duration(values.get("maxwall", ""))
        if wall is not None and profile.time_seconds > wall:
            findings.fail(
                "time",
                f"{profile.time} is more than {where} allows ({in_words(wall)}). Set it to {wall // 60}m.",
            )
    if not any(limits.values()):
        findings.ok("limits", "no limit on the number of your jobs")
    if limits["submit"]:
        limit, where = min(limits["submit"])
        if limit < 1:
            findings.fail("limits", f"{where} lets you submit no job at all. Take another account or qos.")
        elif limit == 1:
            findings.warn(
                "limits",
                f"{where} lets you have 1 job in the queue: trials run one after the other. Use pack.",
            )
        else:
            findings.ok(
                "limits",
                f"at most {limit} of your jobs in the queue ({where}); the driver feeds the rest as places free up",
            )
    if limits["run"]:
        limit, where = min(limits["run"])
        findings.ok("limits", f"at most {limit} of your jobs run at once ({where})")
