from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from ntkdist import storage
from ntkdist.errors import InputError
from ntkdist.storage.addresses import expand, normal, parse


@pytest.mark.parametrize(
    ("given", "normal"),
    [
        ("runs/x/", "runs/x"),
        ("/tmp/x", "/tmp/x"),
        ("file:///tmp/a%20b", "/tmp/a b"),
        ("s3://bucket", "s3://bucket"),
        ("s3://bucket//a/b/", "s3://bucket/a/b"),
        ("memory://x/y", "memory://x/y"),
    ],
)
def test_an_address_has_one_spelling(given: str, normal: str) -> None:
    assert storage.normal(given) == normal
    assert storage.local_path(given) == (None if "://" in normal else Path(normal))


@pytest.mark.parametrize(
    "address",
    [
        "s3://KEYKEYKEY:SECRETSECRET@bucket/run",
        "s3://SECRETSECRET@bucket/run",
        "s3://bucket/run?X-Amz-Signature=SECRETSECRET",
        "gs://bucket/run?key=SECRETSECRET",
        "az://container:SECRETSECRET/run",
        "s3://bucket/run#SECRETSECRET",
        "s4://KEYKEYKEY:SECRETSECRET@bucket/run",
    ],
)
def test_a_secret_in_an_address_is_refused_and_not_repeated(address: str) -> None:
    with pytest.raises(InputError) as caught:
        storage.normal(address)
    assert "SECRETSECRET" not in repr(caught.value)
    assert "KEYKEYKEY" not in repr(caught.value)


def test_an_unknown_scheme_is_answered_with_the_known_ones() -> None:
    with pytest.raises(InputError, match=r"s3://, gs://, az:// or file://.*did you mean 's3'"):
        storage.normal("s3n://bucket/run")


@pytest.mark.parametrize("address", ["s3://", "s3:///run", "s3://bucket/a/../b", "s3://bucket/."])
def test_addresses_that_name_nothing_are_refused(address: str) -> None:
    with pytest.raises(InputError):
        storage.normal(address)


def test_names_are_joined() -> None:
    assert storage.join("s3://bucket/", "a", "b/c") == "s3://bucket/a/b/c"
    assert storage.join("runs/x", "labels") == "runs/x/labels"


@pytest.mark.parametrize(
    "name", ["", "..", "../x", "a/../../x", "/etc", "a//b", "a\\b", "a\0b", "."]
)
def test_a_name_cannot_lead_out_of_its_folder(name: str) -> None:
    for address in ("runs/x", "s3://bucket/x"):
        with pytest.raises(InputError, match="is not a valid name inside a folder"):
            storage.join(address, name)


@given(st.text("ab./\\\0 ", max_size=8))
def test_whatever_is_joined_lies_inside(name: str) -> None:
    try:
        inside = storage.join("/base/run", name)
    except InputError:
        return
    assert Path(inside).resolve().is_relative_to("/base/run")
    assert Path(inside).resolve() != Path("/base/run")


def test_paths_are_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("SCRATCH", "/scratch/me")
    monkeypatch.delenv("none", raising=False)
    monkeypatch.chdir(tmp_path)
    for typed, expected in {
        "~/x": "/home/me/x",
        "$SCRATCH/x": "/scratch/me/x",
        "${SCRATCH}-2/x": "/scratch/me-2/x",
        "$SCRATCH": "/scratch/me",
        "./~/x": "./~/x",
        "runs/x": "runs/x",
        "s3://bucket/$SCRATCH/~": "s3://bucket/$SCRATCH/~",
    }.items():
        assert storage.expand(typed) == expected
        assert storage.normal(typed) == storage.normal(expected)
    with pytest.raises(InputError, match=r"'a\$none/x': the environment variable none is not set"):
        storage.expand("a$none/x")


def test_a_folder_whose_name_holds_a_dollar_is_meant_where_it_exists(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SCRATCH", "/scratch/me")
    monkeypatch.setenv("HERE", str(tmp_path))
    monkeypatch.delenv("none", raising=False)
    monkeypatch.chdir(tmp_path)
    for name in ("a$none", "$SCRATCH"):
        (tmp_path / name).mkdir()
        for typed in (name, f"{name}/new", f"{tmp_path}/{name}/new"):
            assert storage.expand(typed) == typed
    assert storage.expand("$HERE/a$none/new") == f"{tmp_path}/a$none/new"


@pytest.mark.parametrize(
    ("address", "words"),
    [
        (b"runs/x", "is no path or URL"),
        (None, "None is no path or URL"),
        ("runs/caf\udce9", "is not in UTF-8; rename"),
        ("runs/a\0b", "holds a zero byte or a line break"),
        ("runs/" + "x" * 300, "a name of 300 bytes; a name may have 255"),
        ("x/" * 3000, "a path 4095"),
    ],
)
def test_what_cannot_name_a_file_is_refused(address, words):
    for read in (expand, normal, parse):
        with pytest.raises(InputError, match=words) as caught:
            read(address)
        assert len(str(caught.value)) < 400
