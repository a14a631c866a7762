"""A driver to kill: python -m tests.faults.driver FOLDER EXECUTOR [GRACE [LIMIT]].

EXECUTOR is inline, a number of actors, or auto. Computes the Gram matrix that
``tests.faults.target`` describes, and exits as the command line does.
"""

from __future__ import annotations

import sys

from ntkdist.errors import NtkdistError
from ntkdist.events.log import EventLog
from ntkdist.gram.compute import compute_gram, stop_on_signals
from ntkdist.gram.executors.inline import InlineExecutor
from ntkdist.gram.executors.ray import RayExecutor
from ntkdist.gram.executors.scheduler import Executor
from tests.faults.script import ScriptedWorker
from tests.faults.target import target


def main(folder: str, where: str, grace: str = "", limit: str = "") -> int:
    job, tiling = target(folder)
    executor: Executor
    if where == "inline":
        executor = InlineExecutor(make_worker=ScriptedWorker)
    else:
        executor = RayExecutor(
            where if where == "auto" else int(where),
            grace=float(grace) if grace else None,
            time_limit=float(limit) if limit else None,
            make_worker=ScriptedWorker,
        )
    try:
        with EventLog(folder) as log, stop_on_signals() as stop:
            compute_gram(job, executor, tiling=tiling, on_event=log, stop=stop)
    except NtkdistError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
