from __future__ import annotations

import time
from typing import Any

import dask
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from ntkdist.errors import StoreError
from ntkdist.events.types import BandDone, InverseBlockDone, LinalgProgress, PanelDone
from ntkdist.linalg import CholeskyFactor, cholesky, factorize, inverse, tasks
from ntkdist.linalg.tasks import Progress
from tests.linalg.matrices import SMALL, spd
from tests.linalg.stopping import StopError, stop_at

STREAMED = "100kB"  # no strip is kept, and a task takes a few columns


@pytest.mark.slow(but="2MB-65")
@pytest.mark.parametrize("n", [1, 2, 65, 450, 513])
@pytest.mark.parametrize("limit", ["2GiB", SMALL, STREAMED])
def test_the_diagonal_is_that_of_the_inverse(tmp_path, n, limit):
    a = spd(n, 1e4) if n > 1 else np.array([[4.0]])
    built = SMALL if n > 400 and limit != "2GiB" else "2GiB"
    factorize(a, tmp_path / "f", memory_limit=built)
    factor = CholeskyFactor.open(tmp_path / "f", memory_limit=limit)
    got = factor.diagonal_of_inverse()
    assert_allclose(got, np.diag(np.linalg.inv(a)), rtol=1e-9)
    assert not (tmp_path / "f" / "inverse").exists()


@pytest.mark.slow
def test_memory_and_scheduler_do_not_change_it(tmp_path):
    a = spd(450)
    factorize(a, tmp_path / "f", memory_limit=SMALL)
    expected = CholeskyFactor.open(tmp_path / "f").diagonal_of_inverse()
    for scheduler in ("synchronous", "threads", dask.get):
        factor = CholeskyFactor.open(tmp_path / "f", scheduler=scheduler)
        assert_array_equal(factor.diagonal_of_inverse(overwrite=True), expected)
    events: list = []
    streamed = CholeskyFactor.open(tmp_path / "f", memory_limit=STREAMED)
    got = streamed.diagonal_of_inverse(on_event=events.append, overwrite=True)
    assert_allclose(got, expected, rtol=1e-13)
    assert {e.stage for e in events} == {"diagonal"}
    assert events[-1].index == events[-1].count - 1
    assert len(events) > 1


@pytest.mark.slow
def test_it_is_stored_and_read_back(tmp_path, monkeypatch):
    factor = factorize(spd(450), tmp_path / "f", memory_limit=SMALL)
    assert not factor.has_diagonal
    expected = factor.diagonal_of_inverse()
    assert factor.has_diagonal
    assert not factor.has_inverse
    never(monkeypatch)
    events: list = []
    again = CholeskyFactor.open(tmp_path / "f").diagonal_of_inverse(on_event=events.append)
    assert_array_equal(again, expected)
    assert all(event.resumed for event in events)


def test_that_of_a_stored_inverse_is_read_instead(tmp_path, monkeypatch):
    factor = factorize(spd(200), tmp_path / "f")
    inverse = factor.inverse()
    assert factor.has_inverse
    assert factor.has_diagonal
    never(monkeypatch)
    assert_array_equal(factor.diagonal_of_inverse(), inverse.diagonal())
    assert not (tmp_path / "f" / "diagonal").exists()


@pytest.mark.slow(but="2MB")
@pytest.mark.parametrize("limit", [SMALL, STREAMED])
def test_an_interrupted_diagonal_resumes_to_the_same_bits(tmp_path, limit):
    factorize(spd(450), tmp_path / "f", memory_limit=SMALL)
    factor = CholeskyFactor.open(tmp_path / "f", memory_limit=limit, scheduler="synchronous")
    expected = factor.diagonal_of_inverse()
    with pytest.raises(StopError):
        factor.diagonal_of_inverse(
            on_event=stop_at(InverseBlockDone, stage="diagonal", index=2), overwrite=True
        )
    assert not factor.has_diagonal
    events: list = []
    assert_array_equal(factor.diagonal_of_inverse(on_event=events.append), expected)
    assert [e.index for e in events] == list(range(events[0].count))
    assert [e.resumed for e in events] == [e.index <= 2 for e in events]


def test_a_damaged_chunk_is_named_and_can_be_computed_again(tmp_path):
    factor = factorize(spd(450), tmp_path / "f", memory_limit=SMALL)
    expected = factor.diagonal_of_inverse()
    chunk = tmp_path / "f" / "diagonal" / "diagonal" / "c" / "1"
    data = bytearray(chunk.read_bytes())
    data[5] ^= 1
    chunk.write_bytes(data)
    with pytest.raises(StoreError, match=r"diagonal/c/1 fails its checksum"):
        factor.diagonal_of_inverse()
    chunk.unlink()
    with pytest.raises(StoreError, match=r"chunk 1 of the diagonal .* is missing"):
        factor.diagonal_of_inverse()
    assert_array_equal(factor.diagonal_of_inverse(overwrite=True), expected)


def test_another_factors_diagonal_is_not_taken(tmp_path):
    factorize(spd(200), tmp_path / "f").diagonal_of_inverse()
    a = spd(200, seed=1)
    other = factorize(a, tmp_path / "f", overwrite=True)
    (tmp_path / "f" / "diagonal").mkdir(exist_ok=True)
    assert not other.has_diagonal
    assert_allclose(other.diagonal_of_inverse(), np.diag(np.linalg.inv(a)), rtol=1e-9)


@pytest.mark.slow(but="parts2-2GiB")
@pytest.mark.parametrize("limit", ["2GiB", STREAMED])
@pytest.mark.parametrize("parts", [(330, 450), (330, 361, 450), (200, 450)])
def test_appended_rows_extend_it(tmp_path, monkeypatch, parts, limit):
    a = spd(450)
    factorize(a[: parts[0], : parts[0]], tmp_path / "f", memory_limit=SMALL).diagonal_of_inverse()
    for n in parts[1:]:
        factor = CholeskyFactor.open(tmp_path / "f", memory_limit="1MB").append(a[:n, :n])
    factor = CholeskyFactor.open(tmp_path / "f", memory_limit=limit)
    assert not factor.has_diagonal
    if parts[0] > 300:  # many rows: it is computed anew
        never(monkeypatch)
    got = factor.diagonal_of_inverse()
    assert_allclose(got, np.diag(np.linalg.inv(a)), rtol=1e-9)
    assert factor.has_diagonal
    assert_array_equal(CholeskyFactor.open(tmp_path / "f").diagonal_of_inverse(), got)


@pytest.mark.slow
def test_an_unfinished_diagonal_of_the_smaller_factor_is_not_extended(tmp_path):
    a = spd(450)
    factor = factorize(a[:400, :400], tmp_path / "f", memory_limit=SMALL)
    with pytest.raises(StopError):
        factor.diagonal_of_inverse(on_event=stop_at(InverseBlockDone, index=1))
    larger = CholeskyFactor.open(tmp_path / "f", memory_limit="1MB").append(a)
    assert_allclose(larger.diagonal_of_inverse(), np.diag(np.linalg.inv(a)), rtol=1e-9)


# -- progress ---------------------------------------------------------------------


@pytest.mark.slow(but="synchronous")
@pytest.mark.parametrize("scheduler", ["threads", "synchronous"])
def test_every_computation_tells_how_far_it_is_while_it_is_at_work(
    tmp_path, monkeypatch, scheduler
):
    monkeypatch.setattr(tasks, "PROGRESS_SECONDS", 1e-4)
    plain = cholesky.survey_rows
    monkeypatch.setattr(cholesky, "survey_rows", lambda *a: time.sleep(0.01) or plain(*a))
    a = spd(450)
    told: dict[str, list[Any]] = {}

    def listen(event: Any) -> None:
        if isinstance(event, LinalgProgress):
            told.setdefault(event.stage, []).append(event.fraction)

    options = {"memory_limit": SMALL, "scheduler": scheduler}
    factor = factorize(a[:400, :400], tmp_path / "f", on_event=listen, **options)
    factor.inverse(on_event=listen)
    factor = CholeskyFactor.open(tmp_path / "f", memory_limit="1MB", scheduler=scheduler)
    factor = factor.append(a, on_event=listen)
    streamed = CholeskyFactor.open(factor.url, memory_limit=STREAMED, scheduler=scheduler)
    streamed.diagonal_of_inverse(on_event=listen)
    streamed.solve(np.ones((450, 3)), on_event=listen)
    assert set(told) == {"survey", "factor", "columns", "rows", "append", "diagonal", "solve"}
    for stage in ("factor", "columns", "diagonal"):
        shares = [share for share in told[stage] if share is not None]
        assert shares == sorted(shares)
        assert len(set(shares)) > 3
        assert shares[-1] <= 1


def test_a_computation_of_one_lapack_call_tells_that_it_is_at_work(tmp_path, monkeypatch):
    monkeypatch.setattr(tasks, "PROGRESS_SECONDS", 1e-3)
    told: list[Any] = []
    factor = factorize(spd(450), tmp_path / "f", on_event=told.append)
    factor.inverse(on_event=told.append)
    at_work = {e.stage for e in told if isinstance(e, LinalgProgress)}
    assert {"factor", "inverse"} <= at_work
    assert any(e.fraction is None for e in told if isinstance(e, LinalgProgress))


@pytest.mark.parametrize("scheduler", ["threads", "synchronous"])
def test_a_listener_stops_what_is_at_work_within_a_block(tmp_path, monkeypatch, scheduler):
    monkeypatch.setattr(tasks, "PROGRESS_SECONDS", 1e-3)
    factor = factorize(spd(450), tmp_path / "f", memory_limit=SMALL)
    factor = CholeskyFactor.open(factor.url, memory_limit="2MB", scheduler=scheduler)
    events: list[Any] = []

    def listen(event: Any) -> None:
        events.append(event)
        if isinstance(event, LinalgProgress):
            raise StopError

    plain, counted = inverse._column_norms, []

    def slow(*arguments: Any) -> Any:
        time.sleep(0.01)
        found = plain(*arguments)
        counted.append(arguments[1])
        return found

    monkeypatch.setattr(inverse, "_column_norms", slow)
    with pytest.raises(StopError):
        factor.diagonal_of_inverse(on_event=listen)
    assert counted == []  # the task was stopped at its first count
    assert [type(event) for event in events] == [LinalgProgress]


def test_a_count_in_another_process_is_lost_and_does_no_harm():
    import pickle

    first = Progress("diagonal", 10.0, lambda event: None)
    copy = pickle.loads(pickle.dumps(first))
    copy.add(5.0)
    first.reach(2.0)
    told: list[Any] = []
    first._report(told.append)
    assert (told[0].stage, told[0].fraction) == ("diagonal", 0.2)


def never(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: Any) -> None:
        raise AssertionError("computed")

    monkeypatch.setattr(inverse, "_column_norms", fail)


@pytest.mark.slow
def test_bands_and_panels_are_still_told(tmp_path):
    a = spd(450)
    events: list[Any] = []
    factor = factorize(a[:400, :400], tmp_path / "f", memory_limit=SMALL, on_event=events.append)
    CholeskyFactor.open(factor.url, memory_limit="1MB").append(a, on_event=events.append)
    kinds = {type(event) for event in events}
    assert {PanelDone, BandDone} <= kinds
