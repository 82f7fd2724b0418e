"""The report's page in a browser: it opens by itself, and everything on it can be used."""

from __future__ import annotations

import csv
import io
import json
import shutil
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.browser.conftest import Noise, OpenPage, until
from tests.report.synthetic import TEN_ARMS, write_store
from trb_lab.report import build_report
from trb_lab.report.collect import collect
from trb_lab.report.settings import settings_of
from trb_lab.store.run_dir import Store, write_json

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.browser

HOSTILE = "Which? </script><script>window.hit = 1</script><img src=x onerror='window.hit = 2'> & <b>bold</b>"
HOSTILE_ERROR = "</script><script>window.hit = 3</script> nan <img src=x onerror='window.hit = 4'>"
ARMS = {
    "opd": {"label": "vanilla <i>OPD</i>"},
    "trb": {"label": "TRB", "grid": {"warmup.kl_budget": [0.005, 0.1], "warmup.steps": [10, 20]}},
    "teacher_forced": {"label": "teacher-forced"},
}
PHONE = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True}


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Path]:
    """(store, the page alone in a folder): 18 trials, one failed, one never begun; labels and errors are hostile."""
    root = tmp_path_factory.mktemp("store") / "runs"
    store = write_store(root, arms=ARMS, question=HOSTILE, steps=40, failed=(5,), missing=(8,))
    failed = collect(store, "kl_budget").trials.query("state == 'failed'")["run_id"].iloc[0]
    attempts = store.trial(failed).attempts
    lines = [json.loads(line) for line in attempts.read_text().splitlines()]
    for line in lines:
        if "error" in line:
            line |= {"error": HOSTILE_ERROR, "traceback": HOSTILE_ERROR}
    attempts.write_text("".join(json.dumps(line) + "\n" for line in lines))
    runs = {
        t: {"mlflow_run_id": f"{i:032x}"} for i, t in enumerate(collect(store, "kl_budget").trials["run_id"])
    }
    mirror = {"tracking_uri": "sqlite:///mlflow.db", "experiment_id": "7", "runs": runs}
    write_json(store.sweep("kl_budget").path / "mlflow.json", mirror)
    alone = tmp_path_factory.mktemp("alone") / "report.html"
    shutil.copy(build_report(store, "kl_budget")["page"], alone)
    return store, alone


def run_of(store: Store, arm: str, seed: int = 0, setting: str | None = None) -> str:
    trials = collect(store, "kl_budget").trials
    rows = trials[(trials["arm"] == arm) & (trials["seed"] == seed)]
    return str((rows if setting is None else rows[rows["setting"] == setting])["run_id"].iloc[0])


def open_page(page: Page, path: Path, anchor: str = "") -> None:
    page.goto(path.as_uri() + anchor)


def drawer_title(page: Page) -> str:
    page.wait_for_selector("dialog[open] dl.about")
    return page.locator("#_run-title").inner_text()


def test_it_asks_for_nothing_and_runs_no_foreign_script(
    page: Page, report: tuple[Store, Path], noise: Noise
) -> None:
    store, path = report
    open_page(page, path)
    page.locator("#_curves").scroll_into_view_if_needed()
    page.wait_for_selector("#_chart .main-svg")
    failed = collect(store, "kl_budget").trials.query("state == 'failed'")["run_id"].iloc[0]
    page.evaluate("run => { location.hash = 'run=' + run }", failed)
    assert "vanilla" in drawer_title(page) or "TRB" in drawer_title(page)
    assert HOSTILE_ERROR in page.locator("#_run-content").inner_text()
    assert noise.requests == [path.as_uri()]
    assert noise.errors == []
    assert page.evaluate("window.hit") is None
    assert "</script><script>window.hit = 1" in page.locator(".question").inner_text()
    assert page.locator("main img, main b script, dialog img").count() == 0


def test_the_policy_stops_other_scripts_and_requests(
    page: Page, report: tuple[Store, Path], noise: Noise
) -> None:
    open_page(page, report[1])
    page.evaluate(
        "() => { const s = document.createElement('script'); s.textContent = 'window.hit = 5'; document.body.append(s);"
        " const i = document.createElement('img'); i.src = 'http://127.0.0.1:9/x.png'; document.body.append(i); }"
    )
    page.wait_for_timeout(200)
    assert page.evaluate("window.hit") is None
    assert len([e for e in noise.errors if "Content Security Policy" in e]) == 2


def test_tables_sort_by_numbers_and_by_text(page: Page, report: tuple[Store, Path]) -> None:
    open_page(page, report[1])
    table = page.locator("#scores-rows")
    head = table.locator("thead tr").last.locator("th", has_text="hard")
    head.locator("button").focus()
    page.keyboard.press("Enter")
    column = head.evaluate("h => h.cellIndex")

    def values() -> list[float | None]:
        return table.evaluate(
            "(t, c) => [...t.tBodies[0].rows].map(r => r.cells[c].dataset.value).map(v => v === undefined ? null : +v)",
            column,
        )

    assert head.get_attribute("aria-sort") == "descending"
    found = values()
    known = [v for v in found if v is not None]
    assert known == sorted(known, reverse=True) and found[len(known) :] == [None] * (len(found) - len(known))
    head.locator("button").click()
    assert head.get_attribute("aria-sort") == "ascending"
    assert [v for v in values() if v is not None] == sorted(known)
    assert table.locator("[aria-sort]").count() == 1
    page.locator("details.runs summary").click()
    runs = page.locator("details.runs table")
    runs.locator("th button", has_text="state").click()
    states = runs.locator("tbody tr td:nth-child(4)").all_inner_texts()
    assert states == sorted(states)


def test_a_drawer_opens_from_list_table_and_address(
    page: Page, new_page: OpenPage, report: tuple[Store, Path], screenshots: Path
) -> None:
    store, path = report
    run = run_of(store, "trb", setting="kl_budget=0.1 steps=10")
    open_page(page, path)
    page.locator("details.runs summary").click()
    link = page.locator(f"details.runs a.run[href='#run={run}']")
    link.focus()
    page.keyboard.press("Enter")
    assert drawer_title(page) == "TRB kl_budget=0.1 steps=10, seed 0"
    text = page.locator("#_run-content").inner_text()
    for word in (
        "completed",
        "40 of 40",
        "0.1.0+ge4144b8a",
        "easy",
        "warmup.kl_budget",
        "Reference answer: 19",
    ):
        assert word in text
    assert page.locator("#_run a[href^='http']").get_attribute("href") == (
        f"http://127.0.0.1:5000/#/experiments/7/runs/{mlflow_id(store, run)}"
    )
    page.wait_for_selector("dialog[open] .plot .main-svg")
    page.screenshot(path=screenshots / "page_drawer.png")
    assert page.url.endswith(f"#run={run}")
    page.keyboard.press("Escape")
    page.wait_for_selector("dialog[open]", state="detached")
    assert "#" not in page.url
    assert link.evaluate("a => a === document.activeElement")

    row = page.locator("#scores-rows tbody tr", has_text="TRB kl_budget=0.1 steps=10")
    row.locator("summary").click()
    row.locator("a.run").first.click()
    assert drawer_title(page) == "TRB kl_budget=0.1 steps=10, seed 0"
    page.locator("#_run dl a", has_text="1").first.click()
    until(page, "document.getElementById('_run-title').textContent.endsWith('seed 1')")
    page.locator("#_close").click()
    page.wait_for_selector("dialog[open]", state="detached")

    other = new_page()
    open_page(other, path, f"#run={run}")
    assert drawer_title(other) == "TRB kl_budget=0.1 steps=10, seed 0"
    nothing = new_page()
    open_page(nothing, path, "#run=no-such-run")
    nothing.wait_for_selector("text=This report has no run of that name.")


def mlflow_id(store: Store, run: str) -> str:
    state = json.loads((store.sweep("kl_budget").path / "mlflow.json").read_text())
    return str(state["runs"][run]["mlflow_run_id"])


def test_a_runs_spec_is_searched_and_set_against_the_reference(
    page: Page, report: tuple[Store, Path]
) -> None:
    store, path = report
    open_page(page, path, f"#run={run_of(store, 'trb', setting='kl_budget=0.1 steps=10')}")
    drawer_title(page)
    difference = page.locator("#_run table", has=page.locator("caption", has_text="Differences"))
    assert difference.locator("tr", has_text="warmup.kind").locator("del").inner_text().endswith("opd")
    assert difference.locator("tr", has_text="warmup.kind").locator("ins").inner_text().endswith("trb")
    assert (
        difference.locator("tr", has_text="warmup.kl_budget")
        .first.locator("ins")
        .inner_text()
        .endswith("0.1")
    )
    page.locator("#_run summary", has_text="Resolved spec").click()
    page.get_by_label("Find in the spec").fill("kl_budget")
    rows = page.locator("#_run table", has=page.locator("caption", has_text="Resolved spec")).locator(
        "tr:visible"
    )
    assert 0 < rows.count() <= 3
    assert all("kl_budget" in text for text in rows.all_inner_texts())


def test_tokens_tell_their_numbers_by_pointer_and_by_keys(page: Page, report: tuple[Store, Path]) -> None:
    open_page(page, report[1])
    response = page.locator("main pre.tokens", has=page.locator(".m2")).first
    readout = response.locator("xpath=following-sibling::p[contains(@class, 'readout')]")
    response.locator("span.m2").first.hover()
    told = "redraw probability 0.62, student log-prob -0.50, teacher log-prob -0.20"
    assert told in readout.inner_text()
    response.focus()
    page.keyboard.press("Home")
    assert readout.inner_text().startswith("“12”: redraw probability 0.02")
    page.keyboard.press("ArrowRight")
    assert readout.inner_text().startswith("“ + ”")


def test_tokens_tell_their_numbers_by_touch(new_page: OpenPage, report: tuple[Store, Path]) -> None:
    page = new_page(**PHONE)
    open_page(page, report[1])
    page.locator("main pre.tokens span.m2").first.tap()
    assert page.locator(".readout", has_text="redraw probability 0.62").count() == 1


def test_curves_are_drawn_when_wanted_and_change_their_metric(
    page: Page, report: tuple[Store, Path], screenshots: Path
) -> None:
    store, path = report
    open_page(page, path)
    assert page.evaluate("typeof window.Plotly") == "undefined"
    page.locator("#_curves").scroll_into_view_if_needed()
    page.wait_for_selector("#_chart .main-svg")
    drawn = "document.querySelector('#_chart .plot').data.filter(t => t.meta !== undefined)"
    data = collect(store, "kl_budget")
    settings = settings_of(data)
    lines = page.evaluate(f"{drawn}.map(t => [t.x, t.y])")
    assert len(lines) == len(settings)
    x, y = lines[0]
    runs = data.curves[data.curves["run_id"].isin(settings[0].run_ids.values())].dropna(subset=["score"])
    expected = 100 * runs.groupby("step")["score"].mean()
    assert x[1:] == [step + 1 for step in expected.index] and y[1:] == pytest.approx(
        expected.tolist(), rel=1e-4
    )
    page.locator("#_chart select").select_option(label="length")
    until(page, "document.querySelector('#_chart .ytitle')?.textContent === 'mean response tokens'")
    assert max(page.evaluate(f"{drawn}[0].x")) == 39
    page.get_by_label("single runs").check()
    assert page.evaluate(f"{drawn}.length") == data.curves["run_id"].nunique()
    page.get_by_role("button", name="No lines").click()
    assert page.evaluate(f"{drawn}.length") == 0
    page.locator("#_chart .lines input").nth(1).check()
    assert page.evaluate(f"{drawn}.length") == len([s for s in settings[1].states.values() if s != "new"])
    page.screenshot(path=screenshots / "page_curves.png")
    first = page.evaluate(f"{drawn}[0].meta")
    page.evaluate(
        "() => { const p = document.querySelector('#_chart .plot');"
        " p.emit('plotly_click', { points: [{ data: p.data[0] }] }); }"
    )
    drawer_title(page)
    assert page.url.endswith(f"#run={first}")


def test_files_are_there_when_the_page_is_alone(page: Page, report: tuple[Store, Path]) -> None:
    store, path = report
    written = store.sweep("kl_budget").report
    open_page(page, path)
    links = page.locator("a.file[data-embedded]")
    names = links.evaluate_all("all => all.map(a => a.getAttribute('href'))")
    csvs = {p.relative_to(written).as_posix() for p in written.rglob("*.csv")}
    assert csvs - {"trials.csv"} <= set(names)
    for name in ("tables/scores.csv", "figures/learning_curves.csv"):
        with page.expect_download() as download:
            page.locator(f"a.file[href='{name}']").click()
        text = Path(download.value.path()).read_text()
        assert text == (written / name).read_text()
        assert len(list(csv.reader(io.StringIO(text)))) > 3
    with page.expect_download() as download:
        page.locator("a.file[href='figures/learning_curves.svg']").click()
    text = Path(download.value.path()).read_text()
    assert text.startswith("<svg") and "var(--" not in text


def test_theme_is_chosen_and_kept(page: Page, report: tuple[Store, Path], screenshots: Path) -> None:
    open_page(page, report[1])
    ground = "getComputedStyle(document.body).backgroundColor"
    page.screenshot(path=screenshots / "page_wide_light.png")
    assert page.evaluate(ground) == "rgb(255, 255, 255)"
    page.locator("#_theme").click()
    page.locator("#_theme").click()
    assert page.locator("#_theme").inner_text() == "Theme: dark"
    assert page.evaluate(ground) == "rgb(20, 23, 27)"
    page.screenshot(path=screenshots / "page_wide_dark.png")
    page.reload()
    assert page.evaluate(ground) == "rgb(20, 23, 27)"


def test_a_phone_reads_it_without_scrolling_sideways(
    new_page: OpenPage, report: tuple[Store, Path], screenshots: Path, noise: Noise
) -> None:
    store, path = report
    page = new_page(**PHONE)
    open_page(page, path)
    page.screenshot(path=screenshots / "page_phone.png")
    wide = "document.documentElement.scrollWidth - window.innerWidth"
    assert page.evaluate(wide) <= 0
    assert not page.locator("#_toc").is_visible()
    page.locator("#_toc-button").tap()
    page.locator("#_toc a", has_text="Curves").last.tap()
    assert not page.locator("#_toc").is_visible()
    page.wait_for_selector("#_chart .main-svg")
    assert page.evaluate(wide) <= 0
    page.screenshot(path=screenshots / "page_phone_curves.png")
    page.evaluate("run => { location.hash = 'run=' + run }", run_of(store, "trb"))
    drawer_title(page)
    page.wait_for_selector("dialog[open] .plot .main-svg")
    page.screenshot(path=screenshots / "page_phone_drawer.png")
    assert page.evaluate("document.getElementById('_run').scrollWidth - window.innerWidth") <= 0
    page.locator("#_close").tap()
    page.evaluate("document.querySelectorAll('main details').forEach(d => { d.open = true })")
    assert page.evaluate(wide) <= 0
    assert noise.errors == []


def test_it_prints_everything_in_light_colours(
    new_page: OpenPage, report: tuple[Store, Path], tmp_path: Path
) -> None:
    import subprocess

    store, path = report
    page = new_page(color_scheme="dark")
    open_page(page, path)
    page.pdf(path=tmp_path / "page.pdf", format="A4")
    text = subprocess.run(
        ["pdftotext", "-layout", str(tmp_path / "page.pdf"), "-"], capture_output=True, text=True, check=True
    ).stdout
    assert run_of(store, "trb") in text  # folded on the screen
    assert "Shared by all trials" in text and "warmup.kind" in text
    assert "Skip to the content" not in text and "Theme:" not in text and "Draw the curves" not in text
    page.emulate_media(media="print")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"


def test_landmarks_headings_and_names(page: Page, report: tuple[Store, Path]) -> None:
    open_page(page, report[1])
    assert page.locator("main").count() == 1 and page.locator("nav[aria-label]").count() == 1
    levels = page.locator("main :is(h1, h2, h3, h4)").evaluate_all("all => all.map(h => +h.tagName[1])")
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(b - a <= 1 for a, b in pairwise(levels))
    assert page.locator("table:not(:has(caption))").count() == 0
    assert page.locator("figure svg:not([role=img][aria-label])").count() == 0
    assert page.locator("[onclick], [onload], [onerror]").count() == 0
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"


CONTRAST = """() => {
  const canvas = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
  const rgba = (colour) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const linear = (v) => v / 255 <= 0.03928 ? v / 255 / 12.92 : ((v / 255 + 0.055) / 1.055) ** 2.4;
  const light = ([r, g, b]) => 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
  const low = [], seen = new Set();
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const e = walker.currentNode.parentElement;
    if (!walker.currentNode.textContent.trim() || seen.has(e) || !e.checkVisibility()) continue;
    if (e.closest('script, style, noscript, svg, .skip')) continue;
    seen.add(e);
    let ground = e, back = [0, 0, 0, 0];
    while (ground && (back = rgba(getComputedStyle(ground).backgroundColor))[3] < 255) ground = ground.parentElement;
    const [a, b] = [light(rgba(getComputedStyle(e).color)), light(back)].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    if (ratio < 4.5) low.push([e.tagName, e.className, e.textContent.slice(0, 30), ratio]);
  }
  return low;
}"""
"""Elements with text whose contrast with the ground below them is under 4.5 (WCAG 2, level AA)."""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_its_ground(new_page: OpenPage, report: tuple[Store, Path], scheme: str) -> None:
    store, path = report
    page = new_page(color_scheme=scheme)
    open_page(page, path)
    page.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true })")
    page.evaluate(
        "run => { location.hash = 'run=' + run }", run_of(store, "trb", setting="kl_budget=0.1 steps=10")
    )
    drawer_title(page)
    assert page.evaluate(CONTRAST) == []


def test_two_hundred_runs_of_two_hundred_steps_open_at_once(
    page: Page, tmp_path: Path, noise: Noise, screenshots: Path
) -> None:
    """Prints how long it took; says nothing of how long it may take."""
    store = write_store(
        tmp_path / "runs",
        name="large",
        arms=TEN_ARMS,
        seeds=tuple(range(11)),
        steps=200,
        failed=(5,),
        missing=(8,),
    )
    path = build_report(store, "large")["page"]
    assert len(collect(store, "large").trials) >= 200
    open_page(page, path)
    timing = page.evaluate(
        "() => ({ parsed: performance.getEntriesByType('navigation')[0].domContentLoadedEventEnd,"
        " painted: performance.getEntriesByType('paint')[0].startTime })"
    )
    page.locator("#_curves").scroll_into_view_if_needed()
    page.wait_for_selector("#_chart .main-svg")
    drawn = page.evaluate("performance.now()")
    page.get_by_label("single runs").check()
    page.get_by_role("button", name="All lines").click()
    page.locator("#_chart select").select_option(label="reward")
    until(page, "document.querySelector('#_chart .plot').data.length >= 200")
    page.screenshot(path=screenshots / "page_large.png")
    size = path.stat().st_size / 1e6
    print(
        f"\n{size:.1f} MB: DOMContentLoaded {timing['parsed']:.0f} ms, first paint {timing['painted']:.0f} ms, ",
        end="",
    )
    print(f"curves drawn by {drawn:.0f} ms")
    assert noise.errors == []
