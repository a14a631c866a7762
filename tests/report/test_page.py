from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass, field, replace
from html import unescape
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ntkdist import storage
from ntkdist.config import DataConfig
from ntkdist.display.words import number, percent
from ntkdist.errors import InputError, StoreError
from ntkdist.labels import label_report, refurbish
from ntkdist.pipeline.labels import write_table
from ntkdist.report.findings import Spectrum, read_findings
from ntkdist.report.page import write_report
from ntkdist.report.story import next_step, spectrum_sentences
from ntkdist.runs.run import Run

from .conftest import (
    NAMES,
    MakeRun,
    N,
    add_dynamics,
    add_events,
    add_geometry,
    add_labels,
    add_networks,
    add_predictions,
    gram_events,
)

pytestmark = pytest.mark.usefixtures("figures")

VOID = {"meta", "img", "br", "wbr", "link", "input", "hr"}


class Page(HTMLParser):
    """Collects elements, text and targets; every element must be closed where it was opened."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {key: value or "" for key, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attrs for name, attrs in self.elements if name == tag]


@dataclass
class Report:
    run: Run
    stored: dict[str, Any]
    html: str
    page: Page = field(init=False)

    def __post_init__(self) -> None:
        self.page = Page(self.html)


def plain(text: str) -> str:
    return " ".join(text.split())


def read(path: str) -> str:
    return Path(path).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def report(make_run: MakeRun) -> Report:
    run = make_run()
    stored = add_labels(run)
    add_events(run, gram_events([3, 7], total=10), torn='{"event": "Til')
    return Report(run, stored, read(write_report(run)))


@pytest.mark.slow
def test_the_default_place_is_in_the_run(report: Report) -> None:
    assert os.path.exists(os.path.join(report.run.url, "report.html"))
    assert not list(Path(report.run.url).glob(".*.part"))


@pytest.mark.slow
def test_numbers_shown_are_those_stored(report: Report) -> None:
    summary, text = report.stored["summary"], report.page.text
    for value in summary["block_error"].values():
        assert number(value) in text
    for name in ("restored_share", "accuracy_given", "accuracy_refurbished"):
        assert plain(percent(summary[name])) in text
    issues = int(report.stored["is_label_issue"].sum())
    assert f"{issues} of {N} labels" in text
    before, after = (number(summary["block_error"][x], 4) for x in ("given", "refurbished"))
    changes = f"Changing labels {summary['flips']} times lowered the label error L(Z)"
    assert f"{changes} from {before} to {after}." in text
    assert f"Label error L(Z) {after} from {before};" in text
    assert f"Noise estimated {plain(percent(summary['noise_rate']))}" in text
    for row in range(10):
        assert number(float(report.stored["Z_given"][row, row]), 4) in text
    assert f"{N} images of 8 × 8 × 1 · 10 classes" in text


def test_the_computation_is_told(report: Report) -> None:
    text = report.page.text
    run = report.run
    assert "cntk-gap-4: conv 3×3 (not trained) → 2 × (ReLU → conv 3×3)" in text
    assert str(run.architecture) in text
    assert run.fingerprint[:12] in text
    assert run.fingerprint[:13] not in text
    assert "10 of 10 tiles of 10 × 10" in text
    assert "50 entries/s over 20.0 s" in text
    assert "2 starts, 1 of which resumed from stored tiles" in text
    assert f"numpy {np.__version__}" in text


def test_every_suspicious_picture_is_there_with_an_alt_text(report: Report) -> None:
    given = report.run.read("inputs", "labels")
    issues = np.flatnonzero(report.stored["is_label_issue"])
    issues = issues[np.argsort(report.stored["label_quality"][issues])]
    expected = [
        f"Image {i}, labelled {NAMES[given[i]]}, "
        f"suggested {NAMES[report.stored['suggested_label'][i]]}"
        for i in issues
    ]
    assert [image["alt"] for image in report.page.all("img")] == expected


def test_suggestions_are_judged_by_the_true_labels(report: Report) -> None:
    true = report.run.read("inputs", "labels_true")
    issues = report.stored["is_label_issue"]
    right = int((report.stored["suggested_label"] == true)[issues].sum())
    assert report.html.count("✓ truly") == right
    assert report.html.count("✗ truly") == int(issues.sum()) - right == 1
    assert f"{right} of {int(issues.sum())} suggestions are right" in report.page.text


def test_figures_have_alt_texts_and_unique_ids(report: Report) -> None:
    figures = report.page.all("svg")
    assert len(figures) == 8  # bars, curve, discovery, two Gram, two Z, throughput
    assert all(len(attrs["aria-label"]) > 20 and attrs["role"] == "img" for attrs in figures)
    ids = [attrs["id"] for _, attrs in report.page.elements if "id" in attrs]
    assert len(ids) == len(set(ids))


def test_nothing_is_loaded_from_outside(report: Report) -> None:
    assert "http://" not in report.html
    assert "https://" not in report.html
    assert "@import" not in report.html
    assert "url(" not in re.sub(r"url\(#[\w.-]+\)", "", report.html)
    assert not report.page.all("script")
    assert not report.page.all("link")
    for _, attrs in report.page.elements:
        for name in ("src", "href", "xlink:href", "srcset"):
            assert attrs.get(name, "#").startswith(("#", "data:image/png;base64,"))


def test_class_names_are_text_and_not_markup(report: Report) -> None:
    assert "<b>x" not in report.html
    assert "&lt;b&gt;x" in report.html
    assert NAMES[1] in unescape(report.html)


def test_both_colour_schemes_and_print_are_styled(report: Report) -> None:
    for query in ("prefers-color-scheme: dark", "@media print", "max-width: 36rem"):
        assert query in report.html


@pytest.mark.slow
def test_the_same_run_gives_the_same_bytes(report: Report, tmp_path: Path) -> None:
    assert read(write_report(report.run, str(tmp_path / "again.html"))) == report.html


@pytest.mark.usefixtures("undrawn")
def test_no_more_than_asked_are_shown_worst_first(report: Report, tmp_path: Path) -> None:
    page = Page(read(write_report(report.run, str(tmp_path / "few.html"), max_issues=2)))
    issues = int(report.stored["is_label_issue"].sum())
    shown = [attrs["alt"] for attrs in page.all("img")]
    assert shown == [attrs["alt"] for attrs in report.page.all("img")][:2]
    assert f"{issues - 2} more are in the run" in page.text
    assert "more are in the run" not in report.page.text


def test_a_new_run_says_what_is_missing(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run()
    page = Page(read(write_report(run, str(tmp_path / "r.html"))))
    assert "the kernel matrix, its Cholesky factor, the analysis of the labels" in page.text
    assert run.resume_command in page.text
    assert not page.all("img")
    assert not page.all("svg")


@pytest.mark.parametrize(
    ("starts", "missing"),
    [
        ([4], "the kernel matrix (4 of 10 tiles are stored), its Cholesky factor"),
        ([4, 6], "Still to do: its Cholesky factor"),
    ],
)
def test_a_run_with_tiles_says_how_many(
    make_run: MakeRun, tmp_path: Path, starts: list[int], missing: str
) -> None:
    run = make_run()
    add_events(run, gram_events(starts, total=10))
    page = Page(read(write_report(run, str(tmp_path / "r.html"))))
    assert missing in page.text
    assert len(page.all("svg")) == 1


@pytest.mark.slow
def test_without_noise_nothing_is_said_about_true_labels(make_run: MakeRun) -> None:
    run = make_run(noise=0.0)
    unknown = dict.fromkeys(
        ["corrupted", "restored_share", "accuracy_given", "accuracy_refurbished"]
    )
    add_labels(
        run, block_error={"given": 2.0, "refurbished": 1.0, "true": None}, num_issues=9, **unknown
    )
    page = Page(read(write_report(run)))
    assert "9 of 60 labels (15.0 %) look wrong." in page.text
    assert "true" not in page.text.replace("no true labels", "")
    for word in ("truly", "was right", "restored", "corrupted", "None"):
        assert word not in page.text


@pytest.mark.slow
def test_a_run_without_flags_and_without_a_verdict_calls_nothing_clean(make_run: MakeRun) -> None:
    run = make_run(noise=0.0)
    add_labels(run, flips=0, num_issues=0)
    run.write("labels/is_label_issue", np.zeros(N, bool))
    run.write("labels/losses", np.array([2.0]))
    page = Page(read(write_report(run)))
    assert "None of the 60 labels is flagged" in page.text
    assert "No label was changed" in page.text
    assert "looks wrong" not in page.text  # a version that gave no verdict wrote it
    assert f"ntkdist labels {run.url}" in page.text
    assert not page.all("img")


@pytest.mark.usefixtures("undrawn")
def test_notes_of_the_label_stage_are_shown(make_run: MakeRun) -> None:
    run = make_run()
    add_labels(run, left_out=["class 3 has one image & no pairs"], steps=12, method="paper")
    text = Page(read(write_report(run))).text
    assert "class 3 has one image & no pairs" in text
    assert "paper method, at most 12 changes" in text


def test_a_summary_without_optional_parts_is_enough(make_run: MakeRun) -> None:
    run = make_run()
    names = ("refurbished", "label_quality", "suggested_label", "is_label_issue")
    stored = add_labels(make_run())
    for name in names:
        run.write(f"labels/{name}", stored[name])
    run.write_attributes("labels", {"summary": {}})
    page = Page(read(write_report(run)))
    assert len(page.all("img")) == int(stored["is_label_issue"].sum())
    assert len(page.all("svg")) == 1  # what needs quality and true labels alone


def test_labels_of_another_length_are_refused(make_run: MakeRun) -> None:
    run = make_run()
    add_labels(run)
    run.write("labels/label_quality", np.zeros(7))
    with pytest.raises(StoreError, match=r"label_quality: has shape \(7,\) for 60 images"):
        write_report(run)


def test_a_remote_run_has_its_report_beside_it(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run()
    url = f"memory://reports/{tmp_path.name}"
    for name in storage.list_objects(run.url):
        content = storage.read_bytes(storage.join(run.url, name))
        assert content is not None
        storage.write_bytes(storage.join(url, name), content)
    remote = Run(url, run.manifest, run.config)
    assert write_report(remote) == f"{url}/report.html"
    page = Path(write_report(run)).read_text(encoding="utf-8")
    assert storage.read_text(f"{url}/report.html") == page.replace(run.url, url)


def test_a_file_url_is_local(make_run: MakeRun) -> None:
    run = make_run()
    given = Run(f"file://{run.url}", run.manifest, run.config)
    assert Path(write_report(given)) == Path(run.url, "report.html")


def test_a_place_that_cannot_be_written_is_named(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run()
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match=f"{tmp_path}/folder: cannot be written"):
        write_report(run, str(tmp_path / "folder"))
    assert sorted(os.listdir(tmp_path)) == ["folder"]


def test_a_negative_number_of_issues_is_refused(report: Report) -> None:
    with pytest.raises(InputError, match="max_issues=-1 must be at least 0"):
        write_report(report.run, max_issues=-1)


def test_an_old_report_survives_a_failure(
    make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run()
    path = tmp_path / "r.html"
    path.write_text("old")

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(StoreError, match="No space left on device"):
        write_report(run, str(path))
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["r.html"]


@pytest.mark.slow
def test_two_thousand_colour_pictures_stay_under_eight_megabytes(
    make_run: MakeRun, tmp_path: Path
) -> None:
    run = make_run(noise=0.0)
    n, rng = 2000, np.random.default_rng(0)
    labels = rng.integers(0, 10, n)
    run.write("inputs/labels", labels)
    run.write("inputs/pictures", rng.integers(0, 256, (n, 32, 32, 3), dtype=np.uint8))
    add_labels(make_run(noise=0.0))
    suggested = (labels + 1) % 10
    for name, values in {
        "refurbished": suggested,
        "suggested_label": suggested,
        "label_quality": rng.uniform(size=n),
        "is_label_issue": np.ones(n, bool),
        "gram_by_class": rng.uniform(size=(400, 400)).astype(np.float32),
    }.items():
        run.write(f"labels/{name}", values)
    run.write_attributes("labels", {"summary": {}})
    path = write_report(run, str(tmp_path / "r.html"), max_issues=n)
    assert len(Page(read(path)).all("img")) == n
    assert os.path.getsize(path) < 8_000_000


def test_the_events_of_another_version_do_not_hinder(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run()
    lines = [{"event": "TileDone"}, {"event": "GramStarted", "time": 1, "total": "many"}]
    add_events(run, lines, torn=json.dumps({"event": 3}))
    assert "This run is not complete." in Page(read(write_report(run))).text


SECTIONS = ["labels", "repair", "kernel", "predictions", "computation", "words"]


@pytest.fixture(scope="module")
def full(make_run: MakeRun) -> Report:
    run = make_run()
    stored = add_labels(run)
    add_events(run, gram_events([3, 7], total=10))
    add_geometry(run)
    add_predictions(run, "given", 0.9)
    add_predictions(run, "refurbished", 0.95)
    add_dynamics(run)
    add_networks(run)
    return Report(run, stored, read(write_report(run)))


@pytest.mark.slow(but="report")
@pytest.mark.parametrize("which", ["report", "full"])
def test_the_sections_come_in_order_and_the_contents_lead_to_them(
    which: str, request: pytest.FixtureRequest
) -> None:
    page = request.getfixturevalue(which).page
    assert [attrs["id"] for attrs in page.all("h2")] == SECTIONS
    links = [attrs["href"] for attrs in page.all("a")]
    assert links == ["#main", *(f"#{name}" for name in SECTIONS)]


@pytest.mark.slow
def test_headings_are_nested_without_gaps(full: Report) -> None:
    levels = [int(tag[1]) for tag, _ in full.page.elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(b <= a + 1 for a, b in pairwise(levels))


def test_every_result_that_is_there_is_shown(full: Report) -> None:
    text = full.page.text
    for words in (
        "A map of the images",
        "Eigenvalues",
        "Images it has not seen",
        "Training dynamics",
        "Networks of finite width",
        "Other values of depth",
        "Labels inside the kernel",
        "Which images to label next",
        "How much checking is saved",
        "Most entangled",
    ):
        assert words in text
    assert "ntkdist compare" in text  # the one that was not asked
    assert "ntkdist widths" not in text
    figures = full.page.all("svg")
    assert all(len(attrs["aria-label"]) > 20 for attrs in figures)
    ids = [attrs["id"] for _, attrs in full.page.elements if "id" in attrs]
    assert len(ids) == len(set(ids))


def test_a_run_of_an_older_version_says_how_to_add_what_it_lacks(
    report: Report, full: Report
) -> None:
    old, new = report.page.text, full.page.text
    command = f"ntkdist labels {report.run.url} ntkdist report {report.run.url}"
    assert "kept no eigenvalues or principal components" in old
    assert command in old
    assert "A map of the images" not in old
    assert "kept no eigenvalues" not in new


@pytest.mark.slow
def test_a_full_report_is_the_same_to_the_byte(full: Report, tmp_path: Path) -> None:
    assert read(write_report(full.run, str(tmp_path / "again.html"))) == full.html


@pytest.mark.slow
def test_where_true_labels_are_unknown_quality_is_drawn_instead(make_run: MakeRun) -> None:
    run = make_run(noise=0.0)
    add_labels(run)
    page = Page(read(write_report(run)))
    assert "How sure the kernel is" in page.text
    assert "wrong labels found" not in page.text
    assert any("Histogram of label quality" in attrs["aria-label"] for attrs in page.all("svg"))


@pytest.mark.usefixtures("undrawn")
def test_files_are_named_and_are_no_markup(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run()
    stored = add_labels(run)
    names = [f"cats/my_<img src=x onerror=1> {i}.png" for i in range(N)]
    run.write("inputs/files", np.frombuffer("\n".join(names).encode(), np.uint8))
    Path(run.url, "labels.csv").write_text("index\n")
    page = Page(html := read(write_report(run)))
    shown = int(stored["is_label_issue"].sum())
    assert html.count("&lt;img src=x onerror=1&gt;") == shown
    assert len(page.all("img")) == shown
    assert not any("onerror" in attrs for _, attrs in page.elements)
    worst = int(np.flatnonzero(stored["is_label_issue"])[0])
    assert names[worst] in "".join(page.words)
    assert "cats/<wbr>my_<wbr>&lt;img" in html
    assert f"{run.url}/labels.csv" in page.text


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize(
    ("quality", "advice"),
    [
        (0.01, "its suggestions may be taken as they are"),
        (0.4, "by its own estimate 40.0 % of the labels that it flags are right. Do not take"),
    ],
)
def test_suggestions_are_only_recommended_where_the_kernel_is_sure(
    make_run: MakeRun, quality: float, advice: str
) -> None:
    run = make_run(noise=0.0)
    stored = add_labels(run)
    run.write("labels/label_quality", np.where(stored["is_label_issue"], quality, 0.9))
    Path(run.url, "labels.csv").write_text("index\n")
    assert advice in Page(read(write_report(run))).text


@pytest.mark.usefixtures("undrawn")
def test_after_correcting_the_audit_is_made_again_into_a_new_run(make_run: MakeRun) -> None:
    run = make_run(noise=0.0)
    add_labels(run)
    text = Page(read(write_report(run))).text
    again = f"ntkdist run {run.url} --run {run.url}-corrected"
    assert (
        f"Correct the labels in your copy of the data, then audit again, into a new run: {again}"
        in text
    )
    for source, where in (("images:x", "by moving files"), ("csv:x.csv", "in the table")):
        other = Run(run.url, run.manifest, replace(run.config, data=DataConfig(source=source)))
        assert any(where in said for said, _ in next_step(other, read_findings(run)))


def test_labels_made_wrong_on_purpose_are_not_to_be_corrected(report: Report) -> None:
    assert "none has to be corrected" in report.page.text
    assert "-corrected" not in report.page.text


@pytest.mark.usefixtures("undrawn")
def test_every_column_of_the_table_is_explained(make_run: MakeRun) -> None:
    run = make_run()
    add_labels(run)
    given = run.read("inputs", "labels")
    inverse = np.eye(len(given)) + 0.01
    table = label_report(given, refurbish(inverse, given, 10, method="exact"))
    write_table(run, table)
    html = read(write_report(run))
    page = Page(html)
    written = Path(run.url, "labels.csv").read_text().splitlines()[0].split(",")
    table = html[html.index("What the columns of labels.csv mean") :].partition("</dl>")[0]
    explained = re.findall(r"<code>(\w+)</code>", table)
    assert [name for name in explained if name not in ("file", "probability_CLASS")] == written
    assert "What the columns of labels.csv mean" in page.text
    assert all(name in page.words for name in written)


@pytest.mark.parametrize(
    ("eigenvalues", "ridge", "words"),
    [
        ([97.0, 1.0, 1.0, 1.0], 1e-3, ("finds all images much alike", "nearly every label")),
        ([1.0] * 8, 10.0, ("about so many patterns", "single odd labels hardly move it")),
    ],
)
def test_the_eigenvalues_are_put_into_words(
    eigenvalues: list[float], ridge: float, words: tuple[str, ...]
) -> None:
    said = " ".join(spectrum_sentences(Spectrum.of(np.array(eigenvalues), ridge), ridge))
    assert all(word in said for word in words)


def test_without_the_table_none_is_promised(report: Report) -> None:
    assert "labels.csv" not in report.page.text


def test_what_scrolls_can_be_reached_by_keyboard(full: Report) -> None:
    areas = [attrs for attrs in full.page.all("div") if attrs.get("class") == "scroll"]
    assert len(areas) >= 3
    assert all(attrs["tabindex"] == "0" and attrs["aria-label"] for attrs in areas)


def test_words_and_citation_are_folded(full: Report) -> None:
    assert len(full.page.all("details")) == 3
    for words in ("Neural tangent kernel (NTK)", "Label quality", "Jacot", "DeOliveira"):
        assert words in full.page.text


@pytest.mark.slow
def test_labels_decided_at_once_are_told_as_such(make_run: MakeRun) -> None:
    """No curve leads from the first loss to the last: each change is shown by itself."""
    run = make_run()
    stored = add_labels(run, method="posterior")
    changes = stored["summary"]["flips"]
    run.write("labels/losses", np.array([1.57017, 0.39477]))
    run.write("labels/history/delta_loss", np.linspace(-0.1, 0.02, changes))
    page = Page(read(write_report(run)))
    assert f"Changing {changes}" in page.text.replace("\u00a0", " ")
    assert "times" not in page.text.split("lowered the label error")[0][-40:]
    assert "What each changed label alone does to L(Z)" in page.text
    assert "all of them at once" in page.text
    assert "while labels are changed one at a time" not in page.text


@pytest.mark.slow
def test_a_posterior_of_an_older_version_keeps_its_curve(make_run: MakeRun) -> None:
    run = make_run()
    add_labels(run, method="posterior")  # with a loss for each change
    page = Page(read(write_report(run)))
    assert "while labels are changed one at a time" in page.text
    assert "all of them at once" not in page.text
    assert "What each changed label alone does" not in page.text


@pytest.mark.usefixtures("undrawn")
def test_where_nothing_was_changed_at_once_no_figure_is_promised(make_run: MakeRun) -> None:
    run = make_run()
    add_labels(run, method="posterior", flips=0)
    run.write("labels/losses", np.array([1.57017, 1.57017]))
    run.write("labels/history/delta_loss", np.zeros(0))
    page = Page(read(write_report(run)))
    assert "there is no change to show" in page.text
