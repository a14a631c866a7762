"""Networks of several widths on a run's images: what is stored, drawn and said."""

from __future__ import annotations

from xml.etree import ElementTree

import numpy as np
import pytest

from ntkdist.analyses import stored_results
from ntkdist.analyses.widths import describe_widths, measure_widths
from ntkdist.config import DataConfig, GramConfig, RunConfig
from ntkdist.errors import InputError, InterruptedRunError
from ntkdist.events.types import WidthMeasured
from ntkdist.pipeline import Pipeline

pytest.importorskip("jax")


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    return RunConfig(
        run=str(tmp_path_factory.mktemp("runs") / "digits"),
        architecture="fc-1",
        data=DataConfig(n=60),
        gram=GramConfig(executor="inline", tile=60),
    )


@pytest.mark.slow
def test_a_run_tells_how_near_networks_are_to_the_infinite_one(config):
    events = []
    with Pipeline(config, [events.append]) as pipeline:
        found = measure_widths(pipeline, widths=(16, 64), images=10, test=10, seeds=3, trained=1)
        run = pipeline.run
        [(group, about)] = stored_results(run, "widths", "exponents")
        gaps, widths = run.read(group, "kernel_gap"), run.read(group, "widths")
        labels, images = run.read("inputs", "labels"), run.read("inputs", "images")
    told = [event for event in events if isinstance(event, WidthMeasured)]
    assert [(one.width, one.seed) for one in told] == [(w, s) for w in (16, 64) for s in range(3)]
    assert [one.done for one in told] == [1, 2, 3, 4, 5, 6]
    assert {one.total for one in told} == {6}
    assert widths.tolist() == [16, 64]
    squares = [one.kernel_gap**2 for one in told]
    np.testing.assert_allclose(gaps**2, [np.mean(squares[:3]), np.mean(squares[3:])])
    slope = np.log(gaps[1] / gaps[0]) / np.log(4)
    assert about["exponents"]["kernel_gap"]["exponent"] == pytest.approx(slope)
    assert found.laws["kernel_gap"].exponent == pytest.approx(slope)
    assert len(about["rows"]) == 6
    assert about["rows"][0]["pseudo"]["difference"] > 0
    assert about["rows"][1]["pseudo"] is None
    # the same by hand, from the images that are meant
    from ntkdist import kernel_matrix
    from ntkdist.data import select
    from ntkdist.learning import FiniteNetwork
    from ntkdist.learning.empirical import empirical_kernel

    x = images[select(labels, 10, "balanced", 0)]
    network = FiniteNetwork("fc-1", 16, 10)
    kernel = empirical_kernel(network, network.init(2, x.shape[1:]), x, kind="pntk")
    infinite = kernel_matrix("fc-1", x, dtype="float64", backend="reference")
    gap = np.linalg.norm(kernel - infinite) / np.linalg.norm(infinite)
    assert told[2].kernel_gap == pytest.approx(gap, rel=1e-4)
    root = ElementTree.parse(f"{config.run}/widths.svg").getroot()
    assert root.tag.endswith("svg")
    words = describe_widths(found)
    assert f"kernel from the infinite one: width^{slope:.2f}" in words
    assert "10 images, 10 held out" in words
    assert "picture widths.svg" in words


def test_one_width_has_no_exponent_and_no_picture(config, tmp_path):
    import dataclasses

    own = dataclasses.replace(config, run=str(tmp_path / "one"))
    with Pipeline(own) as pipeline:
        found = measure_widths(pipeline, widths=(16,), images=10, test=10, seeds=1)
    assert found.laws == {}
    assert not (tmp_path / "one" / "widths.svg").exists()
    assert "width^" not in describe_widths(found)


def test_a_signal_stops_between_networks(config):
    seen = []

    def stop(event):
        if isinstance(event, WidthMeasured):
            seen.append(event)
            pipeline.stop.set()

    with Pipeline(config, [stop]) as pipeline, pytest.raises(InterruptedRunError):
        measure_widths(pipeline, widths=(8, 16), images=10, test=10, seeds=2)
    assert len(seen) == 1


def test_settings_that_do_not_fit_are_refused(config):
    with Pipeline(config) as pipeline:
        with pytest.raises(InputError, match="images=50 and test=20 are more than the 60 images"):
            measure_widths(pipeline, images=50)
        with pytest.raises(InputError, match="test=1 must be at least 2"):
            measure_widths(pipeline, test=1)
        with pytest.raises(InputError, match="seeds=0"):
            measure_widths(pipeline, seeds=0)
