"""A lease in the run, which lets one driver at a time work on it.

A lease is a small file that its holder rewrites every few seconds. A second driver that finds it
watches it by its own clock. If the file changes, the holder is alive, and the second driver raises
an error that names it. If the file does not change for three renewal periods, the holder is dead,
and the second driver takes the lease over. Clocks of other machines are never used, so they may
differ or jump. A holder on the same machine is looked up by its process, without waiting.

Two drivers would not change the results (tiles have the same bits from any writer), but compute
everything twice; so a holder that has lost its lease only has to stop.
"""

from __future__ import annotations

import getpass
import json
import logging
import os
import platform
import sys
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from ntkdist import storage
from ntkdist.errors import InputError, NtkdistError, StoreError

FILE = "lease.json"
FILES = (FILE, f".{FILE}.lock")
"""All files of a lease in a run's folder."""

EVERY_SECONDS = 10.0
_MISSED_RENEWALS = 3  # after which a holder counts as dead
_LOOKS = 20  # of a second driver, in one renewal period
_SETTLE_SECONDS = 1.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Holder:
    """The holder of a lease.

    Attributes:
        owner: Unique identifier of this acquisition.
        user: Login name.
        host: Name of the machine.
        pid: Process number.
        machine: Identifier of the boot and process namespace in which ``pid`` is valid.
        started: Start of the process in the kernel's ticks; detects a reused ``pid``.
        command: Its command line.
        since: Time of the acquisition by its own clock, ISO 8601, UTC.
        every: Seconds between two renewals.
        beat: Number of renewals.
    """

    owner: str
    user: str
    host: str
    pid: int
    machine: str
    started: str
    command: str
    since: str
    every: float
    beat: int = 0

    @classmethod
    def of_this_process(cls, every: float) -> Holder:
        """Describe this process as a new holder."""
        return cls(
            owner=uuid.uuid4().hex,
            user=_user(),
            host=platform.node(),
            pid=os.getpid(),
            machine=_machine(),
            started=_process_start(os.getpid()),
            command=" ".join([os.path.basename(sys.argv[0]), *sys.argv[1:]])[:200],
            since=datetime.now(UTC).isoformat(timespec="seconds"),
            every=every,
        )

    @classmethod
    def parse(cls, text: str) -> Holder | None:
        """Parse the text of a lease; None if it is not valid."""
        try:
            return cls(**json.loads(text))
        except (ValueError, TypeError):
            return None

    def __str__(self) -> str:
        return f"{self.user}@{self.host}, process {self.pid}, since {self.since}"

    def lives(self) -> bool | None:
        """Return whether its process exists; None if this machine cannot tell."""
        if not self.machine or self.machine != _machine():
            return None
        return bool(self.started) and _process_start(self.pid) == self.started


class Lease:
    """The right to work on a run; use it as a context manager, or ``acquire`` and ``release``.

    Args:
        address: The run's folder or URL.
        every: Seconds between two renewals.
        on_wait: Called with the holder and the most seconds for which it will be watched.
        on_lost: Called, in a thread of its own, with the driver that has taken the lease over.
    """

    def __init__(
        self,
        address: str,
        *,
        every: float = EVERY_SECONDS,
        on_wait: Callable[[Holder, float], None] | None = None,
        on_lost: Callable[[Holder], None] | None = None,
    ) -> None:
        self._run = address
        self._address = storage.join(address, FILE)
        self._on_wait = on_wait
        self._on_lost = on_lost
        self._me = Holder.of_this_process(every)
        self._end = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def held(self) -> bool:
        """Whether it was acquired and not released."""
        return self._thread is not None

    def acquire(self) -> None:
        """Take the lease, or take it over from a dead holder; no effect if it is held already.

        Raises:
            InputError: Another driver works on the run.
            StoreError: The store does not answer.
        """
        if self.held:
            return
        while not self._try():
            pass
        self._thread = threading.Thread(target=self._renew, name="lease", daemon=True)
        self._thread.start()

    def release(self) -> None:
        """Remove the lease if this driver still holds it."""
        if self._thread is None:
            return
        self._end.set()
        self._thread.join()
        self._thread = None
        try:
            text = storage.read_text(self._address)
            if text is not None and self._is_mine(text):
                storage.remove(self._address)
        except NtkdistError as error:  # it expires
            _log.warning("the lease of %s could not be removed: %s", self._run, error)

    def __enter__(self) -> Lease:
        self.acquire()
        return self

    def __exit__(self, *exc: object) -> None:
        self.release()

    def _text(self) -> str:
        return json.dumps(asdict(self._me))

    def _is_mine(self, text: str) -> bool:
        holder = Holder.parse(text)
        return holder is not None and holder.owner == self._me.owner

    def _try(self) -> bool:
        """Take the lease if it is free; return False if another driver was faster."""
        there = storage.read_versioned(self._address)
        if there is None:
            written = storage.create_text(self._address, self._text())
        else:
            self._wait_until_dead(*there)
            written = storage.replace_text(self._address, self._text(), there[1])
        if written and storage.local_path(self._run) is None:
            # some servers ignore the condition, and the second of two writers wins
            time.sleep(_SETTLE_SECONDS)
        text = storage.read_text(self._address)
        return written and text is not None and self._is_mine(text)

    def _wait_until_dead(self, text: str, version: str) -> None:
        """Return once the holder is known to be dead; raise if it is alive."""
        holder = Holder.parse(text)
        if holder is None:
            return
        lives = holder.lives()
        if lives:
            raise _held_by(self._run, holder)
        if lives is False:
            return
        patience = _MISSED_RENEWALS * holder.every
        if self._on_wait is not None:
            self._on_wait(holder, patience)
        end = time.monotonic() + patience
        while time.monotonic() < end:
            time.sleep(holder.every / _LOOKS)
            there = storage.read_versioned(self._address)
            if there is None:
                return
            if there[1] != version:
                raise _held_by(self._run, Holder.parse(there[0]) or holder)

    def _renew(self) -> None:
        while not self._end.wait(self._me.every):
            try:
                there = storage.read_versioned(self._address)
                if there is not None and not self._is_mine(there[0]):
                    self._lost(there[0])
                    return
                self._me = replace(self._me, beat=self._me.beat + 1)
                if there is None:
                    storage.create_text(self._address, self._text())
                else:
                    storage.replace_text(self._address, self._text(), there[1])
            except StoreError as error:  # the store does not answer; tiles wait for it as well
                _log.warning("the lease of %s could not be renewed: %s", self._run, error)

    def _lost(self, text: str) -> None:
        other = Holder.parse(text)
        _log.warning("%s: taken over by %s; this driver stops", self._run, other)
        if other is not None and self._on_lost is not None:
            self._on_lost(other)


def holder_of(address: str) -> Holder | None:
    """Return the holder of a run's lease, dead or alive; None if there is none."""
    text = storage.read_text(storage.join(address, FILE))
    return None if text is None else Holder.parse(text)


def _held_by(run: str, holder: Holder) -> InputError:
    return InputError(
        f"{run}: another driver works on this run: {holder} ({holder.command}); wait for it, or"
        " stop it there with Ctrl-C or SIGTERM; 'ntkdist status' shows how far it is"
    )


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a user without a name, as in some containers
        return str(os.getuid())


def _machine() -> str:
    """Return the identifier of this boot and process namespace; empty if unknown."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _process_start(pid: int) -> str:
    """Return the start of a process in the kernel's ticks; empty if it ended or is a zombie."""
    try:
        # the name in brackets may contain anything: the fields after its end are counted
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]
