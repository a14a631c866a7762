"""The table of kernels by accuracy and cost, on small sets that are made here."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from ntkdist import kernel_matrix
from ntkdist.data import Preprocessor, load, select
from ntkdist.events.types import TileDone
from ntkdist.learning import KernelRegression, accuracy, sweep_ridge

TABLES = Path(__file__).parents[1] / "jobs" / "tables"
N, M = 40, 24
SMALL = ("--n", str(N), "--test", str(M), "--depths", "3", "--half-widths", "1", "--tile", "16")


@pytest.fixture
def table(monkeypatch):
    """Return the script as a module; it and its neighbours are forgotten afterwards."""
    monkeypatch.syspath_prepend(str(TABLES))
    before = set(sys.modules)
    import cifar10_kernels

    yield cifar10_kernels
    for name in set(sys.modules) - before:
        if Path(getattr(sys.modules[name], "__file__", None) or "").parent == TABLES:
            del sys.modules[name]


@pytest.fixture
def data(tmp_path):
    """A folder with two sets of images of three classes that differ in brightness."""
    folder = tmp_path / "data"
    folder.mkdir()
    for seed, name in enumerate(("cifar10", "fashion_mnist")):
        rng, arrays = np.random.default_rng(seed), {}
        for split, n in (("train", 60), ("test", 36)):
            labels = np.arange(n) % 3
            noise = rng.integers(0, 150, (n, 5, 6, 3))
            arrays[f"x_{split}"] = (noise + 30 * labels[:, None, None, None]).astype(np.uint8)
            arrays[f"y_{split}"] = labels
        np.savez(folder / f"{name}.npz", **arrays)
    return folder


@pytest.fixture
def call(table, data, tmp_path, monkeypatch, capsys):
    """Return a function that runs the script and returns exit code, output and errors."""

    def run(*words):
        given = ["--data", str(data), "--out", str(tmp_path / "out")]
        given += ["--cache", str(tmp_path / "cache"), *SMALL, *words]
        monkeypatch.setattr(sys, "argv", [str(TABLES / "cifar10_kernels.py"), *given])
        with pytest.raises(SystemExit) as ended:
            table.main()
        return (ended.value.code, *capsys.readouterr())

    return run


@pytest.fixture
def rows(tmp_path):
    """Return a function that reads the rows that are stored, by their names."""

    def read():
        record = json.loads((tmp_path / "out" / "cifar10_kernels.json").read_text())
        names = ("set", "architecture", "recipe", "invariance")
        return {" ".join(row[name] for name in names): row for row in record["rows"]}

    return read


def expected(data, row):
    """Accuracy, ridge and leave-one-out accuracy, computed in memory."""
    train, test = (load(f"npz:{data}/{row['set']}.npz", split) for split in ("train", "test"))
    mirrored = row["invariance"] == "flip"
    prepare = Preprocessor.fit(train.images, row["recipe"], mirrored=mirrored).apply
    train = train.take(select(train.labels, N, "balanced", 0))
    test = test.take(select(test.labels, M, "balanced", 0))
    x, z = prepare(train.images), prepare(test.images)
    network, flips = row["architecture"], row["invariance"]
    gram = kernel_matrix(network, x, invariance=flips)
    sweep = sweep_ridge(gram, train.labels, 3)
    model = KernelRegression.fit(gram, train.labels, 3, ridge=sweep.best.ridge)
    found = model.predict(kernel_matrix(network, z, x, invariance=flips))
    right = accuracy(found, test.labels)
    return 100 * right, sweep.best.ridge, 100 * sweep.best.accuracy


@pytest.mark.slow
def test_every_row_is_computed_once_and_has_the_accuracy_of_its_kernel(call, rows, data, tmp_path):
    code, said, told = call()
    assert code == 0
    found = rows()
    networks = ("cntk-v-3", "cntk-lap-3-1", "cntk-gap-3")
    recipes = ("standardize", "contrast+zca=0.1")
    assert set(found) == {
        f"cifar10 {network} {recipe} {flips}"
        for network in networks
        for recipe in recipes
        for flips in ("none", "flip")
    }
    for row in found.values():
        assert (row["n"], row["test"], row["entries"]) == (N, M, N * (N + 1) // 2 + N * M)
        assert (row["accuracy"], row["ridge"], row["leave_one_out"]) == pytest.approx(
            expected(data, row)
        )
        assert row["core_hours"] > 0
        assert row["core_us_per_entry"] == pytest.approx(3.6e9 * row["core_hours"] / row["entries"])
        assert row["published"] is None  # these are not the published images
        assert row["arithmetic"].startswith("cpu-")
    assert "cntk-lap-3-1 contrast+zca=0.1 flip" in said
    assert "0 of 12 rows are stored" in told
    assert (tmp_path / "out" / "cifar10_kernels.svg").stat().st_size > 0
    code, said, told = call()
    assert (code, rows()) == (0, found)
    assert "12 of 12 rows are stored" in told
    assert "tiles" not in told


@pytest.mark.slow
def test_rows_are_chosen_by_words_and_sets_are_added_to_the_same_file(call, rows):
    assert call("--only", "cntk-v-3 none", "lap flip")[0] == 2  # no row has the word lap
    assert call("--only", "cntk-v-3 none", "cntk-lap-3 flip standardize")[0] == 0
    assert set(rows()) == {
        "cifar10 cntk-v-3 standardize none",
        "cifar10 cntk-v-3 contrast+zca=0.1 none",
        "cifar10 cntk-lap-3-1 standardize flip",
    }
    code, _, told = call("--sets", "fashion_mnist", "--networks", "fc-2", "--only", "none")
    assert code == 0
    assert "0 of 2 rows are stored" in told
    assert len(rows()) == 5
    assert "fashion_mnist fc-2 standardize none" in rows()


def test_what_matches_no_row_is_refused(call):
    code, _, told = call("--only", "cntk-v-9")
    assert code == 2
    assert "--only 'cntk-v-9' matches none of the 12 rows" in told
    code, _, told = call("--recipes", "zca=0")
    assert code == 2
    assert "ε must be a number" in told


def test_costs_are_timed_again_and_nothing_else_changes(call, rows, table, monkeypatch):
    call("--only", "cntk-v-3 standardize")
    before = rows()
    monkeypatch.setattr(table, "MEASURED", 1e-3)
    monkeypatch.setattr(table, "TIMED", 3)
    code, said, _ = call("--time")
    assert code == 0
    assert "cntk-v-3" in said
    assert set(rows()) == set(before)
    for name, row in rows().items():
        assert row["timed_alone"]
        assert not before[name]["timed_alone"]
        cost = row["core_us_per_entry"]
        assert cost != before[name]["core_us_per_entry"]
        assert row["core_hours"] == pytest.approx(cost * row["entries"] / 3.6e9)
        assert row["accuracy"] == before[name]["accuracy"]


def test_the_list_tells_what_is_stored_and_computes_nothing(call, rows, table, monkeypatch):
    call("--only", "cntk-v-3 standardize none")
    monkeypatch.setattr(table, "MEASURED", 1e-4)
    code, said, _ = call("--list", "--invariances", "none", "--recipes", "standardize")
    assert code == 0
    lines = {line.split("│")[1].strip(): line for line in said.splitlines() if "cntk" in line}
    assert "stored" in lines[f"cifar10 {N} cntk-v-3 standardize"]
    assert "stored" not in lines[f"cifar10 {N} cntk-gap-3 standardize"]
    assert len(rows()) == 1


@pytest.mark.slow
def test_a_row_that_was_killed_goes_on_where_it_was(call, rows, table, tmp_path, monkeypatch):
    class Killed(BaseException):
        pass

    class Watch(table.GramProgress):
        """Counts tiles; dies at one of them, as the process does."""

        done: ClassVar[list[str]] = []
        left = 3

        def __call__(self, event):
            if isinstance(event, TileDone):
                if len(self.done) == self.left:
                    raise Killed
                self.done.append(event.key)

    monkeypatch.setattr(table, "GramProgress", Watch)
    chosen = ("--only", "cntk-lap-3-1 standardize none")
    # 40 images are 6 tiles, and 24 of them with these 6 more
    for _ in range(2):
        with pytest.raises(Killed):
            call(*chosen)
        assert not (tmp_path / "out" / "cifar10_kernels.json").exists()
        Watch.left += 4
    assert call(*chosen)[0] == 0
    assert len(Watch.done) <= 12
    assert len(rows()) == 1


def test_a_row_that_fails_does_not_keep_others_from_being_computed(call, rows):
    code, _, told = call("--networks", "cntk-v-3", "--recipes", "halve", "standardize")
    assert code == 1
    assert "cannot be halved" in told
    assert set(rows()) == {
        "cifar10 cntk-v-3 standardize none",
        "cifar10 cntk-v-3 standardize flip",
    }


def test_a_file_of_something_else_is_left_alone(call, tmp_path):
    (tmp_path / "out").mkdir()
    path = tmp_path / "out" / "cifar10_kernels.json"
    path.write_text('{"rows": [{"set": "mnist"}]}')
    code, _, told = call()
    assert code == 2
    assert "holds no rows of this table; name another --out" in told
    assert path.read_text() == '{"rows": [{"set": "mnist"}]}'


def test_published_accuracies_are_of_the_same_rows_alone(table):
    def published(**changes):
        values = {"set": "cifar10", "n": 2000, "test": 2000, "seed": 0, "recipe": "standardize"}
        values |= {"architecture": "cntk-gap-6", "invariance": "none"}
        return table.Row.of(values | changes).published

    assert published() == 51.73
    assert published(architecture="cntk-v-11") == 43.42
    for changes in (
        {"architecture": "cntk-lap-6-4"},
        {"architecture": "cntk-gap-5"},
        {"n": 1000},
        {"recipe": "contrast+zca=0.1"},
        {"invariance": "flip"},
        {"set": "fashion_mnist"},
    ):
        assert published(**changes) is None


def test_the_pool_over_all_pixels_is_left_out_above_a_number_of_images(table):
    def named(*words):
        given = table.parser().parse_args(["--data", ".", *words])
        return [(row.n, row.architecture) for row in table.rows_of(given)]

    assert {n for n, name in named() if name.startswith("cntk-gap")} == {2000}
    assert {n for n, name in named() if name.startswith("cntk-lap")} == {2000, 10_000}
    assert (10_000, "cntk-gap-4") in named("--networks", "cntk-gap-4")
    assert len(named("--only", "10000 cntk-lap-6 flip")) == 8
