"""Paths as users write them, and whether two of them are one place."""

from __future__ import annotations

from pathlib import Path

import pytest

from ntkdist.data.paths import resolve, same_path, same_source


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "photos").mkdir()
    (tmp_path / "link").symlink_to("photos")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PLACE", str(tmp_path))
    monkeypatch.delenv("none", raising=False)
    return tmp_path


@pytest.mark.parametrize(
    "spelling", ["./photos", "photos/", "photos/../photos", "~/photos", "$PLACE/photos", "link"]
)
def test_one_folder_in_several_spellings_is_one_source(here: Path, spelling: str) -> None:
    for other in ("photos", str(here / "photos")):
        assert same_path(spelling, other)
        assert same_source(f"images:{spelling}", f"images:{other}")
        assert same_source(f"images: {spelling}", f"images:{other}")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("images:photos", "images:photos2"),
        ("images:photos", "csv:photos"),
        ("digits", "shapes"),
        ("digits", "images:digits"),
        ("images:$none/a", "images:photos"),
    ],
)
def test_other_sources_are_others(here: Path, one: str, other: str) -> None:
    assert not same_source(one, other)
    assert same_source(one, one)


def test_a_name_with_a_dollar_is_found_from_a_root(here: Path) -> None:
    (here / "photos/a$none").mkdir()
    assert resolve("a$none", str(here / "photos")) == here / "photos/a$none"
