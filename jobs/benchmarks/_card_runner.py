"""Commands that prepare side by side, and take turns on the GPU, within a budget of seconds."""

from __future__ import annotations

import os
import selectors
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from _card_steps import ROOT, Step
from _turns import ASK, DONE, GO, VARIABLE, Outer

TICK = 0.05  # seconds between two looks at what runs
GRACE = 2.0  # seconds from the wish that a step end to its end by force
State = Literal["done", "unfinished", "failed", "killed", "cut", "skipped"]


@dataclass(frozen=True)
class Outcome:
    """What became of a step.

    Attributes:
        name: Of the step.
        state: ``done``; ``unfinished`` goes on another time; ``failed`` by itself; ``killed`` at
            its limit; ``cut`` at the end of the budget; ``skipped``, never begun.
        words: What it found, or why there is nothing.
        seconds: From its start to its end.
        turns: (begin, end) of each of its turns, in seconds from the start of all.
    """

    name: str
    state: State
    words: str
    seconds: float = 0.0
    turns: tuple[tuple[float, float], ...] = ()

    @property
    def held(self) -> float:
        """Seconds it had the GPU."""
        return sum(end - begin for begin, end in self.turns)


@dataclass
class _Active:
    """A step that runs."""

    step: Step
    process: subprocess.Popen[bytes]
    door: socket.socket
    started: float
    waiting: float | None = None  # since when
    holding: float | None = None
    waited: float = 0.0
    turns: list[tuple[float, float]] = field(default_factory=list)

    def used(self, now: float) -> float:
        """Return the seconds that count against the limit."""
        return now - self.started - self.waited - (now - self.waiting if self.waiting else 0.0)


class Runner:
    """Runs steps, the first ones first, so that never two have the GPU to themselves.

    A step starts when there is a core for it, prepares, and asks for its turn (``_turns.py``). Of
    those that wait the first in order gets it. One that needs the GPU as a whole starts with its
    turn, when all before it are done preparing. Where this process is itself given turns, by
    another runner, it gives its own only while it has one.

    Args:
        steps: In order of importance.
        work: Folder of the steps' logs, NAME.log, and results, NAME.json.
        seconds: When all is over, from now.
        cores: Processes that may prepare at a time.
        environment: Variables added to those of this process.
        on_outcome: Told what became of each step, at once.
        on_tick: Called every few hundredths of a second.
        ended: Whether to end now, asked as often.
    """

    def __init__(
        self,
        steps: Sequence[Step],
        work: Path,
        *,
        seconds: float,
        cores: int,
        environment: Mapping[str, str],
        on_outcome: Callable[[Outcome], None],
        on_tick: Callable[[], None] = lambda: None,
        ended: Callable[[], bool] = lambda: False,
    ) -> None:
        self._order = {step.name: place for place, step in enumerate(steps)}
        self._pending = list(steps)
        self._active: list[_Active] = []
        self._work, self._cores = work, max(1, cores)
        self._environment = {**os.environ, **environment}
        self._told, self._tick, self._ended = on_outcome, on_tick, ended
        self._begin = time.monotonic()
        self._end = self._begin + seconds
        self._selector = selectors.DefaultSelector()
        self._outer = Outer()

    def run(self) -> None:
        """Run until every step has its outcome; all that still run are ended if it is interrupted.

        Raises:
            KeyboardInterrupt: As it came.
        """
        self._drop(lambda step: step.obstacle())
        try:
            while (self._pending or self._active) and self._left() > 0 and not self._ended():
                self._hear()
                self._reap()
                self._enforce()
                self._drop(self._too_late)
                self._grant()
                self._start()
                self._tick()
        finally:
            self._stop_all()
            for step in self._pending:
                self._told(Outcome(step.name, "skipped", "the time was up"))
            self._pending.clear()
            self._selector.close()
            self._outer.close()

    def _left(self) -> float:
        return self._end - time.monotonic()

    def _drop(self, why_not: Callable[[Step], str]) -> None:
        """Give up what has not begun and cannot be done."""
        for step in list(self._pending):
            if words := why_not(step):
                self._pending.remove(step)
                self._told(Outcome(step.name, "skipped", words))

    def _hear(self) -> None:
        """Take note of who asks for a turn and who gives one back."""
        for key, _ in self._selector.select(TICK):
            active: _Active = key.data
            try:
                said = active.door.recv(64)
            except OSError:
                said = b""
            if not said:  # it ends
                self._selector.unregister(active.door)
            for word in (said[i : i + 1] for i in range(len(said))):
                if word == ASK:
                    active.waiting = time.monotonic()
                elif word == DONE:
                    self._release(active)

    def _release(self, active: _Active) -> None:
        if active.holding is not None:
            now = time.monotonic()
            active.turns.append((active.holding - self._begin, now - self._begin))
            active.holding = None

    def _reap(self) -> None:
        """Note what ended by itself."""
        for active in list(self._active):
            code = active.process.poll()
            if code is None:
                continue
            words = self._last_line(active.step)
            if code == 0:
                self._leave(active, "done", words)
            elif code == 1 and active.step.goes_on:
                self._leave(active, "unfinished", words)
            else:
                self._leave(active, "failed", f"exit code {code}: {words}")

    def _enforce(self) -> None:
        now = time.monotonic()
        for active in list(self._active):
            if active.used(now) > active.step.limit:
                self._stop(active, "killed", f"over its limit of {active.step.limit:g} s")

    def _grant(self) -> None:
        """Give the GPU to the first in order that may have it."""
        if any(active.holding is not None for active in self._active):
            return
        waiting = {active.step.name: active for active in self._active if active.waiting}
        ready = [active.step for active in waiting.values()]
        ready += [step for step in self._pending if step.whole]
        ready = [step for step in ready if not (step.behind and self._awaited(step))]
        if not ready:
            self._outer.give_back()  # as long as all prepare
        if not ready or not self._outer.taken():
            return
        for step in sorted(ready, key=lambda step: self._order[step.name]):
            active = waiting.get(step.name)
            if active is None:
                self._pending.remove(step)
                active = self._begin_one(step)
            elif not active.turns and (words := self._too_late(step)):
                self._stop(active, "cut", words)
                continue
            else:
                active.waited += time.monotonic() - (active.waiting or 0.0)
                active.waiting = None
                with suppress(OSError):  # it died: soon to be noted
                    active.door.sendall(GO)
            active.holding = time.monotonic()
            return

    def _awaited(self, step: Step) -> bool:
        """Return whether a step that comes before this one is not ready yet."""
        place = self._order[step.name]
        preparing = [active.step for active in self._active if not active.waiting]
        return any(self._order[other.name] < place for other in [*self._pending, *preparing])

    def _too_late(self, step: Step) -> str:
        left = self._left()
        if left <= 0:
            return "the time was up"
        if step.goes_on or left >= step.seconds:
            return ""
        return f"{left:.0f} s left, about {step.seconds:.0f} s needed"

    def _start(self) -> None:
        """Start what asks for turns itself, as long as there are cores."""
        for step in [step for step in self._pending if not step.whole]:
            busy = sum(active.step.processes for active in self._active if not active.waiting)
            if busy and busy + step.processes > self._cores:
                return
            self._pending.remove(step)
            self._begin_one(step)

    def _begin_one(self, step: Step) -> _Active:
        ours, theirs = socket.socketpair()
        environment = self._environment | dict(step.environment)
        environment.pop(VARIABLE, None)
        if not step.whole:
            environment[VARIABLE] = str(theirs.fileno())
        command = [word.replace("{left}", f"{self._left() - GRACE:.1f}") for word in step.command]
        # an earlier try's result must not be taken for this one's
        (self._work / f"{step.name}.json").unlink(missing_ok=True)
        with theirs, (self._work / f"{step.name}.log").open("wb") as log:
            process = subprocess.Popen(
                command,
                cwd=ROOT,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                pass_fds=() if step.whole else (theirs.fileno(),),
                start_new_session=True,
            )
        active = _Active(step, process, ours, time.monotonic())
        self._active.append(active)
        self._selector.register(ours, selectors.EVENT_READ, active)
        return active

    def _stop_all(self) -> None:
        end = time.monotonic() + GRACE
        for active in self._active:
            _signal(active, signal.SIGTERM)
        for active in list(self._active):
            self._stop(active, "cut", "the time was up", max(0.0, end - time.monotonic()))

    def _stop(self, active: _Active, state: State, words: str, grace: float = GRACE) -> None:
        """End a step, with all that it started."""
        _signal(active, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            active.process.wait(grace)
        _signal(active, signal.SIGKILL)  # whatever of it is left
        active.process.wait()
        said = self._last_line(active.step)
        self._leave(active, state, f"{words}; {said}" if said else words)

    def _leave(self, active: _Active, state: State, words: str) -> None:
        self._release(active)
        self._active.remove(active)
        if active.door in self._selector.get_map():
            self._selector.unregister(active.door)
        active.door.close()
        seconds = time.monotonic() - active.started
        self._told(Outcome(active.step.name, state, words, seconds, tuple(active.turns)))

    def _last_line(self, step: Step) -> str:
        """Return the line of a step's output that tells what it found; else its last one."""
        log = self._work / f"{step.name}.log"
        lines = [line.strip() for line in log.read_text(errors="replace").splitlines()]
        lines = [line for line in lines if line]
        telling = [line for line in lines if step.says and line.startswith(step.says)]
        return (telling or lines or [""])[-1]


def _signal(active: _Active, number: signal.Signals) -> None:
    """Send a signal to all processes of a step that are left."""
    with suppress(ProcessLookupError):
        os.killpg(active.process.pid, number)
