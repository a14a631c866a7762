from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ntkdist import storage
from ntkdist.errors import InputError, StoreError
from ntkdist.storage import lease as module
from ntkdist.storage.lease import Holder, Lease, holder_of

HOLD = """
import sys, time
from ntkdist.storage.lease import Lease
Lease(sys.argv[1]).acquire()
print("held", flush=True)
time.sleep(600)
"""


def other_machine(folder: Path, every: float = 0.2, **more: Any) -> Holder:
    """Leave the lease of a driver on another machine."""
    holder = dataclasses.replace(
        Holder.of_this_process(every), host="elsewhere", machine="another boot", **more
    )
    storage.write_text(f"{folder}/lease.json", json.dumps(dataclasses.asdict(holder)))
    return holder


def wait_until(what: Callable[[], object]) -> None:
    end = time.monotonic() + 20
    while not what():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_second_driver_is_told_who_holds_the_run_and_since_when(tmp_path: Path) -> None:
    with Lease(str(tmp_path)):
        holder = holder_of(str(tmp_path))
        assert holder is not None
        with pytest.raises(InputError) as refused:
            Lease(str(tmp_path)).acquire()
    message = str(refused.value)
    assert f"process {os.getpid()}, since {holder.since}" in message
    assert refused.value.exit_code == 2
    assert holder_of(str(tmp_path)) is None
    Lease(str(tmp_path)).acquire()


def test_killed_driver_on_this_machine_is_noticed_at_once(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    with pytest.raises(InputError, match=f"process {process.pid},"):
        Lease(str(tmp_path)).acquire()
    process.send_signal(signal.SIGKILL)
    # not waited for: a zombie is dead as well
    wait_until(lambda: (found := holder_of(str(tmp_path))) is not None and not found.lives())
    waited: list[Any] = []
    with Lease(str(tmp_path), on_wait=lambda *what: waited.append(what)) as mine:
        found = holder_of(str(tmp_path))
        assert found is not None
        assert found.pid == os.getpid()
        assert mine.held
    process.wait()
    process.stdout.close()
    assert waited == []


def test_dead_driver_elsewhere_is_taken_over_after_three_beats(tmp_path: Path) -> None:
    holder = other_machine(tmp_path, since="2999-01-01T00:00:00+00:00")  # a clock that is wrong
    waited: list[tuple[Holder, float]] = []
    begun = time.monotonic()
    with Lease(str(tmp_path), on_wait=lambda *what: waited.append(what)):
        assert time.monotonic() - begun >= 3 * holder.every
        found = holder_of(str(tmp_path))
        assert found is not None
        assert found.owner != holder.owner
    assert waited == [(holder, 3 * holder.every)]


@pytest.mark.parametrize("jump", [-1e6, 1e6])
def test_living_driver_elsewhere_is_left_alone_whatever_the_clocks_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jump: float
) -> None:
    holder = other_machine(tmp_path, every=0.5)
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + jump)

    def beat() -> None:
        time.sleep(0.3)
        text = json.dumps(dataclasses.asdict(dataclasses.replace(holder, beat=1)))
        storage.write_text(f"{tmp_path}/lease.json", text)

    thread = threading.Thread(target=beat)
    thread.start()
    with pytest.raises(InputError, match=r"works on this run: .*@elsewhere"):
        Lease(str(tmp_path)).acquire()
    thread.join()


def test_holder_that_was_taken_over_is_told(tmp_path: Path) -> None:
    lost: list[Holder] = []
    mine = Lease(str(tmp_path), every=0.05, on_lost=lost.append)
    mine.acquire()
    other = other_machine(tmp_path)
    wait_until(lambda: lost)
    mine.release()
    assert lost == [other]
    assert holder_of(str(tmp_path)) == other  # not this one's to remove


def test_lease_is_renewed_and_comes_back_when_it_is_removed(tmp_path: Path) -> None:
    with Lease(str(tmp_path), every=0.05):
        wait_until(lambda: (found := holder_of(str(tmp_path))) is not None and found.beat >= 2)
        (tmp_path / "lease.json").unlink()
        wait_until(lambda: holder_of(str(tmp_path)))
    assert holder_of(str(tmp_path)) is None


def test_store_that_is_away_does_not_end_the_lease(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    real = storage.read_versioned

    def away(address: str) -> Any:
        calls.append(address)
        if len(calls) in (2, 3):
            raise StoreError("away")
        return real(address)

    monkeypatch.setattr(module.storage, "read_versioned", away)
    with Lease(str(tmp_path), every=0.05):
        wait_until(lambda: (found := holder_of(str(tmp_path))) is not None and found.beat >= 1)
    assert len(calls) >= 4


def test_only_one_of_many_gets_it(tmp_path: Path) -> None:
    leases = [Lease(str(tmp_path)) for _ in range(8)]
    refused: list[InputError] = []

    def take(lease: Lease) -> None:
        try:
            lease.acquire()
        except InputError as error:
            refused.append(error)

    threads = [threading.Thread(target=take, args=(lease,)) for lease in leases]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [lease.held for lease in leases].count(True) == 1
    assert len(refused) == 7
    for lease in leases:
        lease.release()


def test_rubbish_in_its_place_is_no_holder(tmp_path: Path) -> None:
    (tmp_path / "lease.json").write_text("{half")
    assert holder_of(str(tmp_path)) is None
    with Lease(str(tmp_path)):
        assert holder_of(str(tmp_path)) is not None
