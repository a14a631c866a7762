"""Images added to a run: old tiles kept, factors appended to, killed at every single write."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr.storage
from PIL import Image

from ntkdist import kernel_matrix, storage
from ntkdist.analyses.predict import predict
from ntkdist.api import execute
from ntkdist.cli.main import main
from ntkdist.config import DataConfig, GramConfig, NoiseConfig, PredictConfig, RunConfig
from ntkdist.data import Preprocessor, load, select
from ntkdist.errors import InputError, StageError
from ntkdist.events.types import TileDone
from ntkdist.gram.compute import open_outputs
from ntkdist.gram.store import GramStore, read_digests
from ntkdist.gram.tiling import Tiling
from ntkdist.linalg import CholeskyFactor, factorize
from ntkdist.linalg.panels import FactorStore
from ntkdist.pipeline import Pipeline
from ntkdist.pipeline.cross import held_out
from ntkdist.pipeline.extend import ExtensionResult, describe_extension, extend
from ntkdist.pipeline.gram import gram_of, job_of
from ntkdist.pipeline.verify import verify_run
from ntkdist.runs.run import Run
from ntkdist.storage import folders
from ntkdist.storage.append_log import AppendLog
from tests.s3 import S3Server
from tests.status_text import describe
from tests.storage.conftest import s3, shared_server

__all__ = ["s3", "shared_server"]  # fixtures


def settings(place: Path | str, n: int | None = 40, **changes: Any) -> RunConfig:
    base: dict[str, Any] = {
        "run": str(place),
        "architecture": "fc-2",
        "data": DataConfig(n=n),
        "gram": GramConfig(executor="inline", tile=16, threads=1),
    }
    return RunConfig(**{**base, **changes})


def begun(config: RunConfig, *stages: str) -> RunConfig:
    with Pipeline(config) as pipeline:
        execute(pipeline, stages or ("gram", "factor"))
    return config


def stored(place: Path | str) -> RunConfig:
    return Run.open(place, pending_extension=True).config


def extended(place: Path | str, n: int | None, tell: Callable[[Any], None] = id) -> ExtensionResult:
    with Pipeline(stored(place), [tell]) as pipeline:
        return extend(pipeline, n)


def gram(place: Path | str, kind: str = "ntk") -> GramStore:
    return GramStore.open(storage.join(str(place), "gram", kind), "r", Run.open(place).fingerprint)


def factor_of(place: Path | str) -> CholeskyFactor:
    return CholeskyFactor.open(storage.join(str(place), "factor", "ntk", "ridge-0.001"))


@pytest.fixture(scope="module")
def digits_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """1500 digits in tiles of edge 300, which divides them, and their factor with its inverse."""
    folder = tmp_path_factory.mktemp("digits") / "run"
    kinds = GramConfig(executor="inline", tile=300, kinds=("ntk", "nngp"))
    begun(settings(folder, 1500, gram=kinds))
    return folder


def with_edge(config: RunConfig, edge: int) -> RunConfig:
    """Begin the Gram of a run in tiles of just that edge, and compute it."""
    with Pipeline(config) as pipeline:
        matrix = gram_of(pipeline.run)
        job = job_of(pipeline.run, config, matrix, edge, 1)
        open_outputs(job, Tiling(matrix.shape[0], edge))
        pipeline.gram()
    return config


@pytest.mark.slow(but="290")
@pytest.mark.parametrize("edge", [300, 290])
def test_the_larger_gram_has_the_bits_of_a_fresh_one_and_only_new_tiles_are_computed(
    digits_run: Path, tmp_path: Path, edge: int
) -> None:
    folder, fresh = tmp_path / "run", tmp_path / "fresh"
    kinds = GramConfig(executor="inline", kinds=("ntk", "nngp"))
    if edge == 300:
        shutil.copytree(digits_run, folder)
    else:
        with_edge(settings(folder, 1500, gram=kinds), edge)
    with_edge(settings(fresh, 1797, gram=kinds), edge)
    events: list[Any] = []
    found = extended(folder, 1797, events.append)
    run = Run.open(folder)
    assert run.fingerprint == Run.open(fresh).fingerprint
    assert run.config.data.n == 1797
    whole = 1500 // edge
    old = {key for key in Tiling(1500, edge).keys() if max(key.row, key.col) < whole}  # noqa: SIM118
    new = set(Tiling(1797, edge).keys()) - old
    computed = [event.key for event in events if isinstance(event, TileDone)]
    assert sorted(computed) == sorted(map(str, new))
    assert (found.kept, found.computed) == (len(old), len(new))
    for kind in ("ntk", "nngp"):
        mine, theirs = gram(folder, kind), gram(fresh, kind)
        assert mine.tiling == theirs.tiling
        assert (mine[:, :] == theirs[:, :]).all()
        assert read_digests(mine.address) == read_digests(theirs.address)
    for name in ("images", "pictures", "labels"):
        assert (run.read("inputs", name) == Run.open(fresh).read("inputs", name)).all()


@pytest.mark.slow
def test_the_factor_is_that_of_the_larger_matrix_with_the_same_absolute_ridge(
    digits_run: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(digits_run, tmp_path / "run"))
    small = factor_of(folder)
    found = extended(folder, 1797)
    assert found.factors == ("ntk/ridge-0.001",)
    factor = factor_of(folder)
    assert (factor.n, factor.fingerprint) == (1797, Run.open(folder).fingerprint)
    assert factor.ridge_absolute == small.ridge_absolute
    H = gram(folder)
    relative = small.ridge_absolute / H.diagonal().astype(float).mean()
    fresh = factorize(H, tmp_path / "fresh", ridge=relative)
    mine, theirs = lower(factor), lower(fresh)
    assert np.abs(mine - theirs).max() <= 1e-10 * np.abs(theirs).max()
    column = [1, 1700]
    np.testing.assert_allclose(
        factor.inverse().columns(column), factor.inverse_columns(column), rtol=1e-8, atol=1e-8
    )
    digest = factor.digest()
    with Pipeline(stored(folder)) as pipeline:  # the stage finds it current
        assert pipeline.factor().digest() == digest


def lower(factor: CholeskyFactor) -> np.ndarray:
    opened = FactorStore.open(factor.url)
    assert opened is not None
    return opened[0].whole()


def test_an_unfinished_run_grows_and_an_unfinished_factor_is_made_anew(tmp_path: Path) -> None:
    config = begun(settings(tmp_path / "run"))
    lost = gram(config.run)
    lost.remove(next(iter(sorted(lost.done()))))
    shutil.rmtree(tmp_path / "run/factor/ntk/ridge-0.001/panels")
    found = extended(config.run, 60)
    assert found.factors == ()
    assert not gram(config.run).missing()
    with Pipeline(stored(config.run)) as pipeline:
        factor = pipeline.factor()
    mean = gram(config.run).diagonal().astype(float).mean()
    assert factor.ridge_absolute == pytest.approx(1e-3 * mean, rel=1e-12)


@pytest.mark.slow
def test_a_run_that_is_extended_three_times_is_one_begun_with_all_images(tmp_path: Path) -> None:
    config = begun(settings(tmp_path / "run", 30))
    for n in (47, 48, 90):
        extended(config.run, n)
    fresh = with_edge(settings(tmp_path / "fresh", 90), gram(config.run).tiling.edge)
    assert (gram(config.run)[:, :] == gram(fresh.run)[:, :]).all()
    assert factor_of(config.run).n == 90
    run = Run.open(config.run)
    assert run.manifest.extension is not None
    assert [one.images for one in run.manifest.extension.former] == [30, 47, 48]


def test_a_balanced_subset_grows_to_the_larger_balanced_subset(tmp_path: Path) -> None:
    data = DataConfig(n=40, subset="balanced", seed=3)
    config = begun(settings(tmp_path / "run", data=data), "gram")
    old = Run.open(config.run).read("inputs", "images")
    extended(config.run, 75)
    images = Run.open(config.run).read("inputs", "images")
    assert (images[:40] == old).all()
    source = load("digits")
    wanted = select(source.labels, 75, "balanced", 3)
    expected = Preprocessor.fit(source.images, "standardize").apply(source.images[wanted])
    assert sorted(map(bytes, images)) == sorted(map(bytes, expected))


@pytest.mark.slow
def test_noise_is_added_to_the_new_labels_alone(tmp_path: Path) -> None:
    config = begun(settings(tmp_path / "a", 100, noise=NoiseConfig(0.3, seed=5)), "gram")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    old = Run.open(config.run)
    given, true = old.read("inputs", "labels"), old.read("inputs", "labels_true")
    found = []
    for name in ("a", "b"):
        extended(tmp_path / name, 160)
        run = Run.open(tmp_path / name)
        found.append((run.read("inputs", "labels"), run.read("inputs", "labels_true")))
    labels, labels_true = found[0]
    assert (labels[:100] == given).all()
    assert (labels_true[:100] == true).all()
    assert (labels_true == load("digits").labels[:160]).all()
    assert (labels[100:] != labels_true[100:]).sum() == 18
    assert (found[1][0] == labels).all()


class Pictures:
    """A source of small PNG files in two folders, to which more can be added."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._random = folder, np.random.default_rng(0)

    def add(self, *names: str) -> None:
        for name in names:
            path = self.folder / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(self._random.integers(0, 256, (6, 5), dtype=np.uint8)).save(path)

    def config(self, place: Path, n: int | None = None) -> RunConfig:
        return settings(place, data=DataConfig(f"images:{self.folder}", n=n))


@pytest.fixture
def pictures(tmp_path: Path) -> Pictures:
    made = Pictures(tmp_path / "pictures")
    made.add(*(f"{kind}/{i:02d}" for kind in ("cat", "dog") for i in range(0, 20, 2)))
    return made


def test_a_source_without_new_images_changes_nothing(pictures: Pictures, tmp_path: Path) -> None:
    config = begun(pictures.config(tmp_path / "run"))
    before = contents(config.run)
    for n in (None, 20):
        found = extended(config.run, n)
        assert describe_extension(found) == "nothing new: the run has 20 images already"
    assert contents(config.run) == before


def test_pictures_added_in_between_come_behind_with_the_same_statistics(
    pictures: Pictures, tmp_path: Path
) -> None:
    config = begun(pictures.config(tmp_path / "run"))
    run = Run.open(config.run)
    old, files = run.read("inputs", "images"), run.files()
    first = Preprocessor.fit(load(f"images:{pictures.folder}").images, "standardize")
    pictures.add("cat/01", "cat/19", "dog/07")
    shutil.copy(pictures.folder / "cat/02.png", pictures.folder / "dog/02b.png")  # in both classes
    assert extended(config.run, None).after == 24
    run = Run.open(config.run)
    images = run.read("inputs", "images")
    assert run.files() == [*files, "cat/01.png", "cat/19.png", "dog/02b.png", "dog/07.png"]
    assert run.read("inputs", "labels")[20:].tolist() == [0, 0, 1, 1]
    assert (images[:20] == old).all()
    assert (images[22] == old[1]).all()
    raw = np.asarray(Image.open(pictures.folder / "cat/01.png"))[None, :, :, None]
    assert (images[20] == first.apply(raw)[0]).all()
    expected = kernel_matrix("fc-2", images, backend="cpu")
    np.testing.assert_allclose(gram(config.run)[:, :], expected, rtol=1e-6)


def test_the_rest_of_a_grown_source_holds_no_image_that_is_trained_on(
    pictures: Pictures, tmp_path: Path
) -> None:
    config = begun(pictures.config(tmp_path / "run", 12), "gram")
    pictures.add("cat/01", "cat/03")
    extended(config.run, 13)
    wanted = replace(stored(config.run), predict=PredictConfig(on="rest"))
    with Pipeline(wanted) as pipeline:
        held, trained = held_out(pipeline), pipeline.run.read("inputs", "images")
    assert len(held.labels) == 22 - 13
    assert not set(map(bytes, held.images)) & set(map(bytes, trained))


@pytest.mark.slow
def test_verify_finds_nothing_wrong_with_a_run_that_grew(tmp_path: Path) -> None:
    data = DataConfig("shapes", n=40, preprocess="halve+standardize")
    config = settings(tmp_path / "run", data=data, predict=PredictConfig(on="test", n=20))
    with Pipeline(config) as pipeline:
        predict(pipeline)
    extended(config.run, 50)
    now = replace(stored(config.run), predict=config.predict)
    with Pipeline(now) as pipeline:
        predict(pipeline)  # with the factor that grew, and a test × train kernel of its own
    found = verify_run(Run.open(config.run), recompute=20)
    assert found.problems == []
    assert len(found.grams) == 2
    assert len(list((tmp_path / "run/cross").iterdir())) == 2


def remove_one(pictures: Pictures) -> None:
    (pictures.folder / "dog/04.png").unlink()


def repaint_two(pictures: Pictures) -> None:
    pictures.add("cat/06", "dog/08", "dog/09")


def add_class(pictures: Pictures) -> None:
    pictures.add("bird/01", "bird/02")


@pytest.mark.parametrize(
    ("change", "n", "message"),
    [
        (
            remove_one,
            None,
            r"holds 1 of the run's 20 images no longer, the first of them number 12",
        ),
        (
            repaint_two,
            None,
            r"holds 2 of the run's 20 images no longer, the first of them number 3",
        ),
        (add_class, None, r"has class 'bird', which the run has not; .*or begin another --run"),
        (lambda pictures: None, 19, r"data\.n=19 is fewer than the 20 images of the run"),
        (lambda pictures: None, 21, r"data\.n=21 images, but images:.* has only 20"),
    ],
    ids=["removed", "repainted", "class", "fewer", "more"],
)
def test_what_cannot_be_extended_is_refused_and_left_alone(
    pictures: Pictures, tmp_path: Path, change: Any, n: int | None, message: str
) -> None:
    config = begun(pictures.config(tmp_path / "run"), "gram")
    before = contents(config.run)
    change(pictures)
    with pytest.raises(InputError, match=message):
        extended(config.run, n)
    assert contents(config.run) == before


def test_a_run_without_statistics_is_extended_only_from_an_unchanged_source(
    pictures: Pictures, tmp_path: Path
) -> None:
    config = begun(pictures.config(tmp_path / "run", 12), "gram")
    place = tmp_path / "run/inputs/images/zarr.json"
    metadata = json.loads(place.read_text())
    del metadata["attributes"]["preprocess"]
    place.write_text(json.dumps(metadata))
    shutil.copytree(config.run, tmp_path / "other")
    assert extended(config.run, 15).after == 15
    pictures.add("cat/01")
    with pytest.raises(InputError, match=r"12 images .*does not say what standardize subtracted"):
        extended(tmp_path / "other", 15)
    assert extended(config.run, 16).after == 16  # which says it by now


@pytest.mark.slow
def test_the_command_says_what_it_did_and_refuses_other_settings(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = begun(settings(tmp_path / "run"), "gram", "factor", "labels")
    with pytest.raises(SystemExit) as refused:
        main(["extend", config.run, "--data.n", "45", "--architecture", "fc-3"])
    assert refused.value.code == 2
    assert "architecture" in capsys.readouterr().err
    with pytest.raises(SystemExit) as absent:
        main(["extend", str(tmp_path / "none")])
    assert absent.value.code == 2
    main(["extend", config.run, "--data.n", "60"])
    said = capsys.readouterr().out
    assert "images    40 -> 60" in said
    assert "tiles     3 kept, 12 computed" in said
    assert f"next      ntkdist run {config.run}" in said
    main(["status", config.run])
    said = capsys.readouterr().out
    assert "extended  from 40 images; the stored results of labels are of the former images" in said
    assert "labels    not done" in said
    assert "ridge-0.001: stored" in said
    main(["extend", config.run, "--data.n", "60"])
    assert "nothing new: the run has 60 images already" in capsys.readouterr().out
    main(["labels", config.run])
    main(["status", config.run])
    assert "of before" not in capsys.readouterr().out


@pytest.mark.slow
def test_no_result_of_the_smaller_run_is_taken_for_current(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = begun(settings(tmp_path / "run", noise=NoiseConfig(0.2)), "gram", "factor", "labels")
    with monkeypatch.context() as patched:
        patched.setattr(Pipeline, "gram", lambda self: self.stop.set() or self.check_stop())
        with pytest.raises(BaseException, match="stopped"):
            extended(config.run, 60)
    assert f"not finished: ntkdist extend {config.run} --data.n 60" in describe(config.run)
    now = stored(config.run)
    assert "ridge-0.001: not finished" in describe(config.run)
    with Pipeline(now) as pipeline:
        pipeline.gram()
        with pytest.raises(StageError, match="is the factor of 40 images, from before"):
            pipeline.labels()
        noise = pipeline.run.attributes("noise")["fingerprint"]
        execute(pipeline, ("factor", "labels"))
        assert pipeline.run.attributes("noise")["fingerprint"] != noise
        assert len(pipeline.run.read("labels", "refurbished")) == 60
    opened = FactorStore.open(factor_of(config.run).url)
    assert opened is not None
    assert opened[0].plan.added == (20,)
    assert extended(config.run, 60).factors == ("ntk/ridge-0.001",)
    assert "not finished" not in describe(config.run)


class Killed(BaseException):
    """The process is gone: nothing is written any more."""


@contextmanager
def killed_at(write: int | None, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Let so many writes and removals through and none after them; yields what went through."""
    through: list[str] = []

    def counted(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            where = str(args[0]._parts if isinstance(args[0], AppendLog) else args[0])
            if not where.endswith(("lease.json", "/events")):
                if write is not None and len(through) >= write:
                    raise Killed
                through.append(f"{real.__name__} {where} {args[1:2]}"[:300])
            return real(*args, **kwargs)

        return call

    with monkeypatch.context() as patched:
        for owner, names in (
            (folders, ("write", "remove", "remove_all")),
            (zarr.storage.LocalStore, ("set", "delete", "delete_dir")),
            (AppendLog, ("append",)),
        ):
            for name in names:
                patched.setattr(owner, name, counted(getattr(owner, name)))
        yield through


def contents(place: Path | str) -> dict[str, Any]:
    """Return what a run holds: all chunks of inputs, matrices and factors, and the manifest."""
    folder = Path(place)
    found: dict[str, Any] = {
        str(path.relative_to(folder)): path.read_bytes()
        for name in ("inputs", "gram", "factor", "extension")
        for path in sorted((folder / name).rglob("*"))
        if path.is_file() and (name in ("inputs", "extension") or "/c/" in str(path))
    }
    found["manifest"] = json.loads((folder / "zarr.json").read_text())["attributes"]
    for path in (folder / "gram").glob("*/zarr.json"):
        found[str(path.relative_to(folder))] = json.loads(path.read_text())
    return found


@pytest.mark.slow
@pytest.mark.parametrize("step", [pytest.param(1, marks=pytest.mark.long), 11])
def test_killed_at_a_write_the_run_is_as_it_was_or_rolls_forward(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    old = begun(with_edge(settings(tmp_path / "old", 20, noise=NoiseConfig(0.2)), 16)).run
    before, whole = contents(old), tmp_path / "whole"
    shutil.copytree(old, whole)
    with killed_at(None, monkeypatch) as through:
        extended(whole, 30)
    assert any("remove" in what and "gram/ntk/c/1/1" in what for what in through)  # a ragged tile
    expected, digests, states = contents(whole), read_digests(f"{whole}/gram/ntk"), []
    for write in range(0, len(through), step):
        place = Path(shutil.copytree(old, tmp_path / str(write)))
        with killed_at(write, monkeypatch), pytest.raises(Killed):
            extended(place, 30)
        states.append(state_of(place))
        if states[-1] is None:
            found = contents(place)
            assert {name: found[name] for name in before} == before
        elif states[-1] == "begun":
            with pytest.raises(StageError, match=rf"finish it: ntkdist extend {place} --data.n 30"):
                Run.open(place)
            assert f"next      ntkdist extend {place} --data.n 30" in describe(str(place))
        if write % 2:  # another command comes first
            with Pipeline(stored(place)) as pipeline:
                execute(pipeline, ("gram", "factor"))
        extended(place, 30)
        assert contents(place) == expected, through[write]
        # the tile that was stored right before the kill may have none
        assert read_digests(f"{place}/gram/ntk").items() <= digests.items()
        shutil.rmtree(place)
    assert list(dict.fromkeys(states)) == [None, "begun", "settled"]


def state_of(place: Path) -> str | None:
    extension = Run.open(place, pending_extension=True).manifest.extension
    return None if extension is None else extension.state


@pytest.mark.slow
def test_a_run_on_s3_grows_like_one_in_a_folder(s3: S3Server, tmp_path: Path) -> None:
    url = s3.url("bucket/extend/run")
    chunks = []
    for place in (url, str(tmp_path / "run")):
        config = begun(settings(place, 30))
        assert extended(config.run, 45).after == 45
        assert not storage.list_objects(storage.join(place, "extension"))
        stored = storage.read_all(place)
        chunks.append({name: body for name, body in stored.items() if "/c/" in name})
    assert chunks[0] == chunks[1]
    assert gram(url).shape == (45, 45)
