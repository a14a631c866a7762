from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import dask
import numpy as np
import pytest
import zarr
from hypothesis import given, settings, strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from ntkdist.errors import InputError, StoreError
from ntkdist.events.types import IterationDone, SketchDone
from ntkdist.linalg import NotConvergedError, NotPositiveDefiniteError, cg_solve
from ntkdist.linalg.status import LinalgStatus
from tests.linalg.kernels import exponential, gaussian
from tests.linalg.matrices import spd, upper_only, with_eigenvalues
from tests.linalg.stopping import StopError, stop_at

N, K = 600, 4


@pytest.fixture(scope="module")
def kernel() -> np.ndarray:
    return exponential(N) + 0.02 * np.eye(N)


@pytest.fixture(scope="module")
def b() -> np.ndarray:
    return np.random.default_rng(3).standard_normal((N, K))


def relative(a, shift, x, b):
    return np.linalg.norm(b - a @ x - shift * x, axis=0) / np.linalg.norm(b, axis=0)


@pytest.mark.slow(but="0.001-auto")
@pytest.mark.parametrize("rank", [0, 1, 75, "auto"])
@pytest.mark.parametrize("ridge", [0.0, 1e-3])
def test_solutions_are_direct_ones(kernel, b, rank, ridge):
    result = cg_solve(upper_only(kernel), b, rank=rank, ridge=ridge, tolerance=1e-9)
    shift = ridge * np.diag(kernel).mean()
    whole = kernel + shift * np.eye(N)
    assert result.status is LinalgStatus.CONVERGED
    assert_allclose(result.x, np.linalg.solve(whole, b), rtol=0, atol=1e-6 * np.abs(result.x).max())
    assert result.residuals.shape == (K,)
    assert_allclose(result.residuals, relative(kernel, shift, result.x, b), rtol=0, atol=1e-10)
    assert result.residuals.max() <= 1e-9
    assert result.iterations == len(result.history)
    # one pass an iteration, one for the sketch, one to check
    assert result.passes == result.iterations + (2 if rank else 1)


@pytest.mark.slow
def test_the_preconditioner_saves_two_thirds_of_the_iterations(b):
    a = gaussian(N)
    helped = cg_solve(a, b, ridge=1e-4)
    assert helped.status is LinalgStatus.CONVERGED
    most = 3 * helped.iterations
    plain = cg_solve(a, b, ridge=1e-4, rank=0, max_iterations=most, throw=False)
    assert plain.status is LinalgStatus.TOO_MANY_ITERATIONS


@pytest.mark.slow
def test_a_block_needs_fewer_passes_than_a_column(kernel, b):
    together = cg_solve(kernel, b, rank=0, ridge=1e-2)
    alone = cg_solve(kernel, b[:, 0], rank=0, ridge=1e-2)
    assert together.iterations < alone.iterations


@pytest.mark.slow
def test_a_single_right_hand_side_keeps_its_shape(kernel, b):
    result = cg_solve(kernel, b[:, 0])
    assert result.x.shape == (N,)
    assert_array_equal(cg_solve(kernel, b[:, :1]).x[:, 0], result.x)


@pytest.mark.slow
def test_repeated_zero_and_easy_right_hand_sides(kernel, b):
    """Directions become dependent at once, or one by one."""
    easy = kernel[:, 0] + 1e-3 * kernel[:, 1]
    rhs = np.column_stack([b[:, 0], np.zeros(N), b[:, 0], 2 * b[:, 0] - b[:, 1], b[:, 1], easy])
    result = cg_solve(kernel, rhs, tolerance=1e-9)
    assert_array_equal(result.x[:, 1], 0)
    assert_allclose(result.x[:, 0], result.x[:, 2], rtol=1e-5, atol=1e-6)
    assert result.residuals.max() <= 1e-9
    assert cg_solve(kernel, np.zeros((N, 2))).iterations == 0
    assert cg_solve(kernel, np.zeros((N, 0))).x.shape == (N, 0)


@pytest.mark.slow
@settings(max_examples=25)
@given(
    n=st.integers(1, 40), k=st.integers(1, 6), rank=st.integers(0, 5), seed=st.integers(0, 10**6)
)
def test_any_small_system_is_solved(n, k, rank, seed):
    rng = np.random.default_rng(seed)
    a = spd(n, 10.0 ** rng.uniform(0, 5), seed) if n > 1 else np.array([[2.0]])
    rhs = rng.standard_normal((n, k))
    result = cg_solve(a, rhs, rank=min(rank, n), tolerance=1e-9, max_iterations=20 * n)
    assert relative(a, 0.0, result.x, rhs).max() <= 1.01e-9


@pytest.mark.slow(but="synchronous")
@pytest.mark.parametrize("scheduler", ["synchronous", dask.get])
def test_schedulers_give_the_same_bits(kernel, b, scheduler):
    expected = cg_solve(kernel, b)
    result = cg_solve(kernel, b, scheduler=scheduler)
    assert_array_equal(result.x, expected.x)
    assert_array_equal(result.history, expected.history)


def test_events_tell_the_sketch_and_every_residual(kernel, b):
    events: list = []
    result = cg_solve(kernel, b, on_event=events.append)
    sketch, *steps = events
    assert isinstance(sketch, SketchDone)
    assert sketch.rank == result.rank == N // 8
    assert sketch.largest > sketch.smallest > 0
    assert [e.index for e in steps] == list(range(1, result.iterations + 1))
    assert [e.residual for e in steps] == list(result.history)
    assert all(isinstance(e, IterationDone) and e.method == "cg" for e in steps)


@pytest.mark.slow(but="7-20")
@pytest.mark.parametrize("rank", [0, 20])
@pytest.mark.parametrize("index", [1, 7])
def test_an_interrupted_solve_goes_on_with_the_same_bits(tmp_path, kernel, b, rank, index):
    expected = cg_solve(kernel, b, rank=rank)
    stop = stop_at(IterationDone, index=index)
    with pytest.raises(StopError):
        cg_solve(kernel, b, rank=rank, url=tmp_path / "s", on_event=stop)
    events: list = []
    result = cg_solve(kernel, b, rank=rank, url=tmp_path / "s", on_event=events.append)
    assert_array_equal(result.x, expected.x)
    assert_array_equal(result.history, expected.history)
    assert [e.index for e in events if isinstance(e, IterationDone)] == list(
        range(index + 1, result.iterations + 1)
    )
    assert result.passes == result.iterations - index + 1
    # one iterate is there, not one for each stop
    assert len(list((tmp_path / "s" / "iterates").glob("0*"))) == 1
    stored = cg_solve(kernel, b, rank=rank, url=tmp_path / "s")
    assert stored.passes == 0
    assert_array_equal(stored.x, expected.x)


SCRIPT = """
import sys
import numpy as np
from ntkdist.events.types import IterationDone
from ntkdist.linalg import cg_solve
a, b = np.load(sys.argv[1]), np.load(sys.argv[2])
def listen(event):
    if isinstance(event, IterationDone):
        print(event.index, flush=True)
cg_solve(a, b, url=sys.argv[3], save_every=0, on_event=listen)
"""


@pytest.mark.slow
def test_a_killed_solve_goes_on_with_the_same_bits(tmp_path, kernel, b):
    np.save(tmp_path / "a.npy", kernel)
    np.save(tmp_path / "b.npy", b)
    command = [sys.executable, "-c", SCRIPT, *(str(tmp_path / x) for x in ("a.npy", "b.npy", "s"))]
    # each start finds BLAS with other threads, as a process that distributed started does
    for line, threads in (("3", "1"), ("8", "2")):
        with subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
            env={**os.environ, "OPENBLAS_NUM_THREADS": threads},
        ) as process:
            assert process.stdout is not None
            for seen in process.stdout:
                if seen.strip() == line:
                    break
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
        assert process.returncode == -signal.SIGKILL
    events: list = []
    result = cg_solve(kernel, b, url=tmp_path / "s", on_event=events.append)
    assert next(e.index for e in events if isinstance(e, IterationDone)) > 8
    assert_array_equal(result.x, cg_solve(kernel, b).x)


@pytest.mark.slow
def test_too_few_iterations_are_said_and_can_go_on(tmp_path, kernel, b):
    with pytest.raises(
        NotConvergedError, match=r"no convergence: .* after 5 iterations.*rank"
    ) as e:
        cg_solve(kernel, b, max_iterations=5, url=tmp_path / "s")
    assert e.value.exit_code == 1
    assert e.value.result.iterations == 5
    assert relative(kernel, 0, e.value.result.x, b).max() < 1
    short = cg_solve(kernel, b, max_iterations=5, throw=False)
    assert short.status is LinalgStatus.TOO_MANY_ITERATIONS
    result = cg_solve(kernel, b, url=tmp_path / "s")
    assert_array_equal(result.x, cg_solve(kernel, b).x)


@pytest.mark.slow
def test_a_tolerance_out_of_reach_is_said():
    a = with_eigenvalues(np.geomspace(1, 1e-13, 300))
    with pytest.raises(
        NotConvergedError, match=r"no further progress: .* stays at .*pass a larger"
    ):
        cg_solve(a, np.ones(300), tolerance=1e-15, max_iterations=10**5)


def test_a_smaller_tolerance_goes_on_from_the_stored_iterate(tmp_path, kernel, b):
    rough = cg_solve(kernel, b, tolerance=1e-4, url=tmp_path / "s")
    fine = cg_solve(kernel, b, tolerance=1e-9, url=tmp_path / "s")
    assert fine.passes <= fine.iterations - rough.iterations + 1
    assert fine.residuals.max() <= 1e-9


@pytest.mark.parametrize("value", [-1e-3, -10.0])
def test_an_indefinite_matrix_is_said(b, value):
    a = with_eigenvalues(np.r_[value, np.linspace(0.5, 1.5, N - 1)])
    with pytest.raises(NotPositiveDefiniteError, match=r"iteration \d+ has pᵀAp = -.*larger ridge"):
        cg_solve(a, b, rank=0)


@pytest.mark.slow(but="change3-right_hand_sides = ")
@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"ridge": 0.1}, r"a solution with ridge = 0\.0, and ridge = 0\.1 was asked for"),
        ({"rank": 3}, "rank = 75, and rank = 3 was asked for"),
        ({"seed": 3}, "seed = 0, and seed = 3"),
        ({"b": np.ones((N, K))}, "right_hand_sides = "),
        ({"fingerprint": "other"}, "fingerprint = "),
    ],
)
def test_another_system_is_refused(tmp_path, kernel, b, change, text):
    given = {"a": kernel, "b": b, "url": tmp_path / "s", "tolerance": 1e-3}
    cg_solve(**given)
    with pytest.raises(InputError, match=text):
        cg_solve(**{**given, **change})
    assert cg_solve(**{**given, **change}, overwrite=True).status is LinalgStatus.CONVERGED


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"tolerance": 0}, "tolerance=0 must be a number above 0 and below 1"),
        ({"tolerance": float("nan")}, "tolerance=nan"),
        ({"max_iterations": 0}, "max_iterations=0 must be a whole number of at least 1"),
        ({"rank": N + 1}, "rank=601 must be a whole number from 0 to 600; or pass 'auto'"),
        ({"rank": "all"}, "rank='all' must be .* 'auto'"),
        ({"ridge": -1}, "ridge=-1 must be at least 0 and at most 1e"),
        ({"b": np.ones(N - 1)}, r"it must be \(600,\)"),
        ({"memory_limit": "100kB"}, "4 vectors of 600 rows need; raise .*, or pass a smaller rank"),
    ],
)
def test_bad_arguments_are_refused(kernel, b, change, text):
    with pytest.raises(InputError, match=text):
        cg_solve(**{"a": kernel, "b": b, **change})


@pytest.mark.parametrize("name", ["x", "p", "basis"])
def test_a_damaged_iterate_is_named(tmp_path, kernel, b, name):
    with pytest.raises(StopError):
        cg_solve(kernel, b, url=tmp_path / "s", on_event=stop_at(IterationDone, index=3))
    folder = tmp_path / "s" / ("basis" if name == "basis" else f"iterates/00000/{name}")
    chunk = folder / "c" / "0" / "0"
    data = bytearray(chunk.read_bytes())
    data[100] ^= 1
    chunk.write_bytes(data)
    with pytest.raises(StoreError, match=rf"{name} of the solution .* fails its checksum; remove"):
        cg_solve(kernel, b, url=tmp_path / "s")


@pytest.mark.slow
def test_a_half_written_iterate_counts_for_nothing(tmp_path, kernel, b):
    with pytest.raises(StopError):
        cg_solve(kernel, b, url=tmp_path / "s", on_event=stop_at(IterationDone, index=3))
    zarr.open_group(str(tmp_path / "s"), mode="r+").create_group("iterates/00001")
    (tmp_path / "s" / "iterates" / "00001" / "x").mkdir()
    result = cg_solve(kernel, b, url=tmp_path / "s")
    assert_array_equal(result.x, cg_solve(kernel, b).x)
