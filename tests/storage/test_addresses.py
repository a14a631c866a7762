from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from ntkdist import storage
from ntkdist.errors import InputError


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
