"""How far the report says to trust it, for each verdict, noise model and version."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ntkdist import storage
from ntkdist.errors import StoreError
from ntkdist.events.history import Timeline
from ntkdist.report.findings import (
    Geometry,
    confusions,
    read_findings,
    read_reliability,
    verdicts,
)
from ntkdist.report.page import draw_figures, write_report
from ntkdist.report.story import (
    confusion_rows,
    confusion_sentences,
    noise_sentences,
    noise_words,
)
from ntkdist.runs.run import Run
from ntkdist.words import VERDICTS

from .conftest import (
    NAMES,
    MakeRun,
    N,
    add_events,
    add_geometry,
    add_labels,
    add_predictions,
    add_reliability,
    gram_events,
    noise_matrix,
    read_section,
)
from .test_page import SECTIONS, Page, read

# What may only be said of labels that can be judged.
CLAIMS = re.compile(
    r"(?<!nothing is called )\bclean|looks? wrong|suspicious|nothing to correct|flagged label"
    r"|Do not take its suggestions|may be taken as they are|are labelled|expected to be wrong"
    r"|may be wrong|wrong by estimate|restored",
    re.IGNORECASE,
)


pytestmark = pytest.mark.usefixtures("figures")


def judged(make_run: MakeRun, verdict: str, noise: str = "symmetric", **others: Any) -> Run:
    """Return a run with a verdict and a table; pass ``put_on=0`` for unknown true labels."""
    run = make_run(noise=others.pop("put_on", 0.3))
    add_labels(run)
    add_reliability(run, verdict, noise, **others)
    add_geometry(run)
    add_events(run, [*gram_events([10], total=10), *label_events()])
    Path(run.url, "labels.csv").write_text("index\n")
    return run


def label_events() -> list[dict[str, Any]]:
    done = {"event": "StageDone", "stage": "labels", "seconds": 1.0, "time": 9001.0}
    return [
        {"event": "StageStarted", "stage": "labels", "time": 9000.0},
        done | {"detail": "9 changed labels, 9 suspicious labels"},
    ]


def unflag(run: Run) -> None:
    """Take every flag and every change away."""
    given = run.read("inputs", "labels")
    run.write("labels/is_label_issue", np.zeros(N, bool))
    for name in ("refurbished", "suggested_label"):
        run.write(f"labels/{name}", given)
    summary = run.attributes("labels")["summary"]
    summary["reliability"]["expected_precision"] = None
    summary["flips"] = 0
    run.write_attributes("labels", {"summary": summary})


def page_of(run: Run) -> Page:
    return Page(read(write_report(run)))


def before_glossary(page: Page) -> str:
    """Return what the report says of this run; the columns and words explain all verdicts."""
    text = page.text
    columns = text.find("What the columns of labels.csv mean")
    section = text.find("How labels are compared L(Z)")
    assert section > columns > 0
    return text[:columns] + text[section : text.rindex("Words used here")]


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("verdict", VERDICTS)
def test_the_first_section_says_how_far_to_trust_what_follows(
    make_run: MakeRun, verdict: str
) -> None:
    page = page_of(judged(make_run, verdict))
    assert [attrs["id"] for attrs in page.all("h2")] == ["trust", *SECTIONS]
    assert page.all("a")[1]["href"] == "#trust"
    box = page.text[: page.text.index("What ")]
    assert f"How far to trust this: {verdict}" in box
    assert "leave-one-out accuracy is 76.5 %; chance, which is to name the largest class" in box
    assert "is 13.6 % (standard error 2.5 %)" in box
    assert f"Why: a reason for <{verdict}>; more images may help." in box
    if verdict == "cannot judge":
        assert "Nothing is flagged and nothing is called clean" in box
        assert "between" not in box
        return
    estimate = "between 6.1 % and 12.3 % of the labels are wrong, most likely 9.1 %."
    assert f"By estimate {estimate}" in box
    assert re.search(r"Of the \d+ flagged labels, 87\.6 % are expected to be wrong\.", box)
    assert ("the ranking of all labels is in labels.csv" in box.lower()) == (verdict == "weak")


@pytest.mark.slow(but="reliable")
@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("verdict", VERDICTS)
def test_the_box_of_each_verdict_looks_its_own_way(make_run: MakeRun, verdict: str) -> None:
    page = page_of(judged(make_run, verdict))
    (box,) = (attrs for attrs in page.all("div") if "trust" in attrs.get("class", ""))
    assert box["class"] == f"trust {verdict.replace(' ', '-')}"
    assert (box["role"], box["aria-labelledby"]) == ("group", "trust")


@pytest.mark.usefixtures("undrawn")
def test_the_key_numbers_have_the_interval(make_run: MakeRun) -> None:
    text = page_of(judged(make_run, "reliable")).text
    assert "Wrong, by estimate 9.1 % 6.1 % to 12.3 %" in text
    assert "Leave-one-out accuracy 76.5 % 13.6 % by chance" in text


@pytest.mark.slow(but="class-conditional-0.3")
@pytest.mark.parametrize("put_on", [0.0, 0.3])
@pytest.mark.parametrize("noise", ["symmetric", "class-conditional"])
def test_where_labels_cannot_be_judged_nothing_is_claimed_of_them(
    make_run: MakeRun, noise: str, put_on: float
) -> None:
    run = judged(make_run, "cannot judge", noise, put_on=put_on, interval=(0.0, 0.004))
    page = page_of(run)
    said = before_glossary(page) + " ".join(attrs["aria-label"] for attrs in page.all("svg"))
    assert CLAIMS.findall(said) == []
    assert "Wrong labels not known the labels cannot be judged" in said
    assert "0.0 % to 0.4 %; not to be relied on" in said
    assert "What would help. More images of every class." in said
    assert f"ntkdist run {run.url} --run {run.url}-features" in said
    assert "What to do." not in said
    for word in ("Refurbished", "refurbished", "Z_refurbished", "Histogram of label quality"):
        assert word not in said
    assert not any("noise" in attrs["aria-label"] for attrs in page.all("svg"))


@pytest.mark.slow
def test_no_noise_matrix_is_drawn_where_labels_cannot_be_judged(make_run: MakeRun) -> None:
    for verdict in VERDICTS:
        run = judged(make_run, verdict, "class-conditional")
        given, geometry = run.read("inputs", "labels"), Geometry(None, None, None, ())
        figures = draw_figures(NAMES, read_findings(run), geometry, None, given, Timeline())
        assert ("noise" in figures) == (verdict != "cannot judge")


@pytest.mark.slow
def test_the_claims_are_found_where_they_are_made(make_run: MakeRun) -> None:
    run = judged(make_run, "reliable", "class-conditional")
    found = {claim.lower() for claim in CLAIMS.findall(page_of(run).text)}
    assert found >= {"look wrong", "suspicious", "flagged label", "are labelled"}


@pytest.mark.usefixtures("undrawn")
def test_changes_by_a_method_that_flags_otherwise_are_not_told_without_a_verdict(
    make_run: MakeRun,
) -> None:
    """The methods exact and paper change labels whatever the verdict is."""
    run = judged(make_run, "cannot judge")
    changed = (run.read("inputs", "labels") + 1) % 10
    run.write("labels/refurbished", changed)
    run.write("labels/suggested_label", changed)
    summary = run.attributes("labels")["summary"]
    lower = summary["block_error"] | {"refurbished": 0.39477}
    summary |= {"flips": 17, "block_error": lower, "method": "exact"}
    run.write_attributes("labels", {"summary": summary})
    said = before_glossary(page_of(run))
    assert CLAIMS.findall(said) == []
    assert "→" not in said[: said.index("How labels are compared L(Z)")]
    assert "0.39477" not in said
    assert "lowered the label error" not in said
    assert "the labels that were changed are not shown" in said


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize(("most", "shown"), [(60, 12), (5, 5), (0, 0)])
def test_a_ranking_without_verdict_is_headed_as_such(
    make_run: MakeRun, tmp_path: Path, most: int, shown: int
) -> None:
    run = judged(make_run, "cannot judge")
    page = Page(read(write_report(run, str(tmp_path / "r.html"), max_issues=most)))
    given, quality = run.read("inputs", "labels"), run.read("labels", "label_quality")
    worst = np.argsort(quality, kind="stable")[:shown]
    expected = [f"Image {i}, labelled {NAMES[given[i]]}" for i in worst]
    assert [image["alt"] for image in page.all("img")] == expected
    assert "Suspicious labels" not in page.text
    section = page.text[page.text.rindex("Ranking without verdict") :]
    assert "Nothing is flagged and nothing is called clean." in section
    assert (f"the head of the ranking, the {shown} images" in section) == bool(shown)
    assert f"Every image: {run.url}/labels.csv" in section
    assert not re.search(r"no\. \d+ quality", section)


@pytest.mark.usefixtures("undrawn")
def test_a_ranking_of_rows_has_neither_suggestion_nor_quality(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Run, "has_pictures", False)
    monkeypatch.setattr("ntkdist.report.story.feature_words", lambda *_: "rows")
    page = page_of(judged(make_run, "cannot judge"))
    heads = page.text[page.text.rindex("Ranking without verdict") :]
    assert "Row Given" in heads
    assert "Row Given Suggested" not in heads
    assert "another pretrained network" in page.text


@pytest.mark.slow
@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize(
    ("verdict", "interval", "sentence", "clean"),
    [
        ("reliable", (0.0, 0.02), "None of the 60 labels looks wrong, and at most 2.0 % of", True),
        ("reliable", (0.0, 0.03), "None of the 60 labels looks wrong, and at most 3.0 % of", True),
        ("reliable", (0.0, 0.0301), "No label is flagged, but up to 2 of the 60 labels", False),
        (
            "reliable",
            (0.05, 0.1),
            "No label is flagged, but between 3 and 6 of the 60 labels (5.0 % to 10.0 %) are wrong",
            False,
        ),
        ("reliable", (0.01, 0.01), "the noise rate was set to 9.1 % and not estimated", False),
        (
            "weak",
            (0.0, 0.02),
            "No label is sure enough to be flagged, but up to 1 of the 60 labels (2.0 %) may be",
            False,
        ),
    ],
)
def test_labels_are_called_clean_only_where_few_can_be_wrong(
    make_run: MakeRun, verdict: str, interval: tuple[float, float], sentence: str, clean: bool
) -> None:
    run = judged(make_run, verdict, put_on=0.0, interval=interval)
    unflag(run)
    text = page_of(run).text
    assert text.count(sentence) == 2  # at the top, and where the labels are listed
    assert ("There is nothing to correct" in text) == clean
    assert ("looks wrong" in text) == clean
    look = f"stop where no more wrong ones turn up: {run.url}/labels.csv"
    assert (look in text) != clean


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize(
    ("others", "sentence"),
    [
        ({"interval": (0.0, 0.02), "noise_rate": 0.001}, "at most 2.0 % of the labels are wrong, "
                                                         "most likely none."),
        ({"interval": (0.2, 0.2), "noise_rate": 0.2}, "share of wrong labels was set to 20.0 %"),
    ],
)  # fmt: skip
def test_intervals_at_zero_and_rates_that_were_set_are_told(
    make_run: MakeRun, others: dict[str, Any], sentence: str
) -> None:
    text = page_of(judged(make_run, "reliable", **others)).text
    assert sentence in text
    was_set = "was set" in sentence
    assert ("Wrong, as set 20.0 % set, not estimated" in text) == was_set
    assert ("Wrong, by estimate" in text) != was_set
    assert ("With the noise rate that was set" in text) == was_set


@pytest.mark.usefixtures("undrawn")
def test_a_weak_verdict_lists_the_surest_and_points_to_the_ranking(make_run: MakeRun) -> None:
    text = page_of(judged(make_run, "weak", put_on=0.0, expected_precision=0.99)).text
    listed = text[text.rindex("Suspicious labels Only") :]
    assert listed.startswith(
        "Suspicious labels Only the surest labels are listed; the ranking of all labels is in "
        "labels.csv."
    )
    assert "The verdict is weak: look at every image" in text
    assert "may be taken as they are" not in text
    reliable = page_of(judged(make_run, "reliable", put_on=0.0, expected_precision=0.99)).text
    assert "may be taken as they are" in reliable
    assert "Only the surest labels" not in reliable


@pytest.mark.usefixtures("undrawn")
def test_without_the_table_the_ranking_is_in_the_run(make_run: MakeRun) -> None:
    run = judged(make_run, "weak")
    Path(run.url, "labels.csv").unlink()
    text = page_of(run).text
    assert "is in the run (labels/label_quality)" in text
    assert "labels.csv" not in text


def unclear_run(make_run: MakeRun, put_on: float = 0.3) -> tuple[Run, int, int]:
    """Return a run with two flagged labels without a suggestion: a wrong one, and a right one."""
    run = judged(make_run, "reliable", put_on=put_on)
    given, flags = run.read("inputs", "labels"), run.read("labels", "is_label_issue")
    suggested = run.read("labels", "suggested_label")
    wrong, right = int(np.flatnonzero(flags)[1]), int(np.flatnonzero(~flags)[0])
    flags[right] = True
    suggested[[wrong, right]] = given[[wrong, right]]
    run.write("labels/is_label_issue", flags)
    run.write("labels/suggested_label", suggested)
    return run, wrong, right


@pytest.mark.usefixtures("undrawn")
def test_a_flag_without_a_more_probable_class_is_unclear(make_run: MakeRun) -> None:
    run, wrong, right = unclear_run(make_run)
    page = page_of(run)
    alts = [image["alt"] for image in page.all("img")]
    given = run.read("inputs", "labels")
    for index in (wrong, right):
        assert f"Image {index}, labelled {NAMES[given[index]]}, suggested unclear" in alts
    assert page.text.count("→ unclear no.") == 2
    assert "“unclear”: the given label is more probably wrong than right, but no other" in page.text
    assert page.text.count("✓ wrong, truly") == 1
    total = int(run.read("labels", "is_label_issue").sum())
    assert f"of {total - 2} suggestions are right" in page.text
    assert "1 of 2 flagged labels without a suggestion is wrong, and in 1 case" in page.text


@pytest.mark.usefixtures("undrawn")
def test_rows_without_pictures_are_unclear_as_well(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, _, _ = unclear_run(make_run, put_on=0.0)
    monkeypatch.setattr(Run, "has_pictures", False)
    monkeypatch.setattr("ntkdist.report.story.feature_words", lambda *_: "rows")
    text = page_of(run).text
    assert text.count("unclear") == 3  # two rows and what it means
    assert "Row Given Suggested Quality" in text


@pytest.mark.usefixtures("undrawn")
def test_without_an_unclear_one_the_word_is_not_explained(make_run: MakeRun) -> None:
    assert "unclear" not in page_of(judged(make_run, "reliable")).text


def test_flags_are_judged_by_the_true_labels() -> None:
    given, suggested = np.array([0, 0, 0, 0, 0]), np.array([1, 1, 1, 0, 0])
    true = np.array([1, 2, 0, 1, 0])
    assert verdicts(given, suggested, true).tolist() == ["right", "other", "kept", "wrong", "kept"]


@pytest.mark.slow(but="class-conditional-cannot judge-10")
@pytest.mark.parametrize("K", [2, 10, 100])
@pytest.mark.parametrize("verdict", VERDICTS)
@pytest.mark.parametrize("noise", ["symmetric", "class-conditional"])
def test_the_noise_model_is_shown_for_any_number_of_classes(
    make_run: MakeRun, verdict: str, noise: str, K: int
) -> None:
    run = with_classes(make_run, K)
    add_reliability(run, verdict, noise)
    page = page_of(run)
    told = verdict != "cannot judge"
    assert (f"The noise model is {noise} noise, for <this> reason." in page.text) == told
    alts = [attrs["aria-label"].replace("\u00a0", " ") for attrs in page.all("svg")]
    figure = [alt for alt in alts if "estimated label noise" in alt]
    free = told and noise == "class-conditional"
    assert len(figure) == free
    assert ("Which classes are taken for which" in page.text) == free
    assert ("23.4 % of class b are labelled a" in page.text) == free
    assert ("A label is wrong equally often in every class" in page.text) == (told and not free)
    if told and not free:
        names = "names the other class." if K == 2 else "names any other class equally often."
        assert f"and then {names}" in page.text
    if free:
        kept = np.diagonal(noise_matrix(K))
        assert "off the diagonal at most 23.4 % (b labelled a)" in figure[0]
        assert f"on it {100 * kept.min():.1f}" in figure[0]
        tables = [one for one in page.all("div") if "most frequent" in one.get("aria-label", "")]
        assert len(tables) == 1
        assert page.text.count("are labelled") in ([2] if K == 2 else [3, 4, 5])
    assert Path(run.url, "report.html").stat().st_size < 1_000_000


def with_classes(make_run: MakeRun, K: int) -> Run:
    """Return a run of K classes whose label stage stored what it needs alone."""
    run = make_run(noise=0.0)
    names = ("a", "b", *(f"class {k}" for k in range(2, K)))
    run.manifest = replace(run.manifest, class_names=names, num_classes=K)
    given = np.arange(N) % K
    run.write("inputs/labels", given)
    flags = np.arange(N) < 6
    suggested = np.where(flags, (given + 1) % K, given)
    for name, values in {
        "refurbished": suggested,
        "label_quality": np.linspace(0.01, 1.0, N),
        "suggested_label": suggested,
        "is_label_issue": flags,
    }.items():
        run.write(f"labels/{name}", values)
    losses = {"given": 1.0, "refurbished": 0.5}
    run.write_attributes("labels", {"summary": {"block_error": losses, "flips": 6}})
    return run


def test_confusions_are_the_largest_first_and_of_classes_that_have_labels(
    make_run: MakeRun,
) -> None:
    run = judged(make_run, "reliable", "class-conditional")
    T = np.full((10, 10), 0.001)
    T[3, 4], T[5, 6], T[7, 8], T[9, 0] = 0.3, 0.2, 0.01, 0.9
    run.write("labels/transition", T)
    reliability = read_reliability(run, run.attributes("labels")["summary"])
    assert reliability is not None
    pairs = confusions(reliability, np.arange(9))  # none is labelled 9
    assert len(pairs) == 9 * 9
    assert pairs[:3] == [(3, 4, 0.3), (5, 6, 0.2), (7, 8, 0.01)]
    names = [f"n{k}" for k in range(10)]
    said = [one.replace("\u00a0", " ") for one in confusion_sentences(pairs, names)]
    assert said == [
        "30.0 % of class n3 are labelled n4",
        "20.0 % of class n5 are labelled n6",
        "1.0 % of class n7 are labelled n8",  # three at least
    ]
    near = [(k, k + 1, 0.1) for k in range(8)]
    assert len(confusion_sentences(near, names)) == 5
    assert confusion_sentences([], names) == []
    assert len(confusion_rows(pairs, names)) == 5
    assert len(confusion_rows([(0, 1, 0.006)] * 50, names)) == 30


@pytest.mark.usefixtures("undrawn")
def test_class_conditional_noise_without_its_matrix_is_told_in_words_alone(
    make_run: MakeRun,
) -> None:
    run = judged(make_run, "reliable", "class-conditional")
    storage.remove_all(run.address("labels", "transition"))
    text = page_of(run).text
    assert "The noise model is class-conditional noise, for <this> reason." in text
    assert "are labelled" not in text


@pytest.mark.usefixtures("undrawn")
def test_a_run_of_an_older_version_has_no_such_section(make_run: MakeRun) -> None:
    run = make_run()
    add_labels(run)
    page = page_of(run)
    assert "How far to trust this" not in page.text
    assert "Leave-one-out accuracy" not in page.text[: page.text.rindex("Words used here")]
    assert "The noise model is" not in page.text
    assert "Wrong, by estimate 28.7 % of all labels" in page.text
    findings = read_findings(run)
    assert findings is not None
    assert findings.reliability is None
    assert findings.can_judge


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"verdict": "splendid"}, "the verdict 'splendid' is not one of reliable, weak, cannot"),
        ({"noise_interval": [0.1]}, "a reliability that cannot be read"),
        ({"chance": None}, "a reliability that cannot be read"),
    ],
)
def test_what_cannot_be_understood_is_refused_with_the_remedy(
    make_run: MakeRun, change: dict[str, Any], words: str
) -> None:
    run = judged(make_run, "weak", **{k: v for k, v in change.items() if k != "verdict"})
    if "verdict" in change:
        summary = run.attributes("labels")["summary"]
        summary["reliability"] |= change
        run.write_attributes("labels", {"summary": summary})
    with pytest.raises(StoreError, match=re.escape(words)):
        write_report(run)


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        ("symmetric noise, as asked for", "symmetric noise, as asked for"),
        ("the rate is given", "symmetric noise: the rate is given"),
        (
            "class-conditional noise is not better",
            "symmetric noise: class-conditional noise is not",
        ),
        ("symmetric: as asked for", "symmetric noise: as asked for"),
        ("", "symmetric noise"),
    ],
)
def test_the_noise_model_is_named_whatever_its_reason(
    make_run: MakeRun, reason: str, words: str
) -> None:
    run = judged(make_run, "weak")
    summary = run.attributes("labels")["summary"] | {"noise_reason": reason}
    reliability = read_reliability(run, summary)
    assert reliability is not None
    assert noise_words(reliability).startswith(words)
    assert noise_sentences(reliability, 3)[0].startswith(f"The noise model is {words}")


def test_a_noise_matrix_of_other_classes_is_refused(make_run: MakeRun) -> None:
    run = judged(make_run, "weak")
    run.write("labels/transition", np.eye(3))
    with pytest.raises(StoreError, match=r"transition: has shape \(3, 3\) for 10 classes"):
        write_report(run)


@pytest.mark.usefixtures("undrawn")
def test_the_table_of_settings_has_the_noise_model_and_the_interval(make_run: MakeRun) -> None:
    text = page_of(judged(make_run, "weak", "class-conditional")).text
    assert "Verdict weak Noise model class-conditional noise, for <this> reason" in text
    assert "Noise estimated 9.1 % of the given labels, 6.1 % to 12.3 % " in text
    assert "not to be relied on" not in text


def test_the_words_are_explained(make_run: MakeRun) -> None:
    html = read(write_report(make_run()))
    words = html[html.index("<summary>Words used here") :].partition("</dl>")[0]
    text = " ".join(re.findall("<dt>(.*?)</dt>", words)).lower()
    for word in (
        "leave-one-out accuracy",
        "class-conditional noise",
        "expected precision",
        "verdict",
    ):
        assert word in text


@pytest.mark.usefixtures("undrawn")
def test_flags_of_other_methods_have_the_precision_of_their_own(make_run: MakeRun) -> None:
    run = judged(make_run, "reliable", put_on=0.0)
    flags = run.read("labels", "is_label_issue")
    run.write("labels/label_quality", np.where(flags, 0.25, 0.9))
    assert "87.6 % are expected to be wrong" in page_of(run).text
    summary = run.attributes("labels")["summary"] | {"method": "exact"}
    run.write_attributes("labels", {"summary": summary})
    assert "75.0 % are expected to be wrong" in page_of(run).text


@pytest.mark.slow(but="cannot judge-False")
@pytest.mark.parametrize(("verdict", "told"), [("reliable", True), ("cannot judge", False)])
def test_other_sections_say_no_more_than_the_verdict_allows(
    make_run: MakeRun, verdict: str, told: bool
) -> None:
    run = judged(make_run, verdict, put_on=0.0)
    add_predictions(run)
    assert (read_section(run, "predict").more is not None) == told
    folder = Path(f"{run.url}-compare")
    folder.mkdir(exist_ok=True)
    row = {
        "architecture": str(run.architecture),
        "run": run.url,
        "name": "one",
        "accuracy": 0.5,
        "log_likelihood": -1.0,
        "block_error": 1.0,
        "separation": 1.0,
        "noise_rate": 0.2,
    }
    (folder / "compare.json").write_text(json.dumps({"architectures": [row, row]}))
    sentences = read_section(run, "compare").sentences
    assert any("are wrong by estimate" in one for one in sentences) == told


@pytest.mark.slow
def test_a_report_with_the_matrix_is_the_same_to_the_byte(
    make_run: MakeRun, tmp_path: Path
) -> None:
    run = judged(make_run, "reliable", "class-conditional")
    first = read(write_report(run))
    assert read(write_report(run, str(tmp_path / "again.html"))) == first
    assert "<this>" not in first
    assert "<reliable>" not in first
    ids = [attrs["id"] for _, attrs in Page(first).elements if "id" in attrs]
    assert len(ids) == len(set(ids))
