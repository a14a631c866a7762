"""The sentences, key numbers and facts of a report."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ntkdist import storage
from ntkdist.config import GramConfig
from ntkdist.data.features import feature_words
from ntkdist.display.words import (
    class_name,
    count,
    counted,
    duration,
    in_words,
    moment,
    number,
    percent,
    rate,
    size,
)
from ntkdist.events.history import Timeline
from ntkdist.networks.architecture import preset_of
from ntkdist.report.findings import (
    CLASS_CONDITIONAL,
    UNCLEAR,
    Discovery,
    Findings,
    Issue,
    Reliability,
    Spectrum,
    verdicts,
)
from ntkdist.runs.advice import flags_of_better_kernel
from ntkdist.runs.inputs import source_of
from ntkdist.runs.run import Run
from ntkdist.words import RELIABLE, WEAK

# Of labels flagged, the share that may be right where suggestions are taken unseen.
_SURE = 0.1
# Where labels of one's own are corrected, by the kind of source.
_WHERE = {
    "images": "by moving files into the folder of their class",
    "csv": "in the table that the images were read from",
    "npz": "in the archive that the data were read from",
}
# An effective rank below this says that the squared cosine of two images is above 1/4 on average.
_ALIKE = 4
# Confusions that are told in words: at least so many, and more while they are at least this
# share of the largest.
_FEWEST, _MOST, _NEAR_LARGEST = 3, 5, 0.2
# Rows of the table of confusions: at most so many, none below this share.
_ROWS, _LEAST = 30, 0.005


def title(run: Run, shape: tuple[int, ...]) -> str:
    """Return the page's title; ``shape`` is (N, H, W, C) of pictures, or (N, D) of features."""
    source = run.config.data.source
    scheme, _, place = source.partition(":")
    name = scheme if scheme.startswith("cifar") else PurePath(place).name or source
    return f"{name}: {counted(shape[0], 'image' if run.has_pictures else 'row')} and their labels"


def subtitle(run: Run, shape: tuple[int, ...]) -> str:
    """Return what the data are, in one line."""
    sides = " × ".join(str(side) for side in shape[1:])
    what = f"{counted(shape[0], 'image')} of {sides}"
    if not run.has_pictures:
        what = feature_words(*shape)
    elif run.manifest.is_features:
        what += f", seen by the kernel as {counted(run.shape[1], 'feature')} each"
    classes = counted(run.num_classes, "class", "classes")
    return f"{what} · {classes} · {run.config.data.split} split"


@dataclass(frozen=True)
class Trust:
    """How far to trust what a report says about labels.

    Attributes:
        verdict: ``reliable``, ``weak`` or ``cannot judge``.
        look: Class of the box in the style sheet.
        sentences: What the verdict means, and the numbers behind it.
        reason: Why it is that.
    """

    verdict: str
    look: str
    sentences: tuple[str, ...]
    reason: str


def trust(run: Run, findings: Findings | None, n: int) -> Trust | None:
    """Return how far to trust what follows; None where the run does not say."""
    reliability = None if findings is None else findings.reliability
    if findings is None or reliability is None:
        return None
    said = (
        verdict_sentence(reliability, ranking(run)),
        accuracy_sentence(reliability),
        estimate_sentence(reliability, n),
        _precision_sentence(findings),
    )
    return Trust(
        reliability.verdict,
        reliability.verdict.replace(" ", "-"),
        tuple(sentence for sentence in said if sentence),
        finished(reliability.reason),
    )


def _precision_sentence(findings: Findings) -> str:
    precision, flagged = findings.expected_precision, findings.num_issues
    if precision is None:
        return ""
    if flagged == 1:
        return f"The flagged label is wrong with an expected probability of {percent(precision)}."
    labels = counted(flagged, "flagged label")
    return f"Of the {labels}, {percent(precision)} are expected to be wrong."


def verdict_sentence(reliability: Reliability, ranking: str) -> str:
    """Return what the verdict means."""
    if reliability.verdict == RELIABLE and reliability.rate_was_set:
        return (
            "With the noise rate that was set, the kernel tells its own errors from wrong labels."
        )
    if reliability.verdict == RELIABLE:
        return "The kernel sees these classes well enough to tell its own errors from wrong labels."
    if reliability.verdict == WEAK:
        return (
            "Wrong labels cannot all be told from right ones: only the surest are listed. The "
            f"ranking of all labels is in {ranking}."
        )
    return (
        "Nothing is flagged and nothing is called clean: it cannot be told from this kernel and "
        "these labels which labels are wrong, nor how many."
    )


def accuracy_sentence(reliability: Reliability) -> str:
    """Return the leave-one-out accuracy beside chance."""
    return (
        f"The leave-one-out accuracy is {percent(reliability.accuracy)}; chance, which is to "
        f"name the largest class always, is {percent(reliability.chance)} (standard error "
        f"{percent(reliability.chance_error)})."
    )


def estimate_sentence(reliability: Reliability, n: int) -> str:
    """Return the estimated share of wrong labels with its interval; empty with cannot judge."""
    if not reliability.can_judge:
        return ""
    low, high = reliability.interval
    if reliability.rate_was_set:
        return f"The share of wrong labels was set to {percent(reliability.rate)}."
    likely = percent(reliability.rate) if reliability.rate * n >= 0.5 else "none"
    between = f"between {percent(low)} and {percent(high)} of the labels are wrong"
    if low == 0:
        between = f"at most {percent(high)} of the labels are wrong"
    return f"By estimate {between}, most likely {likely}."


def may_be_wrong(reliability: Reliability, n: int) -> str:
    """Return how many labels may be wrong, as a clause."""
    low, high = reliability.interval
    if reliability.rate_was_set:
        return f"the noise rate was set to {percent(reliability.rate)} and not estimated"
    first, last = round(low * n), max(round(high * n), 1)
    labels = counted(n, "label")
    if first == 0:
        return f"up to {last:,} of the {labels} ({percent(high)}) may be wrong"
    return (
        f"between {first:,} and {last:,} of the {labels} ({percent(low)} to {percent(high)}) "
        "are wrong by estimate"
    )


def interval_words(reliability: Reliability) -> str:
    """Return the interval of the noise rate as a note, ``6.2 % to 12.0 %``."""
    if reliability.rate_was_set:
        return "set, not estimated"
    return f"{percent(reliability.interval[0])} to {percent(reliability.interval[1])}"


def finished(text: str) -> str:
    """Return a text with a full stop at its end."""
    return text if text.endswith((".", "!", "?")) else f"{text}."


def noise_words(reliability: Reliability) -> str:
    """Return which noise model was taken and why: ``symmetric noise: the rate is given``."""
    kind = f"{reliability.noise} noise"
    reason = reliability.noise_reason.removeprefix(f"{reliability.noise}: ")
    if reason.startswith((f"{kind}:", f"{kind},")):
        return reason
    return f"{kind}: {reason}" if reason else kind


def noise_sentences(reliability: Reliability, num_classes: int) -> list[str]:
    """Return which noise model was taken, why, and what it says."""
    said = [finished(f"The noise model is {noise_words(reliability)}")]
    if reliability.noise == CLASS_CONDITIONAL:
        said.append(
            "Every class may be taken for some classes more often than for others; how often is "
            "estimated from the labels and the kernel."
        )
    else:
        other = "the other class" if num_classes == 2 else "any other class equally often"
        said.append(f"A label is wrong equally often in every class, and then names {other}.")
    return said


def confusion_sentences(pairs: Sequence[tuple[int, int, float]], names: Sequence[str]) -> list[str]:
    """Return the three to five largest confusions in words."""
    told = [
        one
        for place, one in enumerate(pairs[:_MOST])
        if place < _FEWEST or one[2] >= _NEAR_LARGEST * pairs[0][2]
    ]
    return [
        f"{percent(share)} of class {class_name(names, k)} are labelled {class_name(names, d)}"
        for k, d, share in told
    ]


def confusion_rows(
    pairs: Sequence[tuple[int, int, float]], names: Sequence[str]
) -> list[tuple[str, str, str]]:
    """Return (true class, given label, share) of the largest confusions, as a table has them."""
    return [
        (class_name(names, k), class_name(names, d), percent(share))
        for place, (k, d, share) in enumerate(pairs[:_ROWS])
        if place < _MOST or share >= _LEAST
    ]


def ranking(run: Run) -> str:
    """Return where the ranking of all labels is stored."""
    table = run.address("labels.csv")
    return "labels.csv" if storage.exists(table) else "the run (labels/label_quality)"


def summary(findings: Findings | None, n: int) -> list[str]:
    """Return what was found, as sentences with their numbers."""
    if findings is None:
        return ["The labels of this run have not been analysed yet."]
    issues, values = findings.num_issues, findings.block_error
    if not findings.can_judge:
        return _by_the_true_labels(findings)
    said = [none_flagged(findings, n)]
    if issues:
        verb = "looks" if issues == 1 else "look"
        said = [f"{count(issues)} of {counted(n, 'label')} ({percent(issues / n)}) {verb} wrong."]
    flips = findings.summary.get("flips")
    if flips and {"given", "refurbished"} <= values.keys():
        before, after = values["given"], values["refurbished"]
        verb = "lowered" if after < before else "raised"
        changing = f"labels {counted(flips, 'time')}"
        if findings.at_once:
            changing = counted(flips, "label")
        said.append(
            f"Changing {changing} {verb} the label error L(Z) from "
            f"{number(before, 4)} to {number(after, 4)}."
        )
    corrupted = findings.summary.get("corrupted")
    restored, accuracy, at_first = _shares(findings)
    if corrupted and restored is not None:
        verb = "label was" if corrupted == 1 else "labels were"
        said.append(
            f"{count(corrupted)} {verb} corrupted for this experiment; "
            f"{percent(restored)} of them are restored."
        )
    if accuracy is not None:
        before_text = "" if at_first is None else f", {percent(at_first)} before"
        said.append(f"Now {percent(accuracy)} of all labels are right{before_text}.")
    return said


def none_flagged(findings: Findings, n: int) -> str:
    """Return what it means that no label is flagged, where labels can be judged."""
    reliability = findings.reliability
    if reliability is None:
        return (
            f"None of the {counted(n, 'label')} is flagged; this run does not say how far to "
            "trust that."
        )
    if reliability.can_call_clean:
        most = percent(reliability.interval[1])
        return f"None of the {counted(n, 'label')} looks wrong, and at most {most} of them may be."
    sure = "sure enough to be flagged" if reliability.verdict == WEAK else "flagged"
    return f"No label is {sure}, but {may_be_wrong(reliability, n)}."


def _by_the_true_labels(findings: Findings) -> list[str]:
    """Return what is known without the kernel."""
    corrupted = findings.summary.get("corrupted")
    if not corrupted:
        return []
    verb = "label was" if corrupted == 1 else "labels were"
    return [f"{count(corrupted)} {verb} corrupted for this experiment."]


def key_numbers(findings: Findings | None, n: int) -> list[tuple[str, str, str]]:
    """Return (what, number, note) of what matters most."""
    if findings is None:
        return []
    reliability = findings.reliability
    tiles = []
    if reliability is not None:
        by_chance = f"{percent(reliability.chance)} by chance"
        tiles.append(("Leave-one-out accuracy", percent(reliability.accuracy), by_chance))
    if not findings.can_judge:
        return [*tiles, ("Wrong labels", "not known", "the labels cannot be judged")]
    tiles.append(("Suspicious labels", count(findings.num_issues), f"of {count(n)}"))
    estimate, note = findings.summary.get("noise_rate"), "of all labels"
    if reliability is not None:
        estimate, note = reliability.rate, interval_words(reliability)
    if estimate is not None:
        was_set = reliability is not None and reliability.rate_was_set
        what = "Wrong, as set" if was_set else "Wrong, by estimate"
        tiles.append((what, percent(estimate), note))
    values = findings.block_error
    if {"given", "refurbished"} <= values.keys():
        before = f"from {number(values['given'], 4)}; lower fits better"
        tiles.append(("Label error L(Z)", number(values["refurbished"], 4), before))
    restored, accuracy, at_first = _shares(findings)
    if restored is not None:
        corrupted = findings.summary.get("corrupted") or 0
        tiles.append(("Corrupted, restored", percent(restored), f"of {count(corrupted)}"))
    if accuracy is not None:
        note = "" if at_first is None else f"from {percent(at_first)}"
        tiles.append(("Labels that are right", percent(accuracy), note))
    return tiles


def loss_rows(findings: Findings) -> list[tuple[str, str, str, str]]:
    """Return (labels, L(Z), share of the given labels' L(Z), accuracy) for the table."""
    values = findings.block_error
    given = values.get("given")
    _, after, before = _shares(findings)
    accuracy = {"given": before, "refurbished": after, "true": 1.0}
    rows = []
    for name, value in values.items():
        share = percent(value / given) if given and given > 0 else "–"
        right = accuracy[name]
        rows.append((name, number(value), share, "" if right is None else percent(right)))
    return rows


def judgement(
    findings: Findings | None, given: NDArray[np.int64], true: NDArray[np.int64] | None
) -> str:
    """Return how good all suggestions are by the true labels; empty if those are not known."""
    if findings is None or true is None or not findings.num_issues:
        return ""
    flagged = findings.is_issue
    judged = verdicts(given[flagged], findings.suggested[flagged], true[flagged])
    right, other, wrong, kept = (
        int((judged == name).sum()) for name in ("right", "other", "wrong", "kept")
    )
    unclear = int((findings.suggested[flagged] == given[flagged]).sum())
    unnamed = ""
    if unclear:
        unnamed = (
            f"{count(wrong)} of {counted(unclear, 'flagged label')} without a suggestion "
            f"{'is' if wrong == 1 else 'are'} wrong, "
        )
    return (
        f"By the true labels, {count(right)} of "
        f"{counted(findings.num_issues - unclear, 'suggestion')} "
        f"{'is' if right == 1 else 'are'} right, {count(other)} "
        f"{'names' if other == 1 else 'name'} another wrong class, {unnamed}and in "
        f"{counted(kept, 'case')} the given label was right."
    )


def listing(
    run: Run, findings: Findings | None, issues: Sequence[Issue], files: bool, judged: str
) -> list[str]:
    """Return what is said above the list of suspicious labels, or of the head of the ranking."""
    if findings is None:
        return []
    shown, flagged = len(issues), findings.num_issues
    file = ", and the name of its file" if files else ""
    if not findings.can_judge:
        return _without_verdict(run, shown, file)
    reliability = findings.reliability
    said = []
    if reliability is not None and reliability.verdict == WEAK:
        all_in = f"the ranking of all labels is in {ranking(run)}"
        said = [f"Only the surest labels are listed; {all_in}."] if flagged else []
    if not flagged:
        return [none_flagged(findings, len(findings.quality))]
    if not shown:
        return [*said, f"{counted(flagged, 'label')} flagged; none is shown here.", judged]
    if flagged > shown:
        said.append(f"The {count(shown)} of least quality, of {count(flagged)} in all.")
    elif shown > 1:
        said.append(f"All {count(shown)}, least quality first.")
    if run.has_pictures:
        said.append(f"Each picture is captioned with the given label → the suggested one{file}.")
    said.append("Quality is the probability that the given label is right.")
    if any(issue.suggested == UNCLEAR for issue in issues):
        said.append(
            f"“{UNCLEAR}”: the given label is more probably wrong than right, but no other class "
            "is more probable than it."
        )
    return [*said, judged]


def _without_verdict(run: Run, shown: int, file: str) -> list[str]:
    """Return what is said above the head of a ranking that no verdict goes with."""
    said = ["Nothing is flagged and nothing is called clean."]
    if shown:
        rows = "images" if run.has_pictures else "rows"
        caption = ""
        if run.has_pictures:
            caption = f" Each picture is captioned with its given label{file}."
        said.append(
            f"Below is the head of the ranking, the {count(shown)} {rows} whose label the kernel "
            "finds least probable. That it stands here says neither that a label is wrong nor "
            f"that the others are right.{caption}"
        )
    return [*said, f"The ranking of all labels is in {ranking(run)}."]


def next_step(run: Run, findings: Findings | None) -> list[tuple[str, bool]]:
    """Return what to do with what was found, as (text, whether it is typed) in order."""
    if findings is None:
        return [("To resume it: ", False), (run.resume_command, True)]
    if not findings.can_judge:
        return _see_more(run)
    if not findings.num_issues:
        return _go_on_unflagged(run, findings)
    parts = [
        (
            f"Look through the {'pictures' if run.has_pictures else 'rows'} below, the most "
            "suspicious first, and note the labels that you agree are wrong.",
            False,
        )
    ]
    if storage.exists(run.address("labels.csv")):
        parts += [
            (" The full list, with a line and a suggestion for every image, is ", False),
            (run.address("labels.csv"), True),
            (f". {_trust(findings)}", False),
        ]
    return parts + _correct(run)


def _go_on_unflagged(run: Run, findings: Findings) -> list[tuple[str, bool]]:
    """Return what to do where labels can be judged and none is flagged."""
    reliability = findings.reliability
    if reliability is None:
        return [
            (
                "This run was made by a version that gave no verdict. Judge its labels again: ",
                False,
            ),
            (f"ntkdist labels {shlex.quote(run.url)}", True),
            (" and write this report again: ", False),
            (f"ntkdist report {shlex.quote(run.url)}", True),
        ]
    if reliability.can_call_clean:
        return [("There is nothing to correct: train on the labels as they are.", False)]
    text = "Look through the ranking of all labels from its head on, and stop where no more wrong "
    table = run.address("labels.csv")
    where = (table, True) if storage.exists(table) else (ranking(run), False)
    return [(f"{text}ones turn up: ", False), where]


def _see_more(run: Run) -> list[tuple[str, bool]]:
    """Return what may help where the labels cannot be judged."""
    url = shlex.quote(run.url)
    if not run.has_pictures:
        return [("More rows of every class, or features of another pretrained network.", False)]
    parts = [("More images of every class. ", False)]
    if flags := flags_of_better_kernel(run):
        parts += [
            ("A more accurate kernel for such images: ", False),
            (f"ntkdist run {url} {flags}", True),
            (". ", False),
        ]
    kind = "another" if run.manifest.is_features else "a"
    parts.append((f"Features of {kind} pretrained network, a row for each image: ", False))
    again = shlex.quote(f"{run.url}-features")
    command = f"ntkdist run {url} --run {again} --architecture fc-2 --data.features FILE.npy"
    return [*parts, (command, True)]


def _correct(run: Run) -> list[tuple[str, bool]]:
    """Return where labels are corrected and what to run then."""
    if run.config.noise.rate > 0:
        return [
            (
                " Here labels were made wrong for an experiment, so that none has to be "
                "corrected. For images of your own, in a folder for each class: ",
                False,
            ),
            ("ntkdist audit FOLDER", True),
        ]
    where = _WHERE.get(run.config.data.source.partition(":")[0], "in your copy of the data")
    again = f"ntkdist run {shlex.quote(run.url)} --run {shlex.quote(f'{run.url}-corrected')}"
    return [
        (f" Correct the labels {where}, then audit again, into a new run: ", False),
        (again, True),
    ]


def _trust(findings: Findings) -> str:
    """Say whether suggestions may be taken unseen, by the kernel's own estimate."""
    right = 1.0 - (findings.expected_precision or 0.0)
    verdict = RELIABLE if findings.reliability is None else findings.reliability.verdict
    if verdict == RELIABLE and right < _SURE:
        return "Where it is too long to look through, its suggestions may be taken as they are."
    if verdict != RELIABLE:
        return "The verdict is weak: look at every image before its label is changed."
    return (
        f"The kernel is not sure: by its own estimate {percent(right)} of the labels that it flags "
        "are right. Do not take its suggestions unseen."
    )


def discovery_sentences(discovery: Discovery) -> list[str]:
    """Return how much checking finds how many wrong labels."""
    n, flagged, total = discovery.images, discovery.flagged, discovery.total
    said = []
    if flagged:
        said.append(
            f"Checking the {counted(flagged, 'flagged label')} finds "
            f"{count(discovery.flagged_wrong)} of the {counted(total, 'wrong one')} "
            f"({percent(discovery.flagged_share)}); as many drawn at random find "
            f"{percent(flagged / n)}."
        )
    needed = discovery.checks_for(0.9)
    said.append(
        f"To find nine tenths of the {counted(total, 'wrong label')} one checks {count(needed)} "
        f"in the order of their quality, {count(round(0.9 * n))} at random."
    )
    return said


def spectrum_sentences(spectrum: Spectrum, ridge: float) -> list[str]:
    """Return what the eigenvalues say, with their figures."""
    alone = (
        "the smallest eigenvalue is lost in rounding"
        if spectrum.condition_alone is None
        else f"{number(spectrum.condition_alone, 3)} without it"
    )
    if spectrum.effective_rank < _ALIKE:
        seen = (
            "the kernel finds all images much alike, and classes differ in the many small "
            "eigenvalues that follow."
        )
    else:
        seen = "about so many patterns, each shared by many images, make up most of the kernel."
    if spectrum.fitted > spectrum.images / 2:
        fit = (
            "it could follow nearly every label, wrong ones too, which is why a label is judged by "
            "what the other images say"
        )
    else:
        fit = "it follows what many images share, and single odd labels hardly move it"
    return [
        f"Effective rank {number(spectrum.effective_rank, 3)} of "
        f"{counted(spectrum.images, 'image')}: {seen}",
        f"With the ridge of {number(ridge, 3)} a fit uses {number(spectrum.fitted, 4)} of "
        f"{count(spectrum.images)} directions: {fit}.",
        f"The condition number, by which rounding errors may grow, is "
        f"{number(spectrum.condition, 3)} ({alone}).",
    ]


def pairs_sentence(names: Sequence[str], pairs: Sequence[tuple[int, int]]) -> str:
    """Return which classes entangle most; empty where none do."""
    if not pairs:
        return ""
    said = [f"{class_name(names, k)} and {class_name(names, d)}" for k, d in pairs]
    return f"Most entangled, hardest to hold apart: {'; '.join(said)}."


def _shares(findings: Findings) -> tuple[float | None, float | None, float | None]:
    """Return share restored, accuracy after and before; None where true labels are not known."""
    names = ("restored_share", "accuracy_refurbished", "accuracy_given")
    restored, after, before = (findings.summary.get(name) for name in names)
    return restored, after, before


def facts(run: Run, timeline: Timeline, findings: Findings | None) -> list[tuple[str, str]]:
    """Return (term, description) of what was computed and with what."""
    config, manifest, data = run.config, run.manifest, run.config.data
    name = preset_of(run.architecture)
    architecture = in_words(run.architecture)
    noise = "none put on"
    if config.noise.rate > 0:
        noise = f"symmetric, {percent(config.noise.rate)} of the labels, seed {config.noise.seed}"
    drawn = (
        "all images" if config.data.n is None else f"{config.data.subset} {count(config.data.n)}"
    )
    if config.data.n is not None and config.data.subset != "first":
        drawn += f", seed {config.data.seed}"
    rows = [
        ("Data", f"{source_of(data)}, {data.split}, {drawn}, {data.preprocess}"),
        ("Reading the data", "; ".join(run.notes)),
        ("Label noise", noise),
        ("Architecture", f"{name}: {architecture}" if name else architecture),
        ("Kernels", _kernels(config.gram)),
        ("Backend", _backend(run)),
        ("Numbers", f"{config.gram.dtype} kernel, float64 factor"),
        *_labels(run, findings),
        *_tiles(timeline),
        ("Fingerprint", run.fingerprint[:12]),
        ("Created", moment(manifest.created)),
        ("Versions", ", ".join(f"{key} {value}" for key, value in manifest.versions.items())),
    ]
    return [(term, text) for term, text in rows if text]


def faults(timeline: Timeline) -> str:
    """Return in one or two sentences what went wrong while the matrix was computed."""
    if not (timeline.total or timeline.computed):
        return ""
    parts = []
    if timeline.interruptions:
        parts.append(f"{counted(timeline.interruptions, 'interruption')} by a signal")
    if timeline.worker_losses:
        parts.append(f"{counted(timeline.worker_losses, 'worker')} lost")
    if timeline.failures:
        parts.append(f"{counted(timeline.failures, 'failed attempt')} at a tile")
    began = f"The matrix was computed in {counted(timeline.starts, 'start')}"
    if timeline.resumes:
        resumed = f"{count(timeline.resumes)} of which resumed from stored tiles"
        began += f", {resumed}"
    if not parts:
        whole = "in one go" if timeline.starts == 1 else ""
        return f"The matrix was computed {whole}; nothing went wrong." if whole else f"{began}."
    kept = "what was finished was kept, and the rest was computed again."
    if timeline.given_up:
        kept = f"{counted(timeline.given_up, 'tile')} had to be given up."
    return f"{began}. There {_be(timeline, parts)} {', '.join(parts)}: {kept}"


def _be(timeline: Timeline, parts: list[str]) -> str:
    firsts = (timeline.interruptions, timeline.worker_losses, timeline.failures)
    return "was" if next(n for n in firsts if n) == 1 and len(parts) == 1 else "were"


def _kernels(settings: GramConfig) -> str:
    kinds = ", ".join(kind.upper() for kind in settings.kinds)
    return kinds if settings.invariance == "none" else f"{kinds}, averaged over horizontal flips"


def _backend(run: Run) -> str:
    name, reason = run.manifest.backend, run.manifest.reason
    if not reason or reason.startswith(name):
        return reason or name
    return f"{name} ({reason})"


def _labels(run: Run, findings: Findings | None) -> list[tuple[str, str]]:
    stored: dict[str, Any] = {} if findings is None else findings.summary
    labels = run.config.labels
    ridge = stored.get("ridge", run.config.factor.ridge)
    method, steps = stored.get("method", labels.method), stored.get("steps", labels.steps)
    beta = stored.get("beta", labels.beta)
    rows = [
        (
            "Labels",
            f"{method} method, {_limit(steps)}, β {number(beta)}, "
            f"ridge {ridge if ridge == 'auto' else number(ridge)} of the mean diagonal",
        )
    ]
    rows += _noise(findings)
    if stored.get("abstained"):
        rows.append(("No sure class", f"{count(stored['abstained'])} images"))
    if stored.get("stopped"):
        rows.append(("Changing labels", f"stopped: {stored['stopped']}"))
    if stored.get("left_out"):
        rows.append(("Left out of L(Z)", "; ".join(map(str, stored["left_out"]))))
    return rows


def _noise(findings: Findings | None) -> list[tuple[str, str]]:
    """Return the noise model, its rate with the interval, and the verdict."""
    if findings is None:
        return []
    reliability, rate_alone = findings.reliability, findings.summary.get("noise_rate")
    if reliability is None:
        if rate_alone is None:
            return []
        return [("Noise estimated", f"{percent(rate_alone)} of the given labels")]
    text = f"{percent(reliability.rate)} of the given labels, "
    text += interval_words(reliability)
    if not reliability.can_judge:
        text += "; not to be relied on, because the labels cannot be judged"
    return [
        ("Verdict", reliability.verdict),
        ("Noise model", noise_words(reliability)),
        ("Noise estimated", text),
    ]


def _limit(steps: int | str | None) -> str:
    if steps is None or steps == "none":
        return "until no change helps"
    if steps == "auto":
        return "stopped by the estimated noise"
    return f"at most {count(int(steps))} changes"


def _tiles(timeline: Timeline) -> list[tuple[str, str]]:
    rows = [("Cost", _cost(timeline))]
    if not (timeline.total or timeline.computed):
        return rows
    tiles = counted(timeline.done, "tile")
    if timeline.total:
        tiles = f"{count(timeline.done)} of {counted(timeline.total, 'tile')}"
    if timeline.edge:
        tiles += f" of {count(timeline.edge)} × {count(timeline.edge)}"
    if timeline.bytes:
        tiles += f", {size(timeline.bytes)} computed"
    workers = counted(timeline.workers, "worker") if timeline.workers else ""
    if timeline.executor:
        workers += f" ({timeline.executor})"
    rows += [("Tiles", tiles), ("Workers", workers)]
    if timeline.mean_rate is not None:
        speed = f"{rate(timeline.mean_rate)} {timeline.unit} over {duration(timeline.seconds)}"
        rows.append(("Throughput", speed))
    return rows


def _cost(timeline: Timeline) -> str:
    """Return the time of all processors together, as in ``3.2 core-hours``."""
    parts = []
    for device, shown in (("gpu", "GPU"), ("core", "core")):
        seconds = timeline.work.get(device)
        if seconds:
            unit, length = next(
                (unit, length)
                for unit, length in (("hours", 3600.0), ("minutes", 60.0), ("seconds", 1.0))
                if seconds >= length or unit == "seconds"
            )
            parts.append(f"{number(seconds / length, 3)} {shown}-{unit}")
    return " and ".join(parts) + " for all kernel entries" if parts else ""
