"""Python processes that see GPUs by a stand-in for NVIDIA's driver (``driver.c``)."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).with_name("driver.c")
ROOT = Path(__file__).parents[2]
#: name, compute capability, compute mode, free bytes
H100 = "Hopper H100,9.0,0,1000"
T4 = "Tesla T4,7.5,0,2000"
#: What opens a context on a GPU.
OPENING = {"cuDevicePrimaryCtxRetain", "cuCtxSetCurrent", "cuCtxPushCurrent_v2"}


@pytest.fixture(scope="session")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with libcuda.so.1 and libnvidia-ml.so.1."""
    pytest.importorskip("numba_cuda")
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    folder = tmp_path_factory.mktemp("driver")
    library = folder / "libcuda.so.1"
    command = [compiler, "-w", "-shared", "-fPIC", "-o", str(library), str(SOURCE), "-ldl"]
    subprocess.run(command, check=True)
    shutil.copy(library, folder / "libnvidia-ml.so.1")
    return folder


class Machine:
    """Runs code in processes that see some GPUs.

    Attributes:
        log: The calls that the last process, and those it started, made to the driver.
        others: Of them those of the processes that it started.
        errors: What the last process wrote to its standard error.
    """

    def __init__(self, folder: Path, log: Path) -> None:
        self._folder, self._log = folder, log
        self.log: list[str] = []
        self.others: list[str] = []
        self.errors = ""

    def run(self, code: str, *gpus: str, argument: str = "", **environment: str) -> str:
        """Return what the code prints."""
        self._log.write_text("")
        with subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", code, argument],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=self.environment(*gpus) | environment,
            cwd=ROOT,
        ) as process:
            out, self.errors = process.communicate()
        assert process.returncode == 0, self.errors
        calls = [line.split() for line in self._log.read_text().splitlines()]
        self.log = [call for _, call in calls]
        self.others = [call for pid, call in calls if int(pid) != process.pid]
        return out.strip()

    def environment(self, *gpus: str) -> dict[str, str]:
        """Return the environment of a process."""
        path = os.environ.get("LD_LIBRARY_PATH")
        folders = [str(self._folder), path] if path else [str(self._folder)]
        return os.environ | {
            "LD_LIBRARY_PATH": os.pathsep.join(folders),
            "STAND_IN_GPUS": ";".join(gpus),
            "STAND_IN_LOG": str(self._log),
            "NUMBA_ENABLE_CUDASIM": "0",
        }


@pytest.fixture
def machine(driver: Path, tmp_path: Path) -> Machine:
    return Machine(driver, tmp_path / "calls")
