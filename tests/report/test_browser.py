"""The report as a browser shows it."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ntkdist.report.page import write_report
from ntkdist.runs.run import Run

from .conftest import (
    MakeRun,
    N,
    add_dynamics,
    add_events,
    add_geometry,
    add_labels,
    add_networks,
    add_predictions,
    add_reliability,
    gram_events,
)

NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next((found for name in NAMES if (found := shutil.which(name))), None)
QUIET = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
SCREENS = [(scheme, width) for scheme in ("light", "dark") for width in (390, 1440)]

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason=f"none of {', '.join(NAMES)} is installed"),
]


@dataclass
class Opened:
    """A page, and what it did while it was opened."""

    page: Any
    seconds: float
    messages: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def axe() -> str:
    import axe_playwright_python

    return (Path(axe_playwright_python.__file__).parent / "axe.min.js").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def full(make_run: MakeRun) -> Path:
    run = make_run()
    add_labels(run)
    add_reliability(run, "reliable", "class-conditional")
    add_events(run, gram_events([3, 7], total=10))
    add_geometry(run)
    add_predictions(run)
    add_dynamics(run)
    add_networks(run)
    files = "\n".join(f"a-folder-with-a-long-name/and-a-picture-number-{i}.png" for i in range(N))
    run.write("inputs/files", np.frombuffer(files.encode(), np.uint8))
    return Path(write_report(run))


@pytest.fixture(scope="module")
def new(make_run: MakeRun) -> Path:
    return Path(write_report(make_run()))


@pytest.fixture(scope="module")
def confused(make_run: MakeRun) -> Path:
    """A hundred classes with long names, which are taken for one another."""
    run = make_run()
    names = tuple(f"a-class-with-a-long-name-number-{k}" for k in range(100))
    run.manifest = replace(run.manifest, class_names=names, num_classes=len(names))
    add_labels(run)
    add_reliability(run, "weak", "class-conditional")
    return Path(write_report(run))


@pytest.fixture(scope="module")
def unjudged(make_run: MakeRun) -> Path:
    run = make_run()
    add_labels(run)
    add_reliability(run, "cannot judge")
    return Path(write_report(run))


@pytest.fixture(scope="module")
def large(make_run: MakeRun) -> Path:
    return Path(write_report(large_run(make_run)))


def large_run(make_run: MakeRun) -> Run:
    """2,000 colour images, of which 600 have suspicious labels."""
    run = make_run(noise=0.0)
    n, rng = 2000, np.random.default_rng(0)
    labels = rng.integers(0, 10, n)
    run.write("inputs/labels", labels)
    run.write("inputs/pictures", rng.integers(0, 256, (n, 32, 32, 3), dtype=np.uint8))
    add_labels(make_run(noise=0.0))
    suggested = np.where(np.arange(n) < 600, (labels + 1) % 10, labels)
    for name, values in {
        "refurbished": suggested,
        "suggested_label": suggested,
        "label_quality": rng.uniform(size=n),
        "is_label_issue": suggested != labels,
        "losses": np.linspace(2.0, 1.0, 601),
        "gram_by_class": rng.uniform(size=(400, 400)).astype(np.float32),
        "kpca/images": np.arange(1500),
        "kpca/points": rng.normal(size=(1500, 4)),
    }.items():
        run.write(f"labels/{name}", values, {"explained": [0.1] * 4, "boundaries": []})
    run.write("noise/eigenvalues", np.geomspace(900.0, 1e-5, n))
    run.write_attributes("noise", {"fingerprint": "f"})
    run.write_attributes("labels", {"summary": {"ridge": 1e-3}})
    return run


def open_page(browser: Any, path: Path, scheme: str, width: int, **options: Any) -> Opened:
    """Open a file in a new context, with its console and its requests kept."""
    page = browser.new_context(
        viewport={"width": width, "height": 900}, color_scheme=scheme, **options
    ).new_page()
    opened = Opened(page, 0.0)
    page.on("console", lambda message: opened.messages.append(message.text))
    page.on("pageerror", lambda error: opened.messages.append(str(error)))
    page.on("request", lambda request: opened.requests.append(request.url))
    began = time.perf_counter()
    page.goto(path.as_uri(), wait_until="load")
    opened.seconds = time.perf_counter() - began
    return opened


@pytest.mark.parametrize(("scheme", "width"), SCREENS)
@pytest.mark.parametrize("which", ["full", "new", "confused", "unjudged"])
def test_nothing_is_said_asked_for_or_wider_than_the_screen(
    which: str, scheme: str, width: int, browser: Any, request: pytest.FixtureRequest
) -> None:
    path = request.getfixturevalue(which)
    opened = open_page(browser, path, scheme, width)
    assert opened.messages == []
    assert [url for url in opened.requests if not url.startswith("data:")] == [path.as_uri()]
    wide = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert opened.page.evaluate(wide) == 0
    opened.page.context.close()


@pytest.mark.parametrize(("scheme", "width"), SCREENS)
@pytest.mark.parametrize("which", ["full", "new", "confused", "unjudged"])
def test_axe_finds_no_violation(
    which: str, scheme: str, width: int, browser: Any, axe: str, request: pytest.FixtureRequest
) -> None:
    # the page forbids scripts, axe is one
    opened = open_page(browser, request.getfixturevalue(which), scheme, width, bypass_csp=True)
    opened.page.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true })")
    opened.page.evaluate(axe)
    found = opened.page.evaluate("axe.run(document, {resultTypes: ['violations']})")
    said = [
        (one["id"], node["target"], node["failureSummary"])
        for one in found["violations"]
        for node in one["nodes"]
    ]
    assert said == []
    opened.page.context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_letters_in_figures_stand_out(scheme: str, browser: Any, full: Path) -> None:
    """Axe does not judge text in SVG: its colour is held against the page's here."""
    opened = open_page(browser, full, scheme, 1440, bypass_csp=True)
    ratios = opened.page.evaluate(
        """() => {
          const luminance = (text) => {
            const [r, g, b] = text.match(/[\\d.]+/g).slice(0, 3).map(x => {
              const c = x / 255;
              return c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
            });
            return 0.2126 * r + 0.7152 * g + 0.0722 * b;
          };
          const page = luminance(getComputedStyle(document.body).backgroundColor);
          return [...document.querySelectorAll('svg text')].map(t => {
            const fill = getComputedStyle(t).fill;
            const own = luminance(fill);
            return [t.textContent, fill,
                    (Math.max(own, page) + 0.05) / (Math.min(own, page) + 0.05)];
          });
        }"""
    )
    weak = [one for one in ratios if one[2] < 4.5 and one[1] != "rgb(255, 255, 255)"]
    assert len(ratios) > 50
    assert weak == []
    opened.page.context.close()


@pytest.mark.parametrize("width", [390, 1440])
def test_file_names_are_broken_at_their_folders(
    width: int, browser: Any, make_run: MakeRun
) -> None:
    run = make_run()
    add_labels(run)
    files = "\n".join(f"square/img{100 + i}.png" for i in range(N))
    run.write("inputs/files", np.frombuffer(files.encode(), np.uint8))
    opened = open_page(browser, Path(write_report(run)), "light", width, bypass_csp=True)
    lines = opened.page.evaluate(
        """() => [...document.querySelectorAll('.file')].flatMap(p => [...p.childNodes])
          .filter(node => node.nodeType === Node.TEXT_NODE).map(node => {
            const range = document.createRange();
            range.selectNodeContents(node);
            return [node.textContent, range.getClientRects().length];
          })"""
    )
    assert {text for text, _ in lines} > {"square/"}
    assert all(count == 1 for _, count in lines), lines
    opened.page.context.close()


def test_letters_in_figures_are_not_tiny_on_a_telephone(browser: Any, full: Path) -> None:
    opened = open_page(browser, full, "light", 390, bypass_csp=True)
    sizes = opened.page.evaluate(
        """() => [...document.querySelectorAll('svg.figure text')].map(t => {
          const svg = t.closest('svg');
          const scale = svg.getBoundingClientRect().width / svg.viewBox.baseVal.width;
          return [t.textContent, parseFloat(getComputedStyle(t).fontSize) * scale];
        })"""
    )
    assert min(size for _, size in sizes) > 8.5
    opened.page.context.close()


def test_the_contents_lead_to_the_sections(browser: Any, full: Path) -> None:
    opened = open_page(browser, full, "light", 1440)
    for link in opened.page.query_selector_all("nav a"):
        link.click()
        target = opened.page.query_selector(link.get_attribute("href"))
        assert -1 < target.bounding_box()["y"] < 900
    opened.page.context.close()


def test_printed_it_is_black_on_white_with_everything_unfolded(browser: Any, full: Path) -> None:
    opened = open_page(browser, full, "dark", 1440)
    opened.page.emulate_media(media="print", color_scheme="dark")
    page = opened.page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert page == "rgb(255, 255, 255)"
    last = opened.page.query_selector("details:last-of-type li")
    assert last.bounding_box() is not None
    opened.page.context.close()


def test_two_thousand_images_open_at_once(browser: Any, large: Path) -> None:
    assert large.stat().st_size < 8_000_000
    open_page(browser, large, "light", 1440).page.context.close()  # the browser's own start
    opened = open_page(browser, large, "light", 1440)
    assert opened.seconds < 2
    assert opened.messages == []
    opened.page.context.close()
