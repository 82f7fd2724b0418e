"""One browser for all tests of this folder, and pages that note what they should not do.

The tests need chromium and LaTeX (tests/browser/install); they are skipped unless TRB_LAB_TEST_BROWSER=1.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

HERE = Path(__file__).parent
ASKED_FOR = os.environ.get("TRB_LAB_TEST_BROWSER") == "1"
PROGRAMS = ("chromium", "chromium-browser", "google-chrome")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skips this folder's tests where nobody asked for them."""
    for item in items:
        if HERE in Path(item.fspath).parents and not ASKED_FOR:
            item.add_marker(
                pytest.mark.skip(reason="needs a browser: TRB_LAB_TEST_BROWSER=1 (make test-browser)")
            )


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """The system's chromium, without a window."""
    from playwright.sync_api import sync_playwright

    program = next((found for name in PROGRAMS if (found := shutil.which(name))), None)
    if program is None:
        pytest.fail("there is no chromium here: run tests/browser/install")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@dataclass
class Noise:
    """What pages said and asked for while a test ran."""

    errors: list[str] = field(default_factory=list)
    """Errors and warnings of the console, and exceptions that nobody caught."""
    requests: list[str] = field(default_factory=list)
    """Addresses that were asked for, in order; without those that a page made itself (data:, blob:)."""

    def watch(self, page: Page) -> None:
        page.on("console", lambda m: self.errors.append(m.text) if m.type in ("error", "warning") else None)
        page.on("pageerror", lambda e: self.errors.append(str(e)))
        page.on(
            "request",
            lambda r: (
                None
                if r.url.startswith(("data:", "blob:"))
                else self.requests.append(r.url.partition("#")[0])
            ),
        )


@pytest.fixture
def noise() -> Noise:
    """Of all pages of the test."""
    return Noise()


def until(page: Page, expression: str, seconds: float = 30.0) -> None:
    """Waits for a JavaScript expression to hold.

    For pages whose content security policy forbids `eval`, which playwright's own `wait_for_function` needs.
    """
    for _ in range(int(20 * seconds)):
        if page.evaluate(expression):
            return
        page.wait_for_timeout(50)
    pytest.fail(f"in {seconds:.0f} seconds this did not come true: {expression}")


OpenPage = Callable[..., "Page"]


@pytest.fixture
def new_page(browser: Browser, noise: Noise) -> Iterator[OpenPage]:
    """Makes a page in a context of its own (options of playwright's `new_context`), closed after the test."""
    contexts = []

    def make(**options: Any) -> Page:
        context = browser.new_context(**{"viewport": {"width": 1400, "height": 1000}, **options})
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(20_000)
        noise.watch(page)
        return page

    yield make
    for context in contexts:
        context.close()


@pytest.fixture
def page(new_page: OpenPage) -> Page:
    """A page of 1400 x 1000 pixels in light colours."""
    return new_page(color_scheme="light")


@pytest.fixture(scope="session")
def screenshots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder that pictures are kept in: TRB_LAB_SCREENSHOTS, else a temporary one."""
    given = os.environ.get("TRB_LAB_SCREENSHOTS")
    folder = Path(given) if given else tmp_path_factory.mktemp("screenshots")
    folder.mkdir(parents=True, exist_ok=True)
    return folder
