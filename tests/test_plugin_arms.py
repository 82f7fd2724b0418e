"""An arm of an installed package: the documented example is installed, checked and run; broken ones are named."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parent / "plugins" / "example_arm"
EXPERIMENT = """\
name: nucleus
student: arith-student
teacher: arith-teacher
dataset: {kind: arith, num_examples: 100}
warmup: {kind: nucleus, mass: 0.5, steps: 1}
rollout: {prompts_per_step: 4, samples_per_prompt: 1, max_prompt_tokens: 64, max_new_tokens: 24}
eval: {sets: [], every: null}
resources: {cpu_threads: 1, device: cpu}
steps: 2
"""


class Site:
    """A folder that stands for site-packages: the example as pip would put it there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "site"
        self.work = folder
        package = tomllib.loads((EXAMPLE / "pyproject.toml").read_text())["project"]
        shutil.copytree(EXAMPLE / "trb_lab_nucleus", self.folder / "trb_lab_nucleus")
        self.info = self.folder / f"{package['name'].replace('-', '_')}-{package['version']}.dist-info"
        self.info.mkdir()
        (self.info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {package['name']}\nVersion: {package['version']}\n"
        )
        self.register({group: dict(entries) for group, entries in package["entry-points"].items()})
        (folder / "a.yaml").write_text(EXPERIMENT)

    def register(self, groups: dict[str, dict[str, str]]) -> None:
        lines = [
            line
            for group, entries in groups.items()
            for line in (f"[{group}]", *(f"{name} = {value}" for name, value in entries.items()))
        ]
        (self.info / "entry_points.txt").write_text("\n".join(lines) + "\n")

    def trb_lab(self, *arguments: str) -> tuple[int, str]:
        """Exit code and what the command line prints."""
        done = subprocess.run(
            [sys.executable, "-c", "from trb_lab.cli import main; raise SystemExit(main())", *arguments],
            cwd=self.work, env={**os.environ, "PYTHONPATH": str(self.folder), "OMP_NUM_THREADS": "1", "COLUMNS": "400"},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        return done.returncode, done.stdout + done.stderr


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


SPEC = {"trb_lab.arm_specs": {"nucleus": "trb_lab_nucleus.spec:NucleusWarmup"}}
FUNCTION = {"trb_lab.arms": {"nucleus": "trb_lab_nucleus.arm:nucleus"}}


def test_the_example_checks_and_runs(site: Site) -> None:
    """Its rollouts are the arm's in step 0 and the student's in step 1."""
    code, text = site.trb_lab("check", "a.yaml")
    assert code == 0, text
    code, text = site.trb_lab("--store", "runs", "run", "a.yaml")
    assert code == 0, text
    lines = next((site.work / "runs").rglob("metrics.jsonl")).read_text().splitlines()
    first, second = (json.loads(line) for line in lines)
    assert (
        first["policy/schedule"] == 0.5 and first["policy/redrawn_share"] > 0 and first["policy/kl_mean"] > 0
    )
    assert second["policy/kl_mean"] == 0 and "policy/redrawn_share" not in second


def test_its_keys_are_checked_and_offered_like_any_others(site: Site) -> None:
    _, text = site.trb_lab("run", "a.yaml", "--set", "warmup.mas=0.9")
    assert "warmup.mas: unknown key" in text and "Did you mean 'mass'?" in text
    _, text = site.trb_lab("run", "a.yaml", "--set", "warmup.mass=1.5")
    assert "warmup.mass: 1.5 is not allowed here. It takes a number, above 0 and at most 1." in text
    _, text = site.trb_lab("run", "a.yaml", "--set", "warmup.steps=3")
    assert "warmup.steps is 3 and the run has 2 steps" in text
    _, text = site.trb_lab("check", "--schema")
    assert '"nucleus"' in text


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        (
            {"trb_lab.arm_specs": {"nucleus": "trb_lab_nucleus.nowhere:NucleusWarmup"}},
            "trb-lab-nucleus: entry point 'nucleus' of group trb_lab.arm_specs (trb_lab_nucleus.nowhere:NucleusWarmup) "
            "cannot be imported: ModuleNotFoundError: No module named 'trb_lab_nucleus.nowhere'. Mend that package, "
            "or uninstall it.",
        ),
        (
            {"trb_lab.arm_specs": {"nucleus": "trb_lab_nucleus.spec:Literal"}},
            "is not a subclass of ArmSpec with a field `kind`.",
        ),
        (
            {"trb_lab.arm_specs": {"kernel": "trb_lab_nucleus.spec:NucleusWarmup"}},
            "has kind 'nucleus': the entry point must have the same name.",
        ),
        (
            {"trb_lab.arm_specs": {"trb": "trb_lab.spec.warmup:TrbWarmup"}},
            "the kind 'trb' is taken. Give it another name, or uninstall that package.",
        ),
        (SPEC, "the arm 'nucleus' has settings and no function. Its package must name one under the entry point group"),
        (
            SPEC | {"trb_lab.arms": {"nucleus": "trb_lab_nucleus.arm:nucleos"}},
            "the arm 'nucleus' of trb-lab-nucleus (trb_lab_nucleus.arm:nucleos) cannot be imported: AttributeError",
        ),
        (SPEC | {"trb_lab.arms": {"nucleus": "trb_lab_nucleus.arm:__name__"}}, "is a str, no function of (settings"),
    ],
    ids=["broken", "no spec", "another kind", "taken", "no function", "broken function", "not a function"],
)  # fmt: skip
def test_a_broken_package_is_named(site: Site, groups: dict[str, dict[str, str]], message: str) -> None:
    site.register(groups)
    code, text = site.trb_lab("check", "a.yaml")
    assert code != 0 and "Traceback" not in text
    assert message in " ".join(text.split())


def test_help_does_not_look_for_packages(site: Site) -> None:
    """A broken package stands in nobody's way there, and costs nothing."""
    site.register({"trb_lab.arm_specs": {"nucleus": "nowhere:Nothing"}})
    code, text = site.trb_lab("--help")
    assert code == 0 and "sweep" in text


def test_without_the_package_the_kind_is_unknown(site: Site) -> None:
    shutil.rmtree(site.info)
    _, text = site.trb_lab("check", "a.yaml")
    assert "unknown kind nucleus" in text
