"""CNTK-GAP by depth: what is finished is kept, what is not goes on, nothing else is mixed in."""

import json
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from ntkdist import kernel_matrix
from ntkdist.data import Preprocessor, load, select
from ntkdist.learning import KernelRegression, accuracy

TABLES = Path(__file__).parents[1] / "jobs" / "tables"


@pytest.fixture
def depths(monkeypatch):
    """Return the script as a module, with small tiles."""
    monkeypatch.syspath_prepend(str(TABLES))
    monkeypatch.setattr(sys, "argv", ["depths.py"])
    import depths

    monkeypatch.setattr(depths, "BLOCK", 12)
    return depths


@pytest.fixture
def data(tmp_path):
    """Write images of three classes that differ in brightness."""
    rng, arrays = np.random.default_rng(0), {}
    for split, n in (("train", 60), ("test", 36)):
        labels = np.arange(n) % 3
        noise = rng.integers(0, 120, (n, 4, 5, 3))
        arrays[f"x_{split}"] = (noise + 40 * labels[:, None, None, None]).astype(np.uint8)
        arrays[f"y_{split}"] = labels
    path = tmp_path / "images.npz"
    np.savez(path, **arrays)
    return path


@pytest.fixture
def call(depths, data, tmp_path, capsys):
    """Return a function that runs the script and returns exit code, output and errors."""

    def run(*words, train=40, test=30, at="3"):
        given = ["--data", str(data), "--train", str(train), "--test", str(test), "--depths", at]
        given += ["--backend", "cpu", "--output", str(tmp_path / "out" / "depths.json"), *words]
        sys.argv = ["depths.py", *given]
        with pytest.raises(SystemExit) as ended:
            depths.main()
        return (ended.value.code, *capsys.readouterr())

    return run


@pytest.fixture
def output(tmp_path):
    return tmp_path / "out" / "depths.json"


@pytest.fixture
def limit(depths, monkeypatch):
    """Return a function that lets so many blocks of rows be computed."""

    def blocks(count):
        class Clock:
            left = count

            def __init__(self, seconds):
                pass

            def allows(self, seconds):
                self.left -= 1
                return self.left >= 0

        monkeypatch.setattr(depths, "Clock", Clock)

    return blocks


def expected(data, depth):
    """Return the accuracy in percent, computed in one piece."""
    whole, held = load(f"npz:{data}", "train"), load(f"npz:{data}", "test")
    train = whole.take(select(whole.labels, 40, "balanced", 0))
    test = held.take(select(held.labels, 30, "balanced", 0))
    prepare = Preprocessor.fit(whole.images, "standardize").apply
    x, y = prepare(train.images), prepare(test.images)
    name = f"cntk-gap-{depth}"
    model = KernelRegression.fit(kernel_matrix(name, x, backend="cpu"), train.labels, 3)
    found = model.predict(kernel_matrix(name, y, x, backend="cpu"))
    return 100 * accuracy(found, test.labels)


def test_depths_of_several_runs_stand_in_one_file(call, output, data):
    assert call(at="4")[0] == 0
    (first,) = json.loads(output.read_text())["rows"]
    code, said, progress = call(at="3,4")
    assert code == 0
    found = json.loads(output.read_text())
    assert [row["depth"] for row in found["rows"]] == [3, 4]
    assert found["rows"][1] == first
    assert "cntk-gap-4" not in progress
    for row in found["rows"]:
        assert row["accuracy"] == pytest.approx(expected(data, row["depth"]))
        assert row["entries"] == 40 * 41 // 2 + 30 * 40
        assert row["us_per_entry"] == pytest.approx(1e6 * row["seconds"] / row["entries"])
        assert row["published"] is row["near"] is None  # these are other images
        assert f"| {row['depth']} |  | {row['accuracy']:.2f} |" in said
    assert list(output.parent.iterdir()) == [output]


def test_packed_images_give_the_same_results(call, output, data, tmp_path):
    small = tmp_path / "small.npz"
    assert call("--pack", str(small))[0] == 0
    assert not output.exists()
    assert call()[0] == 0
    found = json.loads(output.read_text())
    assert small.stat().st_size < data.stat().st_size
    assert load(f"npz:{small}", "train").images.dtype == np.uint8
    code, _, progress = call("--data", str(small))
    assert code == 0
    assert "cntk-gap-3" not in progress  # these are the images it has results of
    assert json.loads(output.read_text()) == found
    code, _, error = call("--data", str(small), train=30)
    assert code == 2
    assert "packed with 40 training and 30 test images, not 30 and 30" in error


def test_what_the_limit_cut_short_goes_on_with_the_same_bits(
    call, output, depths, limit, monkeypatch
):
    judged, judge = [], depths.judge

    def noted(task, depth, gram, cross):
        judged.append((gram.values.copy(), cross.values.copy()))
        return judge(task, depth, gram, cross)

    monkeypatch.setattr(depths, "judge", noted)
    limit(3)
    code, _, progress = call()
    assert code == 1
    assert progress.splitlines()[-2].startswith("cntk-gap-3 Gram: 36 of 40 rows")
    assert "the limit came before depth 3; the same command goes on" in progress
    assert not output.exists()
    limit(3)
    code, _, progress = call()
    assert code == 1
    assert progress.startswith("cntk-gap-3 Gram: 40 of 40 rows")
    assert "test: 24 of 30" in progress
    limit(99)
    code, _, progress = call()
    assert code == 0
    assert progress.startswith("cntk-gap-3 test: 30 of 30 rows")
    output.unlink()
    call()
    resumed, undisturbed = judged
    for found, right in zip(resumed, undisturbed, strict=True):
        assert (found == right).all()


def test_rows_of_other_images_or_a_damaged_file_are_not_used(call, output, limit, data):
    limit(2)
    call()
    (kept,) = output.parent.glob("*.npz")
    limit(2)
    code, _, progress = call("--seed", "1")
    assert code == 1
    assert progress.startswith("cntk-gap-3 Gram: 12 of 40 rows")
    kept.write_bytes(kept.read_bytes()[:-30])
    limit(99)
    code, _, progress = call("--seed", "1")
    assert code == 0
    assert progress.startswith("cntk-gap-3 Gram: 12 of 40 rows")


def test_results_of_other_settings_are_refused_until_they_may_go(call, output):
    call()
    before = output.read_bytes()
    code, said, error = call(train=30)
    assert (code, said, output.read_bytes()) == (2, "", before)
    assert "holds results with other train, data; name another --output" in error
    assert call("--replace", train=30, at="4")[0] == 0
    (row,) = json.loads(output.read_text())["rows"]
    assert row["depth"] == 4


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--data", "nowhere.npz"], "nowhere.npz does not exist"),
        (["--data", ""], "no images are named"),
        (["--depths", "3,x"], "'3,x': numbers joined by commas"),
        (["--depths", "1"], "cntk-gap-1"),
        (["--train", "61"], "there are only 60"),
        (["--test", "37"], "there are only 36"),
        (["--seconds", "0"], "must be more than 0"),
    ],
)
def test_bad_input_is_named_and_nothing_is_written(call, output, words, message):
    code, said, error = call(*words)
    assert (code, said, len(error.splitlines())) == (2, "", 1)
    assert message in error
    assert not output.exists()


def test_a_file_of_something_else_is_left_alone(call, output):
    output.parent.mkdir()
    output.write_text('{"rows": 3}')
    code, _, error = call()
    assert code == 2
    assert "holds no results of depths.py" in error
    assert output.read_text() == '{"rows": 3}'


def test_published_numbers_stand_beside_what_they_are_about(depths):
    def task(shape, classes=10):
        images = np.zeros(shape, np.float32)
        return depths.Task(images, None, images, None, classes, None, None)

    assert task((2000, 32, 32, 3)).published(11) == 51.92
    assert task((2000, 32, 32, 3)).published(5) is None
    assert task((1999, 32, 32, 3)).published(11) is None
    assert task((2000, 32, 32, 3), 100).published(11) is None


def test_rows_added_by_several_threads_are_all_kept(depths, tmp_path):
    settings = depths.Settings(40, 30, 0, "cpu-1", "abc")
    path = tmp_path / "depths.json"
    threads = [
        threading.Thread(
            target=depths.add, args=(path, settings, {"depth": k}, {}), kwargs={"replace": False}
        )
        for k in range(12)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [row["depth"] for row in depths.rows_of(path, settings)] == list(range(12))


@pytest.mark.slow
def test_a_gpu_computes_all_depths_in_one_pass(gpu, call, output, limit, depths, data, monkeypatch):
    monkeypatch.setattr(depths, "BLOCK", 3)
    given = {"train": 6, "test": 3, "at": "3,5"}
    assert call("--backend", "cpu", **given)[0] == 0
    alone = json.loads(output.read_text())["rows"]
    output.unlink()
    limit(1)
    code, _, progress = call("--backend", "cuda", **given)
    assert code == 1
    assert "cntk-gap-3, cntk-gap-5 Gram: 3 of 6 rows" in progress
    limit(99)
    code, _, progress = call("--backend", "cuda", **given)
    assert code == 0
    assert progress.startswith("cntk-gap-3, cntk-gap-5 Gram: 6 of 6 rows")
    together = json.loads(output.read_text())["rows"]
    assert [row["depth"] for row in together] == [3, 5]
    assert [row["accuracy"] for row in together] == [row["accuracy"] for row in alone]
