"""What gram.sbatch needs of ``srun``: tasks with their rank, signals to whole steps, an end.

Every process of a step gets its signals, as from Slurm's step daemon, and what outlives the
tasks is killed. They are known by a variable in their environment.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import FrameType


def signal_processes(variable: str, number: signal.Signals) -> None:
    """Signal the processes that have ``NAME=VALUE`` in their environment."""
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if variable.encode() in (folder / "environ").read_bytes().split(b"\0"):
                os.kill(int(folder.name), number)


def main(arguments: list[str]) -> int:
    options = {}
    while arguments and arguments[0].startswith("--"):
        name, _, value = arguments.pop(0)[2:].partition("=")
        options[name] = value
    step = str(os.getpid())

    def forward(number: int, frame: FrameType | None) -> None:
        signal_processes(f"SLURM_STEP_ID={step}", signal.Signals(number))

    signal.signal(signal.SIGTERM, forward)
    tasks = []
    for rank in range(int(options["nodes"])):
        log = options.get("output", "/dev/stdout").replace("%n", str(rank))
        with Path(log).open("ab") as output:
            tasks.append(
                subprocess.Popen(
                    arguments,
                    env=os.environ | {"SLURM_PROCID": str(rank), "SLURM_STEP_ID": step},
                    stdout=output,
                    stderr=subprocess.STDOUT,
                )
            )
    codes = [task.wait() for task in tasks]
    forward(signal.SIGKILL, None)
    return max(code if code >= 0 else 128 - code for code in codes)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
