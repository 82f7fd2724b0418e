"""`pytest tests/faults --fault-cases 100 --fault-seed 0`: so many seeds, from this one on, and what they were."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from .catalogue import draw

if TYPE_CHECKING:
    from .undisturbed import Undisturbed

CASES = 3


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("faults")
    group.addoption("--fault-cases", type=int, default=CASES, help="random cases of faults to run")
    group.addoption("--fault-seed", type=int, default=0, help="seed of the first case")
    group.addoption("--fault-real", type=int, default=0, help="how many further cases run real workers")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "scenario" in metafunc.fixturenames:
        first, count = metafunc.config.getoption("--fault-seed"), metafunc.config.getoption("--fault-cases")
        real = metafunc.config.getoption("--fault-real")
        scenarios = [draw(seed) for seed in range(first, first + count)]
        scenarios += [draw(seed, real=True) for seed in range(first + 10_000, first + 10_000 + real)]
        metafunc.parametrize("scenario", scenarios, ids=[f"seed{s.seed}" for s in scenarios])


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    from .undisturbed import Undisturbed

    return Undisturbed(tmp_path_factory.mktemp("undisturbed"))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    held: list[str] = []
    broken: list[str] = []
    for outcome, lines in (("passed", held), ("failed", broken)):
        for report in terminalreporter.stats.get(outcome, []):
            lines += [
                value for name, value in report.user_properties if name == "faults" and report.when == "call"
            ]
    if not held and not broken:
        return
    terminalreporter.section(
        f"faults: {len(held)} of {len(held) + len(broken)} cases left all invariants true"
    )
    for line in held:
        terminalreporter.line(line)
    for line in broken:
        terminalreporter.line(f"BROKEN {line}")
