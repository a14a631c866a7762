"""Whole runs on a server that speaks S3: the same bits as in a folder, whatever it does."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from ntkdist import storage
from ntkdist.analyses.predict import predict
from ntkdist.api import execute
from ntkdist.cli.main import main
from ntkdist.config import (
    DataConfig,
    FactorConfig,
    GramConfig,
    NoiseConfig,
    PredictConfig,
    RunConfig,
)
from ntkdist.errors import InputError, StoreError
from ntkdist.events.log import read_events
from ntkdist.events.types import PanelDone
from ntkdist.linalg import CholeskyFactor, factorize
from ntkdist.pipeline import Pipeline
from ntkdist.runs.run import Run
from tests.linalg.matrices import SMALL, spd
from tests.linalg.stopping import StopError, stop_at
from tests.s3 import ACCESS_KEY, SECRET_KEY, S3Server

KEPT = ("gram", "factor", "labels", "inputs", "noise", "cross")


def settings(url: str) -> RunConfig:
    return RunConfig(
        run=url,
        data=DataConfig(n=60),
        noise=NoiseConfig(0.3),
        architecture="fc-2",
        gram=GramConfig(executor="inline", tile=16),
        factor=FactorConfig(memory_limit="2MB"),
        predict=PredictConfig(n=20),
    )


def chunks(url: str) -> dict[str, bytes]:
    """Return the bytes of every chunk that a run holds."""
    found = {}
    for part in KEPT:
        for name, content in storage.read_all(storage.join(url, part)).items():
            if "/c/" in f"/{name}" and not name.endswith(".csv"):
                found[f"{part}/{name}"] = content
    return found


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Every chunk of the run in a folder, on no server, before anything is predicted."""
    url = str(tmp_path_factory.mktemp("local") / "run")
    with Pipeline(settings(url)) as pipeline:
        execute(pipeline)
    return chunks(url)


@pytest.mark.slow
def test_a_run_on_s3_has_the_bits_of_one_in_a_folder(s3: S3Server, local: Any) -> None:
    url = s3.url("bucket/runs/whole")
    with Pipeline(settings(url)) as pipeline:
        execute(pipeline)
        stored = chunks(url)
        predict(pipeline)
    assert stored == local
    assert any(name.startswith("gram/ntk/c/") for name in stored)
    assert any("diagonal/diagonal/c/" in name for name in stored)
    assert not any("/inverse/" in name for name in stored)
    names = set(storage.children(url))
    assert names >= {"report.html", "labels.csv", "predict.svg", "events"}
    assert any(name.endswith("predictions.csv") for name in storage.list_objects(f"{url}/cross"))
    before = read_events(url)
    with Pipeline(settings(url)) as pipeline:
        execute(pipeline)
    new = [event["event"] for event in read_events(url)[len(before) :]]
    assert "StageDone" in new
    assert "TileDone" not in new


@pytest.mark.slow
@pytest.mark.parametrize("away", [3, pytest.param(20, marks=pytest.mark.long)])
def test_a_server_that_is_killed_costs_a_run_time_and_nothing_else(
    mortal: S3Server, local: Any, away: float
) -> None:
    url = mortal.url("bucket/run")
    seen: dict[str, int] = {}
    waking: list[threading.Timer] = []

    def kill_at_times(event: Any) -> None:
        name = type(event).__name__
        seen[name] = seen.get(name, 0) + 1
        if (name, seen[name]) in {("TileDone", 4), ("PanelDone", 1)}:
            mortal.kill()
            waking.append(threading.Timer(away, mortal.start))
            waking[-1].start()

    with Pipeline(settings(url), [kill_at_times]) as pipeline:
        execute(pipeline)
    for timer in waking:
        timer.join()
    assert len(waking) == 2
    assert chunks(url) == local
    names = {event["event"] for event in read_events(url)}
    assert not {name for name in names if "Failed" in name or "Lost" in name}


@pytest.mark.slow
def test_a_run_with_ray_on_s3_leaves_no_key_anywhere(
    s3: S3Server, local: Any, tmp_path: Path
) -> None:
    url = s3.url("bucket/runs/ray")
    command = (
        f"-m ntkdist demo --run {url} --data.n 60 --architecture fc-2 --gram.tile 16"
        " --gram.executor ray --gram.workers 2 --factor.scheduler ray --factor.memory_limit 2MB"
    )
    done = subprocess.run(
        [sys.executable, *command.split()],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    stored = chunks(url)
    assert stored == local
    assert SECRET_KEY not in done.stdout + done.stderr
    assert ACCESS_KEY not in done.stdout + done.stderr
    places = [*(s3.folder / "bucket/runs/ray").rglob("*"), *tmp_path.rglob("*")]
    for place in places:
        if place.is_file():
            content = place.read_bytes()
            assert SECRET_KEY.encode() not in content, place
            assert ACCESS_KEY.encode() not in content, place


def test_a_half_made_run_is_made_again(s3: S3Server) -> None:
    url = s3.url("bucket/runs/half")
    run = Run.create(settings(url))
    images = run.read("inputs", "images")
    group = zarr.open_group(storage.zarr_store(url), mode="r+")
    group.attrs.put({})  # the manifest is written last
    with pytest.raises(InputError, match="there is no run here"):
        Run.open(url)
    again = Run.create(settings(url))
    assert again.fingerprint == run.fingerprint
    np.testing.assert_array_equal(Run.open(url).read("inputs", "images"), images)


def test_a_prefix_with_other_things_in_it_is_refused_and_left_alone(s3: S3Server) -> None:
    url = s3.url("bucket/runs/mine")
    storage.write_text(f"{url}/thesis.tex", "x")
    with pytest.raises(InputError, match="is a folder with other things in it"):
        Run.create(settings(url))
    assert storage.list_objects(url) == ["thesis.tex"]


def test_bad_data_leaves_nothing_behind(s3: S3Server) -> None:
    url = s3.url("bucket/runs/bad")
    with pytest.raises(InputError):
        Run.create(RunConfig(run=url, data=DataConfig(source="/nowhere")))
    assert storage.children(url) == []


def test_a_factorisation_on_s3_resumes_at_the_next_panel(s3: S3Server, tmp_path: Path) -> None:
    matrix, url = spd(310), s3.url("bucket/factors/f")
    factorize(matrix, str(tmp_path / "f"), memory_limit=SMALL)
    with pytest.raises(StopError):
        factorize(matrix, url, memory_limit=SMALL, on_event=stop_at(PanelDone, index=1))
    with pytest.raises(StoreError, match=r"has 2 of \d+ panels; start the factor"):
        CholeskyFactor.open(url)
    events: list[Any] = []
    factor = factorize(matrix, url, memory_limit=SMALL, on_event=events.append)
    resumed = [event.resumed for event in events if isinstance(event, PanelDone)]
    assert resumed == [True] * 2 + [False] * (factor.panel_count - 2)
    names = {name for name in storage.list_objects(url) if "/c/" in name}
    assert len(names) > 10
    for name in names:
        expected = storage.read_bytes(str(tmp_path / "f" / name))
        assert storage.read_bytes(storage.join(url, name)) == expected


def _wrong_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrongsecret12345")


def _nobody_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("NTKDIST_STORE_PATIENCE", "0.1")


@pytest.mark.slow(but="s5://bucket/run-None-2-give a folder's path, s3://, gs://")
@pytest.mark.parametrize(
    ("url", "break_it", "code", "text"),
    [
        ("s3://nobucket/run", None, 2, "there is no such bucket"),
        ("s3://bucket/run", _wrong_key, 2, "access is refused"),
        ("s3://bucket/run", _nobody_there, 1, "no answer at 127.0.0.1:9"),
        ("s5://bucket/run", None, 2, "give a folder's path, s3://, gs://"),
        ("s3://KEYKEYKEY:SECRETSECRET@bucket/run", None, 2, "credentials in the environment"),
    ],
)
def test_the_command_line_answers_in_one_line(
    s3: S3Server,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    url: str,
    break_it: Callable[[pytest.MonkeyPatch], None] | None,
    code: int,
    text: str,
) -> None:
    if break_it is not None:
        break_it(monkeypatch)
    for command in (["status", url], ["demo", "--run", url, "--gram.executor", "inline"]):
        with pytest.raises(SystemExit) as ended:
            main(command)
        out, err = capfd.readouterr()
        assert ended.value.code == code
        assert out == ""
        assert err.count("\n") == 1
        assert text in err
        for secret in ("KEYKEYKEY", "SECRETSECRET", SECRET_KEY, ACCESS_KEY, "wrongsecret12345"):
            assert secret not in err
    assert not os.path.exists("s3:")


@pytest.mark.slow
def test_corrected_labels_take_the_gram_of_a_run_on_s3(
    s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (40, 6, 6), dtype=np.uint8)
    labels = np.arange(40) % 2
    flags = ["--architecture", "fc-1", "--gram.tile", "10", "--json"]
    np.savez(tmp_path / "set.npz", x_train=images, y_train=labels)
    main(["audit", str(tmp_path / "set.npz"), "--run", s3.url("bucket/runs/set"), *flags])
    labels[3] = 0
    np.savez(tmp_path / "set.npz", x_train=images, y_train=labels)
    url = s3.url("bucket/runs/set-2")
    right = {name: content for name, content in chunks(s3.url("bucket/runs/set")).items()
             if name.startswith(("gram", "factor"))}  # fmt: skip
    capsys.readouterr()
    main(["audit", str(tmp_path / "set.npz"), "--run", url, *flags])
    said = capsys.readouterr()
    assert f'"gram_from": "{s3.url("bucket/runs/set")}"' in said.out
    assert "is reused: 10 of 10 tiles; the factor too" in said.err
    names = [event["event"] for event in read_events(url)]
    assert "TileDone" not in names
    assert "PanelDone" not in {e["event"] for e in read_events(url) if not e.get("resumed")}
    storage.remove_all(s3.url("bucket/runs/set"))
    assert right.items() <= chunks(url).items()
    CholeskyFactor.open(f"{url}/factor/ntk/ridge-0.001").verify()
