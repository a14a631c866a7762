"""Launches of compiled kernels on the processor, many threads at a time, with checks.

Threads of several blocks run together, each instruction for all threads that are at it. ``ORDERS``
are ways to choose which threads go on where they are at different places; a right kernel gives the
same bits in each. Reported as problems are

- races in shared and device memory: two accesses of a word by different threads, one of them a
  store of a new value, without a barrier between them;
- loads of memory that nothing wrote (it begins as a NaN of its own), and of words that an
  asynchronous copy may not have reached;
- barriers and shuffles that lack threads which have returned, and barriers at different places;
- read-only loads from an array that the launch writes.

An address outside of every array or misaligned, a shuffle or a barrier that some threads never
reach, and an instruction that is not known raise.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Sequence
from typing import Any

import numpy as np

from tests.kernels.simulator.program import DTYPES, LOCAL, SHARED, WHOLE_WARP, Program

WARP = 32
#: All threads together; warp by warp up to the next barrier, from either end; at random.
ORDERS = ("together", "upwards", "downwards", "random")
THREADS_AT_ONCE = 8192
_APART = 4096  # bytes between two arrays, at least
_NAN = 0x7FFFDEAD  # in each word of memory that nothing wrote yet
_UNSET = {4: np.uint32(_NAN), 8: np.uint64(_NAN << 32 | _NAN)}


class Fault(Exception):  # noqa: N818  # a verdict on a kernel
    """A kernel does what no GPU allows."""


class Accesses:
    """Who read and wrote each word of a memory last, for races.

    A stamp is drawn at each barrier of a block and of a warp. An access is over for the threads of
    its block once the block has a later stamp, and for those of its warp once the warp has one.

    Attributes:
        writer: Thread that wrote the word last.
        write_block: Stamp of its block then.
        write_warp: Stamp of its warp then.
        low: First of the threads that read the word since.
        high: Last of them.
        read_block: Stamp of their block.
        read_warp: Stamp of their warp.
    """

    def __init__(self, words: int) -> None:
        self.writer, self.write_block, self.write_warp = (np.zeros(words, np.int32) for _ in "123")
        self.low, self.high, self.read_block, self.read_warp = (
            np.zeros(words, np.int32) for _ in "1234"
        )


class DeviceMemory:
    """Device memory: arrays far apart in one address space, filled with NaN.

    Args:
        size: Bytes.
    """

    def __init__(self, size: int = 2**29) -> None:
        self.size = size
        self.bytes = np.empty(size, np.uint8)
        self.starts: list[int] = []
        self.stops: dict[int, int] = {}
        self.accesses = Accesses(size // 4)

    def allocate(self, count: int) -> int:
        """Return the address of so many new bytes, a multiple of 256."""
        at = 256
        for start in self.starts:
            if start - at >= count + _APART:
                break
            at = -(-(self.stops[start] + _APART) // 256) * 256
        if at + count > self.size:
            raise MemoryError(f"{count} bytes do not fit the simulated device memory")
        insort(self.starts, at)
        self.stops[at] = at + count
        words = self.bytes[at : at + -(-count // 4) * 4].view(np.uint32)
        words.fill(_NAN)
        return at

    def free(self, at: int) -> None:
        """Give back what ``allocate`` returned."""
        self.starts.remove(at)
        del self.stops[at]

    def view(self, at: int, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        """Return an array in the memory that begins at an address."""
        count = int(np.prod(shape)) * np.dtype(dtype).itemsize
        return self.bytes[at : at + count].view(dtype).reshape(shape)

    def array_of(self, address: int) -> int:
        """Return where the array begins that an address may belong to, −1 for none."""
        k = bisect_right(self.starts, address) - 1
        return self.starts[k] if k >= 0 else -1

    def arrays_of(self, addresses: np.ndarray, size: int) -> set[int]:
        """Return where the arrays begin that hold ``size`` bytes at each address.

        Raises:
            Fault: If an address is outside of all arrays.
        """
        first, last = int(addresses.min()), int(addresses.max())
        start = self.array_of(first)
        if start >= 0 and last + size <= self.stops[start]:
            return {start}
        starts = np.array(self.starts)
        stops = np.array([self.stops[at] for at in self.starts])
        which = np.searchsorted(starts, addresses, "right") - 1
        outside = (which < 0) | (addresses + size > stops[which])
        if outside.any():
            at = int(addresses[outside][0])
            raise Fault(f"address {at:#x} of {size} bytes is outside of every array")
        return {int(starts[k]) for k in np.unique(which)}


class Launch:
    """One launch of a kernel.

    Args:
        program: The kernel.
        values: Its parameters by name.
        grid: Blocks along x, y and z.
        block: Threads of a block along x, y and z.
        memory: Device memory.
        order: One of ``ORDERS``.
        lazy: Whether asynchronous copies arrive only when they are awaited, else at once.
        seed: For ``random``.

    Attributes:
        problems: What was reported: kind → examples.
        instructions: Executed, a warp's as one.
    """

    stamps = 0  # drawn in this process

    def __init__(
        self, program: Program, values: dict[str, Any], grid: Sequence[int], block: Sequence[int],
        memory: DeviceMemory, *, order: str = "together", lazy: bool = True, seed: int = 0,
    ) -> None:  # fmt: skip
        assert order in ORDERS
        self.program, self.parameters, self.memory = program, values, memory
        self.grid, self.shape = tuple(grid), tuple(block)
        self.order, self.lazy, self.rng = order, lazy, np.random.default_rng(seed)
        self.problems: dict[str, list[str]] = {}
        self.instructions = 0
        self.began = self.draw()
        self.read_only: set[int] = set()
        self.written: set[int] = set()

    @classmethod
    def draw(cls) -> int:
        """Return a new stamp."""
        Launch.stamps += 1
        return Launch.stamps

    def run(self) -> Launch:
        """Execute all blocks of the grid."""
        size = int(np.prod(self.shape))
        count = int(np.prod(self.grid))
        at_once = max(1, THREADS_AT_ONCE // (-(-size // WARP) * WARP))
        with np.errstate(all="ignore"):
            for first in range(0, count, at_once):
                _Blocks(self, range(first, min(first + at_once, count)), size).run()
        if both := self.read_only & self.written:
            self.report("read-only load of an array that is written", f"{len(both)} arrays")
        return self

    def report(self, kind: str, example: str) -> None:
        """Note a problem."""
        examples = self.problems.setdefault(kind, [])
        if len(examples) < 5:
            examples.append(example)


class _Blocks:
    """Some blocks of a launch that run together: the machine that ``Program.bind`` binds to."""

    def __init__(self, launch: Launch, numbers: range, size: int) -> None:
        self.launch, self.memory, self.program = launch, launch.memory, launch.program
        padded = -(-size // WARP) * WARP  # the last warp may have fewer lanes
        self.size, self.blocks = padded, len(numbers)
        self.count = count = padded * len(numbers)
        self.block = np.arange(count) // padded
        number = np.arange(count) % padded
        self.done = number >= size
        self.thread = (numbers.start * padded + np.arange(count)).astype(np.int32)
        self.warp_of_thread = self.thread // WARP
        self.warp = np.arange(count) // WARP
        x, y, _ = launch.shape
        gx, gy, _ = launch.grid
        block = numbers.start + self.block
        special = {
            "tid": (number % x, number // x % y, number // (x * y)),
            "ctaid": (block % gx, block // gx % gy, block // (gx * gy)),
            "ntid": tuple(np.full(count, n) for n in launch.shape),
            "nctaid": tuple(np.full(count, n) for n in launch.grid),
        }
        self.values: dict[str, Any] = dict(launch.parameters)
        self.values |= {
            f"%{name}.{axis}": values.astype(np.uint32)
            for name, axes in special.items()
            for axis, values in zip("xyz", axes, strict=True)
        }
        self.values["%laneid"] = (number % WARP).astype(np.uint32)
        self.shared_size = -(-max(self.program.shared_size, 16) // 16) * 16
        self.shared = np.full(self.shared_size // 4 * self.blocks, _NAN, np.uint32).view(np.uint8)
        self.shared_accesses = Accesses(len(self.shared) // 4)
        self.in_flight = np.zeros(len(self.shared) // 4, bool)
        self.local_size = -(-max(self.program.local_size, 8) // 8) * 8
        self.local = np.full((count, self.local_size // 4), _NAN, np.uint32).view(np.uint8)
        self.copies: list[tuple[np.ndarray, np.ndarray, np.ndarray, int]] = []
        self.at = np.zeros(count, np.int64)  # the basic block that a thread is in front of
        self.waits = np.zeros(count, bool)
        self.block_stamp = np.full(count, launch.draw(), np.int32)
        self.warp_stamp = self.block_stamp.copy()
        self.registers: dict[str, np.ndarray] = {}
        self.functions = self.program.bind(self, count)

    def run(self) -> None:
        """Run until all threads have returned."""
        blocks = self.program.blocks
        together = self.launch.order == "together" and not self.done.any()
        at = 0  # where all threads are, while they are together
        while True:
            if together:
                block = blocks[at]
                self.functions[at](True)
                self.launch.instructions += block.count * (self.count // WARP)
                if block.ending == "next":
                    at += 1
                elif block.ending == "barrier":
                    self._pass_barrier(np.ones(self.blocks, bool))
                    at += 1
                else:
                    taken = self._taken(block)
                    if taken is True or taken.all():
                        if block.ending == "return":
                            break
                        at = block.target
                    elif not taken.any():
                        at += 1
                    else:
                        self._leave(block, at, taken, np.ones(self.count, bool))
                        together = False
                continue
            if self.done.all():
                break
            chosen = self._choose()
            if chosen is None:
                self._barrier()
                continue
            at, mask = chosen
            block = blocks[at]
            self.functions[at](mask)
            self.launch.instructions += block.count * len(np.unique(self.warp[mask]))
            if block.ending == "next":
                self.at[mask] = at + 1
            elif block.ending == "barrier":
                self.at[mask] = at + 1
                self.waits |= mask
            else:
                self._leave(block, at, self._taken(block), mask)
            if self.launch.order == "together" and not self.done.any() and not self.waits.any():
                at = int(self.at[0])
                together = bool((self.at == at).all())
        if self.copies:
            self.launch.report("copies that nobody awaits", self.program.text[self.copies[0][3]])

    def _taken(self, block: Any) -> Any:
        if not block.guard:
            return True
        taken = self.registers[block.guard]
        return ~taken if block.negated else taken

    def _leave(self, block: Any, at: int, taken: Any, mask: np.ndarray) -> None:
        """Let threads branch or return."""
        taken = mask if taken is True else mask & taken
        self.at[mask] = at + 1
        if block.ending == "return":
            self.done |= taken
        else:
            self.at[taken] = block.target

    def _choose(self) -> tuple[int, np.ndarray] | None:
        """Return a basic block and the threads that execute it next; None if all wait."""
        live = ~self.done & ~self.waits
        if not live.any():
            return None
        blocks = self.program.blocks
        order = self.launch.order
        if order in ("upwards", "downwards"):  # a warp of each block, as far as it goes
            warps = self.size // WARP
            of_block = (self.warp % warps).reshape(self.blocks, self.size)
            some = live.reshape(self.blocks, self.size)
            if order == "upwards":
                turn = np.where(some, of_block, warps).min(1)
            else:
                turn = np.where(some, of_block, -1).max(1)
            live &= (of_block == turn[:, None]).ravel()
        places = np.unique(self.at[live])
        if order == "random":
            places = self.launch.rng.permutation(places)
        elif order == "downwards":
            places = places[::-1]
        for place in places.tolist():
            mask = live & (self.at == place)
            if order == "random":
                kept = self.launch.rng.random(self.count // WARP) < 0.5
                some = mask & kept[self.warp]
                mask = some if some.any() else mask
            if blocks[place].meets:
                here = (mask | self.done).reshape(-1, WARP).all(1)
                mask &= here[self.warp]
            if mask.any():
                return place, mask
        raise Fault("lanes wait for others of their warp that never come")

    def _barrier(self) -> None:
        """Let blocks go on whose threads all wait."""
        waits = self.waits.reshape(self.blocks, self.size)
        done = self.done.reshape(self.blocks, self.size)
        ready = (waits | done).all(1) & waits.any(1)
        if not ready.any():
            raise Fault("threads wait at a barrier for others that never come")
        places = self.at.reshape(self.blocks, self.size)
        low = np.where(waits, places, np.iinfo(np.int64).max).min(1)
        high = np.where(waits, places, -1).max(1)
        if (ready & (low != high)).any():
            self.launch.report(
                "barriers at different places", f"blocks {np.flatnonzero(ready)[:3]}"
            )
        returned = done.any(1) & ready & (self.size == int(np.prod(self.launch.shape)))
        if returned.any():
            self.launch.report("barrier without threads that returned", self.program.name)
        self._pass_barrier(ready)
        self.waits &= ~ready[self.block]

    def _pass_barrier(self, ready: np.ndarray) -> None:
        mask = ready[self.block]
        self.block_stamp[mask] = self.launch.draw()
        self.warp_stamp[mask] = self.block_stamp[mask]

    # what instructions call

    def meet(self, m: Any) -> None:
        """Order what the lanes of warps did before and do afterwards."""
        if m is True:
            self.warp_stamp[:] = self.launch.draw()
        else:
            self.warp_stamp[m] = self.launch.draw()

    def shuffle(
        self, to: np.ndarray, inside: Any, mode: str, value: Any, by: Any, clamp: Any, members: Any,
        m: Any, at: int,
    ) -> None:  # fmt: skip
        """Give each lane another lane's value, its own where there is no such lane."""
        by, clamp, members = (self._only(operand, m, at) for operand in (by, clamp, members))
        if clamp != (0 if mode == "up" else WARP - 1) or members != WHOLE_WARP:
            raise Fault(f"not known: {self.program.text[at]}")
        lane = np.arange(self.count) % WARP
        source = {"up": lane - by, "down": lane + by, "bfly": lane ^ by}[mode]
        there = (source >= 0) & (source < WARP)
        source = np.where(there, source, lane) + self.warp * WARP
        if m is not True and (m & self.done[source]).any():
            self.launch.report("shuffle with a lane that returned", self.program.text[at])
        np.copyto(to, np.broadcast_to(value, self.count)[source], where=m)
        if inside is not None:
            np.copyto(inside, there, where=m)

    def _only(self, values: Any, m: Any, at: int) -> int:
        """Return the value that an operand has in all threads."""
        found = np.unique(values if m is True or np.ndim(values) == 0 else values[m])
        if len(found) > 1:
            raise Fault(f"lanes shuffle in different ways: {self.program.text[at]}")
        return int(found[0])

    def check_aligned(self, register: Any, offset: int, size: int, m: Any, at: int) -> None:
        """Raise ``Fault`` unless addresses of a vector are multiples of its size."""
        if ((self._addresses(register, offset, m)) % size).any():
            raise Fault(f"misaligned: {self.program.text[at]}")

    def load(
        self, to: np.ndarray, register: Any, offset: int, space: str, kind: str, m: Any, at: int,
        read_only: bool,
    ) -> None:  # fmt: skip
        """Load a value for each thread of a mask."""
        threads, place, memory, space = self._place(register, offset, space, kind, m, at)
        if space == "global":
            arrays = self._arrays(place, kind, at)
            if read_only:
                self.launch.read_only |= arrays
            else:
                self._note_read(self.memory.accesses, threads, place, kind, at)
        elif space == "shared":
            self._note_read(self.shared_accesses, threads, place, kind, at)
            if self.in_flight[place // 4].any():
                self.launch.report("load of a word in flight", self.program.text[at])
        dtype = np.dtype(DTYPES[kind])
        values = memory.view(dtype)[place // dtype.itemsize]
        if (values.view(f"u{dtype.itemsize}") == _UNSET.get(dtype.itemsize, -1)).any():
            self.launch.report("load of memory that nothing wrote", self.program.text[at])
        values = values.astype(to.dtype)
        if m is True:
            to[:] = values
        else:
            to[threads] = values

    def store(
        self, values: Any, register: Any, offset: int, space: str, kind: str, m: Any, at: int
    ) -> None:
        """Store a value of each thread of a mask."""
        threads, place, memory, space = self._place(register, offset, space, kind, m, at)
        dtype = np.dtype(DTYPES[kind])
        there = memory.view(dtype)
        index = place // dtype.itemsize
        new = np.broadcast_to(values, self.count)[threads]
        bits = f"u{dtype.itemsize}"
        changes = there[index].view(bits) != new.view(bits)
        if space == "global":
            self.launch.written |= self._arrays(place, kind, at)
            self._note_write(self.memory.accesses, threads[changes], place[changes], kind, at)
        elif space == "shared":
            self._note_write(self.shared_accesses, threads[changes], place[changes], kind, at)
            if self.in_flight[place // 4].any():
                self.launch.report("store to a word in flight", self.program.text[at])
        there[index] = new

    def copy_async(
        self, to: Any, to_offset: int, start: Any, offset: int, size: int, m: Any, at: int
    ) -> None:
        """Begin to copy ``size`` bytes of each thread to shared memory."""
        threads, place, _, _ = self._place(to, to_offset, "shared", "u32", m, at)
        source = self._addresses(start, offset, m)
        if (place % size).any() or (source % size).any():
            raise Fault(f"misaligned: {self.program.text[at]}")
        self.memory.arrays_of(source, size)
        for k in range(0, size, 4):
            self._note_write(self.shared_accesses, threads, place + k, "u32", at)
            self.in_flight[(place + k) // 4] = True
            if not self.launch.lazy:
                self._copy(place + k, source + k)
        self.copies.append((threads, place, source, at))

    def await_copies(self, m: Any) -> None:
        """Let the copies arrive that threads began."""
        left = []
        for threads, place, source, at in self.copies:
            mine = np.ones(len(threads), bool) if m is True else m[threads]
            for k in range(0, 16, 4):
                if self.launch.lazy:
                    self._copy(place[mine] + k, source[mine] + k)
                self._note_write(self.shared_accesses, threads[mine], place[mine] + k, "u32", at)
                self.in_flight[(place[mine] + k) // 4] = False
            if not mine.all():
                left.append((threads[~mine], place[~mine], source[~mine], at))
        self.copies = left

    def _copy(self, place: np.ndarray, source: np.ndarray) -> None:
        self.shared.view(np.uint32)[place // 4] = self.memory.bytes.view(np.uint32)[source // 4]

    def _addresses(self, register: Any, offset: int, m: Any) -> np.ndarray:
        if register is None:
            count = self.count if m is True else int(m.sum())
            return np.full(count, offset, np.int64)
        return (register if m is True else register[m]).astype(np.int64) + offset

    def _arrays(self, place: np.ndarray, kind: str, at: int) -> set[int]:
        try:
            return self.memory.arrays_of(place, np.dtype(DTYPES[kind]).itemsize)
        except Fault as fault:
            raise Fault(f"{fault}: {self.program.text[at]}") from None

    def _place(
        self, register: Any, offset: int, space: str, kind: str, m: Any, at: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, str]:
        """Return the threads of a mask, their places in a memory, that memory and its name."""
        threads = np.arange(self.count) if m is True else np.flatnonzero(m)
        address = self._addresses(register, offset, m)
        if not len(address):
            return threads, address, self.memory.bytes, "nowhere"
        if space == "generic":
            first = int(address[0])
            space = "local" if first >= LOCAL else "shared" if first >= SHARED else "global"
        size = np.dtype(DTYPES[kind]).itemsize
        if (address % size).any():
            raise Fault(f"misaligned: {self.program.text[at]}")
        if space == "global":
            return threads, address, self.memory.bytes, space
        base, limit = (SHARED, self.program.shared_size)
        if space == "local":
            base, limit = (LOCAL, self.program.local_size)
        address = np.where(address >= base, address - base, address)
        if (address < 0).any() or (address + size > limit).any():
            raise Fault(f"outside of {space} memory: {self.program.text[at]}")
        if space == "shared":
            return threads, self.block[threads] * self.shared_size + address, self.shared, space
        place = threads * self.local_size + address
        return threads, place, self.local.reshape(-1), space

    # races

    def _unordered(
        self, thread: np.ndarray, block: np.ndarray, warp: np.ndarray, threads: np.ndarray
    ) -> np.ndarray:
        """Return where an earlier access by ``thread`` under its stamps is not over yet."""
        mine = self.thread[threads]
        same_block = thread // self.size == mine // self.size
        same_warp = thread // WARP == self.warp_of_thread[threads]
        over = (same_block & (block != self.block_stamp[threads])) | (
            same_warp & (warp != self.warp_stamp[threads])
        )
        return (block > self.launch.began) & (thread != mine) & ~over

    def _note_write(
        self, made: Accesses, threads: np.ndarray, place: np.ndarray, kind: str, at: int
    ) -> None:
        for k in range(0, np.dtype(DTYPES[kind]).itemsize, 4):
            word = (place + k) // 4
            mine = self.thread[threads]
            races = self._unordered(
                made.writer[word], made.write_block[word], made.write_warp[word], threads
            )
            self._report_race("write after write", races, threads, word, at)
            for reader in (made.low, made.high):
                races = self._unordered(
                    reader[word], made.read_block[word], made.read_warp[word], threads
                )
                self._report_race("write after read", races, threads, word, at)
            made.writer[word] = mine
            made.write_block[word] = self.block_stamp[threads]
            made.write_warp[word] = self.warp_stamp[threads]
            twice = made.writer[word] != mine
            self._report_race("two threads write a word", twice, threads, word, at)

    def _note_read(
        self, made: Accesses, threads: np.ndarray, place: np.ndarray, kind: str, at: int
    ) -> None:
        for k in range(0, np.dtype(DTYPES[kind]).itemsize, 4):
            word = (place + k) // 4
            mine, block = self.thread[threads], self.block_stamp[threads]
            warp = self.warp_stamp[threads]
            races = self._unordered(
                made.writer[word], made.write_block[word], made.write_warp[word], threads
            )
            self._report_race("read after write", races, threads, word, at)
            low, high = made.low[word], made.high[word]
            of_warp = self.warp_of_thread[threads]
            alone = (low // WARP == of_warp) & (high // WARP == of_warp)
            fresh = made.read_block[word] != block
            fresh &= (low // self.size == mine // self.size) | (
                made.read_block[word] <= self.launch.began
            )
            fresh |= alone & (made.read_warp[word] != warp)
            made.low[word[fresh]] = np.iinfo(np.int32).max
            made.high[word[fresh]] = -1
            np.minimum.at(made.low, word, mine)
            np.maximum.at(made.high, word, mine)
            made.read_block[word], made.read_warp[word] = block, warp

    def _report_race(
        self, kind: str, races: np.ndarray, threads: np.ndarray, word: np.ndarray, at: int
    ) -> None:
        if races.any():
            k = int(np.flatnonzero(races)[0])
            where = f"thread {self.thread[threads[k]]}, word {word[k]}: {self.program.text[at]}"
            self.launch.report(kind, where)
