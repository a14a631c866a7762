"""A small file system, to be filled up."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def fill_up(place: Path, leave: int) -> Path:
    """Write a file that leaves about so many bytes."""
    free = os.statvfs(place)
    ballast = place / "ballast"
    ballast.write_bytes(b"x" * max(0, free.f_bavail * free.f_bsize - leave))
    return ballast
