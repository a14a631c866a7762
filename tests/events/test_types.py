from __future__ import annotations

import json
from dataclasses import dataclass, fields
from pathlib import Path
from string import Formatter
from typing import Any

import numpy as np
import pytest

from ntkdist.errors import InputError
from ntkdist.events import types
from ntkdist.events.bus import Subscribers
from ntkdist.events.log import EventLog, read_events, to_record
from ntkdist.events.types import (
    Event,
    Interrupted,
    SubscriberFailed,
    TileDone,
    TileStarted,
    WorkerLost,
)
from ntkdist.gram.tiling import TileKey


@dataclass(frozen=True)
class PanelDone:
    """An event of another module, without a time."""

    panel: int
    key: TileKey
    rate: np.float32
    folder: Path
    residual: float


def test_any_dataclass_becomes_plain_json() -> None:
    event = PanelDone(3, TileKey(0, 1), np.float32(0.5), Path("a/b"), float("nan"))
    record = json.loads(json.dumps(to_record(event), allow_nan=False))
    assert record.pop("time") > 1e9
    assert record == {
        "event": "PanelDone",
        "panel": 3,
        "key": "r0000c0001",
        "rate": 0.5,
        "folder": "a/b",
        "residual": "nan",
    }


EVENTS = [cls for cls in vars(types).values() if isinstance(cls, type) and issubclass(cls, Event)]


@pytest.mark.parametrize("cls", EVENTS, ids=lambda cls: cls.__name__)
def test_a_line_names_fields_of_its_event(cls: type[Event]) -> None:
    used = {name for _, name, _, _ in Formatter().parse(cls.template) if name}
    assert used <= {one.name for one in fields(cls)}


def test_own_time_is_kept() -> None:
    assert to_record(WorkerLost("w0", "gone", ("r0000c0000",), time=5.0)) == {
        "event": "WorkerLost",
        "time": 5.0,
        "worker": "w0",
        "reason": "gone",
        "keys": ["r0000c0000"],
    }


@pytest.mark.parametrize("scheme", ["", "memory://"])
def test_log_reads_back_across_drivers(tmp_path: Path, scheme: str) -> None:
    address = f"{tmp_path}/run" if not scheme else f"memory://{tmp_path.name}-{id(tmp_path)}"
    assert read_events(address) == []
    for driver in range(2):
        with EventLog(address, part_seconds=0) as log:
            for i in range(3):
                log(TileStarted(f"r000{i}c0000", f"w{driver}", i))
    records = read_events(address)
    assert [(r["worker"], r["attempt"]) for r in records] == [
        (f"w{driver}", i) for driver in range(2) for i in range(3)
    ]


def test_event_is_on_disk_before_the_next(tmp_path: Path) -> None:
    log = EventLog(str(tmp_path))
    log(TileStarted("r0000c0000", "w0", 1))
    assert len(read_events(str(tmp_path))) == 1
    log.close()


def test_line_torn_by_a_kill_spoils_no_other(tmp_path: Path) -> None:
    with EventLog(str(tmp_path)) as log:
        log(TileStarted("r0000c0000", "w0", 1))
    path = tmp_path / "events.jsonl"
    path.write_text(path.read_text() + '{"event": "TileDo')
    assert len(read_events(str(tmp_path))) == 1
    with EventLog(str(tmp_path)) as log:
        log(TileDone("r0000c0000", "w0", 1.0, 10, 1))
    assert [r["event"] for r in read_events(str(tmp_path))] == ["TileStarted", "TileDone"]


def test_unwritable_log_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"events\.jsonl: cannot be written"):
        EventLog(str(tmp_path / "file"))


def test_broken_subscriber_is_dropped_loudly(caplog: pytest.LogCaptureFixture) -> None:
    heard: list[Any] = []
    calls = []

    def broken(event: Any) -> None:
        calls.append(event)
        raise ZeroDivisionError("no bar")

    tell = Subscribers(broken)
    tell.subscribe(heard.append)
    tell(Interrupted("SIGINT"))
    tell(Interrupted("SIGTERM"))
    assert len(calls) == 1
    assert [type(event) for event in heard] == [Interrupted, SubscriberFailed, Interrupted]
    assert heard[1].error == "ZeroDivisionError: no bar"
    assert "broken failed and is dropped" in caplog.text
