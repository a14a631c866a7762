"""A driver of Gram and factorisation: tests.faults.soak_driver FOLDER EDGE GRACE LIMIT."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

from ntkdist.errors import InterruptedRunError, NtkdistError
from ntkdist.events.bus import Subscribers
from ntkdist.events.log import EventLog
from ntkdist.events.types import PanelDone, PanelStarted
from ntkdist.gram.compute import compute_gram
from ntkdist.gram.executors.ray import RayExecutor
from ntkdist.gram.signals import stop_on_signals
from ntkdist.gram.store import GramStore
from ntkdist.linalg import factorize
from ntkdist.storage.lease import Lease
from tests.faults.script import ScriptedWorker
from tests.faults.soak_target import PANEL_SECONDS, RIDGE, SMALL, target


def main(folder: str, edge: str, grace: str, limit: str) -> int:
    job, tiling = target(folder, int(edge))
    executor = RayExecutor(
        "auto", grace=float(grace), time_limit=float(limit), make_worker=ScriptedWorker
    )
    try:
        with EventLog(folder) as log, stop_on_signals() as stop, Lease(folder):
            emit = Subscribers(log)
            compute_gram(job, executor, tiling=tiling, on_event=emit, stop=stop)

            def listen(event: Any) -> None:
                emit(event)
                if isinstance(event, PanelStarted):
                    time.sleep(PANEL_SECONDS)
                trap = Path(folder, "panel raises")
                if isinstance(event, PanelDone) and not event.resumed and trap.exists():
                    trap.unlink()
                    raise NtkdistError(f"scripted failure after panel {event.index}")
                if stop.is_set():
                    raise InterruptedRunError("stopped")

            gram = GramStore.open(job.outputs[0][1])
            factorize(
                gram, f"{folder}/factor", ridge=RIDGE, memory_limit=SMALL, on_event=listen,
                fingerprint=job.fingerprint,
            )  # fmt: skip
    except NtkdistError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
