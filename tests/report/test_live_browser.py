"""The live page as a browser shows it: drawn anew in its place, readable, silent."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ntkdist.events.types import StageDone, StageStarted, TileFailed
from ntkdist.report.live import watch
from ntkdist.runs.run import Run
from tests.report.test_browser import CHROMIUM, SCREENS, axe, browser
from tests.report.test_live import Browser, Driver, driver, run, served

__all__ = ["axe", "browser", "driver", "run", "served"]  # fixtures

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed"),
]


def opened(
    browser: Any, address: str, scheme: str = "light", width: int = 1440, **options: Any
) -> tuple[Any, list[str]]:
    page = browser.new_context(
        viewport={"width": width, "height": 900}, color_scheme=scheme, **options
    ).new_page()
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto(address, wait_until="load")
    return page, said


def test_it_changes_in_its_place_and_shows_the_report_when_there_is_one(
    run: Run, driver: Driver, served: Callable[..., Browser], browser: Any
) -> None:
    page, said = opened(browser, served(run).place.geturl())
    page.evaluate("window.kept = true")
    driver.finish(0, 0)
    page.wait_for_selector("text=1 of 6")
    driver.finish(0, 1)
    page.wait_for_selector("text=2 of 6")
    assert page.locator("#report").is_hidden()
    assert page.title().startswith("33.3")
    driver.tell(StageDone("gram", 1.0), StageStarted("report"))
    Path(run.address("report.html")).write_text("<title>r</title><h1>found</h1>")
    driver.tell(StageDone("report", 1.0))
    page.frame_locator("#report iframe").locator("text=found").wait_for()
    page.evaluate("document.querySelector('#report iframe').kept = true")
    driver.finish(0, 2)
    page.wait_for_selector("text=3 of 6")
    assert page.evaluate("document.querySelector('#report iframe').kept")  # not loaded again
    assert page.evaluate("window.kept")  # nor was the page
    assert said == []
    page.context.close()


@pytest.mark.parametrize(("scheme", "width"), SCREENS)
def test_it_fits_the_screen_and_axe_finds_no_violation(
    scheme: str,
    width: int,
    run: Run,
    driver: Driver,
    served: Callable[..., Browser],
    browser: Any,
    axe: str,
) -> None:
    driver.finish(0, 0)
    driver.begin(0, 1)
    driver.tell(TileFailed("r0001c0001", "w0", 3, "E" * 180, "", final=True))
    page, said = opened(browser, served(run).place.geturl(), scheme, width, bypass_csp=True)
    page.wait_for_selector("text=given up")
    wide = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert page.evaluate(wide) == 0
    page.evaluate(axe)
    found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")["violations"]
    assert [(one["id"], one["nodes"][0]["failureSummary"]) for one in found] == []
    assert said == []
    page.context.close()


def test_it_says_when_the_command_has_ended(run: Run, browser: Any) -> None:
    stop, there, addresses = threading.Event(), threading.Event(), []

    def ready(address: str) -> None:
        addresses.append(address)
        there.set()

    thread = threading.Thread(
        target=watch, args=(run.url,), kwargs={"interval": 0.1, "on_ready": ready, "stop": stop}
    )
    thread.start()
    assert there.wait(20)
    page, _ = opened(browser, addresses[0])
    assert page.locator("#ended").is_hidden()
    stop.set()
    thread.join(20)
    page.wait_for_selector("text=has ended")
    page.context.close()
