from __future__ import annotations

from typing import Any

from hypothesis import given, strategies as st

from ntkdist.events.types import TileFailed
from ntkdist.gram.executors.scheduler import RowQueue, TileScheduler
from ntkdist.gram.tiling import TileKey, Tiling
from ntkdist.gram.worker import TileRecord


@given(
    n=st.integers(1, 8),
    order=st.lists(st.tuples(st.integers(0, 3), st.booleans()), max_size=200),
)
def test_every_tile_is_handed_out_whatever_is_put_back(
    n: int, order: list[tuple[int, bool]]
) -> None:
    keys = Tiling(n, 1).keys()
    queue, kept = RowQueue(keys), []
    for worker, lost in order + [(0, False)] * len(keys):
        key = queue.take(worker)
        if key is None:
            continue
        if lost:
            queue.forget(worker)
            queue.put_back([key])
        else:
            kept.append(key)
    assert sorted(kept) == keys
    assert len(queue) == 0
    assert queue.take(9) is None


def test_workers_keep_their_rows_until_they_steal() -> None:
    queue = RowQueue(Tiling(4, 1).keys())
    taken: dict[str, list[TileKey]] = {"a": [], "b": []}
    for _ in range(3):
        for worker, mine in taken.items():
            key = queue.take(worker)
            assert key is not None
            mine.append(key)
    assert taken["a"] == [TileKey(0, 0), TileKey(0, 1), TileKey(0, 2)]
    assert taken["b"] == [TileKey(1, 1), TileKey(1, 2), TileKey(1, 3)]
    assert [queue.take("a"), queue.take("b")] == [TileKey(0, 3), TileKey(2, 2)]
    assert [queue.take("b"), queue.take("a")] == [TileKey(2, 3), TileKey(3, 3)]


def test_idle_worker_steals_from_the_far_end() -> None:
    queue = RowQueue([TileKey(0, c) for c in range(4)])
    assert queue.take("a") == TileKey(0, 0)
    assert queue.take("b") == TileKey(0, 3)
    assert queue.take("a") == TileKey(0, 1)


def record(key: TileKey, error: str | None = None) -> TileRecord:
    return TileRecord(str(key), "w", 1, 0.1, error=error, traceback="tb" if error else "")


def test_tile_that_raises_is_tried_again_and_then_given_up() -> None:
    events: list[Any] = []
    key = TileKey(0, 0)
    scheduler = TileScheduler([key], events.append, retries=2)
    for attempt in (1, 2, 3):
        assert scheduler.take("w") == (key, attempt)
        scheduler.report(key, record(key, "E: no"))
    assert scheduler.take("w") is None
    assert scheduler.summary().failed == {key: "E: no"}
    failures = [event for event in events if isinstance(event, TileFailed)]
    assert [event.final for event in failures] == [False, False, True]
    assert failures[0].traceback == "tb"


def test_tile_that_failed_once_can_still_be_done() -> None:
    key = TileKey(0, 0)
    scheduler = TileScheduler([key], lambda event: None, retries=1)
    scheduler.take("w")
    scheduler.report(key, record(key, "E: no"))
    scheduler.take("w")
    scheduler.report(key, record(key))
    assert scheduler.summary().done == (key,)
    assert scheduler.summary().failed == {}


def test_none_of_several_tiles_is_blamed_for_a_death_and_each_comes_back_alone() -> None:
    events: list[Any] = []
    keys = list(Tiling(2, 1).keys())
    scheduler = TileScheduler(keys, events.append, retries=0)
    first, second = scheduler.take("w"), scheduler.take("w")
    assert first is not None
    assert second is not None
    scheduler.lost("w", [first[0], second[0]], "killed")
    assert not [event for event in events if isinstance(event, TileFailed)]
    assert scheduler.waiting == 3
    other = scheduler.take("v", idle=False)  # has another tile, so gets no quarantined tile
    assert other is not None
    assert other[0] not in (first[0], second[0])
    assert scheduler.take("v", idle=False) is None
    assert scheduler.take("u") == (first[0], 2)
    assert scheduler.is_quarantined(first[0])
    assert not scheduler.is_quarantined(other[0])
    scheduler.take_back("u", [first[0]])  # stays in quarantine
    assert scheduler.summary().left == (first[0], second[0])


def test_tile_that_dies_alone_is_blamed_for_the_deaths_before_as_well() -> None:
    events: list[Any] = []
    guilty, innocent = TileKey(0, 1), TileKey(0, 0)
    scheduler = TileScheduler([guilty, innocent], events.append, retries=2)
    assert {scheduler.take("w"), scheduler.take("w")} == {(guilty, 1), (innocent, 1)}
    scheduler.lost("w", [innocent, guilty], "killed")
    assert scheduler.take("w") == (innocent, 2)
    scheduler.report(innocent, record(innocent))
    for attempt in (2, 3):  # the third death is one too many, as for a tile that raises
        assert scheduler.take("w") == (guilty, attempt)
        scheduler.lost("w", [guilty], "killed")
    assert scheduler.take("w") is None
    assert scheduler.summary().done == (innocent,)
    assert scheduler.summary().failed == {guilty: "its worker died: killed"}
    failures = [event for event in events if isinstance(event, TileFailed)]
    assert [(event.key, event.final) for event in failures] == [
        (str(guilty), False),
        (str(guilty), True),
    ]
