"""What others wrote, reached through the console: JupyterLab runs a cell, MLflow shows what a task logged."""

import contextlib
import re

import pytest
from playwright.sync_api import BrowserContext, Locator, Page, expect

from tests.browser.conftest import address, log_in
from tests.e2e.conftest import Shell
from tests.e2e.test_plugins import digits, ended_run, served

__all__ = ["served"]

pytestmark = pytest.mark.e2e

INSTALL_MAX_MS = 400_000
LOAD_MAX_MS = 90_000


@pytest.fixture
def page(context: BrowserContext, served: Shell) -> Page:
    """The console of the daemon that has the plugins."""
    opened = context.new_page()
    log_in(opened, served)
    return opened


def run_until_it_answers(lab: Page, cell: Locator) -> None:
    """Run the cell, again where JupyterLab dropped it: it does so until its page is connected to the kernel."""
    output = lab.locator(".jp-OutputArea-output").first
    for _ in range(10):
        cell.click()
        cell.press("Shift+Enter")
        with contextlib.suppress(AssertionError):
            expect(output).to_have_text(re.compile("42"), timeout=LOAD_MAX_MS / 10)
            return
    expect(output).to_have_text(re.compile("42"))


def test_a_cell_is_run_in_jupyterlab(page: Page, served: Shell) -> None:
    page.goto(f"{address(served)}/#/jupyter")
    page.get_by_label("Name").fill("notebook")
    page.get_by_role("button", name="start JupyterLab").click()
    link = page.get_by_role("link", name="notebook", exact=True)
    expect(link).to_be_visible(timeout=INSTALL_MAX_MS)
    with page.expect_popup() as opened:
        link.click()
    lab = opened.value
    lab.locator('.jp-LauncherCard[data-category="Notebook"]').first.click(timeout=LOAD_MAX_MS)
    cell = lab.locator(".jp-Notebook .jp-CodeCell .cm-content").first
    cell.click(timeout=LOAD_MAX_MS)
    lab.keyboard.type("print(6 * 7)")
    expect(cell).to_have_text("print(6 * 7)")
    run_until_it_answers(lab, cell)
    lab.close()
    page.get_by_role("button", name="stop").click()
    page.get_by_role("button", name="Yes, stop it").click()
    expect(page.locator("td .badge.stopped")).to_be_visible(timeout=LOAD_MAX_MS)


def test_mlflow_shows_the_run_of_a_task_with_its_metrics(page: Page, served: Shell) -> None:
    task_id = digits(served, "--epochs", "3")
    served.fetchmld("wait", task_id, code=None)
    run = ended_run(served, served.show(task_id))
    page.goto(f"{address(served)}/#/plugins")
    with page.expect_popup() as opened:
        page.get_by_role("region", name="mlflow").get_by_role("link", name="open").click()
    ui = opened.value
    expect(ui.get_by_text("MLflow").first).to_be_attached(timeout=LOAD_MAX_MS)
    experiment, run_id = run["info"]["experiment_id"], run["info"]["run_id"]
    ui.goto(f"{address(served)}/plugins/mlflow/#/experiments/{experiment}/runs/{run_id}")
    expect(ui.get_by_text("test_accuracy").first).to_be_visible(timeout=LOAD_MAX_MS)
    expect(ui.get_by_text(run["info"]["run_name"]).first).to_be_visible()
    page.goto(f"{address(served)}/#/tasks/{task_id}")
    expect(page.get_by_role("region", name="Plugins").get_by_text("mlflow")).to_be_visible()
