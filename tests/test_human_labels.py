"""The table of wrong labels that people gave, on a small set that is made here."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ntkdist.data import symmetric

TABLES = Path(__file__).parents[1] / "jobs" / "tables"
N, K, D = 150, 10, 12
RATES = {"aggre": 0.1, "random1": 0.2, "worse": 0.4}


@pytest.fixture(autouse=True)
def tables(monkeypatch):
    """Put the folder of the scripts on the path, and forget them with it."""
    monkeypatch.syspath_prepend(str(TABLES))
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if Path(getattr(sys.modules[name], "__file__", None) or "").parent == TABLES:
            del sys.modules[name]


@pytest.fixture
def data(tmp_path):
    """Write features of ten well separated classes, their images, true and wrong labels."""
    pytest.importorskip("cleanlab")
    rng, folder = np.random.default_rng(0), tmp_path / "data" / "cifar10_full"
    folder.mkdir(parents=True)
    true = (np.arange(2000) % K).astype(np.uint8)
    features = 4 * np.eye(K, D)[true[:N]] + rng.normal(0, 0.5, (N, D))
    np.savez(folder.parent / "cifar10_features.npz", features=features.astype(np.float16))
    np.savez(folder / "labels.npz", y_train=true)
    given = {name: symmetric(true, K, rate, 0)[0].astype(np.uint8) for name, rate in RATES.items()}
    np.savez(folder / "human_labels.npz", **given)
    mosaic = np.zeros((40 * 32, 50 * 32, 3), np.uint8)
    for place in range(N):
        row, column = divmod(place, 50)
        mosaic[32 * row : 32 * row + 32, 32 * column : 32 * column + 32] = picture(place)
    Image.fromarray(mosaic).save(folder / "train-00000.webp", lossless=True)
    return folder.parent


def picture(place):
    """Return an image whose class decides its left half, and its place the rest."""
    pixels = np.full((32, 32, 3), 20 + place, np.uint8)
    pixels[:, :16] = 25 * (place % K)
    pixels[0, 0] = (1, 2, 3)
    return pixels


@pytest.fixture
def call(data, tmp_path, monkeypatch, capsys):
    """Return a function that runs the script and returns its record and what it printed."""

    def run(*words):
        import human_labels

        out = tmp_path / "out"
        given = ["--data", str(data), "--n", str(N), "--out", str(out), "--no-cnn", *words]
        monkeypatch.setattr(sys, "argv", [str(TABLES / "human_labels.py"), *given])
        human_labels.main()
        assert (out / "human_labels.svg").stat().st_size > 0
        record = json.loads((out / "human_labels.json").read_text())
        return record, capsys.readouterr().out

    return run


@pytest.mark.slow
def test_every_method_is_scored_on_every_label_set(call, data, tmp_path):
    cache = tmp_path / "cache"
    words = ("--features", "fc-1", "--pixels", "cnn-1", "--pooled", "cntk-gap-3")
    words += ("--pooled-preprocess", "halve+halve+standardize", "--cache", str(cache))
    record, said = call(*words)
    methods = ["neighbours, k = 10", "neighbours, k = 30", "neighbours, k = 100"]
    methods += [
        "cleanlab, logistic",
        "ours, fc-1",
        "ours, cnn-1",
        "ours, cntk-gap-3",
    ]
    rows = record["rows"]
    assert [(row["labels"], row["method"]) for row in rows] == [
        (name, method) for name in RATES for method in methods
    ]
    assert record["command"].startswith("python jobs/tables/human_labels.py --n 150 --no-cnn")
    assert str(data) not in record["command"]
    assert {"cleanlab", "scikit-learn"} <= set(record["versions"])
    for name in RATES:
        mine = [row for row in rows if row["labels"] == name]
        shares = {row["wrong"] / N for row in mine} | {1 - mine[0]["accuracy_before"]}
        assert max(shares) - min(shares) < 1e-4
        for row in mine:
            if row["inputs"] == "features" and "k = 100" not in row["method"]:
                assert row["auroc"] > 0.85, row
            assert row["peer"] == (not row["method"].startswith("ours"))
        ours = next(row for row in mine if row["method"] == "ours, fc-1")
        assert ours["accuracy_after"] > ours["accuracy_before"] + 0.05
        assert ours["f1"] == pytest.approx(
            2 * ours["precision"] * ours["recall"] / (ours["precision"] + ours["recall"]), abs=1e-3
        )
        chosen = [row for row in mine if row.get("chosen_by_truth")]
        tried = [row["auroc"] for row in mine if "chosen_by_truth" in row]
        assert [row["auroc"] for row in chosen] == [max(tried)]
        assert f"{name}: {mine[0]['wrong']} of {N} labels wrong" in said
    assert "chosen by the true labels, in the peer's favour" in said

    # the Grams and the peer's probabilities are read the next time, with their seconds
    files = sorted(path.name for path in cache.iterdir())
    assert sum(name.startswith("gram-") for name in files) == 3
    assert sum(name.startswith("regularised-") for name in files) == 3
    again, _ = call(*words)
    assert sorted(path.name for path in cache.iterdir()) == files
    for row, other in zip(rows, again["rows"], strict=True):
        assert row.get("gram_seconds") == other.get("gram_seconds")
        assert row["auroc"] == other["auroc"]


def test_images_come_out_of_the_mosaic_in_order(data):
    from human_labels import read_images

    images = read_images(data / "cifar10_full", N)
    assert images.shape == (N, 32, 32, 3)
    for place in (0, 1, 49, 50, N - 1):
        np.testing.assert_array_equal(images[place], picture(place))


@pytest.mark.data
def test_real_images_belong_to_their_labels(data_dir):
    """The same pictures stand in the balanced subset, with the same labels."""
    from human_labels import read

    if not (data_dir / "cifar10_full").is_dir():
        pytest.skip("NTKDIST_DATA holds no cifar10_full")
    mine = read(str(data_dir), 2001, ["aggre"])
    with np.load(data_dir / "cifar10.npz") as file:
        known = {x.tobytes(): y for x, y in zip(file["x_train"], file["y_train"], strict=True)}
    both = [place for place, x in enumerate(mine.images) if x.tobytes() in known]
    assert len(both) > 200
    assert [known[mine.images[place].tobytes()] for place in both] == mine.true[both].tolist()


def test_too_few_features_are_told(data):
    from human_labels import read

    with pytest.raises(SystemExit, match="features of 150 images only"):
        read(str(data), N + 1, ["aggre"])


def test_labels_of_equal_quality_are_inspected_in_random_order():
    from human_labels import missed

    wrong = np.array([True, False, True, False, False])
    assert missed(wrong, np.array([0.1, 0.9, 0.2, 0.8, 0.7])) == 0
    assert missed(wrong, np.array([0.9, 0.1, 0.8, 0.2, 0.7])) == 1
    # one of the two inspected labels is drawn from four, one of which is wrong
    assert missed(wrong, np.array([0.1, 0.5, 0.5, 0.5, 0.5])) == pytest.approx(1 - 1.25 / 2)


def test_neighbours_are_nearest_first_and_vote_without_the_image_itself(monkeypatch):
    import _label_methods
    from _label_methods import by_neighbours, nearest

    angles = np.radians([0, 10, 25, 90, 97, 120])
    points = np.stack([np.cos(angles), np.sin(angles)], axis=1) * np.arange(1, 7)[:, None]
    whole, _ = nearest(points, 2)
    assert whole.tolist() == [[1, 2], [0, 2], [1, 0], [4, 5], [3, 5], [4, 3]]
    monkeypatch.setattr(_label_methods, "BLOCK_BYTES", 50)  # two rows at a time
    assert nearest(points, 2)[0].tolist() == whole.tolist()

    labels = np.array([0, 0, 1, 1, 1, 2])
    found = by_neighbours(whole, 0.0, labels, 3)
    assert found.quality.tolist() == [0.5, 0.5, 0, 0.5, 0.5, 0]
    # one vote each: the given label stays
    assert found.suggested.tolist() == [0, 0, 0, 1, 1, 1]
    assert found.issues.tolist() == [False, False, True, False, False, True]


def row(method, peer, **figures):
    better = {"auroc": 0.9, "average_precision": 0.8, "f1": 0.7, "missed": 0.2}
    same = {"labels": "worse", "inputs": "features", "accuracy_after": 0.9}
    return {"method": method, "peer": peer} | same | better | figures


def test_behind_names_the_best_peer_of_the_same_inputs():
    from human_labels import behind

    peers = [row("first", True, f1=0.75), row("second", True, missed=0.1)]
    peers.append(row("other inputs", True, inputs="pixels", auroc=0.99))
    assert behind([*peers, row("ours", False, average_precision=0.85)]) == [
        "behind: worse, features, ours: f1 0.700, first 0.750",
        "behind: worse, features, ours: missed 0.200, second 0.100",
    ]
    assert behind([row("ours", False)]) == []


RELIABLE = {
    "verdict": "reliable",
    "leave_one_out_accuracy": 0.9,
    "chance": 0.1,
    "noise_rate": 0.12,
    "noise_interval": (0.11, 0.14),
    "expected_precision": 0.87,
    "noise_model": object(),
}


@pytest.fixture
def reliable(monkeypatch):
    """Return a function that lets the report of a module say how reliable it is."""

    def patch(module, **changes):
        report = module.label_report

        def told(*args):
            table = report(*args)
            table.attrs["reliability"] = RELIABLE | changes
            return table

        monkeypatch.setattr(module, "label_report", told)

    return patch


@pytest.mark.slow
def test_reliability_is_shown_and_recorded(call, reliable):
    import _label_methods

    reliable(_label_methods)
    record, said = call("--labels", "aggre", "--features", "fc-1", "--pixels", "--pooled")
    for one in record["rows"]:
        expected = RELIABLE if not one["peer"] else dict.fromkeys(RELIABLE)
        for key in _label_methods.RELIABILITY:
            value = expected[key]
            assert one[key] == (list(value) if isinstance(value, tuple) else value)
        assert "noise_model" not in one
    assert "0.120 (0.110 to 0.140)" in said
    assert "reliable" in said
    assert "0.870" in said
