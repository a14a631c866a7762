import json
import os
from dataclasses import replace

import numpy as np
import pytest

from ntkdist import Run
from ntkdist.api import execute
from ntkdist.config import DataConfig, GramConfig, NoiseConfig, RunConfig
from ntkdist.errors import InputError, StoreError
from ntkdist.runs.inputs import load_data
from ntkdist.runs.manifest import SCHEMA


def config(tmp_path, **changes):
    return RunConfig(run=str(tmp_path / "run"), data=DataConfig(n=40), **changes)


def test_inputs_are_stored_once_and_found_again(tmp_path):
    first = Run.create(config(tmp_path, noise=NoiseConfig(0.3)))
    again = Run.open(tmp_path / "run")
    assert again.fingerprint == first.fingerprint == Run.create(first.config).fingerprint
    assert first.read("inputs", "images").shape == (40, 8, 8, 1)
    assert first.read("inputs", "pictures").dtype == np.uint8
    changed = first.read("inputs", "labels") != first.read("inputs", "labels_true")
    assert changed.sum() == 12
    assert again.config.noise.rate == 0.3


def test_fingerprint_follows_what_decides_the_bits(tmp_path):
    prints = {
        Run.create(RunConfig(run=str(tmp_path / str(i)), **changes)).fingerprint
        for i, changes in enumerate(
            [
                {"data": DataConfig(n=40)},
                {"data": DataConfig(n=41)},
                {"data": DataConfig(n=40, preprocess="none")},
                {"data": DataConfig(n=40), "architecture": "fc-2"},
                {"data": DataConfig(n=40), "gram": GramConfig(kinds=("ntk", "nngp"))},
                {"data": DataConfig(n=40), "gram": GramConfig(backend="reference")},
            ]
        )
    }
    assert len(prints) == 6
    noisy = Run.create(
        RunConfig(run=str(tmp_path / "n"), data=DataConfig(n=40), noise=NoiseConfig(0.5))
    )
    assert noisy.fingerprint in prints  # labels do not enter the Gram


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architecture": ["Dense(W_std=0.1)", "Relu"] * 30 + ["Dense"]}, "Dense with W_std=0.1"),
        ({"architecture": ["Dense(trainable=False)"]}, "no layer is trainable"),
        ({"data": DataConfig(source="npz:{}/black.npz", preprocess="none")}, r"zero \(black\)"),
    ],
    ids=str,
)
def test_a_kernel_that_would_be_zero_is_refused_before_anything_is_stored(
    tmp_path, changes, message
):
    black = np.zeros((4, 3, 3), np.uint8)
    np.savez(tmp_path / "black.npz", x_train=black, y_train=np.array([0, 1, 0, 1]))
    changed = replace(config(tmp_path), **changes)
    source = changed.data.source.format(tmp_path)
    with pytest.raises(InputError, match=message):
        Run.create(replace(changed, data=replace(changed.data, source=source)))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"architecture": "fc-2"},
            "with architecture='cntk-gap-4', now architecture='fc-2' is asked",
        ),
        ({"noise": NoiseConfig(0.1)}, "with noise.rate=0.0, now noise.rate=0.1 is asked"),
        ({"gram": GramConfig(dtype="float64")}, "gram.dtype='float32', now gram.dtype='float64'"),
        ({"gram": GramConfig(backend="stax")}, "gram.backend='cpu', now gram.backend='stax'"),
    ],
    ids=str,
)
def test_another_configuration_is_refused_with_field_old_and_new(tmp_path, changes, message):
    Run.create(config(tmp_path))
    before = (tmp_path / "run" / "zarr.json").read_bytes()
    with pytest.raises(InputError, match=message):
        Run.create(config(tmp_path, **changes))
    assert (tmp_path / "run" / "zarr.json").read_bytes() == before


def test_how_it_is_computed_may_change(tmp_path):
    Run.create(config(tmp_path))
    Run.create(config(tmp_path, gram=GramConfig(executor="inline", workers=3)))


def test_newer_schema_is_refused(tmp_path):
    run = Run.create(config(tmp_path))
    path = tmp_path / "run" / "zarr.json"
    text = json.loads(path.read_text())
    text["attributes"]["ntkdist"]["schema"] = SCHEMA + 1
    path.write_text(json.dumps(text))
    with pytest.raises(InputError, match=f"schema {SCHEMA + 1}.*update ntkdist"):
        Run.open(run.url)


def test_foreign_folders_and_files_are_left_alone(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.tex").write_text("mine")
    with pytest.raises(InputError, match="other things in it"):
        Run.create(config(tmp_path))
    assert os.listdir(tmp_path / "run") == ["thesis.tex"]
    with pytest.raises(InputError, match="is a file"):
        Run.create(RunConfig(run=str(tmp_path / "run" / "thesis.tex")))


def test_killed_creation_starts_over(tmp_path):
    run = Run.create(config(tmp_path))
    path = tmp_path / "run" / "zarr.json"
    text = json.loads(path.read_text())
    del text["attributes"]["ntkdist"]  # the manifest is written last
    path.write_text(json.dumps(text))
    assert Run.create(config(tmp_path)).fingerprint == run.fingerprint


def test_missing_run_says_how_to_start_one(tmp_path):
    with pytest.raises(InputError, match="no run here; start one"):
        Run.open(tmp_path / "nothing")


def test_unwritable_place_is_named(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        Run.create(RunConfig(run=str(blocked / "run")))


def test_arrays_and_attributes_round_trip(tmp_path):
    run = Run.create(config(tmp_path))
    run.write("labels/quality", np.linspace(0, 1, 7), {"unit": "share"})
    run.write_attributes("labels", {"summary": {"flips": 3}})
    assert (run.read("labels", "quality") == np.linspace(0, 1, 7)).all()
    assert run.attributes("labels", "quality") == {"unit": "share"}
    assert run.attributes("labels")["summary"] == {"flips": 3}
    assert run.attributes("nothing") == {}
    with pytest.raises(StoreError, match="holds no labels/nothing yet"):
        run.read("labels", "nothing")


def test_corrupt_input_is_found(tmp_path):
    run = Run.create(config(tmp_path))
    chunk = next((tmp_path / "run/inputs/images/c").rglob("0"))
    chunk = chunk if chunk.is_file() else next(p for p in chunk.rglob("*") if p.is_file())
    data = bytearray(chunk.read_bytes())
    data[len(data) // 2] ^= 1
    chunk.write_bytes(data)
    with pytest.raises(
        StoreError, match=r"inputs/images/c/.*: cannot be read .its checksum is wrong"
    ):
        run.read("inputs", "images")


def test_file_names_go_with_the_images_into_the_run_and_the_table(tmp_path):
    from PIL import Image

    from ntkdist.pipeline import Pipeline

    rng = np.random.default_rng(0)
    for k in range(2):
        (tmp_path / "set" / f"class {k}").mkdir(parents=True)
        for i in range(6):
            picture = rng.integers(0, 99, (5, 4)) + 120 * k
            Image.fromarray(picture.astype(np.uint8)).save(tmp_path / f"set/class {k}/{i}ä.png")
    source = DataConfig(source=f"images:{tmp_path / 'set'}", n=8, subset="balanced")
    folder = tmp_path / "run"
    settings = GramConfig(executor="inline", tile=4)
    with Pipeline(RunConfig(run=str(folder), data=source, gram=settings, architecture="fc-1")) as p:
        files = p.run.files()
        labels = p.run.read("inputs", "labels")
        execute(p, ["gram", "factor", "labels"])
    assert len(files) == 8
    assert [f"class {k}" for k in labels] == [name.split("/")[0] for name in files]
    head, *rows = (folder / "labels.csv").read_text().splitlines()
    assert head.startswith("index,file,given_label,given_class,suggested_label,suggested_class,")
    for row in rows:
        index, name = row.split(",")[:2]
        assert files[int(index)] == name


def test_one_source_in_another_spelling_opens_the_run(tmp_path, monkeypatch):
    rows = np.random.default_rng(0).normal(size=(20, 4))
    (tmp_path / "data").mkdir()
    np.savez(tmp_path / "data/set.npz", x_train=rows, y_train=np.arange(20) % 2)
    np.save(tmp_path / "data/f.npy", rows)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HERE", str(tmp_path))

    def settings(path, features=None):
        data = DataConfig(source=f"npz:{path}", features=features)
        return RunConfig(run="run", architecture="fc-1", data=data)

    run = Run.create(settings("data/set.npz"))
    for path in ("./data/set.npz", "data/../data/set.npz", "$HERE/data/set.npz"):
        again = Run.find(settings(path))
        assert again is not None
        assert again.fingerprint == run.fingerprint
        assert again.config.data.source == f"npz:{path}"
    assert Run.open("run").config.data.source == "npz:data/set.npz"
    with pytest.raises(InputError, match=r"now data.source='npz:set.npz' is asked"):
        Run.find(settings("set.npz"))


def test_the_address_of_a_run_is_expanded_once(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    settings = RunConfig.from_dict({"run": "~/deep/run", "data": {"n": 20}, "architecture": "fc-1"})
    assert settings.run == str(tmp_path / "deep/run")
    run = Run.create(settings)
    assert run.url == Run.open("~/deep/run").url == str(tmp_path / "deep/run")
    assert [path.name for path in tmp_path.iterdir()] == ["deep"]


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "[]", "null", '{"attributes": []}', '{"attributes": {"ntkdist": []}}'),
        '{"attributes": {"ntkdist": {}}}',
        '{"attributes": {"ntkdist": {"schema": 1}}}',
        '{"attributes": {"ntkdist": {"schema": 1, "config": 3}}}',
    ],
)
def test_a_damaged_manifest_is_named_with_its_remedy(tmp_path, text):
    run = Run.create(config(tmp_path))
    (tmp_path / "run/zarr.json").write_text(text)
    with pytest.raises(StoreError, match=r"cannot be read \(.+\); .*restore zarr.json from a copy"):
        Run.open(run.url)


@pytest.mark.parametrize("text", [None, '{"attributes": {}}'])
def test_a_missing_manifest_beside_a_gram_is_no_missing_run(tmp_path, text):
    run = Run.create(config(tmp_path))
    run.write("gram/ntk", np.eye(2))
    path = tmp_path / "run/zarr.json"
    path.unlink()
    if text is not None:
        path.write_text(text)
    for use in (Run.open, lambda _: Run.create(config(tmp_path))):
        with pytest.raises(StoreError, match=r"its manifest is missing; .*restore zarr.json from"):
            use(run.url)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"attributes": 3}'])
@pytest.mark.parametrize("name", ["inputs/images", "inputs/labels", "labels"])
def test_damaged_metadata_are_named_with_their_remedy(tmp_path, name, text):
    run = Run.create(config(tmp_path))
    run.write_attributes("labels", {"summary": {}})
    (tmp_path / "run" / name / "zarr.json").write_text(text)
    read = run.attributes if name == "labels" else run.read
    remedy = "verify .* --repair" if name == "labels" else "restore it from a copy"
    with pytest.raises(StoreError, match=rf"{name}/zarr.json: cannot be read \(.+\); .*{remedy}"):
        read(*name.split("/"))


def test_a_relative_source_is_found_from_where_the_run_was_created(tmp_path, monkeypatch):
    x = np.random.default_rng(0).integers(0, 256, (30, 4, 4, 1), dtype=np.uint8)
    (tmp_path / "here").mkdir()
    np.savez(tmp_path / "here/set.npz", x_train=x, y_train=np.arange(30) % 3)
    monkeypatch.chdir(tmp_path / "here")
    made = RunConfig(run="run", architecture="fc-2", data=DataConfig(source="npz:set.npz", n=20))
    Run.create(made)
    monkeypatch.chdir(tmp_path)
    opened = Run.open(tmp_path / "here/run")
    assert opened.config.data.source == f"npz:{tmp_path}/here/set.npz"
    assert len(load_data(opened.config.data)) == 30
    assert Run.create(opened.config).fingerprint == opened.fingerprint
    np.savez(tmp_path / "set.npz", x_train=x + 1, y_train=np.arange(30) % 3)
    assert Run.open(tmp_path / "here/run").config.data.source == "npz:set.npz"
