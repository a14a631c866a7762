"""The files of ``deploy/``, and a Slurm of scripts that runs its jobs on this machine."""

from __future__ import annotations

import os
import random
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.deploy.fake_srun import signal_processes

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"


class FakeSlurm:
    """Runs a batch script as Slurm's daemon would, with a Slurm of scripts on its PATH.

    Attributes:
        job: Number of the job, the same each time it is started.
        repository: Folder that jobs are submitted from.
        state: Folder that the job's nodes share.
        calls: File with a line for each call of scontrol.
    """

    def __init__(self, folder: Path, scratch: Path) -> None:
        self.job = random.randrange(10**6, 10**7)
        self.repository = ROOT
        self.state = folder / "home" / ".ntkdist" / f"slurm-{self.job}"
        self.calls = folder / "calls"
        self.calls.touch()
        self._started: list[subprocess.Popen[bytes]] = []
        self._output = folder / "job.log"
        self._jobstate = folder / "jobstate"
        self._jobstate.write_text("RUNNING")
        (folder / "home").mkdir()
        commands = folder / "bin"
        commands.mkdir()
        fake_srun = shlex.join([sys.executable, str(Path(__file__).with_name("fake_srun.py"))])
        for name, body in {
            "srun": f'exec {fake_srun} "$@"',
            "scontrol": f'echo "$*" >>{shlex.quote(str(self.calls))}',
            "squeue": f"cat {shlex.quote(str(self._jobstate))}",
        }.items():
            (commands / name).write_text(f"#!/bin/sh\n{body}\n")
            (commands / name).chmod(0o755)
        paths = [str(commands), str(Path(sys.executable).parent), os.environ["PATH"]]
        self.environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")} | {
            "HOME": str(folder / "home"),
            "PATH": os.pathsep.join(paths),
            "PYTHONPATH": str(ROOT),
            "RAY_prestart_worker_first_driver": "0",
            "SLURM_CPUS_PER_TASK": "1",
            "SLURM_JOB_ID": str(self.job),
            "SLURM_JOB_NUM_NODES": "2",
            "TMPDIR": str(scratch),  # short: sockets lie below it
        }

    @property
    def output(self) -> str:
        return self._output.read_text() if self._output.exists() else ""

    def cancelled(self) -> None:
        """Let squeue tell what it tells of a job that scancel ends."""
        self._jobstate.write_text("COMPLETING")

    def start(self, *arguments: str, script: str = "gram.sbatch") -> subprocess.Popen[bytes]:
        with self._output.open("ab") as output:
            job = subprocess.Popen(
                ["bash", str(DEPLOY / "slurm" / script), *arguments],
                cwd=self.repository,
                env=self.environment,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        self._started.append(job)
        return job

    def end(self) -> None:
        """Kill what is left of jobs that a test has not seen to their end."""
        signal_processes(f"SLURM_JOB_ID={self.job}", signal.SIGKILL)
        for job in self._started:
            job.wait(10)


@pytest.fixture
def slurm(tmp_path: Path) -> Iterator[FakeSlurm]:
    scratch = Path(tempfile.mkdtemp(prefix="ntk"))
    slurm = FakeSlurm(tmp_path, scratch)
    yield slurm
    slurm.end()
    shutil.rmtree(scratch, ignore_errors=True)


def eventually(condition: Callable[[], object], seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds} s for {what}"
        time.sleep(0.05)
