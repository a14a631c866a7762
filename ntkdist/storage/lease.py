"""One driver at a time works on a run: a lease in the run, renewed while the driver lives.

A lease is a small text that its holder rewrites every few seconds. Whoever finds one that is not
theirs watches it by their own clock: if it changes, its holder lives, and the newcomer is refused
with who that is and since when; if it stays the same for three times as long, the holder is dead,
and the lease is taken over. No clock of another machine is trusted, so clocks may differ or jump.
A holder on the same machine is looked up by its process, without waiting.

Two drivers would do no harm to the results (tiles are the same bits whoever writes them), only
to the time they take; so a holder that finds its lease taken over just stops.
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
"""All that a lease leaves in a run's folder."""

EVERY_SECONDS = 10.0
_BEATS = 3  # missed, until a holder is taken to be dead
_LOOKS = 20  # of a watcher, in the time of a beat
_SETTLE_SECONDS = 1.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Holder:
    """Who holds a lease.

    Attributes:
        owner: Unique to this holding.
        user: Login name.
        host: Machine.
        pid: Process.
        machine: Boot and process namespace, in which ``pid`` means something.
        started: When the process began, in the kernel's ticks; tells a reused ``pid``.
        command: Its command line.
        since: When it took the lease, ISO 8601, UTC, by its own clock.
        every: Seconds between two renewals.
        beat: How many times it was renewed.
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
        """Read a lease back; None if it is none."""
        try:
            return cls(**json.loads(text))
        except (ValueError, TypeError):
            return None

    def __str__(self) -> str:
        return f"{self.user}@{self.host}, process {self.pid}, since {self.since}"

    def lives(self) -> bool | None:
        """Return whether its process is there; None if that cannot be seen from here."""
        if not self.machine or self.machine != _machine():
            return None
        return bool(self.started) and _process_start(self.pid) == self.started


class Lease:
    """The right to work on a run; use it as a context manager, or ``acquire`` and ``release``.

    Args:
        address: The run's folder or URL.
        every: Seconds between two renewals.
        on_wait: Told the holder, and for how long at most it will be watched.
        on_lost: Called, in a thread of its own, if another driver has taken the lease over.
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
        """Take the lease, or take it over from a holder that is dead; again it does nothing.

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
        """Give the lease back, if it is still this one's."""
        if self._thread is None:
            return
        self._end.set()
        self._thread.join()
        self._thread = None
        try:
            found = storage.read_text(self._address)
            if found is not None and self._is_mine(found):
                storage.remove(self._address)
        except NtkdistError as error:  # it runs out by itself
            _log.warning("the lease of %s could not be given back: %s", self._run, error)

    def __enter__(self) -> Lease:
        self.acquire()
        return self

    def __exit__(self, *exc: object) -> None:
        self.release()

    def _text(self) -> str:
        return json.dumps(asdict(self._me))

    def _is_mine(self, text: str) -> bool:
        found = Holder.parse(text)
        return found is not None and found.owner == self._me.owner

    def _try(self) -> bool:
        """Take the lease if it is free; False if it changed hands meanwhile."""
        there = storage.read_versioned(self._address)
        if there is None:
            written = storage.create_text(self._address, self._text())
        else:
            self._refuse_living(*there)
            written = storage.replace_text(self._address, self._text(), there[1])
        if written and storage.local_path(self._run) is None:
            # some servers take two writers at once, and the second stays
            time.sleep(_SETTLE_SECONDS)
        found = storage.read_text(self._address)
        return written and found is not None and self._is_mine(found)

    def _refuse_living(self, text: str, version: str) -> None:
        """Return once the holder is known to be dead."""
        holder = Holder.parse(text)
        if holder is None:
            return
        lives = holder.lives()
        if lives:
            raise _refusal(self._run, holder)
        if lives is False:
            return
        patience = _BEATS * holder.every
        if self._on_wait is not None:
            self._on_wait(holder, patience)
        end = time.monotonic() + patience
        while time.monotonic() < end:
            time.sleep(holder.every / _LOOKS)
            there = storage.read_versioned(self._address)
            if there is None:
                return
            if there[1] != version:
                raise _refusal(self._run, Holder.parse(there[0]) or holder)

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
            except StoreError as error:  # the store is away: tiles wait for it as well
                _log.warning("the lease of %s could not be renewed: %s", self._run, error)

    def _lost(self, text: str) -> None:
        other = Holder.parse(text)
        _log.warning("%s: taken over by %s; this driver stops", self._run, other)
        if other is not None and self._on_lost is not None:
            self._on_lost(other)


def holder_of(address: str) -> Holder | None:
    """Return who holds the lease of a run, dead or alive; None if nobody does.

    Args:
        address: The run's folder or URL.
    """
    text = storage.read_text(storage.join(address, FILE))
    return None if text is None else Holder.parse(text)


def _refusal(run: str, holder: Holder) -> InputError:
    return InputError(
        f"{run}: another driver works on this run: {holder} ({holder.command}); wait for it, or"
        " stop it there with Ctrl-C or SIGTERM; 'ntkdist status' shows how far it is"
    )


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        return str(os.getuid())


def _machine() -> str:
    """Return what tells this boot and process namespace from any other; empty if unknown."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _process_start(pid: int) -> str:
    """Return when a process began, in the kernel's ticks; empty if it is gone or a zombie."""
    try:
        # the name in brackets may hold anything, so the fields are counted from its end
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]
