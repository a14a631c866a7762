"""A real S3 server on this machine: rclone over a folder, whose folders are the buckets.

What it holds outlives it, so that it can be killed and started again. It ignores conditions
(If-Match, If-None-Match).
"""

from __future__ import annotations

import socket
import subprocess
import sysconfig
import time
from pathlib import Path

ACCESS_KEY = "ACCESSKEYTEST"
SECRET_KEY = "secretkeytest123"


class S3Server:
    """One server; its port stays the same from start to start.

    Args:
        folder: What it serves; made if needed.
        buckets: Made at the start.
    """

    def __init__(self, folder: Path, buckets: tuple[str, ...] = ("bucket",)) -> None:
        self.folder = folder
        for name in buckets:
            (folder / name).mkdir(parents=True, exist_ok=True)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def environment(self) -> dict[str, str]:
        """What a client needs."""
        return {
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "AWS_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.port}",
        }

    def url(self, place: str) -> str:
        """Return the address of ``BUCKET/PREFIX``."""
        return f"s3://{place}"

    def start(self) -> S3Server:
        """Start, and return once it answers."""
        program = Path(sysconfig.get_path("scripts"), "rclone")
        keys = f"{ACCESS_KEY},{SECRET_KEY}"
        how = f"--vfs-cache-mode off --etag-hash MD5 --auth-key {keys}"
        self._process = subprocess.Popen(
            [program, "serve", "s3", "--addr", f"127.0.0.1:{self.port}", *how.split(), self.folder],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        give_up = time.monotonic() + 30
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
            except OSError:
                assert self._process.poll() is None, "rclone ended"
                assert time.monotonic() < give_up, "rclone does not answer"
                time.sleep(0.02)
            else:
                return self

    def kill(self) -> None:
        """Kill it in the midst of whatever it does; what it holds stays."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
