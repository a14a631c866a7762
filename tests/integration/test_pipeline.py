"""One run from images to report, started again, changed, interrupted."""

import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import zarr

from ntkdist import storage
from ntkdist.api import execute
from ntkdist.config import (
    DataConfig,
    FactorConfig,
    GramConfig,
    LabelsConfig,
    NoiseConfig,
    RunConfig,
)
from ntkdist.errors import InputError, StageError, StoreError
from ntkdist.events.log import read_events
from ntkdist.gram.store import GramStore
from ntkdist.pipeline import Pipeline
from ntkdist.pipeline.labels import thumbnail
from tests.gram.conftest import ray_session
from tests.status_text import describe

__all__ = ["ray_session"]  # fixture


def settings(folder, **changes):
    base = {
        "run": str(folder),
        "data": DataConfig(n=150),
        "noise": NoiseConfig(0.2),
        "gram": GramConfig(executor="inline", tile=40),
    }
    return RunConfig(**{**base, **changes})


def computed(folder):
    """Return how many tiles were computed in all starts so far."""
    return sum(event["event"] == "TileDone" for event in read_events(str(folder)))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "whole"
    with Pipeline(settings(folder)) as pipeline:
        execute(pipeline)
    return folder


@pytest.mark.slow
def test_a_run_ends_with_labels_and_a_report(finished):
    with Pipeline(settings(finished)) as pipeline:
        run = pipeline.run
        summary = run.attributes("labels")["summary"]
        given, true = run.read("inputs", "labels"), run.read("inputs", "labels_true")
        better = run.read("labels", "refurbished")
    assert summary["corrupted"] == (given != true).sum() == 30
    assert summary["accuracy_refurbished"] == (better == true).mean() > (given == true).mean()
    losses = summary["block_error"]
    assert losses["true"] < losses["given"]
    assert losses["refurbished"] < losses["given"]
    assert "<html" in (finished / "report.html").read_text()[:200].lower()
    table = (finished / "labels.csv").read_text().splitlines()
    assert len(table) == 151
    qualities = [float(line.split(",")[5]) for line in table[1:]]
    assert qualities == sorted(qualities)
    assert "10 of 10 tiles" in describe(str(finished))


@pytest.mark.slow
def test_what_the_run_says_of_z_is_what_the_matrix_says(finished):
    with Pipeline(settings(finished)) as pipeline:
        H = np.asarray(pipeline.gram_store()[:, :], np.float64)
        labels = pipeline.run.read("inputs", "labels")
        stored = pipeline.run.read("labels", "Z_given")
    Y = np.eye(10)[labels]
    H += 1e-3 * np.diag(H).mean() * np.eye(len(H))
    np.testing.assert_allclose(stored, Y.T @ np.linalg.solve(H, Y), rtol=1e-7, atol=1e-7)


def test_started_again_it_computes_nothing(finished):
    before = computed(finished)
    factor = sorted(p.stat().st_mtime_ns for p in (finished / "factor").rglob("c/*") if p.is_file())
    with Pipeline(settings(finished)) as pipeline:
        execute(pipeline)
    assert computed(finished) == before
    assert factor == sorted(
        p.stat().st_mtime_ns for p in (finished / "factor").rglob("c/*") if p.is_file()
    )


def test_another_ridge_or_method_keeps_the_gram(finished):
    before = computed(finished)
    changed = settings(
        finished,
        factor=FactorConfig(ridge=0.5),
        labels=LabelsConfig(method="paper", steps=5),
    )
    with Pipeline(changed) as pipeline:
        execute(pipeline)
        assert pipeline.run.attributes("labels")["summary"]["flips"] == 5
        assert pipeline.run.attributes("labels")["summary"]["ridge"] == 0.5
    assert computed(finished) == before


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # ray's own
@pytest.mark.usefixtures("ray_session")
def test_the_factor_stage_on_ray_gives_the_same_bits(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "factor")
    settled = settings(tmp_path / "run", factor=FactorConfig(scheduler="ray"))
    with Pipeline(settled) as pipeline:
        assert pipeline.factor().digest() == digest_of(finished)


def digest_of(folder):
    with Pipeline(settings(folder)) as pipeline:
        return pipeline.factor().digest()


def test_another_tile_is_refused(finished):
    changed = settings(finished, gram=GramConfig(executor="inline", tile=70))
    with pytest.raises(InputError, match=r"its tiles have edge 38, but gram\.tile=70 is set"):  # noqa: SIM117
        with Pipeline(changed) as pipeline:
            execute(pipeline)


def test_flipped_byte_is_named_and_recomputing_restores_the_bits(tmp_path):
    config = settings(
        tmp_path / "run", data=DataConfig(n=60), gram=GramConfig(executor="inline", tile=20)
    )
    with Pipeline(config) as pipeline:
        pipeline.gram()
        store = pipeline.gram_store()
        whole = store[:, :].copy()
        path = Path(store.path_of(next(k for k in store.done() if str(k) == "r0000c0002")))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)
    with Pipeline(config) as pipeline:
        with pytest.raises(StoreError, match="r0000c0002") as caught:
            pipeline.factor()
        assert str(path) in str(caught.value)
        pipeline.gram(["r0000c0002"])
        assert (pipeline.gram_store()[:, :] == whole).all()
        pipeline.factor()


def test_stages_out_of_order_say_what_is_missing(tmp_path):
    with (
        pytest.raises(StageError, match="has no Gram yet; ntkdist gram"),
        Pipeline(settings(tmp_path / "run")) as pipeline,
    ):
        execute(pipeline, ["factor"])
    with (
        pytest.raises(InputError, match="stage='tea'"),
        Pipeline(settings(tmp_path / "run")) as pipeline,
    ):
        execute(pipeline, ["tea"])


@pytest.mark.slow
def test_interrupted_run_exits_130_and_the_printed_command_resumes(tmp_path):
    folder = tmp_path / "run"
    flags = "--architecture cntk-gap-11 --data.n 200 --gram.executor inline --gram.tile 20"
    yaml = tmp_path / "r.yaml"
    yaml.write_text(f"run: {folder}\n")
    command = [sys.executable, "-m", "ntkdist", "gram", str(yaml), *flags.split()]
    driver = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not (folder / "events.jsonl").exists() or computed(folder) < 3:
        assert time.monotonic() < deadline
        assert driver.poll() is None
        time.sleep(0.05)
    driver.send_signal(signal.SIGINT)
    _, words = driver.communicate(timeout=120)
    assert driver.returncode == 130
    assert "Traceback" not in words
    again = next(line for line in words.splitlines() if line.startswith("resume with: "))
    resume = again.removeprefix("resume with: ntkdist ").split()
    first = computed(folder)
    assert 3 <= first < 55
    subprocess.run([sys.executable, "-m", "ntkdist", *resume], check=True, capture_output=True)
    assert computed(folder) == 55
    with Pipeline(
        settings(
            tmp_path / "b", architecture="cntk-gap-11", data=DataConfig(n=200), noise=NoiseConfig()
        )
    ) as whole:
        whole.gram()
        expected = whole.gram_store()[:, :]
    found = GramStore.open(str(folder / "gram" / "ntk"))[:, :]
    assert (found == expected).all()


@pytest.mark.slow
def test_a_run_killed_in_every_stage_is_finished_by_the_next_start(tmp_path):
    folder = tmp_path / "run"
    yaml = tmp_path / "r.yaml"
    yaml.write_text(f"run: {folder}\ndata: {{n: 150}}\ngram: {{executor: inline, tile: 40}}\n")
    command = [sys.executable, "-m", "ntkdist", "run", str(yaml)]
    # a tile, a panel of the factor, and the labels are stored; the report takes longest
    for first in ("gram/ntk/c/*/*", "factor/ntk/*/lower/c/*/*", "labels/*"):
        driver = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        while driver.poll() is None and not any(folder.glob(first)):
            time.sleep(0.01)
        driver.kill()
        assert driver.wait() == -signal.SIGKILL, first
    subprocess.run(command, check=True, capture_output=True)
    with Pipeline(settings(tmp_path / "b", noise=NoiseConfig())) as whole:
        execute(whole, ["gram", "factor", "labels"])
        for parts in (("labels", "refurbished"), ("labels", "losses"), ("labels", "Z_given")):
            expected = whole.run.read(*parts)
            found = np.asarray(zarr.open_array(str(folder.joinpath(*parts)), mode="r"))
            assert (found == expected).all()


def test_thumbnail_averages_the_class_ordered_matrix():
    rng = np.random.default_rng(0)
    n, bins = 40, 8
    labels = rng.integers(0, 3, n)
    gram = rng.normal(size=(n, n))
    picture, bounds = thumbnail(gram, labels, 4, bins)
    order = np.argsort(labels, kind="stable")
    expected = (
        gram[np.ix_(order, order)].reshape(bins, n // bins, bins, n // bins).mean(axis=(1, 3))
    )
    np.testing.assert_allclose(picture, expected, rtol=1e-5, atol=1e-6)
    counts = np.bincount(labels, minlength=4)
    np.testing.assert_allclose(bounds, np.r_[0, np.cumsum(counts)] / (n / bins))
    full, _ = thumbnail(gram, labels, 4)
    assert full.shape == (n, n)


@pytest.mark.slow
def test_a_run_behind_a_url_goes_all_the_way(tmp_path):
    url = f"memory://bucket/{tmp_path.name}"
    config = settings(tmp_path, run=url, data=DataConfig(n=60))
    with Pipeline(config) as pipeline:
        execute(pipeline)
    assert "3 of 3 tiles" in describe(url)
    page = storage.read_text(f"{url}/report.html")
    assert page is not None
    assert "<html" in page[:200].lower()
    assert storage.exists(f"{url}/labels.csv")
    before = computed(url)
    with Pipeline(config) as pipeline:
        execute(pipeline)
    assert computed(url) == before == 3
    with pytest.raises(InputError, match="now architecture="):
        Pipeline(
            settings(tmp_path, run=url, data=DataConfig(n=60), architecture="fc-2")
        ).__enter__()
