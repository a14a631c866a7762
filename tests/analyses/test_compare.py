"""Architectures compared on one data set: what is computed, stored, drawn and refused."""

from __future__ import annotations

import dataclasses
import json
from xml.etree import ElementTree

import pytest

from ntkdist.analyses import read_sections
from ntkdist.analyses.compare import compare_architectures, ranks
from ntkdist.config import DataConfig, GramConfig, NoiseConfig, RunConfig
from ntkdist.errors import InputError
from ntkdist.pipeline import Pipeline


def settings(folder, **changes):
    base = {
        "run": str(folder),
        "architecture": "fc-2",
        "data": DataConfig(n=200),
        "noise": NoiseConfig(0.3),
        "gram": GramConfig(executor="inline", tile=100),
    }
    return RunConfig(**{**base, **changes})


@pytest.mark.slow
def test_architectures_are_compared_and_the_comparison_resumes(tmp_path):
    config = settings(tmp_path / "set", noise=NoiseConfig(0.0))
    found = compare_architectures(config, ["fc-2", "cnn-1"])
    assert {one.name for one in found} == {"fc-2", "cnn-1"}
    assert found[0].accuracy >= found[1].accuracy > 0.7
    for one in found:
        assert one.separation > 1
        assert one.block_error > 0
        assert one.gram_seconds > 0
    events = []
    compare_architectures(config, ["fc-10", "fc-2"], [events.append])
    again = compare_architectures(config, ["fc-10", "fc-2"])  # keeps what was said of cnn-1
    by_name = {one.name: one for one in again}
    for one in found:
        assert by_name[one.name].accuracy == one.accuracy
        assert by_name[one.name].separation == one.separation
    tiles = [event for event in events if type(event).__name__ == "TileDone"]
    assert len(tiles) == 3  # those of fc-10 alone
    kept = json.loads((tmp_path / "set-compare" / "compare.json").read_text())
    assert [row["name"] for row in kept["architectures"]] == [one.name for one in again]
    assert kept["ranks"] == ranks(again)
    assert sorted(kept["ranks"]["separation"]) == [1, 2, 3]
    picture = ElementTree.parse(tmp_path / "set-compare" / "compare.svg")
    clouds = picture.findall(".//{*}g[@id]")
    clouds = [g for g in clouds if g.get("id", "").startswith("PathCollection")]
    points = sum(len(cloud.findall(".//{*}use")) for cloud in clouds)
    # every image once in every panel, and a mark for each class in the legend
    assert points == 3 * len(again[0].points) + 10


@pytest.mark.slow
def test_the_architecture_of_a_run_that_is_there_is_compared_from_its_own_gram(tmp_path):
    config = settings(tmp_path / "set")
    with Pipeline(config) as pipeline:
        pipeline.gram()
    events = []
    found = compare_architectures(config, ["cnn-1"], [events.append])
    assert {one.name for one in found} == {"fc-2", "cnn-1"}
    own = next(one for one in found if one.name == "fc-2")
    assert own.run == str(tmp_path / "set")
    tiles = [event for event in events if type(event).__name__ == "TileDone"]
    assert len(tiles) == 3  # those of cnn-1 alone
    asked = compare_architectures(config, ["cnn-1", "fc-2"])
    assert {(one.name, one.run) for one in asked} == {(one.name, one.run) for one in found}
    (section,), _ = read_sections(pipeline.run)
    assert {row[0] for row in section.rows} == {"fc-2 (this run)", "cnn-1"}
    assert len(section.figures) == 2
    assert "were made wrong" in section.sentences[1]
    other = dataclasses.replace(config, data=DataConfig(n=150))
    with pytest.raises(InputError, match="1 architectures"):
        compare_architectures(other, ["cnn-1"])


def test_comparison_of_too_few_or_equal_architectures_is_refused(tmp_path):
    config = settings(tmp_path / "set")
    with pytest.raises(InputError, match="1 architectures; give at least two"):
        compare_architectures(config, ["fc-2"])
    with pytest.raises(InputError, match=r"architecture 'cntk-v-3' is 'cntk-v-3' again"):
        compare_architectures(config, ["cntk-v-3", "cntk-v-3"])
    assert not (tmp_path / "set-compare").exists()
