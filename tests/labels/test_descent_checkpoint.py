"""Stored states: a refurbishment that was killed continues with the same flips."""

from __future__ import annotations

import numpy as np
import pytest

from ntkdist.errors import InputError, StoreError
from ntkdist.labels import refurbish

from .oracle import clustered


@pytest.mark.slow(but="1-exact")
@pytest.mark.parametrize("method", ["exact", "paper"])
@pytest.mark.parametrize("flips_per_step", [1, 5])
def test_a_killed_descent_continues_with_the_same_flips(tmp_path, method, flips_per_step):
    A, labels, _ = clustered(250, 6, 0.5, 15)
    options = {"method": method, "steps": 90, "flips_per_step": flips_per_step}
    whole = refurbish(A, labels, 6, **options)
    assert len(whole.history) > 70
    made = []

    def kill_at(step):
        def listener(flip):
            made.append(flip.step)
            if flip.step == step:
                raise KeyboardInterrupt

        return listener

    url = str(tmp_path / "state")
    for step in (7, 33, 64):
        with pytest.raises(KeyboardInterrupt):
            refurbish(
                A, labels, 6, checkpoint=url, checkpoint_every=10, on_step=kill_at(step), **options
            )
    made.clear()
    last = refurbish(
        A, labels, 6, checkpoint=url, checkpoint_every=10, on_step=kill_at(-1), **options
    )
    assert min(made) > 30  # stored flips were not made again
    assert last.history == whole.history
    np.testing.assert_array_equal(last.labels, whole.labels)
    np.testing.assert_array_equal(last.losses, whole.losses)
    np.testing.assert_array_equal(last.G, whole.G)


@pytest.mark.slow
def test_a_state_of_other_labels_or_settings_is_not_used(tmp_path):
    A, labels, _ = clustered(120, 4, 0.4, 16)
    url = str(tmp_path / "state")
    refurbish(A, labels, 4, steps=20, checkpoint=url, checkpoint_every=5)
    for change in ({"beta": 0.5}, {"method": "paper"}, {"locked": [0]}):
        options = {"steps": 20, **change}
        plain = refurbish(A, labels, 4, **options)
        kept = refurbish(A, labels, 4, checkpoint=url, checkpoint_every=5, **options)
        assert kept.history == plain.history
    other = labels.copy()
    other[:4] = (other[:4] + 1) % 4
    kept = refurbish(A, other, 4, steps=20, checkpoint=url, checkpoint_every=5)
    assert kept.history == refurbish(A, other, 4, steps=20).history


def test_a_damaged_state_is_named(tmp_path):
    A, labels, _ = clustered(120, 4, 0.4, 16)
    url = tmp_path / "state"
    refurbish(A, labels, 4, steps=20, checkpoint=str(url), checkpoint_every=5)
    for chunk in url.glob("*/G/c/0/0"):
        chunk.write_bytes(chunk.read_bytes()[:-3] + b"abc")
    with pytest.raises(StoreError, match=r"state/.*cannot be read.*delete .*state"):
        refurbish(A, labels, 4, steps=30, checkpoint=str(url), checkpoint_every=5)


@pytest.mark.parametrize("name", ["G", "labels", "history_index", "history_delta_loss"])
def test_a_missing_part_of_a_state_is_named(tmp_path, name):
    A, labels, _ = clustered(120, 4, 0.4, 16)
    url = tmp_path / "state"
    refurbish(A, labels, 4, steps=20, checkpoint=str(url), checkpoint_every=5)
    for array in url.glob(f"*/{name}"):
        for chunk in (array / "c").rglob("*"):
            chunk.is_file() and chunk.unlink()
    with pytest.raises(StoreError, match=rf"{name}/c/.* is missing; delete .*state to start"):
        refurbish(A, labels, 4, steps=30, checkpoint=str(url), checkpoint_every=5)


def test_a_checkpoint_does_not_overwrite_something_else(tmp_path):
    import zarr

    zarr.open_group(str(tmp_path / "other"), mode="w").attrs["kind"] = "photographs"
    A, labels, _ = clustered(20, 3, 0.3, 0)
    with pytest.raises(InputError, match="holds something else; give a new or empty folder"):
        refurbish(A, labels, 3, checkpoint=str(tmp_path / "other"))
