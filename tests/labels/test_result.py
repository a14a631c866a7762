"""A refurbishment as a prompt and a notebook show it."""

from __future__ import annotations

from dataclasses import replace
from xml.etree import ElementTree

import pytest

from ntkdist.labels import refurbish
from ntkdist.labels.result import RefurbishResult

from .oracle import clustered


@pytest.fixture(scope="module")
def result() -> RefurbishResult:
    inverse, labels, _ = clustered(120, 3, 0.1, 0)
    return refurbish(inverse, labels, 3, method="exact", steps=8)


def test_one_line(result: RefurbishResult) -> None:
    flips = len(result.history)
    assert flips > 5
    said = repr(result)
    assert said.startswith(f"<RefurbishResult: {flips} flips of 120 labels in 3 classes, L(Z) ")
    assert said.endswith(f"{result.stopped}>")
    assert len(said) < 200


def test_a_notebook_shows_the_first_flips_and_escapes(result: RefurbishResult) -> None:
    html = replace(result, stopped="L < 0 & done")._repr_html_()
    text = "".join(ElementTree.fromstring(html).itertext())
    first = result.history[0]
    assert f"image {first.index}: {first.old} → {first.new}" in text
    assert f"and {len(result.history) - 5} more (to_dataframe())" in text
    assert "L < 0 & done" in text


def test_a_notebook_shows_that_there_are_no_flips(result: RefurbishResult) -> None:
    text = "".join(ElementTree.fromstring(replace(result, history=())._repr_html_()).itertext())
    assert "Flips0L(Z)" in text
