from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ntkdist import storage
from ntkdist.analyses import ReportSection, analyses, read_sections
from ntkdist.runs.run import Run
from tests.report.conftest import MakeRun, N, add_dynamics, add_networks, add_predictions

COMMANDS = ["predict", "dynamics", "widths", "sweep", "label-aware", "lookahead", "compare"]


def only(run: Run) -> ReportSection:
    (section,), _ = read_sections(run)
    return section


def said(section: ReportSection) -> str:
    return " ".join(section.sentences).replace("\u00a0", " ")


def test_a_run_that_was_asked_nothing_names_every_command(make_run: MakeRun) -> None:
    run = make_run()
    sections, questions = read_sections(run)
    assert sections == []
    assert [q.command for q in questions] == COMMANDS
    assert all(run.url in q.command_line(run) for q in questions)


@pytest.mark.slow
def test_predictions_are_told_with_and_without_refurbishment(make_run: MakeRun) -> None:
    run = make_run()
    add_predictions(run, "given", 0.9)
    first = only(run)
    assert "right about 90.0 % of 100 images of the split that the run leaves out" in said(first)
    assert first.more is not None
    assert first.more[0].endswith("--predict.labels refurbished")
    add_predictions(run, "refurbished", 0.95)
    both = only(run)
    assert "given labels that is 90.0 %, with the refurbished ones 95.0 %: 5.0 points more" in said(
        both
    )
    assert both.more is None
    assert [name for name, *_ in both.numbers][:2] == [
        "Accuracy, given labels",
        "Accuracy, refurbished labels",
    ]
    assert len(both.figures) == 3


def test_predictions_of_other_images_are_not_compared(make_run: MakeRun) -> None:
    run = make_run()
    add_predictions(run, "given", 0.9)
    add_predictions(run, "refurbished", 0.95)
    run.write_attributes("predict/given", {"on": "test-ffff"})
    section = only(run)
    assert "with the given labels" not in said(section).lower()
    notes = {name: note for name, _, note in section.numbers}
    assert notes["Accuracy, refurbished labels"] == "of 100"
    assert notes["Accuracy, given labels"] == "of 100 of the test split"


def test_predictions_of_an_older_version_lack_only_the_calibration(make_run: MakeRun) -> None:
    run = make_run()
    add_predictions(run)
    attributes = run.attributes("predict")
    folder = Path(run.url, "predict", "zarr.json")
    written = json.loads(folder.read_text())
    written["attributes"] = {k: v for k, v in attributes.items() if k != "bins"}
    folder.write_text(json.dumps(written))
    assert len(only(run).figures) == 2


@pytest.mark.slow
def test_dynamics_says_when_to_stop(make_run: MakeRun) -> None:
    run = make_run()
    add_dynamics(run)
    section = only(run)
    assert "Training should stop after 16.7 steps of size 0.5" in said(section)
    assert "87.1 % of 100 images of the split that the run leaves out are right" in said(section)
    assert "at the end 76.2 %" in said(section)
    assert section.more is not None
    assert "--gram.kinds ntk --gram.kinds nngp" in section.more[0]
    assert len(section.figures) == 3


@pytest.mark.slow
def test_the_uncertainty_of_the_ensemble_is_told(make_run: MakeRun) -> None:
    run = make_run()
    quarters = [0.01, 0.05, 0.1, 0.4]
    add_dynamics(run, {"disagreement_auc": 0.876, "errors_by_quarter": quarters})
    section = only(run)
    assert "with chance 0.876" in said(section)
    assert "least disagreement 1.0 % are wrong, of the quarter with the most 40.0" in said(section)
    assert section.more is None


@pytest.mark.slow
def test_training_without_an_end_needs_no_stopping(make_run: MakeRun) -> None:
    run = make_run()
    add_dynamics(run)
    run.write_attributes("dynamics", {"stopping_time": None})
    section = only(run)
    assert "Training may go on to the end" in said(section)
    assert ("Stop at step", "never", "") in section.numbers


@pytest.mark.slow
def test_networks_and_labels_are_told(make_run: MakeRun) -> None:
    run = make_run()
    add_networks(run)
    sections, questions = read_sections(run)
    by_name = {section.name: section for section in sections}
    assert list(by_name) == ["widths", "sweep-depth", "label-aware", "lookahead"]
    assert len(questions) == 3
    assert "width 128 has a kernel 17.7 % away" in said(by_name["widths"])
    assert by_name["widths"].rows[0][:2] == ("32", "0.354")
    depth = said(by_name["sweep-depth"])
    assert f"Of 3 values of depth, 6 predicts best: 72.0 % of {N} images" in depth
    assert "a label-aware one, kr-v1, for 86.0 %" in said(by_name["label-aware"])
    assert "30 labels chosen by eer" in said(by_name["lookahead"])
    assert "drawn at random, about 55.0 %" in said(by_name["lookahead"])
    for section in sections:
        for svg, caption in section.figures:
            assert 'role="img"' in svg
            assert "mathdefault" not in svg
            assert caption


@pytest.mark.slow
def test_of_values_that_predict_equally_well_all_are_named(make_run: MakeRun) -> None:
    run = make_run()
    add_networks(run)
    rows = run.attributes("sweep", "depth")["rows"]
    for row in rows[:2]:
        row["accuracy"] = 0.8
    run.write_attributes("sweep/depth", {"rows": rows})
    section = next(one for one in read_sections(run)[0] if one.name == "sweep-depth")
    assert "3 and 6 predict best: 80.0 %" in said(section)


@pytest.mark.slow
def test_a_plain_kernel_that_is_not_beaten_is_said_to_be_so(make_run: MakeRun) -> None:
    run = make_run()
    add_networks(run)
    kernels = run.attributes("label_aware")["kernels"]
    kernels[1]["accuracy"] = kernels[0]["accuracy"]
    run.write_attributes("label_aware", {"kernels": kernels})
    section = next(one for one in read_sections(run)[0] if one.name == "label-aware")
    assert "no label-aware one does better" in said(section)


def beside(run: Run, make_run: MakeRun, **config: Any) -> list[dict[str, Any]]:
    """Put two runs and compare.json where ``ntkdist compare`` leaves them."""
    rows = []
    for name, accuracy in (("fc-2", 0.7), ("cnn-2", 0.8)):
        other = make_run(architecture=name, **config)
        place = storage.join(f"{run.url}-compare", name)
        Path(place).parent.mkdir(exist_ok=True)
        Path(other.url).rename(place)
        moved = Run(place, other.manifest, other.config)
        moved.write("compare/points", np.random.default_rng(0).normal(size=(N, 2)))
        rows.append(
            {"name": name, "run": f"elsewhere/{name}", "accuracy": accuracy, "separation": 1.4,
             "log_likelihood": -1.5, "block_error": 0.3}
        )  # fmt: skip
    storage.write_text(f"{run.url}-compare/compare.json", json.dumps({"architectures": rows}))
    return rows


def test_architectures_compared_on_the_same_data_are_told(make_run: MakeRun) -> None:
    run = make_run()
    beside(run, make_run)
    section = only(run)
    assert "Of 2 architectures, cnn-2 suits the data best" in said(section)
    assert [row[0] for row in section.rows] == ["fc-2", "cnn-2"]
    assert len(section.figures) == 2


@pytest.mark.parametrize(
    ("known", "estimated", "words"),
    [
        (0.3, 0.1, "30.0 % of these labels were made wrong, which limits accuracy to about 70.0 %"),
        (
            0.0,
            0.1,
            "10.0 % of these labels are wrong by estimate, which limits accuracy to about 90.0 %",
        ),
        (0.0, 0.001, ""),
    ],
)
def test_what_noise_leaves_to_accuracy_is_said(
    make_run: MakeRun, known: float, estimated: float, words: str
) -> None:
    run = make_run(noise=known)
    rows = beside(run, make_run, noise=known)
    rows = [{**row, "noise_rate": estimated} for row in rows]
    storage.write_text(f"{run.url}-compare/compare.json", json.dumps({"architectures": rows}))
    text = said(only(run))
    assert words in text if words else "limits accuracy" not in text


def test_a_comparison_on_other_labels_is_not_shown(make_run: MakeRun) -> None:
    run = make_run()
    beside(run, make_run, noise=0.1)
    assert read_sections(run)[0] == []


def test_a_torn_comparison_is_not_shown(make_run: MakeRun) -> None:
    run = make_run()
    storage.write_text(f"{run.url}-compare/compare.json", '{"architectures": [')
    assert read_sections(run)[0] == []


@pytest.mark.parametrize("name", [one.group for one in analyses() if one.sections is not None])
def test_half_written_results_count_as_missing(make_run: MakeRun, name: str) -> None:
    run = make_run()
    run.write_attributes(name, {"on": "rest"})
    assert read_sections(run)[0] == []
