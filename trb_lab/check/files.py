"""Which files are experiments, sweeps and reports, what to preflight of them, and how it is printed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trb_lab.errors import LabError
from trb_lab.spec import ExperimentSpec, expand_sweep, kind_of_file, load_experiment
from trb_lab.spec.search import SearchSpec
from trb_lab.spec.sweeps import expand_searches
from trb_lab.store.run_dir import Store

from .cluster import ClusterCheck
from .fetch import fetch_all
from .findings import Findings
from .reports import check_report

_Case = tuple[str, ExperimentSpec, Sequence[ExperimentSpec]]
"""(label, what gets a preflight, the same with each arm and loss of the file)"""


def check_files(
    paths: Sequence[Path],
    *,
    store: Store | None = None,
    as_json: bool = False,
    fetch: bool = False,
    cluster: ClusterCheck | None = None,
) -> int:
    """Check experiments, sweeps and reports; print a line for each check. Returns the exit code.

    Which sweeps of a report have run is looked up in `store` (null: where Store.locate finds it).

    With `fetch`, hub models and data sets that the files name are downloaded first; else nothing is. With
    `cluster`, that cluster is looked at too, and whether it takes jobs of these files.

    0 when nothing failed, 2 when a file is written wrongly, 1 when the preflight of a valid file fails.
    """
    code = 0
    reports: list[dict[str, Any]] = []
    every: list[ExperimentSpec] = []
    for path in paths:
        findings = Findings()
        title = str(path)
        if not as_json:
            print(title, flush=True)
        try:
            specs = _specs(path, store or Store.locate(), findings)
        except LabError as error:
            for message in str(error).splitlines():
                findings.fail("", message)
            specs, code = [], 2
        every += [spec for _, spec, _ in specs]
        if fetch:
            fetch_all([spec for _, spec, _ in specs], findings)
        code = max(code, int(findings.failed))
        _print_new(findings, 0, as_json)
        for case in specs:
            code = max(code, _preflight(case, findings, as_json))
        reports.append(
            {"file": title, "ok": not findings.failed, "checks": [f.as_dict() for f in findings.all]}
        )
    report: dict[str, Any] = {"ok": code == 0, "files": reports}
    if cluster is not None:
        cluster_code, report["cluster"] = _check_cluster(cluster, every, as_json)
        code = max(code, cluster_code)
        report["ok"] = code == 0
    if as_json:
        print(json.dumps(report, indent=2, ensure_ascii=False))
    elif len(reports) > 1:
        print(_summary(reports))
    return code


def _check_cluster(
    cluster: ClusterCheck, specs: Sequence[ExperimentSpec], as_json: bool
) -> tuple[int, dict[str, Any]]:
    """The exit code, and the report for scripts."""
    findings, shown = Findings(), 0

    def show() -> None:
        nonlocal shown
        _print_new(findings, shown, as_json)
        shown = len(findings.all)

    title = str(cluster.profile)
    if not as_json:
        print(title, flush=True)
    code = cluster.run(specs, findings, show)
    checks = [f.as_dict() for f in findings.all]
    if not as_json:
        states = [f.state for f in findings.all]
        print(f"{len(states)} checks: {states.count('fail')} failed, {states.count('warn')} warnings")
    return code, {"file": title, "ok": code == 0, "checks": checks}


def _summary(reports: list[dict[str, Any]]) -> str:
    """The closing line: `23 files: 0 failed, 4 with warnings (what could not be checked is among them)`."""
    warned = sum(r["ok"] and any(c["state"] == "warn" for c in r["checks"]) for r in reports)
    text = f"{len(reports)} files: {sum(not r['ok'] for r in reports)} failed, {warned} with warnings"
    return f"{text} (what could not be checked is among them)" if warned else text


def _preflight(case: _Case, findings: Findings, as_json: bool) -> int:
    from .preflight import preflight

    label, spec, arms = case

    before = len(findings.all)
    findings.case = label
    if label and not as_json:
        print(f"  {label}")
    preflight(spec, findings, arms)
    _print_new(findings, before, as_json)
    return int(any(f.state == "fail" for f in findings.all[before:]))


def _print_new(findings: Findings, before: int, as_json: bool) -> None:
    if not as_json:
        for finding in findings.all[before:]:
            print(finding.line(), flush=True)


def _specs(path: Path, store: Store, findings: Findings) -> list[_Case]:
    """Everything in the file that needs a preflight of its own. Raises UsageError."""
    kind = kind_of_file(path)
    if kind == "report":
        check_report(path, store, findings)
        return []
    if kind == "experiment":
        spec = load_experiment(path)
        findings.ok("spec", f"experiment '{spec.name}' is valid: {spec.warmup.kind}, {spec.steps} steps")
        return [("", spec, [spec])]
    trials = expand_sweep(path)
    searches = expand_searches(path)
    settings = {(t.arm, t.setting) for t in trials}
    seeds = {t.seed for t in trials}
    if trials:
        findings.ok(
            "spec", f"all {len(trials)} trials are valid: {len(settings)} settings x {len(seeds)} seeds"
        )
    for arm in searches.values():
        ends = f"the {len(arm.examples)} ends of its space are valid"
        findings.ok("search", f"{arm.name}: {arm.spec.trials} settings by {arm.spec.sampler.kind}; {ends}")
        _check_sampler(arm.spec, findings)
    # Trials that share models, data and sizes share one preflight, which looks at each of their arms.
    distinct: dict[str, tuple[str, ExperimentSpec]] = {}
    named = [(" ".join(filter(None, [t.arm, t.setting])), t.spec) for t in trials]
    named += [(arm.name, spec) for arm in searches.values() for spec in arm.examples]
    for name, spec in named:
        key = spec.model_dump_json(
            include={
                "student",
                "teacher",
                "dataset",
                "prompt",
                "eval",
                "rollout",
                "resources",
                "dtype",
                "grader",
            }
        )
        key += str(spec.steps) + str(spec.teacher_in_rollout)
        distinct.setdefault(key, (name, spec))
    every = [spec for _, spec in named]
    return [(name, spec, _arms_of(spec, every)) for name, spec in _without_lesser(list(distinct.values()))]


def _check_sampler(spec: SearchSpec, findings: Findings) -> None:
    """Whether the sampler is installed here and takes the space."""
    from trb_lab.search.optuna import Asker

    try:
        Asker(spec)
    except LabError as error:
        findings.fail("search", str(error))


def _arms_of(pair: ExperimentSpec, specs: Sequence[ExperimentSpec]) -> list[ExperimentSpec]:
    """One spec for each arm and loss that the file trains this pair of models with."""
    same = [s for s in specs if (s.student, s.teacher) == (pair.student, pair.teacher)]
    return list({s.model_dump_json(include={"warmup", "loss"}): s for s in same}.values())


def _without_lesser(specs: list[tuple[str, ExperimentSpec]]) -> list[tuple[str, ExperimentSpec]]:
    """Leaves out trials without a teacher in the rollout where the same trial with one is checked too."""

    def key(spec: ExperimentSpec) -> str:
        return spec.model_dump_json(exclude={"warmup", "loss", "seed", "name"})

    heavier = {key(spec) for _, spec in specs if spec.teacher_in_rollout}
    kept = [(name, spec) for name, spec in specs if spec.teacher_in_rollout or key(spec) not in heavier]
    return [("", kept[0][1])] if len(kept) == 1 else kept
