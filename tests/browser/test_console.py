"""What people do with the console, from logging in to trusting the record."""

import json
import re
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, Page, expect

from tests.browser.conftest import address, log_in
from tests.e2e.conftest import Shell

pytestmark = pytest.mark.e2e

COUNTING = """
for i in 1 2 3 4 5 6; do echo line $i of six; sleep 0.2; done
echo '{"loss": 0.5}' > $FETCHML_OUTPUT_DIR/metrics.json
"""


def submit(daemon: Shell, *words: str) -> str:
    return daemon.fetchmld("submit", "-q", *words).strip()


def test_a_task_is_watched_from_submit_to_end(page: Page, daemon: Shell) -> None:
    task = submit(daemon, "--name", "watched", "--", "sh", "-c", COUNTING)
    page.get_by_role("link", name="watched").first.click()
    expect(page).to_have_url(re.compile(f"#/tasks/{task}$"))
    log = page.get_by_label("Log", exact=True).last
    expect(log).to_contain_text("line 2 of six")
    expect(page.locator(".title .badge")).to_have_text("completed")
    expect(log).to_contain_text("line 6 of six")
    page.get_by_placeholder("Search the log").fill("line 4")
    expect(page.get_by_text("1 found")).to_be_visible()
    expect(page.locator("mark")).to_have_text("line 4")
    with page.expect_download() as fetched:
        page.get_by_role("link", name="metrics.json").click()
    assert json.loads(fetched.value.path().read_text()) == {"loss": 0.5}


def test_why_a_task_waits_and_that_it_can_be_cancelled(page: Page, daemon: Shell) -> None:
    holder = submit(daemon, "--name", "holder", "--gpu", "3", "--time-limit", "10m", "--", "sleep", "600")
    waits = submit(daemon, "--name", "heldup", "--gpu", "2", "--priority", "7", "--", "true")
    row = page.get_by_role("row").filter(has_text="heldup")
    expect(row).to_contain_text("has 1 free")
    expect(page.get_by_label(re.compile(f"GPU 0: A100, held, by {holder}")).first).to_be_visible()
    row.get_by_role("link").click()
    expect(page.get_by_text("would start at once with")).to_be_visible()
    page.get_by_label("priority").fill("9")
    page.get_by_role("button", name="set").click()
    expect(page.get_by_role("button", name="set")).to_be_disabled()
    assert daemon.show(waits)["priority"] == 9
    page.get_by_role("button", name="cancel").click()
    page.get_by_role("button", name="Yes, cancel it").click()
    expect(page.locator(".title .badge")).to_have_text("cancelled")
    daemon.fetchmld("cancel", holder)


def test_filters_are_in_the_address_and_several_are_cancelled_at_once(page: Page, daemon: Shell) -> None:
    for _ in range(3):
        submit(daemon, "--name", "heap", "--gpu", "4", "--time-limit", "1h", "--", "sleep", "600")
    page.goto(address(daemon) + "/#/tasks")
    page.get_by_label("Status").select_option("queued")
    expect(page).to_have_url(re.compile("status=queued"))
    expect(page.get_by_text("2 found")).to_be_visible()
    page.get_by_label("Status").select_option("")
    heap = page.get_by_role("row").filter(has_text="heap")
    expect(heap).to_have_count(3)
    for at in range(3):
        heap.nth(at).get_by_role("checkbox").check()
    page.get_by_role("button", name="Cancel 3 marked").click()
    page.get_by_role("button", name="Yes, cancel 3").click()
    expect(page.get_by_role("row").filter(has_text="heap").get_by_text("cancelled", exact=True)).to_have_count(3)


def test_the_keyboard_walks_through_a_list(page: Page, daemon: Shell) -> None:
    task = submit(daemon, "--name", "newest", "--", "true")
    page.keyboard.press("g")
    page.keyboard.press("t")
    expect(page.get_by_role("row").filter(has_text=task)).to_be_visible()
    page.keyboard.press("j")
    page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile(f"#/tasks/{task}$"))
    page.keyboard.press("/")
    page.keyboard.type("nobody")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("nobody")


def test_the_record_is_verified_and_an_event_proved(page: Page, daemon: Shell, tmp_path: Path) -> None:
    page.goto(address(daemon) + "/#/audit")
    page.get_by_role("button", name="Verify now").click()
    expect(page.get_by_text(re.compile("Valid: all [0-9]+ events"))).to_be_visible()
    page.get_by_role("row").filter(has_text="worker.join").click()
    with page.expect_download() as fetched:
        page.get_by_role("button", name="download the proof").click()
    with page.expect_download() as noted:
        page.get_by_role("link", name="download the checkpoint").click()
    proof = tmp_path / "proof"
    fetched.value.save_as(proof)
    said = json.loads(proof.read_text())
    checked = daemon.fetchmld("audit", "check", str(proof), "--key", said["verifier_key"])
    assert f"event {said['sequence_num']} is in the record" in checked
    assert noted.value.path().read_text().startswith(said["origin"])


def test_a_worker_is_drained_and_used_again(page: Page, daemon: Shell) -> None:
    page.goto(address(daemon) + "/#/workers")
    page.get_by_role("button", name="drain").click()
    page.get_by_role("button", name="Yes, give it nothing new").click()
    expect(page.locator(".badge.draining")).to_be_visible()
    page.get_by_role("button", name="use again").click()
    expect(page.locator(".badge.active")).to_be_visible()


def test_a_small_dark_screen_shows_it_all(context: BrowserContext, page: Page, daemon: Shell) -> None:
    page.emulate_media(color_scheme="dark")
    page.set_viewport_size({"width": 360, "height": 740})
    for place in ("", "tasks", "workers", "experiments", "jupyter", "plugins", "audit"):
        page.goto(f"{address(daemon)}/#/{place}")
        expect(page.locator("main h1")).to_be_attached()
        wide = page.evaluate("document.documentElement.scrollWidth")
        assert wide <= 360, f"/{place} is {wide} pixels wide"


def test_a_ticket_opens_the_console_once(context: BrowserContext, daemon: Shell) -> None:
    url = daemon.fetchmld("ui").split()[-1]
    first = context.new_page()
    first.goto(url)
    expect(first.get_by_role("heading", name="Overview")).to_be_attached()
    first.get_by_role("button", name="log out").click()
    expect(first.get_by_label("API key")).to_be_visible()
    assert first.goto(url).status == 401  # type: ignore[union-attr]
    log_in(first, daemon)


def test_what_is_shown_comes_back_after_the_daemon_was_away(page: Page, daemon: Shell) -> None:
    daemon.fetchmld("stop")
    expect(page.get_by_text("offline", exact=True)).to_be_visible()
    daemon.start("--num-gpus", "4", "--gpu-type", "A100")
    expect(page.get_by_text("offline", exact=True)).to_be_hidden()
    submit(daemon, "--name", "afterwards", "--", "true")
    expect(page.get_by_role("link", name="afterwards")).to_be_visible()


METRICS = """
echo "{\\"loss\\": 0.$FETCHML_PARAM_LR, \\"test\\": {\\"accuracy\\": 0.9}}" > $FETCHML_OUTPUT_DIR/metrics.json
"""


def test_the_metrics_of_an_experiments_tasks_are_beside_each_other(page: Page, daemon: Shell) -> None:
    page.goto(f"{address(daemon)}/#/experiments")
    page.get_by_label("Name").fill("rates")
    page.get_by_role("button", name="create").click()
    page.get_by_role("link", name="rates").click()
    expect(page.get_by_text("No task of this experiment yet.")).to_be_visible()
    experiment = page.url.rpartition("/")[2]
    words = ("--experiment", experiment, "--name", "swept", "--param", "lr=1,2", "--", "sh", "-c", METRICS)
    daemon.fetchmld("wait", submit(daemon, *words))
    page.reload()
    table = page.get_by_role("table", name="Tasks and metrics")
    expect(table.get_by_role("columnheader", name="test.accuracy")).to_be_visible()
    expect(table.get_by_role("row").filter(has_text="lr=2")).to_contain_text("0.2")
    expect(page.locator(".chart canvas")).to_be_visible()
    page.get_by_role("button", name="archive").click()
    expect(page.locator(".title .badge")).to_have_text("archived")


def test_screen_readers_find_nothing_amiss(browser: Browser, daemon: Shell) -> None:
    """By axe-core's rules; its script is let in past the page's policy for this test alone."""
    task = submit(daemon, "--name", "read", "--", "echo", "aloud")
    with browser.new_context(bypass_csp=True) as context:
        page = context.new_page()
        page.goto(f"{address(daemon)}/")
        found = [("login", Axe().run(page).response["violations"])]
        log_in(page, daemon)
        for place in ("", "tasks", f"tasks/{task}", "workers", "experiments", "jupyter", "plugins", "audit"):
            page.goto(f"{address(daemon)}/#/{place}")
            expect(page.locator("main h1")).to_be_attached()
            found.append((place, Axe().run(page).response["violations"]))
    said = [
        f"{place}: {one['id']} ({one['impact']}): {one['nodes'][0]['html'][:200]}"
        for place, all_ in found
        for one in all_
    ]
    assert not said, "\n".join(said)
