"""From a sweep's name to the files of its report: the story of this room, top to bottom."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from trb_lab.store.run_dir import Store, write_atomic

from .arms import Arm, arms_of
from .collect import SweepData, collect
from .cost_table import cost_table
from .excerpts import Pair, excerpts
from .figures import build_figures
from .items import collect_items
from .narrative import counts, findings, shared_rows
from .plot_style import FigureFiles
from .problems import comparisons, problem_table, problems_csv
from .render import to_csv, to_text
from .search import SearchSection, search_sections
from .selection_table import selection_table
from .settings import Setting, reference_setting, settings_of
from .setup_facts import changed_settings, code_versions, failures, shared_settings
from .tables import Table, health_table, score_table


@dataclass(frozen=True)
class Report:
    """Everything that the page and the Markdown file say."""

    data: SweepData
    settings: list[Setting]
    arms: list[Arm]
    counts: dict[str, int]
    findings: list[str]
    scores: Table
    selection: Table | None
    problems: Table | None
    cost: Table | None
    health: Table
    searches: list[SearchSection]
    figures: list[FigureFiles]
    pairs: list[Pair]
    failures: list[dict[str, str]]
    shared: dict[str, str]
    changed: dict[str, dict[str, str]]
    code_versions: dict[str, int]

    @property
    def results(self) -> list[tuple[str, Table]]:
        """(id in the page, table) of what the arms scored."""
        tables = {"table": self.scores, "selection": self.selection, "problems": self.problems}
        return [(name, table) for name, table in tables.items() if table is not None]

    @property
    def costs(self) -> list[tuple[str, Table]]:
        """(id in the page, table) of what it cost."""
        tables = {"score-and-cost": self.cost, "cost": self.health}
        return [(name, table) for name, table in tables.items() if table is not None]

    @property
    def shared_rows(self) -> str:
        """`27 rows, 24 runs` where settings share trials, else empty."""
        return shared_rows(self.data)

    @property
    def command(self) -> str:
        """How to make this report again."""
        return f"trb-lab report {self.data.name}"


def build(store: Store, sweep_name: str, out_dir: Path | None = None) -> dict[str, Path]:
    """Read, compute, draw, write. Returns what was written, by name."""
    from .markdown import markdown
    from .page import page

    data = collect(store, sweep_name)
    out = out_dir or store.sweep(sweep_name).report
    out.mkdir(parents=True, exist_ok=True)
    settings = settings_of(data)
    items = collect_items(store, data)
    arms = arms_of(data, settings, items)
    compared = comparisons(data, settings, items)
    reference = reference_setting(settings)
    searches = search_sections(data, store.sweep(sweep_name).path / "search", out)
    report = Report(
        data=data,
        settings=settings,
        arms=arms,
        counts=counts(data),
        findings=[*findings(data, settings, arms), *(s.headline for s in searches)],
        scores=score_table(data, settings),
        selection=selection_table(data, arms),
        problems=problem_table(compared, reference.title if reference else ""),
        cost=cost_table(data, settings),
        health=health_table(data, settings),
        searches=searches,
        figures=build_figures(data, settings, out),
        pairs=excerpts(store, settings),
        failures=failures(data),
        shared=shared_settings(data),
        changed=changed_settings(data, settings),
        code_versions=code_versions(data),
    )
    contents = {
        "page": ("report.html", page(report)),
        "markdown": ("report.md", markdown(report)),
        "table": ("table.txt", _text(report)),
        "table_csv": ("table.csv", to_csv(report.scores)),
        "selection_csv": ("selection.csv", to_csv(report.selection) if report.selection else None),
        "cost_csv": ("cost.csv", to_csv(report.cost) if report.cost else None),
        "health_csv": ("health.csv", to_csv(report.health)),
        "trials_csv": ("trials.csv", _trials_csv(data)),
        "problems_csv": ("problems.csv", problems_csv(compared) if compared else None),
    }
    paths = {}
    for what, (name, text) in contents.items():
        if text is None:  # an earlier report may have had the data for it
            (out / name).unlink(missing_ok=True)
            continue
        write_atomic(out / name, text)
        paths[what] = out / name
    for section in searches:
        for name, text in section.files.items():
            write_atomic(out / name, text)
            paths[name] = out / name
    return paths


def _text(report: Report) -> str:
    """What a terminal shows: counts, tables, the findings."""
    import textwrap

    told = ", ".join(f"{n} {what}" for what, n in report.counts.items() if n or what == "completed")
    told += f" ({report.shared_rows})" if report.shared_rows else ""
    legend = "± 95 % interval (Student-t over seeds); * best of the column and its statistical ties"
    words = "\n\n".join(textwrap.fill(p, 100) for p in report.findings)
    head = f"{report.data.name}: {told}\n\n{to_text(report.scores)}{legend}"
    rules = (
        "paper: best of all settings and checkpoints tried; final: mean over settings, nothing chosen;\n"
        "fair: chosen by the other seeds on one half of the problems, scored on the other half\n"
    )
    parts = [to_text(report.selection) + rules] if report.selection else []
    rest = [report.problems, report.cost, report.health]
    parts += [
        f"{section.title}\n\n" + "\n".join(to_text(table) for _, table in section.tables)
        for section in report.searches
    ]
    tables = "\n".join([*parts, *(to_text(table) for table in rest if table is not None)])
    return f"{head}\n\n{tables}\n{words}\n"


def _trials_csv(data: SweepData) -> str:
    """One line a planned trial, with its score on each set."""
    wide = data.scores.pivot_table(index="run_id", columns="set", values="pass_at_1", aggfunc="first")
    frame = data.trials.drop(columns=["traceback", "label"]).join(
        wide.reindex(columns=data.sets).add_prefix("pass_at_1_"), on="run_id"
    )
    return frame.to_csv(index=False, float_format="%.6g", lineterminator="\n")
