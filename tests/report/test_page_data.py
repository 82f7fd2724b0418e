"""What the page carries inside itself, read back as a browser reads it."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats as reference_statistics

from tests.report.synthetic import write_store
from trb_lab.report import build_report
from trb_lab.report.build import build, open_sources
from trb_lab.report.defaults import sweep_definition
from trb_lab.report.interactive import METRICS, curves_data, dash_pixels, thinned
from trb_lab.report.mlflow_links import mlflow_links
from trb_lab.report.page_data import embedded_files, packed, packed_plotly, rounded, unpacked
from trb_lab.report.palette import DASHES
from trb_lab.report.plot_curves import drawn_settings, line_styles
from trb_lab.report.run_details import run_details, spec_difference
from trb_lab.report.setup_facts import flatten
from trb_lab.report.sources import Source
from trb_lab.spec.report import ReportSpec
from trb_lab.store.run_dir import Store, read_json, write_json

Built = tuple[Store, dict[str, Path]]


def source_of(store: Store, sweep: str = "kl_budget") -> Source:
    return next(iter(open_sources(store, sweep_definition(sweep, "")).values()))


def embedded(page: str, name: str) -> Any:
    """A data block of the page, as the script reads it."""
    found = re.search(rf'<script type="text/plain" id="_data-{name}">([^<]*)</script>', page)
    assert found is not None
    return json.loads(gzip.decompress(base64.b64decode(found[1])))


def test_packing_keeps_the_text_and_has_no_clock() -> None:
    value = {"a": "</script> µ ‖ \n", "b": [1.5, None, True]}
    assert json.loads(unpacked(packed(value))) == value
    assert packed(value) == packed(value)
    assert re.fullmatch(r"[A-Za-z0-9+/=]+", packed(value))
    assert gzip.decompress(base64.b64decode(packed(value)))[:1] == b"{"
    assert base64.b64decode(packed(value))[4:8] == b"\0\0\0\0"  # gzip's time of change
    with pytest.raises(ValueError, match="JSON compliant"):
        packed(float("nan"))


def test_numbers_keep_five_digits_and_nothing_else_is_a_number() -> None:
    assert rounded(123456.7) == 123460.0
    assert rounded(0.000123456) == 0.00012346
    assert [rounded(v) for v in (None, float("nan"), float("inf"))] == [None] * 3


@pytest.mark.parametrize(("length", "most"), [(1, 200), (200, 200), (201, 200), (5000, 200), (70, 50)])
def test_thinning_keeps_both_ends(length: int, most: int) -> None:
    keep = thinned(length, most)
    assert len(keep) == min(length, most)
    assert keep[0] == 0 and keep[-1] == length - 1
    steps = np.diff(keep)
    assert len(steps) == 0 or (steps.min() >= 1 and steps.max() - steps.min() <= 1)


def test_lines_are_those_of_the_runs_and_bands_are_student_t(built: Built) -> None:
    source = source_of(built[0])
    found = curves_data([source])
    assert found is not None
    told = found["sources"][0]
    data = source.data
    quantile = {n: reference_statistics.t.ppf(0.975, n - 1) for n in (2, 3)}
    known = [m for m in METRICS if m.column in data.curves and data.curves[m.column].notna().any()]
    assert [m["key"] for m in told["metrics"]] == [m.column for m in known]
    for metric, how in zip(told["metrics"], known, strict=True):
        frame = data.curves[["run_id", "step", how.column]].dropna()
        assert set(metric["runs"]) == set(frame["run_id"])
        for run_id, (grid, values) in metric["runs"].items():
            rows = frame[frame["run_id"] == run_id]
            offset = 1 if how.column == "score" else 0
            assert found["grids"][grid] == [int(s) + offset for s in rows["step"]]
            assert values == pytest.approx((how.scale * rows[how.column]).tolist(), rel=1e-4)
        for index, (grid, means, halves, counts) in metric["bands"].items():
            runs = list(source.settings[int(index)].run_ids.values())
            for step, mean, half, n in list(zip(found["grids"][grid], means, halves, counts, strict=True))[
                ::5
            ]:
                at = frame[frame["run_id"].isin(runs) & (frame["step"] == step - (how.column == "score"))]
                seeds = how.scale * at[how.column].to_numpy()
                assert n == len(seeds)
                assert mean == pytest.approx(seeds.mean(), rel=1e-4, abs=1e-12)
                if n > 1:
                    expected = quantile[n] * np.std(seeds, ddof=1) / np.sqrt(n)
                    assert half == pytest.approx(expected, rel=1e-3, abs=1e-9)
                else:
                    assert half is None


def test_lines_look_as_in_the_figures(built: Built) -> None:
    source = source_of(built[0])
    found = curves_data([source])
    assert found is not None
    drawn = drawn_settings(source.data, source.settings)
    styles = line_styles(drawn)
    by_title = {s["title"]: s for s in found["sources"][0]["settings"]}
    for setting in drawn:
        told = by_title[setting.title]
        assert told["drawn"] and told["colour"] == styles[setting.key].colour
        assert told["dash"] == dash_pixels(styles[setting.key].dash)
    assert dash_pixels(DASHES[0]) == []
    assert dash_pixels((0, (5, 1.6))) == [10.0, 3.2]


def test_many_steps_are_thinned(tmp_path: Path) -> None:
    store = write_store(tmp_path, arms={"opd": {}}, seeds=(0, 1), steps=450, failed=(), missing=())
    found = curves_data([source_of(store)])
    assert found is not None
    reward = next(m for m in found["sources"][0]["metrics"] if m["key"] == "rollout/reward")
    for grid, values in reward["runs"].values():
        steps = found["grids"][grid]
        assert len(steps) == len(values) == 200
        assert steps[0] == 0 and steps[-1] == 449
    assert len(found["grids"]) == 2  # evaluated steps, and all


def test_no_curves_before_anything_has_run(tmp_path: Path) -> None:
    store = write_store(tmp_path, arms={"opd": {}}, seeds=(0,), failed=(), missing=(0,))
    assert curves_data([source_of(store)]) is None
    page = build_report(store, "kl_budget")["page"].read_text()
    assert 'id="_curves"' not in page and "_data-plotly" not in page


def test_a_runs_spec_comes_back_whole(built: Built) -> None:
    source = source_of(built[0])
    told = run_details([source])
    assert set(told["runs"]) == set(source.data.trials["run_id"]) | set(source.data.references["run_id"])
    for trial in source.data.plan["trials"]:
        run = told["runs"][trial["run_id"]]
        assert {**told["shared"][0], **run["own"]} == flatten(trial["spec"])
        assert not set(told["shared"][0]) & set(run["own"])


def test_a_run_is_set_against_the_reference_of_its_seed(built: Built) -> None:
    source = source_of(built[0])
    told = run_details([source])["runs"]
    trials = {t["run_id"]: t for t in source.data.plan["trials"]}
    assert told[source.settings[0].run_ids[0]]["diff"] is None
    for setting in source.settings[1:]:
        for seed, run_id in setting.run_ids.items():
            run = told[run_id]
            assert trials[run["reference"]]["arm"] == "opd" and trials[run["reference"]]["seed"] == seed
            flat = flatten(trials[run["reference"]]["spec"])
            for key in run["diff"]["removed"]:
                del flat[key]
            flat |= run["diff"]["added"] | {k: new for k, (_, new) in run["diff"]["changed"].items()}
            assert flat == flatten(trials[run_id]["spec"])


def test_difference_of_specs() -> None:
    assert spec_difference({"a": "1", "b": "2", "c": "3"}, {"a": "1", "b": "4", "d": "5"}) == {
        "changed": {"b": ["2", "4"]},
        "added": {"d": "5"},
        "removed": {"c": "3"},
    }


def test_scores_measurements_and_endings(built: Built) -> None:
    store = built[0]
    source = source_of(store)
    told = run_details([source])["runs"]
    for row in source.data.trials.to_dict("records"):
        run = told[row["run_id"]]
        assert run["state"] == row["state"] and run["seed"] == row["seed"]
        final = (read_json(store.trial(row["run_id"]).result) or {}).get("final", {}).get("sets", {})
        assert {s[0]: s[3:] for s in run["scores"]} == {k: [200, 4] for k in final}
        for name, p, *_ in run["scores"]:
            assert p == pytest.approx(final[name]["pass_at_1"], rel=1e-4)
    failed = source.data.trials.query("state == 'failed'")["run_id"].iloc[0]
    assert (
        told[failed]["error"] == "train/loss is nan at step 20 <b>" and told[failed]["error_class"] == "nan"
    )
    curve = source.data.curves[source.data.curves["run_id"] == failed]["rollout/reward"]
    assert told[failed]["metrics"]["rollout/reward"] == pytest.approx(
        [curve.iloc[-1], curve.tail(10).mean()], rel=1e-4
    )


def test_rollouts_are_of_first_seeds_beside_the_references(built: Built) -> None:
    source = source_of(built[0])
    told = run_details([source])
    first = {min(s.run_ids.items())[1]: s for s in source.settings}
    assert set(told["samples"]) <= set(first)
    assert len(told["samples"]) >= 3
    for run_id, rows in told["samples"].items():
        assert 1 <= len(rows) <= 2
        for row in rows:
            assert row["own"]["run"] == run_id
            assert "".join(row["own"]["tokens"]).endswith("}")
            if first[run_id].is_reference:
                assert row["reference"] is None
            else:
                assert row["reference"]["run"] == told["runs"][run_id]["reference"]
                assert row["own"]["redraw"][4] == 0.62 and row["own"]["student"][4] == -0.5


def test_the_page_holds_its_files_and_nothing_runs_but_its_script(built: Built) -> None:
    store, paths = built
    page = paths["page"].read_text()
    folder = paths["page"].parent
    files = embedded(page, "files")
    assert {p.relative_to(folder).as_posix() for p in folder.rglob("*.csv")} <= set(files)
    assert all((folder / name).read_text() == text for name, text in files.items())
    script = re.search(r"<script>(.*?)</script>", page, re.S)
    assert script is not None
    digest = base64.b64encode(hashlib.sha256(script[1].encode()).digest()).decode()
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', page)
    assert policy is not None
    assert "default-src &#39;none&#39;" in policy[1] and f"sha256-{digest}" in policy[1].replace("&#43;", "+")
    assert "unsafe-eval" not in policy[1] and not re.findall(r"\son[a-z]+=", page.partition("<body>")[2])
    assert embedded(page, "runs")["runs"].keys() >= set(source_of(store).data.trials["run_id"])
    assert f'id="_data-plotly">{packed_plotly()}</script>' in page


def test_a_file_that_is_too_long_stays_beside_the_page() -> None:
    files = {"problems.csv": "x" * 5_000_000, "trials.csv": "a", "table.txt": "b", "tables/scores.md": "c"}
    assert embedded_files(files) == {"tables/scores.md": "c", "trials.csv": "a"}


def test_links_to_mlflow_prefer_a_server_and_tell_no_password(built: Built, tmp_path: Path) -> None:
    store = Store(tmp_path / "runs")
    shutil.copytree(built[0].root, store.root)
    sweep = store.sweep("kl_budget")
    assert mlflow_links(sweep) is None
    runs = {"a": {"mlflow_run_id": "r1"}, "b": {"mlflow_run_id": "r2", "deleted": True}}
    write_json(sweep.mlflow, {"tracking_uri": "sqlite:///x/mlflow.db", "experiment_id": "3", "runs": runs})
    local = mlflow_links(sweep)
    assert local is not None and local.local and local.address == "http://127.0.0.1:5000"
    assert (local.path("a"), local.path("b"), local.path("c")) == ("#/experiments/3/runs/r1", None, None)
    remote = {"tracking_uri": "https://me:secret@ml.example:8443/x/?t=1", "experiment_id": "9", "runs": runs}
    write_json(sweep.path / "mlflow-0123abcd.json", remote)
    server = mlflow_links(sweep)
    assert server is not None and not server.local and server.address == "https://ml.example:8443/x"
    assert "secret" not in json.dumps(run_details([source_of(store)]))


def test_every_run_has_a_place_in_a_page_without_a_setup(built: Built, tmp_path: Path) -> None:
    """Two sources that share runs, and blocks that list none of them."""
    spec = ReportSpec.model_validate(
        {
            "name": "two",
            "title": "two",
            "sources": {
                "all": {"sweep": "kl_budget"},
                "opd": {"sweep": "kl_budget", "arms": ["opd"], "label": "OPD"},
            },
            "blocks": [{"kind": "text", "text": "Words."}],
        }
    )
    page = build(built[0], spec, tmp_path, "trb-lab report two.yaml")["page"].read_text()
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'href="#([^"]+)"', page)) <= set(ids)
    told = embedded(page, "runs")
    assert {f"run={run_id}" for run_id in told["runs"]} <= set(ids)
    assert [s["label"] for s in embedded(page, "curves")["sources"]] == ["kl_budget", "OPD"]
