"""Every example is run, and what it prints is looked at.

Three are started as a person would, each in a process of its own; the others here, where all that
they import is loaded already.
"""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "jobs" / "examples"


def started(name: str, *arguments: object, folder: Path) -> str:
    """Return what an example prints as a process of its own."""
    done = subprocess.run(
        [sys.executable, EXAMPLES / name, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=folder,
    )
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr
    assert list(folder.iterdir()) == []  # nothing is left in the folder it is started from
    return done.stdout


@pytest.fixture
def printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """Return a function that returns what an example prints in this process."""

    def run(name: str, *arguments: object) -> str:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        assert list(tmp_path.iterdir()) == []
        return capsys.readouterr().out

    return run


def numbers(text: str, name: str) -> list[float]:
    return [float(found) for found in re.findall(rf"{name}: (\d\.\d+)", text)]


@pytest.mark.slow
def test_audit_finds_the_labels_that_were_spoiled(tmp_path: Path) -> None:
    text = started("audit_labels.py", 300, 0.1, folder=tmp_path)
    assert numbers(text, "precision at 10")[0] >= 0.9
    assert numbers(text, "precision at 30")[0] >= 0.7  # by chance 0.1
    given, suggested = map(float, re.findall(r"(\d\.\d+) (?:given|suggested)", text))
    assert given == 0.9
    assert suggested > 0.95


@pytest.mark.slow
def test_a_table_of_own_images_is_audited_in_one_command(tmp_path: Path) -> None:
    text = started("own_images.py", 1500, 0.1, folder=tmp_path)
    assert "the 10 most suspicious" in text
    assert numbers(text, "precision at 150")[0] >= 0.5  # by chance 0.1


@pytest.mark.slow
def test_predictions_are_far_better_than_chance(printed: Callable[..., str]) -> None:
    text = printed("predict.py", 200, 100)
    assert 0.7 < numbers(text, "accuracy")[0] < 1
    assert "of 100 images" in text


@pytest.mark.slow
def test_architectures_are_ranked(printed: Callable[..., str]) -> None:
    text = printed("compare_architectures.py", 150, "fc-2", "cnn-2")
    found = numbers(text, "leave-one-out accuracy")
    assert len(found) == 2
    assert found == sorted(found, reverse=True)
    assert found[-1] > 0.7


@pytest.mark.slow
def test_exported_files_hold_what_the_store_holds(printed: Callable[..., str]) -> None:
    text = printed("export.py")
    assert re.findall(r"wrote .*K\.(\w+)", text) == ["npy", "npz", "h5", "safetensors"]
    assert "shape: (300, 300), equal to the store: True" in text


@pytest.mark.slow
def test_scikit_learn_agrees_with_kernel_regression_on_the_stored_kernel(
    printed: Callable[..., str],
) -> None:
    text = printed("sklearn_kernels.py", 200, 100)
    found = numbers(text, "accuracy")
    assert len(found) == 3
    assert min(found) > 0.7
    assert max(found) - min(found) < 0.15


@pytest.mark.slow
def test_cleanlab_agrees_on_the_probabilities_of_a_run(printed: Callable[..., str]) -> None:
    text = printed("cleanlab_from_run.py", 300, 0.1)
    ours, theirs, both = map(int, re.findall(r"(\d+)(?: label|, | are)", text)[:3])
    assert 20 <= ours <= 40
    assert 20 <= theirs <= 45
    assert both <= min(ours, theirs)
    assert numbers(text, "agreement")[0] > 0.7


@pytest.mark.slow
def test_a_run_on_ray_goes_on_where_it_was_stopped(tmp_path: Path) -> None:
    text = started("cluster_run.py", "--n", 200, folder=tmp_path)
    first, second = map(int, re.findall(r"(\d+) tiles before the stop, (\d+) after it", text)[0])
    assert first + second == 10
    assert 3 <= first < 10
    assert "none twice: True" in text
    assert "gram, factor, labels, report done>" in text


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_every_example_says_how_it_is_started_and_is_run_here(path: Path) -> None:
    assert f"python jobs/examples/{path.name}" in path.read_text(encoding="utf-8")
    assert re.search(rf'(printed|started)\("{path.name}"', Path(__file__).read_text("utf-8"))
