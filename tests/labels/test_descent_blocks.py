"""Row blocks on the workers of a cluster: the same flips as in one block in this process."""

from __future__ import annotations

import os
import signal

import numpy as np
import pytest

from ntkdist.errors import StageError
from ntkdist.labels import refurbish

from .oracle import clustered


@pytest.fixture(scope="module")
def client():
    from distributed import Client, LocalCluster

    with (
        LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0"
        ) as cluster,
        Client(cluster) as client,
    ):
        yield client


@pytest.mark.slow(but="posterior")
@pytest.mark.parametrize("method", ["posterior", "exact", "paper"])
def test_sixteen_blocks_on_two_workers_make_the_flips_of_one_block(client, method):
    A, labels, _ = clustered(403, 7, 0.5, 1)
    here = refurbish(A, labels, 7, method=method, steps=120)
    there = refurbish(A, labels, 7, method=method, steps=120, blocks=16, client=client)
    assert len(here.history) > 50
    assert there.history == here.history
    np.testing.assert_array_equal(there.G, here.G)
    np.testing.assert_array_equal(there.labels, here.labels)


@pytest.mark.slow
def test_several_flips_per_step_are_the_same_too(client):
    A, labels, _ = clustered(250, 5, 0.5, 2)
    here = refurbish(A, labels, 5, flips_per_step=6)
    there = refurbish(A, labels, 5, flips_per_step=6, blocks=16, client=client)
    assert there.history == here.history


@pytest.mark.slow
def test_a_descent_begun_here_continues_on_the_cluster(client, tmp_path):
    A, labels, _ = clustered(250, 5, 0.5, 3)
    whole = refurbish(A, labels, 5, steps=80)

    def stop(flip):
        if flip.step == 40:
            raise KeyboardInterrupt

    kept = {"steps": 80, "checkpoint": str(tmp_path / "state"), "checkpoint_every": 10}
    with pytest.raises(KeyboardInterrupt):
        refurbish(A, labels, 5, on_step=stop, **kept)
    steps = []
    there = refurbish(
        A, labels, 5, blocks=16, client=client, on_step=lambda f: steps.append(f.step), **kept
    )
    assert min(steps) > 30
    assert there.history == whole.history


@pytest.mark.slow
def test_a_lost_worker_is_an_error_and_the_state_is_stored(tmp_path):
    from distributed import Client, LocalCluster

    A, labels, _ = clustered(250, 5, 0.5, 4)
    kept = {"steps": 80, "checkpoint": str(tmp_path / "state"), "checkpoint_every": 10}
    whole = refurbish(A, labels, 5, steps=80)
    with (
        LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0"
        ) as cluster,
        Client(cluster) as client,
    ):

        def kill(flip):
            if flip.step == 33:
                os.kill(sorted(client.run(os.getpid).values())[0], signal.SIGKILL)

        with pytest.raises(StageError, match=r"a worker that held rows.*was lost.*last checkpoint"):
            refurbish(A, labels, 5, blocks=4, client=client, on_step=kill, **kept)
    steps = []
    after = refurbish(A, labels, 5, on_step=lambda f: steps.append(f.step), **kept)
    assert min(steps) > 30
    assert after.history == whole.history
