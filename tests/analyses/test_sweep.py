"""A sweep over a run's images: kept row by row, taken up again, drawn."""

import json

import pytest

from ntkdist.analyses import read_sections
from ntkdist.analyses.sweep import describe_sweep, sweep
from ntkdist.config import DataConfig, GramConfig, RunConfig
from ntkdist.errors import InputError
from ntkdist.learning import sweep as measured
from ntkdist.pipeline import Pipeline


def settings(folder):
    return RunConfig(
        run=str(folder),
        architecture="fc-2",
        data=DataConfig(n=90),
        gram=GramConfig(executor="inline"),
    )


def test_only_what_is_missing_is_computed(tmp_path, monkeypatch):
    asked = []
    real = measured.measure

    def counted(variant, *args, **kwargs):
        asked.append(variant.value)
        if variant.value == "5":
            raise KeyboardInterrupt
        return real(variant, *args, **kwargs)

    monkeypatch.setattr(measured, "measure", counted)
    with Pipeline(settings(tmp_path / "r")) as pipeline, pytest.raises(KeyboardInterrupt):
        sweep(pipeline, "depth", ["2", "3", "5"], images=40)
    with Pipeline(settings(tmp_path / "r")) as pipeline:
        found = sweep(pipeline, "depth", ["4", "3", "2"], images=40)
        assert asked == ["2", "3", "5", "4"]
        assert [row.value for row in found.rows] == ["4", "3", "2"]
        sweep(pipeline, "depth", ["2"], images=50)
        assert asked[4:] == ["2"]
        fewer = sweep(pipeline, "depth", ["3"], images=40)
        assert asked[5:] == []
        # values measured before are kept
        assert [row.value for row in fewer.rows] == ["3", "4", "2"]
        assert {one.name for one in read_sections(pipeline.run)[0]} == {
            "sweep-depth-40",
            "sweep-depth-50",
        }
        assert json.dumps(pipeline.run.attributes("sweep"))
    picture = (tmp_path / "r" / "sweep-depth.svg").read_text()
    assert "condition number" in picture
    said = describe_sweep(found).splitlines()
    assert len(said) == 6
    best = max(row.accuracy for row in found.rows)
    tied = [row.value for row in found.rows if row.accuracy == best]
    assert said[-2] == f"most accurate: depth {' and '.join(tied)}, {100 * best:.2f} %"
    assert "scale: mean of the kernel's diagonal" in said[-1]
    assert said[1].startswith("4 ")
    assert "sweep-depth.svg" in said[-1]


@pytest.mark.slow
def test_words_are_drawn_and_what_only_scales_is_said(tmp_path):
    with Pipeline(settings(tmp_path / "r")) as pipeline:
        bent = sweep(pipeline, "nonlinearity", images=40)
        scaled = sweep(pipeline, "W_std", ["1", "2"], images=40)
    assert bent.rows[0].cosine != bent.rows[1].cosine
    assert "by a factor alone" not in describe_sweep(bent)
    assert "by a factor alone" in describe_sweep(scaled)
    assert scaled.rows[1].scale == pytest.approx(16 * scaled.rows[0].scale, rel=1e-5)


def test_bad_input_is_named(tmp_path):
    with Pipeline(settings(tmp_path / "r")) as pipeline:
        with pytest.raises(InputError, match="must be from 10 to"):
            sweep(pipeline, "depth", images=3)
        with pytest.raises(InputError, match="over='height' is not one of"):
            sweep(pipeline, "height")
