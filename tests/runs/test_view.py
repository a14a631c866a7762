"""A run as a prompt and a notebook show it."""

from __future__ import annotations

import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

import ntkdist
from ntkdist import Run
from ntkdist.config import DataConfig, GramConfig, RunConfig
from ntkdist.gram.store import GramStore
from ntkdist.gram.tiling import TileKey
from ntkdist.runs.run import name_of


class Page(HTMLParser):
    """Refuses tags that do not close in order; keeps the text and the attributes of bars."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text = ""
        self.bar: dict[str, str | None] = {}
        self.feed(html)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag not in ("script", "b")
        self.open.append(tag)
        if tag == "progress":
            self.bar = dict(attrs)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Run:
    config = RunConfig(
        run=str(tmp_path_factory.mktemp("view") / "run"),
        architecture="fc-1",
        data=DataConfig(n=60),
        gram=GramConfig(executor="inline", backend="cpu", tile=20),
    )
    return ntkdist.compute(config, progress=False)


@pytest.fixture
def run(finished: Run, tmp_path: Path) -> Run:
    shutil.copytree(finished.url, tmp_path / "run")
    return Run.open(tmp_path / "run")


def html(run: Run) -> Page:
    return Page(run._repr_html_())


@pytest.mark.slow
def test_one_line_says_what_it_is_and_how_far(run: Run) -> None:
    about = f"<Run {run.url}: 60 images of 8×8×1, 10 classes, fc-1, "
    assert repr(run) == f"{about}gram, factor, labels, report done>"
    GramStore.open(run.address("gram", "ntk"), "r+").remove(TileKey(0, 1))
    Path(run.address("gram", "ntk", "c", "0", ".half.123")).write_bytes(b"x")
    assert repr(run) == f"{about}gram 5 of 6 tiles>"
    shutil.rmtree(run.address("gram"))
    shutil.rmtree(run.address("labels"))
    shutil.rmtree(run.address("factor"))
    Path(run.address("report.html")).unlink()
    assert repr(run) == f"{about}nothing done>"


def test_a_notebook_shows_progress_findings_and_the_report(run: Run) -> None:
    page = html(run)
    assert (page.bar["value"], page.bar["max"]) == ("6", "6")
    issues = int(ntkdist.labels_table(run)["is_label_issue"].sum())
    assert f"Suspicious labels{issues} of 60" in page.text
    assert f"Report{run.url}/report.html" in page.text
    assert "gram ✓, factor ✓, labels ✓, report ✓" in page.text
    GramStore.open(run.address("gram", "ntk"), "r+").remove(TileKey(0, 1))
    page = html(run)
    assert page.bar["value"] == "5"
    assert "5 of 6 tiles (83 %)" in page.text
    assert "gram –, factor ✓" in page.text


def test_names_are_escaped(run: Run) -> None:
    run.config = replace(run.config, data=replace(run.config.data, source="npz:<b>&.npz"))
    assert "npz:<b>&.npz, train" in html(run).text


def test_what_cannot_be_read_is_said_and_not_raised(run: Run) -> None:
    shutil.rmtree(run.url)
    assert repr(run).startswith(f"<Run {run.url}: fc-1, cannot be read: ")
    assert "\n" not in repr(run)
    assert "cannot be read" in html(run).text


def test_one_line_asks_no_server(finished: Run) -> None:
    there = Run("s3://no-such-bucket/run", finished.manifest, finished.config)
    assert repr(there) == "<Run s3://no-such-bucket/run: digits, 10 classes, fc-1>"


@pytest.mark.parametrize("name", ["fc-3", "cntk-gap-4", "cntk-v-6", "cnn-3", "myrtle-5"])
def test_presets_are_called_by_their_names(name: str) -> None:
    assert name_of(ntkdist.Architecture.parse(name)) == name


def test_other_architectures_are_cut_short() -> None:
    text = name_of(ntkdist.Architecture.parse("[Conv(5), Erf(), Flatten(), Dense()]"))
    assert text.startswith("[Conv(size=5")
    assert text.endswith("…")
    assert len(text) == 48
