"""The fake commands: sbatch, squeue, sacct, scontrol, scancel, sinfo. (srun is in srun.py.)

Faults, for every command: `fail`, `slow:SECONDS` (answers late), `hang` (never answers), `empty` (prints
nothing and succeeds). For sbatch also `accepted` (the job exists, the client reports a time-out), `timeout`
(the same words and no job), `killed` (the job exists, sbatch dies before it prints) and `unavailable`.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from world import ACTIVE, Element, World, expand, name_of

UNREACHABLE = "Unable to contact slurm controller (connect failure)"
TIMED_OUT = "Socket timed out on send/recv operation"
DATABASE = (
    "sacct: error: slurm_persist_conn_open_without_init: failed to open persistent connection to host:"
    "localhost:6819: Connection refused\nsacct: error: Sending PersistInit msg: Connection refused\n"
    "sacct: error: Problem talking to the database: Connection refused"
)
QOS_LIMIT = (
    "sbatch: error: QOSMaxSubmitJobPerUserLimit\nsbatch: error: Batch job submission failed: Job violates "
    "accounting/QOS policy (job submit limit, user's size and/or time limits)"
)
COMPACT = {
    "PENDING": "PD", "RUNNING": "R", "COMPLETING": "CG", "COMPLETED": "CD", "CANCELLED": "CA", "FAILED": "F",
    "TIMEOUT": "TO", "PREEMPTED": "PR", "NODE_FAIL": "NF", "OUT_OF_MEMORY": "OOM", "SUSPENDED": "S",
}  # fmt: skip


class Refused(Exception):
    """What a command complains about; it ends with code 1."""

    def __init__(self, text: str, code: int = 1) -> None:
        super().__init__(text)
        self.code = code


# --- reading a command line


class Options:
    """Values and positional arguments. `known`: option -> its key; a trailing `=` says that it takes a value."""

    def __init__(self, command: str, arguments: list[str], known: str) -> None:
        table: dict[str, tuple[str, bool]] = {}
        for spec in known.split():
            names, takes = spec.rstrip("="), spec.endswith("=")
            *_, key = names.split("|")
            table |= dict.fromkeys(names.split("|"), (key, takes))
        self.values: dict[str, str] = {}
        self.rest: list[str] = []
        left = list(arguments)
        while left:
            word = left.pop(0)
            if word.startswith("--") and len(word) > 2:
                name, equals, value = word[2:].partition("=")
                matches = [name] if name in table else [n for n in table if len(n) > 1 and n.startswith(name)]
                if not matches:
                    raise Refused(f"{command}: unrecognized option '{word}'\nTry \"{command} --help\" for more "
                                  "information", 255 if command == "sbatch" else 1)  # fmt: skip
                key, takes = table[matches[0]]
                text = (value if equals else left.pop(0)) if takes else (value or "1")
                self.values[key] = self.several(key, text)
            elif word.startswith("-") and len(word) > 1:
                for i, letter in enumerate(word[1:], 1):
                    if letter not in table:
                        raise Refused(f"{command}: invalid option -- '{letter}'")
                    key, takes = table[letter]
                    if takes:
                        self.values[key] = self.several(key, word[i + 1 :] or left.pop(0))
                        break
                    self.values[key] = "1"
            else:
                self.rest.append(word)
                if command in ("sbatch", "srun"):  # the rest belongs to the script
                    self.rest += left
                    break

    def several(self, key: str, text: str) -> str:
        """`-j 1 -j 2` asks for both; of other options the last counts."""
        return f"{self.values[key]},{text}" if key == "jobs" and key in self.values else text

    def __contains__(self, key: str) -> bool:
        return key in self.values

    def get(self, key: str, default: str = "") -> str:
        return self.values.get(key, default)


def minutes(text: str) -> float:
    """A Slurm time limit in minutes."""
    days, dash, rest = text.partition("-")
    parts = [int(p) for p in (rest if dash else days).split(":")]
    if dash:  # D-H[:M[:S]]
        h, m, s = [*parts, 0, 0][:3]
        return int(days) * 1440 + h * 60 + m + s / 60
    if len(parts) == 1:
        return parts[0]
    if len(parts) == 2:
        return parts[0] + parts[1] / 60
    return parts[0] * 60 + parts[1] + parts[2] / 60


# --- sbatch

SBATCH = """
    J|job-name= p|partition= t|time= N|nodes= ntasks-per-node= n|ntasks= c|cpus-per-task= cpus-per-gpu=
    gpus-per-node= gpus-per-task= G|gpus= gres= mem= mem-per-cpu= mem-per-gpu= a|array= o|output= e|error=
    open-mode= signal= requeue no-requeue d|dependency= parsable wrap= D|chdir= export= A|account= q|qos=
    comment= wckey= C|constraint= x|exclude= w|nodelist= reservation= H|hold b|begin= kill-on-invalid-dep=
    mail-type= mail-user= exclusive test-only Q|quiet v|verbose W|wait nice= licenses= L= tmp= time-min=
    container= propagate= threads-per-core= ntasks-per-gpu= gpu-bind= cpu-bind= hint= get-user-env switches=
"""


def sbatch(world: World, arguments: list[str]) -> str:
    options = Options("sbatch", arguments, SBATCH)
    if "wrap" in options:
        text, given = f"#!/bin/sh\n{options.get('wrap')}\n", []
    elif options.rest:
        path, *given = options.rest
        try:
            text = Path(path).read_text()
        except OSError:
            raise Refused(f"sbatch: error: Unable to open file {path}") from None
    else:
        text, given = sys.stdin.read(), []
    if not text.startswith("#!"):
        raise Refused("sbatch: error: This does not look like a batch script.")
    options.values = {**directives(text), **options.values}
    fault = world.fault("sbatch")
    if fault in ("fail", "unavailable"):
        raise Refused(f"sbatch: error: Batch job submission failed: {UNREACHABLE}")
    if fault == "timeout":
        raise Refused(f"sbatch: error: Batch job submission failed: {TIMED_OUT}")
    if fault == "qos":
        raise Refused(QOS_LIMIT)
    made = elements_of(world, options, given)
    if "test-only" in options:
        e = made[0]
        partition, node = e["partition"], "fake1"
        raise Refused(f"sbatch: Job {e['id']} to start at {stamp(time.time())} using {e['cpus']} processors on "
                      f"nodes {node} in partition {partition}", 0)  # fmt: skip
    job = made[0]["array"]
    files = world.folder / "jobs" / str(job)
    files.mkdir(parents=True, exist_ok=True)
    (files / "script").write_text(text)
    (files / "env.json").write_text(json.dumps(dict(os.environ)))
    world.elements.update({name_of(e): e for e in made})
    world.advance()
    if fault == "accepted":
        raise Refused(f"sbatch: error: Batch job submission failed: {TIMED_OUT}")
    if fault == "killed":
        raise Refused("", 137)
    return f"{job}\n" if "parsable" in options else f"Submitted batch job {job}\n"


def directives(text: str) -> dict[str, str]:
    """Options of the #SBATCH lines at the top of a script."""
    words: list[str] = []
    for line in text.splitlines()[1:]:
        if line.startswith("#SBATCH"):
            words += shlex.split(line[len("#SBATCH") :])
        elif line.strip() and not line.startswith("#"):
            break
    return Options("sbatch", words, SBATCH).values


def elements_of(world: World, options: Options, given: list[str]) -> list[Element]:
    """The elements that a submission makes. Raises Refused as sbatch would."""
    script = world.script
    failed = "sbatch: error: Batch job submission failed: "
    partition = options.get("partition") or next(iter(script["partitions"]))
    if partition not in script["partitions"]:
        raise Refused(
            f"sbatch: error: invalid partition specified: {partition}\n{failed}Invalid partition name specified"
        )
    for what, known, words in (
        ("account", script["accounts"], "Invalid account or account/partition combination specified"),
        ("qos", script["qos"], "Invalid qos specification"),
    ):
        if what in options and known is not None and options.get(what) not in known:
            raise Refused(failed + words)
    try:
        limit = minutes(options.get("time") or script["partitions"][partition])
    except ValueError:
        raise Refused("sbatch: error: Invalid --time specification", 255) from None
    if limit > minutes(script["partitions"][partition]):
        raise Refused(f"{failed}Requested time limit is invalid (missing or exceeds some limit)")
    nodes = int(options.get("nodes", "1").split("-")[0])
    tasks = int(options.get("ntasks") or nodes * int(options.get("ntasks-per-node", "1")))
    cpus = tasks * int(options.get("cpus-per-task", "1"))
    gpus = nodes * int(options.get("gpus-per-node", "0").split(":")[-1])
    gpus += tasks * int(options.get("gpus-per-task", "0").split(":")[-1])
    if nodes > script["nodes"] or cpus > nodes * script["cpus"] or gpus > nodes * script["gpus"]:
        raise Refused(f"{failed}Requested node configuration is not available")
    indices: list[int | None] = [None]
    parallel = 0
    if "array" in options:
        text, _, throttle = options.get("array").partition("%")
        indices, parallel = list(expand(text)), int(throttle or 0)
        if max(expand(text)) >= script["max_array_size"]:
            raise Refused(f"{failed}Invalid job array specification")
    if script["max_submit"] is not None and world.queued() + len(indices) > script["max_submit"]:
        raise Refused(QOS_LIMIT)
    if sum(e["state"] in ACTIVE for e in world.elements.values()) + len(indices) > script["max_job_count"]:
        raise Refused(f"{failed}Slurm temporarily unable to accept job, sleeping and retrying")
    after = re.findall(r"\d+(?:_\d+)?", options.get("dependency"))
    warning = None
    if "signal" in options:
        match = re.fullmatch(r"(?:([RB]+):)?(?:SIG)?(\w+)(?:@(\d+))?", options.get("signal"))
        if match is None:
            raise Refused("sbatch: error: Invalid --signal specification", 255)
        flags, name, seconds = match.groups()
        warning = {"number": number_of(name), "seconds": int(seconds or 60), "batch": "B" in (flags or "")}
    array = world.new_id()
    default = "slurm-%A_%a.out" if "array" in options else "slurm-%j.out"
    output = options.get("output", default)
    now = time.time()
    common = {
        "array": array,
        "name": options.get("job-name") or (Path(options.rest[0]).name if options.rest else "wrap"),
        "user": os.environ.get("FAKE_SLURM_USER", "root"),
        "state": "PENDING",
        "reason": "None",
        "submitted": now,
        "eligible": now,
        "start": None,
        "end": None,
        "exit": "0:0",
        "node": "",
        "restarts": 0,
        "requeue": "no-requeue" not in options and ("requeue" in options or bool(script["requeue"])),
        "partition": partition,
        "account": options.get("account", "dev"),
        "qos": options.get("qos", "normal"),
        "comment": options.get("comment"),
        "minutes": limit,
        "nodes": nodes,
        "ntasks": tasks,
        "cpus": cpus,
        "gpus": gpus,
        "count": len(indices),
        "parallel": parallel,
        "after": after,
        "held": "hold" in options,
        "signal": warning,
        "workdir": options.get("chdir") or os.getcwd(),
        "output": output,
        "error": options.get("error", output),
        "append": options.get("open-mode") == "append",
        "args": given,
        "reaper": None,
        "dry": None,
        "end_as": None,
    }
    # As in Slurm, the last element keeps the array's own id.
    ids = [array] if len(indices) == 1 else [world.new_id() for _ in indices[1:]] + [array]
    return [{**common, "id": job_id, "task": index} for job_id, index in zip(ids, indices, strict=True)]


def number_of(name: str) -> int:
    return int(name) if name.isdigit() else int(signal.Signals[f"SIG{name.removeprefix('SIG').upper()}"])


# --- what squeue, sacct and scontrol tell

Row = dict[str, str]


def stamp(seconds: float | None, none: str = "Unknown") -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(seconds)) if seconds else none


def span(seconds: float) -> str:
    h, m, s = int(seconds) // 3600, int(seconds) // 60 % 60, int(seconds) % 60
    return f"{h:02d}:{m:02d}:{s:02d}"


def groups(elements: Iterable[Element], apart: bool) -> list[tuple[str, Element]]:
    """Names and elements; those of an array that have never started stand in one line unless `apart`."""
    found: list[tuple[str, Element]] = []
    unborn: dict[int, list[Element]] = {}
    for e in elements:
        if apart or e["task"] is None or e["state"] != "PENDING" or e["restarts"]:
            found.append((name_of(e), e))
        else:
            unborn.setdefault(e["array"], []).append(e)
    for array, several in unborn.items():
        throttle = f"%{several[0]['parallel']}" if several[0]["parallel"] else ""
        found.append((f"{array}_[{ranges([e['task'] for e in several])}{throttle}]", several[0]))
    return found


def ranges(indices: list[int]) -> str:
    parts: list[list[int]] = []
    for i in sorted(indices):
        if parts and i == parts[-1][1] + 1:
            parts[-1][1] = i
        else:
            parts.append([i, i])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in parts)


def shown_state(world: World, e: Element, state: str) -> str:
    named = world.script["states"]
    if name_of(e) in named:
        return str(named[name_of(e)])
    return str(named["*"]) if "*" in named and e["state"] in ACTIVE else state


def reason_of(world: World, e: Element) -> str:
    if e["state"] == "PENDING":
        return str(world.script["reason"] or e["reason"])
    return str(e["reason"]) if e["state"] == "COMPLETING" else "None"


def squeue_row(world: World, name: str, e: Element) -> Row:
    state, reason = shown_state(world, e, e["state"]), reason_of(world, e)
    now = time.time()
    ran = (e["end"] or now) - e["start"] if e["start"] else 0
    return {
        "jobarrayid": name,
        "jobid": str(e["id"]),
        "arrayjobid": str(e["array"]),
        "arraytaskid": name.partition("_")[2].strip("[]") or "N/A",
        "name": e["name"],
        "state": state,
        "statecompact": COMPACT.get(state, state[:2]),
        "reason": reason,
        "reasonlist": e["node"] if e["state"] != "PENDING" else f"({reason})",
        "nodelist": e["node"],
        "username": e["user"],
        "userid": "0",
        "partition": e["partition"],
        "account": e["account"],
        "qos": e["qos"],
        "comment": e["comment"] or "(null)",
        "wckey": "(null)",
        "timeused": span(ran),
        "timelimit": span(e["minutes"] * 60),
        "starttime": stamp(e["start"]) if e["start"] else "N/A",
        "endtime": stamp(e["end"]) if e["end"] else "N/A",
        "submittime": stamp(e["submitted"]),
        "pendingtime": str(int((e["start"] or now) - e["submitted"])),
        "restartcnt": str(e["restarts"]),
        "numnodes": str(e["nodes"]),
        "numcpus": str(e["cpus"]),
        "workdir": e["workdir"],
        "tres-per-node": f"gres:gpu:{e['gpus']}" if e["gpus"] else "N/A",
        "priority": "1",
    }


LETTERS = {
    "i": "jobarrayid", "A": "jobid", "F": "arrayjobid", "K": "arraytaskid", "j": "name", "T": "state",
    "t": "statecompact", "r": "reason", "R": "reasonlist", "N": "nodelist", "u": "username", "U": "userid",
    "P": "partition", "a": "account", "q": "qos", "k": "comment", "M": "timeused", "l": "timelimit",
    "S": "starttime", "e": "endtime", "V": "submittime", "D": "numnodes", "C": "numcpus", "Z": "workdir",
    "b": "tres-per-node", "Q": "priority",
}  # fmt: skip
SQUEUE = (
    "h|noheader j|jobs= u|user= me n|name= t|states= r|array a|all p|partition= o|format= O|Format= S|sort= "
    "A|account= w|nodelist= q|qos= l|long M|clusters= local"
)


def squeue(world: World, arguments: list[str]) -> str:
    options = Options("squeue", arguments, SQUEUE)
    fault = world.fault("squeue")
    if fault == "fail":
        raise Refused(f"slurm_load_jobs error: {UNREACHABLE}")
    if fault == "empty":
        return ""
    now = time.time()
    ended_since = now - world.script["min_job_age"]
    elements = [
        e for e in world.elements.values() if e["state"] in ACTIVE or (e["end"] and e["end"] > ended_since)
    ]  # fmt: skip
    if "jobs" in options:
        wanted = options.get("jobs").split(",")
        chosen = {name_of(e) for job in wanted for e in world.find(job)}
        elements = [e for e in elements if name_of(e) in chosen]
        if len(wanted) == 1 and not elements:
            raise Refused("slurm_load_jobs error: Invalid job id specified")
    states = options.get("states", ",".join(ACTIVE)).upper().split(",")
    me = os.environ.get("FAKE_SLURM_USER", "root")
    users = [me] if "me" in options else options.get("user").split(",") if "user" in options else None
    names = options.get("name").split(",") if "name" in options else None
    partitions = options.get("partition").split(",") if "partition" in options else None
    elements = [
        e
        for e in elements
        if ("ALL" in states or e["state"] in states or COMPACT.get(e["state"]) in states)
        and (users is None or e["user"] in users)
        and (names is None or e["name"] in names)
        and (partitions is None or e["partition"] in partitions)
    ]
    rows = [squeue_row(world, name, e) for name, e in groups(elements, "array" in options)]
    render = squeue_format(options)
    lines = [] if "noheader" in options else [render({key: key.upper() for key in set(LETTERS.values())})]
    return "".join(line + "\n" for line in [*lines, *(render(row) for row in rows)])


def squeue_format(options: Options) -> Callable[[Row], str]:
    if "Format" in options:
        fields = []
        for field in options.get("Format").split(","):
            match = re.fullmatch(r"([\w-]+)(?::(\.?)(\d*)(.*))?", field)
            if match is None or match[1].lower() not in {
                *LETTERS.values(),
                "restartcnt",
                "pendingtime",
                "wckey",
            }:
                raise Refused(f"squeue: error: Invalid job format specification: {field}")
            width = int(match[3]) if match[3] else (0 if match[4] else 20)
            fields.append((match[1].lower(), width, match[4] or ""))
        return lambda row: "".join(
            (row.get(k, k)[:w].ljust(w) if w else row.get(k, k)) + suffix for k, w, suffix in fields
        )
    text = options.get("format") or "%.18i %.9P %.8j %.8u %.2t %.10M %.6D %R"

    def fill(row: Row) -> str:
        def field(match: re.Match[str]) -> str:
            value = row.get(LETTERS.get(match[3], ""), "")
            width = int(match[2]) if match[2] else None
            value = value if width is None else value[:width]
            return value.rjust(width or 0) if match[1] else value.ljust(width or 0)

        return re.sub(r"%(\.?)(\d*)([A-Za-z])", field, text)

    return fill


SACCT_FIELDS = """
    Account Cluster Comment DerivedExitCode Elapsed ElapsedRaw Eligible End ExitCode JobID JobIDRaw JobName
    NCPUS NNodes NodeList Partition QOS Reason Start State Submit Timelimit User WCKey WorkDir
"""
SACCT = (
    "n|noheader j|jobs= o|format= X|allocations P|parsable2 p|parsable D|duplicates S|starttime= E|endtime= "
    "u|user= name= s|state= array a|allusers delimiter= M|clusters= b|brief l|long"
)


def sacct(world: World, arguments: list[str]) -> str:
    options = Options("sacct", arguments, SACCT)
    given = (options.get("format") or "JobID,JobName,Partition,Account,NCPUS,State,ExitCode").split(",")
    fields = []
    for field in given:
        known = {f.lower(): f for f in SACCT_FIELDS.split()}
        name = field.split("%")[0].lower()
        if name not in known:
            raise Refused(f'sacct: error: Invalid field requested: "{field}"')
        fields.append(known[name])
    if not world.script["accounting"]:
        raise Refused("Slurm accounting storage is disabled")
    views = world.state["sacct_views"]  # what the database will hold, oldest first
    lag = int(world.script["sacct_lag"])
    views.append([dict(e) for e in world.elements.values() if not e.get("unaccounted")] if lag else None)
    world.state["sacct_views"] = views = views[-(lag + 1) :] if lag else []
    fault = world.fault("sacct")
    if fault == "fail":
        raise Refused(DATABASE)
    if fault == "empty":
        return ""
    elements: list[Element] = list(world.elements.values())
    if lag:
        elements = (views[0] or []) if len(views) > lag else []
    elements = [e for e in elements if not e.get("unaccounted")]
    if "jobs" in options:
        wanted = {job.split(".")[0] for job in options.get("jobs").split(",")}
        chosen = {name_of(e) for job in wanted for e in world.find(job)}
        elements = [e for e in elements if name_of(e) in chosen]
    if "name" in options:
        elements = [e for e in elements if e["name"] in options.get("name").split(",")]
    lines = [] if "noheader" in options else [fields]
    for name, e in groups(elements, "array" in options):
        past = e.get("history", [])[: e["restarts"]] if "duplicates" in options else []
        for state in [*(h["state"] for h in past), None]:
            rows = [sacct_row(world, name, e, state)]
            if "allocations" not in options and e["state"] != "PENDING":
                rows += [{**rows[0], "JobID": f"{name}.{step}", "JobName": step} for step in ("batch", "0")]
            lines += [[row[f] for f in fields] for row in rows]
    bar = options.get("delimiter", "|")
    if "parsable2" in options or "parsable" in options:
        end = bar if "parsable" in options else ""
        return "".join(bar.join(line) + end + "\n" for line in lines)
    return "".join(" ".join(f"{text[:20]:>20}" for text in line) + "\n" for line in lines)


def sacct_row(world: World, name: str, e: Element, past: str | None) -> Row:
    state = e["end_as"] if e["state"] == "COMPLETING" else e["state"]
    state = "CANCELLED by 0" if state == "CANCELLED" else state or "RUNNING"
    now = time.time()
    return {
        "Account": e["account"],
        "Cluster": "fake",
        "Comment": e["comment"],
        "DerivedExitCode": e["exit"],
        "Elapsed": span((e["end"] or now) - e["start"] if e["start"] else 0),
        "ElapsedRaw": str(int((e["end"] or now) - e["start"]) if e["start"] else 0),
        "Eligible": stamp(e["eligible"]),
        "End": stamp(e["end"]),
        "ExitCode": e["exit"],
        "JobID": name,
        "JobIDRaw": str(e["id"]),
        "JobName": e["name"],
        "NCPUS": str(e["cpus"]),
        "NNodes": str(e["nodes"]),
        "NodeList": e["node"] or "None assigned",
        "Partition": e["partition"],
        "QOS": e["qos"],
        "Reason": reason_of(world, e),
        "Start": stamp(e["start"]),
        "State": past or shown_state(world, e, state),
        "Submit": stamp(e["submitted"]),
        "Timelimit": span(e["minutes"] * 60),
        "User": e["user"],
        "WCKey": "",
        "WorkDir": e["workdir"],
    }


# --- scancel, scontrol, sinfo

SCANCEL = "s|signal= b|batch f|full n|name= u|user= me Q|quiet v|verbose t|state= p|partition= A|account= i|interactive"


def scancel(world: World, arguments: list[str]) -> str:
    options = Options("scancel", [*arguments], SCANCEL)
    if world.fault("scancel") == "fail":
        raise Refused(f"scancel: error: {UNREACHABLE}")
    me = os.environ.get("FAKE_SLURM_USER", "root")
    chosen: list[Element] = []
    complaints = []
    for job in options.rest:
        found = world.find(job)
        for e in found:
            if e["user"] != me:
                complaints.append(f"scancel: error: Kill job error on job id {job}: Access/permission denied")
            else:
                chosen.append(e)
    if not options.rest and {"name", "user", "me"} & set(options.values):
        chosen = [e for e in world.elements.values() if e["user"] == me]
    elif not options.rest:
        raise Refused("scancel: error: No job identification provided")
    if "name" in options:
        chosen = [e for e in chosen if e["name"] == options.get("name")]
    for e in chosen:
        if e["state"] not in ACTIVE:
            continue
        if "signal" in options and (number := number_of(options.get("signal"))) != signal.SIGKILL:
            if e["state"] == "RUNNING" and e["reaper"]:
                to = "all" if "full" in options else "batch" if "batch" in options else "steps"
                world.tell(e, do="signal", number=number, to=to)
        else:
            grace = 0 if "signal" in options else world.script["kill_wait"]
            world.take_away(e, "CANCELLED", grace=grace)
    if complaints and "quiet" not in options:
        raise Refused("\n".join(complaints))
    return ""


def scontrol(world: World, arguments: list[str]) -> str:
    oneliner = bool({"-o", "--oneliner"} & set(arguments))
    words = [word for word in arguments if not word.startswith("-")]
    if world.fault("scontrol") == "fail":
        raise Refused(f"slurm_load_jobs error: {UNREACHABLE}")
    match words:
        case ["ping"]:
            return "Slurmctld(primary) at fake is UP\n"
        case ["show", "config" | "configuration"]:
            return show_config(world)
        case ["show", "partition" | "partitions", *rest]:
            return show_partitions(world, rest)
        case ["show", "node" | "nodes", *_]:
            cpus = world.script["cpus"]
            names = [f"fake{i + 1}" for i in range(world.script["nodes"])]
            return "".join(
                f"NodeName={n} Arch=x86_64 CPUTot={cpus}\n   State=IDLE ThreadsPerCore=1\n\n" for n in names
            )
        case ["show", "hostnames" | "hostname", *rest]:
            text = rest[0] if rest else os.environ.get("SLURM_JOB_NODELIST", "")
            match_ = re.fullmatch(r"(\w+?)\[(.+)\]", text)
            names = [f"{match_[1]}{i}" for i in expand(match_[2])] if match_ else text.split(",")
            return "".join(f"{n}\n" for n in names)
        case ["show", "job" | "jobs", *rest]:
            return show_jobs(world, rest, oneliner)
        case ["requeue", *jobs] if jobs:
            for job in (part for word in jobs for part in word.split(",")):
                requeue(world, job)
            return ""
        case ["hold" | "release" as what, *jobs]:
            for job in jobs:
                for e in world.find(job):
                    e["held"] = what == "hold"
            return ""
    raise Refused(f"invalid keyword: {' '.join(words)}")


def requeue(world: World, job: str) -> None:
    found = world.find(job)
    if not found:
        raise Refused(f"Invalid job id specified for job {job}")
    for e in found:
        if not e["requeue"]:
            raise Refused(f"Requested operation is presently disabled for job {job}")
        if e["state"] == "PENDING":
            raise Refused(f"Job is pending execution for job {job}")
        if e["state"] in ACTIVE:
            world.take_away(e, "REQUEUED", grace=world.script["kill_wait"], requeue=True)
        else:
            world.ended(e, "REQUEUED", e["exit"], requeue=True)


def show_config(world: World) -> str:
    script = world.script
    values = {
        "AccountingStorageType": "accounting_storage/slurmdbd" if script["accounting"] else "(null)",
        "ClusterName": "fake",
        "JobRequeue": int(bool(script["requeue"])),
        "KillWait": f"{script['kill_wait']:.0f} sec",
        "MaxArraySize": script["max_array_size"],
        "MaxJobCount": script["max_job_count"],
        "MinJobAge": f"{script['min_job_age']:.0f} sec",
        "OverTimeLimit": "0 min",
        "PreemptExemptTime": "00:00:00",
        "PreemptMode": "REQUEUE",
        "PreemptParameters": "(null)",
        "PreemptType": "preempt/partition_prio",
        "ProctrackType": "proctrack/linuxproc",
        "SLURM_VERSION": "22.05.8",
        "SlurmctldParameters": "(null)",
        "TaskPlugin": "task/none",
    }
    head = f"Configuration data as of {stamp(time.time())}\n"
    return head + "".join(f"{key:<23} = {value}\n" for key, value in values.items())


def show_partitions(world: World, names: list[str]) -> str:
    script = world.script
    known = script["partitions"]
    if names and names[0] not in known:
        raise Refused(f"Partition {names[0]} not found")
    text = ""
    for i, (name, limit) in enumerate(known.items()):
        if names and name != names[0]:
            continue
        default = "YES" if i == 0 else "NO"
        text += (
            f"PartitionName={name}\n   AllowGroups=ALL AllowAccounts=ALL AllowQos=ALL\n"
            f"   AllocNodes=ALL Default={default} QoS=N/A\n"
            f"   DefaultTime=01:00:00 DisableRootJobs=NO ExclusiveUser=NO GraceTime={script['grace_time']:.0f} "
            f"Hidden=NO\n   MaxNodes=UNLIMITED MaxTime={limit} MinNodes=0 LLN=NO MaxCPUsPerNode=UNLIMITED\n"
            f"   Nodes=fake1\n   PriorityJobFactor=1 PriorityTier=1 RootOnly=NO ReqResv=NO OverSubscribe=NO\n"
            f"   OverTimeLimit=NONE PreemptMode=REQUEUE\n   State=UP TotalCPUs={script['cpus']} "
            f"TotalNodes={script['nodes']} SelectTypeParameters=NONE\n\n"
        )
    return text


def show_jobs(world: World, names: list[str], oneliner: bool) -> str:
    since = time.time() - world.script["min_job_age"]
    found = world.find(names[0]) if names else list(world.elements.values())
    found = [e for e in found if e["state"] in ACTIVE or (e["end"] and e["end"] > since)]
    if names and not found:
        raise Refused("slurm_load_jobs error: Invalid job id specified")
    text = ""
    for name, e in groups(found, apart=False):
        array = (
            f" ArrayJobId={e['array']} ArrayTaskId={name.partition('_')[2].strip('[]')}"
            if "_" in name
            else ""
        )
        restarts = e["restarts"] + bool(e.get("requeued"))  # a requeue counts from its first moment
        lines = [
            f"JobId={e['id']}{array} JobName={e['name']}",
            f"UserId={e['user']}(0) GroupId={e['user']}(0) MCS_label=N/A",
            f"Priority=1 Nice=0 Account={e['account']} QOS={e['qos']}",
            f"JobState={shown_state(world, e, e['state'])} Reason={reason_of(world, e)} Dependency=(null)",
            f"Requeue={int(e['requeue'])} Restarts={restarts} BatchFlag=1 Reboot=0 ExitCode={e['exit']}",
            f"RunTime=00:00:00 TimeLimit={span(e['minutes'] * 60)} TimeMin=N/A",
            f"SubmitTime={stamp(e['submitted'])} EligibleTime={stamp(e['eligible'])}",
            f"StartTime={stamp(e['start'])} EndTime={stamp(e['end'])} Deadline=N/A",
            f"PreemptEligibleTime={stamp(e['start'])} PreemptTime={stamp(e.get('preempted'), 'None')}",
            f"Partition={e['partition']} AllocNode:Sid=fake:1",
            f"NodeList={e['node']}",
            f"NumNodes={e['nodes']} NumCPUs={e['cpus']} NumTasks={e['ntasks']}",
            f"WorkDir={e['workdir']}",
        ]
        text += (" ".join(lines) + "\n") if oneliner else ("\n   ".join(lines) + "\n\n")
    return text


def sinfo(world: World, arguments: list[str]) -> str:
    options = Options(
        "sinfo", arguments, "h|noheader o|format= p|partition= N|Node l|long s|summarize r|responding"
    )
    script = world.script
    rows = []
    for i, (name, limit) in enumerate(script["partitions"].items()):
        nodes = f"fake[1-{script['nodes']}]" if script["nodes"] > 1 else "fake1"
        rows.append(
            {"P": name + "*" * (i == 0), "R": name, "a": "up", "l": limit, "D": str(script["nodes"]), "t": "idle",
             "T": "idle", "N": nodes, "c": str(script["cpus"]), "G": f"gpu:{script['gpus']}"}
        )  # fmt: skip
    if "partition" in options:
        rows = [row for row in rows if row["R"] in options.get("partition").split(",")]
    text = options.get("format", "%9P %.5a %.10l %.6D %.6t %N")
    heads = {"P": "PARTITION", "R": "PARTITION", "a": "AVAIL", "l": "TIMELIMIT", "D": "NODES", "t": "STATE",
             "T": "STATE", "N": "NODELIST", "c": "CPUS", "G": "GRES"}  # fmt: skip

    def line(row: Row) -> str:
        return re.sub(
            r"%(\.?)(\d*)([A-Za-z])",
            lambda m: (str.rjust if m[1] else str.ljust)(row.get(m[3], ""), int(m[2] or 0)),
            text,
        )

    shown = rows if "noheader" in options else [heads, *rows]
    return "".join(line(row) + "\n" for row in shown)


COMMANDS = {f.__name__: f for f in (sbatch, squeue, sacct, scontrol, scancel, sinfo)}


def main(command: str, arguments: list[str]) -> int:
    folder = Path(os.environ["FAKE_SLURM"])
    line = json.dumps({"command": command, "args": arguments, "time": time.time(), "pid": os.getpid()}) + "\n"
    descriptor = os.open(folder / "calls.jsonl", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    os.write(descriptor, line.encode())
    os.close(descriptor)
    if {"--version", "-V"} & set(arguments):
        print("slurm 22.05.8")
        return 0
    sleep = 0.0
    try:
        with World(folder) as world:
            if world.script["unreachable"]:
                raise Refused(f"{command}: error: {UNREACHABLE}")
            fault = str(world.fault(command))
            sleep = float(fault[5:]) if fault.startswith("slow:") else 3600.0 if fault == "hang" else 0.0
            out = COMMANDS[command](world, arguments)
    except Refused as refused:
        if str(refused):
            print(refused, file=sys.stderr)
        return refused.code
    time.sleep(sleep)  # without the lock: others go on meanwhile
    sys.stdout.write(out)
    return 0
