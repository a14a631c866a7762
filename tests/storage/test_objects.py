"""The same promises of a folder, of a store in memory and of a server that speaks S3."""

from __future__ import annotations

import errno
import os
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import zarr

from ntkdist import storage
from ntkdist.errors import InputError, StoreError
from ntkdist.storage import arrays
from tests.s3 import ACCESS_KEY, SECRET_KEY, S3Server


@pytest.fixture(params=["path", "memory", "s3"])
def base(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "path":
        return str(tmp_path / "base")
    name = f"{tmp_path.name}-{id(tmp_path)}"
    if request.param == "s3":
        request.getfixturevalue("s3")
        return f"s3://bucket/{name}"
    return f"memory://{name}/base"


@pytest.fixture(params=["path", "memory"])
def conditional(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A place whose server heeds conditions."""
    base = tmp_path / "base"
    return str(base) if request.param == "path" else f"memory://{tmp_path.name}-{id(base)}/base"


def test_everything_below_an_address_is_removed_and_nothing_beside_it(base: str) -> None:
    storage.remove_all(storage.join(base, "a"))  # nothing is there
    for name in ("a/one", "a/b/two", "a/empty", "ab/three"):
        storage.write_text(storage.join(base, name), "" if name == "a/empty" else name)
    storage.remove_all(storage.join(base, "a"))
    assert storage.list_objects(base) == ["ab/three"]
    assert not storage.exists(storage.join(base, "a", "empty"))


def test_what_is_written_is_read_and_removed(base: str) -> None:
    place = storage.join(base, "a", "b é.txt")
    assert storage.read_text(place) is None
    assert not storage.exists(place)
    storage.remove(place)
    storage.write_text(place, "first, longer")
    storage.write_text(place, "grüße")
    assert storage.read_text(place) == "grüße"
    assert storage.read_bytes(place) == "grüße".encode()
    assert storage.exists(place)
    storage.remove(place)
    assert storage.read_bytes(place) is None


def test_a_copy_is_whole_and_its_own(base: str) -> None:
    source, target = storage.join(base, "a", "one"), storage.join(base, "b", "c", "two")
    assert not storage.copy(source, target)
    assert storage.list_objects(base) == []
    storage.write_text(source, "first")
    storage.write_text(target, "in its place")
    for _ in range(2):  # once more where both are one file already
        assert storage.copy(source, target)
        assert storage.read_text(target) == "first"
    assert sorted(storage.list_objects(base)) == ["a/one", "b/c/two"]
    storage.write_text(source, "another")
    assert storage.read_text(target) == "first"
    storage.remove_all(storage.join(base, "a"))
    assert storage.read_text(target) == "first"


def test_an_object_is_copied_from_a_folder_into_a_store_and_back(tmp_path: Path) -> None:
    here, there = str(tmp_path / "x"), f"memory://{tmp_path.name}/copied/x"
    storage.write_text(here, "content")
    assert storage.copy(here, there)
    assert storage.copy(there, f"{here}-2")
    assert storage.read_text(f"{here}-2") == "content"
    assert not storage.copy(f"{there}-none", here)


def test_a_copy_in_a_folder_is_a_link_and_a_true_copy_where_links_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two, three = (tmp_path / name for name in ("one", "two", "three"))
    one.write_text("content")
    storage.copy(str(one), str(two))
    assert one.samefile(two)

    def refuse(*_: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    storage.copy(str(one), str(three))
    assert not one.samefile(three)
    assert three.read_text() == "content"


def test_listing_gives_relative_paths_of_what_holds_a_byte(base: str) -> None:
    assert storage.list_objects(base) == []
    assert storage.children(base) == []
    for name in ("x", "deep/er/y", "deep/z", "deep-else"):
        storage.write_text(storage.join(base, name), "1")
    storage.write_text(storage.join(base, "empty"), "")
    assert sorted(storage.list_objects(base)) == ["deep-else", "deep/er/y", "deep/z", "x"]
    assert sorted(storage.list_objects(storage.join(base, "deep"))) == ["er/y", "z"]
    assert sorted(storage.children(base)) == ["deep", "deep-else", "empty", "x"]
    assert list(storage.read_all(storage.join(base, "deep")).items()) == [
        ("er/y", b"1"),
        ("z", b"1"),
    ]


@pytest.mark.slow
def test_a_listing_of_many_pages_is_whole(tmp_path: Path, s3: S3Server) -> None:
    names = {f"{i % 7}/{i}" for i in range(1100)} | {"top", "1/deep/er"}
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: storage.write_text(f"s3://bucket/{tmp_path.name}/{n}", "x"), names))
    found = storage.list_objects(f"s3://bucket/{tmp_path.name}")
    assert len(found) == len(names)
    assert set(found) == names


def test_a_file_written_by_other_code_appears_whole_or_not_at_all(base: str) -> None:
    place = storage.join(base, "table.csv")
    with storage.writing(place) as path:
        assert path.endswith(".csv")
        Path(path).write_text("a,b", encoding="utf-8")
        assert storage.read_text(place) is None
    assert storage.read_text(place) == "a,b"

    def fail() -> None:
        with storage.writing(place) as path:
            Path(path).write_text("half", encoding="utf-8")
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert storage.read_text(place) == "a,b"
    assert storage.children(base) == ["table.csv"]


def test_a_text_is_created_once(conditional: str) -> None:
    place = storage.join(conditional, "lease.json")
    assert storage.create_text(place, "mine")
    assert not storage.create_text(place, "yours")
    assert not storage.create_text(place, "mine")
    assert storage.read_text(place) == "mine"
    assert storage.list_objects(conditional) == ["lease.json"]


def test_a_text_is_replaced_only_if_it_is_as_it_was_read(conditional: str) -> None:
    place = storage.join(conditional, "lease.json")
    assert storage.read_versioned(place) is None
    assert not storage.replace_text(place, "x", '"0"')
    storage.create_text(place, "one")
    found = storage.read_versioned(place)
    assert found is not None
    text, version = found
    assert text == "one"
    assert storage.replace_text(place, "two", version)
    assert not storage.replace_text(place, "three", version)
    assert storage.read_text(place) == "two"
    storage.remove(place)
    assert not storage.replace_text(place, "four", version)
    assert storage.list_objects(conditional) == []


def test_of_several_that_create_at_once_one_wins(conditional: str) -> None:
    for attempt in range(20):
        place = storage.join(conditional, f"{attempt}")
        won = _race(lambda name, place=place: storage.create_text(place, name))
        assert len(won) == 1
        assert storage.read_text(place) == won[0]


def test_of_several_that_replace_at_once_one_wins(conditional: str) -> None:
    place = storage.join(conditional, "lease")
    storage.write_text(place, "start")
    for _ in range(20):
        found = storage.read_versioned(place)
        assert found is not None
        won = _race(lambda name, v=found[1]: storage.replace_text(place, name, v))
        assert len(won) == 1
        assert storage.read_text(place) == won[0]


def _race(act, count: int = 4) -> list[str]:  # type: ignore[no-untyped-def]
    gate, won = threading.Barrier(count), []

    def run(name: str) -> None:
        gate.wait()
        if act(name):
            won.append(name)

    threads = [threading.Thread(target=run, args=(f"writer {i}",)) for i in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return won


def test_zarr_arrays_live_there_and_their_pickles_hold_no_key(base: str) -> None:
    store = storage.zarr_store(storage.join(base, "group"))
    group = zarr.open_group(store, mode="w")
    array = group.create_array("a", shape=(5, 7), chunks=(2, 3), dtype="f8", fill_value=np.nan)
    values = np.arange(35.0).reshape(5, 7)
    array[...] = values
    assert "a" in group
    assert sorted(group.array_keys()) == ["a"]
    opened = zarr.open_array(storage.zarr_store(storage.join(base, "group", "a")), mode="r")
    data = pickle.dumps(opened)
    assert ACCESS_KEY.encode() not in data
    assert SECRET_KEY.encode() not in data
    np.testing.assert_array_equal(pickle.loads(data)[1:4, 2:], values[1:4, 2:])
    assert pickle.loads(data).read_only
    with pytest.raises(ValueError, match="read-only"):
        opened[...] = 0
    del group["a"]
    assert not any(name.startswith("group/a") for name in storage.list_objects(base))
    assert SECRET_KEY not in repr(store) + str(vars(opened.store_path))


@pytest.mark.parametrize("values", [np.zeros((1500, 700)), np.ones(()), np.zeros((0, 3))])
def test_an_array_is_read_whole_or_not_at_all(base: str, values: np.ndarray) -> None:
    """Also where it is all zeros, which Zarr would not store."""
    place = storage.join(base, "array")
    arrays.write_array(place, values, {"of": "a test"})
    np.testing.assert_array_equal(arrays.read_array(place), values)
    assert arrays.read_metadata(place)["attributes"] == {"of": "a test"}
    array = pickle.loads(pickle.dumps(arrays.open_array(place)))
    chunks = [name for name in storage.list_objects(place) if name != arrays.METADATA]
    assert len(chunks) == {0: 0, 1: 1, 1_050_000: 3}[values.size]
    for name in chunks:
        chunk = storage.join(place, name)
        content = storage.read_bytes(chunk)
        assert content is not None
        storage.remove(chunk)
        for read in (lambda: arrays.read_array(place), lambda: array[...]):
            with pytest.raises(StoreError, match=f"array/{name}: this part of an array is missing"):
                read()
        storage.write_bytes(chunk, content[:-1] + bytes([content[-1] ^ 1]))
        with pytest.raises(StoreError, match=f"array/{name}: .*checksum is wrong.*; fetch it"):
            arrays.read_array(place, "fetch it")
        assert [str(e) for e in arrays.damages(place, "fetch it")] == [
            f"{chunk}: cannot be read (its checksum is wrong); fetch it"
        ]
        storage.write_bytes(chunk, content)
    with pytest.raises(FileNotFoundError):
        arrays.read_array(storage.join(base, "nothing"))


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for act in (storage.write_text, storage.create_text):
        with pytest.raises(InputError, match=r"cannot be written \(.*\); choose a folder that can"):
            act(str(tmp_path / "file" / "x"), "")
