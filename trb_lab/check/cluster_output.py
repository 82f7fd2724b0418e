"""What Slurm's commands print about a cluster, as mappings and records. Pure: text in, values out."""

from __future__ import annotations

import re
from dataclasses import dataclass

_NOTHING = ("", "(null)", "N/A", "None", "none")
_UNLIMITED = ("UNLIMITED", "INFINITE", "-1")

ASSOCIATION_FIELDS = (
    "account", "partition", "qos", "defaultqos", "maxjobs", "maxsubmit", "grpjobs", "grpsubmit", "maxwall"
)  # fmt: skip
QOS_FIELDS = (
    "name",
    "gracetime",
    "preemptmode",
    "maxwall",
    "maxjobspu",
    "maxsubmitpu",
    "grpjobs",
    "grpsubmit",
)


@dataclass(frozen=True)
class Partition:
    """A line of `scontrol show partition --oneliner`."""

    name: str
    values: dict[str, str]

    @property
    def is_default(self) -> bool:
        return self.get("Default").upper() == "YES"

    @property
    def is_up(self) -> bool:
        return self.get("State", "UP").upper() == "UP"

    @property
    def max_seconds(self) -> int | None:
        return duration(self.get("MaxTime"))

    @property
    def tier(self) -> int:
        tier = self.get("PriorityTier", "1")
        return int(tier) if tier.isdigit() else 1

    def allowed(self, key: str) -> list[str] | None:
        """AllowAccounts or AllowQos; None for everybody."""
        text = self.get(key, "ALL")
        return None if text.upper() in ("ALL", "") else text.split(",")

    def get(self, key: str, default: str = "") -> str:
        value = self.values.get(key, default)
        return default if value in _NOTHING else value


def config(text: str) -> dict[str, str]:
    """`scontrol show config`: key -> value; what is not set is left out."""
    found = re.findall(r"^(\S+)\s*=[ \t]*(.*?)\s*$", text, re.MULTILINE)
    return {key: value for key, value in found if value not in _NOTHING}


def partitions(text: str) -> dict[str, Partition]:
    """`scontrol show partition --oneliner`."""
    found = {}
    for line in text.splitlines():
        values = dict(re.findall(r"(\w+)=(\S*)", line))
        if name := values.get("PartitionName"):
            found[name] = Partition(name, values)
    return found


def table(text: str, fields: tuple[str, ...]) -> list[dict[str, str]]:
    """`sacctmgr -n -P show ... format=FIELDS`: a mapping for each line."""
    rows = [line.split("|") for line in text.splitlines() if "|" in line]
    return [dict(zip(fields, row, strict=False)) for row in rows if len(row) >= len(fields)]


def job(text: str) -> dict[str, str]:
    """`scontrol show job --oneliner`: JobState, ExitCode, Reason, Requeue, ..."""
    return {key: value for key, value in re.findall(r"(\w+)=(\S*)", text) if value not in _NOTHING}


def duration(text: str) -> int | None:
    """Seconds of `1-00:00:00`, `30:00`, `01:00:00`, `30 sec`, `20`; None for unlimited or nothing."""
    text = text.strip()
    if text in _NOTHING or text in _UNLIMITED:
        return None
    if match := re.fullmatch(r"(\d+)(?: (sec|min))?", text):
        return int(match[1]) * (60 if match[2] == "min" else 1)
    match = re.fullmatch(r"(?:(\d+)-)?(?:(\d+):)?(\d+):(\d+)", text)
    if match is None:
        return None
    days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return 86_400 * days + 3600 * hours + 60 * minutes + seconds


def number(text: str) -> int | None:
    """A limit; None where there is none."""
    return int(text) if text.isdigit() else None


def controllers_up(text: str) -> list[tuple[str, bool]]:
    """`scontrol ping`: (controller, whether it answers)."""
    found = re.findall(r"^Slurmctld\((\w+)\) at (\S+) is (\w+)", text, re.MULTILINE)
    return [(f"{role} {host}", state == "UP") for role, host, state in found]
