"""A real browser (Debian's Chromium) before a real daemon: the console as people use it."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, Request, expect, sync_playwright

from tests.e2e.conftest import Shell, free_port

CHROMIUM: Final = shutil.which("chromium") or shutil.which("chromium-browser") or ""
# The last ones keep it from asking for anything beyond this machine.
FLAGS: Final = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PATIENCE_MS: Final = 30_000
SHOTS: Final = Path(os.environ.get("FETCHML_SHOTS", "build/screenshots"))

expect.set_options(timeout=PATIENCE_MS)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    reason = "there is no Chromium on this machine"
    for item in items:
        if Path(__file__).parent in item.path.parents and not CHROMIUM:
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="package")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    """One daemon for all of these tests, with GPUs that are only declared."""
    mine = Shell(tmp_path_factory.mktemp("browser") / "data", free_port())
    mine.start("--num-gpus", "4", "--gpu-type", "A100")
    yield mine
    mine.end()


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    """Of these tests alone: Playwright's event loop runs in this thread for as long as it is open."""
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield launched
        launched.close()


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    made = browser.new_context(viewport={"width": 1280, "height": 900})
    made.set_default_timeout(PATIENCE_MS)
    yield made
    made.close()


@pytest.fixture
def page(context: BrowserContext, daemon: Shell, request: pytest.FixtureRequest) -> Iterator[Page]:
    """Logged in as the administrator. Fails where the page broke, or asked another origin for anything."""
    opened = context.new_page()
    broken: list[str] = []
    ours = (address(daemon), "blob:", "data:")

    def look(asked: Request) -> None:
        if not asked.url.startswith(ours):
            broken.append(asked.url)

    opened.on("pageerror", lambda error: broken.append(f"error: {error}"))
    opened.on("request", look)
    log_in(opened, daemon)
    yield opened
    SHOTS.mkdir(parents=True, exist_ok=True)
    opened.screenshot(path=SHOTS / f"{request.node.name}.png", full_page=True)
    assert not broken, broken


def address(daemon: Shell) -> str:
    return f"http://127.0.0.1:{daemon.port}"


def log_in(page: Page, daemon: Shell) -> None:
    page.goto(address(daemon) + "/")
    page.get_by_label("API key").fill((daemon.data_dir / "admin.key").read_text().strip())
    page.get_by_role("button", name="Log in").click()
    expect(page.get_by_role("heading", name="Overview")).to_be_attached()
