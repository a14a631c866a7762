"""Turns on a GPU: programs that prepare side by side are timed one after another.

A program whose environment has NTKDIST_TURNS, the number of a socket that it inherited from
``card.py``, waits there until it is alone on the GPU; any other waits for nothing.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

VARIABLE = "NTKDIST_TURNS"
ASK, GO, DONE = b"?", b"!", b"."


@contextmanager
def turn() -> Iterator[None]:
    """Have the GPU to oneself in this block.

    Raises:
        SystemExit: If no turn is given any more; the exit code is 1.
    """
    number = os.environ.get(VARIABLE)
    if not number:
        yield
        return
    with socket.socket(fileno=os.dup(int(number))) as door:
        door.sendall(ASK)
        if door.recv(1) != GO:
            raise SystemExit("no turn is given any more")
        try:
            yield
        finally:
            door.sendall(DONE)
