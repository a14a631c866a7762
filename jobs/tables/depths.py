"""CNTK-GAP at depths 3 to 21 on CIFAR-10, beside Arora et al. 2019; goes on where it ended.

    python jobs/tables/depths.py --data FOLDER                         # all five depths
    python jobs/tables/depths.py --data FOLDER --seconds 240           # what fits, the rest later
    python jobs/tables/depths.py --data FILE.npz --depths 4 --train 500 --test 500 --backend cpu

The column of their Table 1 with 2,000 training images: kernel regression without a ridge on
centred one-hot labels (0.9 and −0.1), pixels standardised by the statistics of the whole training
split, entries in float32, the Cholesky solve in float64; the first and the last layer are not
trained. Training images are a balanced draw, so that ours are others than theirs, and theirs were
tested on all 10,000 test images.

A GPU computes all depths in one pass of the deepest, other processors one after the other. Every
finished depth is added to --output at once; several processes may do so at a time. Kernels of
unfinished depths are kept beside it, a block of rows at a time. Needs numpy, scipy,
numba and, for a GPU, numba-cuda alone. Exit code 0: all depths are there; 1: the limit came first.
"""

from __future__ import annotations

import argparse
import hashlib
import math
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import _common  # puts the benchmarks' folder on the path
import numpy as np
from _depths_record import NEAR, Settings, add, rows_of, table
from _depths_rows import Rows
from _record import machine
from _turns import turn
from arora_table1 import DEPTHS, PUBLISHED, PUBLISHED_WITH

from ntkdist import Architecture
from ntkdist.data import Preprocessor, load, select
from ntkdist.errors import InputError
from ntkdist.kernels import Family, get_backend
from ntkdist.learning import KernelRegression, accuracy

NETWORK = "cntk-gap"
PUBLISHED_IMAGES, PUBLISHED_CLASSES = (32, 32, 3), 10
BLOCK = 200  # images of a tile; a row of tiles is what is kept


@dataclass(frozen=True, eq=False)
class Task:
    """Images, labels and what computes their kernels.

    Attributes:
        train: (n, H, W, C) float32.
        labels: (n,) of them.
        test: (m, H, W, C) float32.
        test_labels: (m,) of them.
        num_classes: K.
        backend: Of ``ntkdist.kernels``.
        settings: As they are stored.
    """

    train: np.ndarray
    labels: np.ndarray
    test: np.ndarray
    test_labels: np.ndarray
    num_classes: int
    backend: Any
    settings: Settings

    @property
    def entries(self) -> int:
        """Entries of a depth: those trained on with each other once, and with all others."""
        n = len(self.train)
        return n * (n + 1) // 2 + len(self.test) * n

    def published(self, depth: int) -> float | None:
        """Return the published accuracy in percent; None where these images are others."""
        theirs = (PUBLISHED_WITH, *PUBLISHED_IMAGES)
        alike = self.train.shape == theirs and self.num_classes == PUBLISHED_CLASSES
        return PUBLISHED[NETWORK].get(depth) if alike else None


class Clock:
    """When to stop.

    Args:
        seconds: From now.
    """

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    def allows(self, seconds: float) -> bool:
        """Return whether there is that much time left."""
        return time.monotonic() + seconds < self._end


def read(given: argparse.Namespace) -> Task:
    """Read, choose and standardise the images.

    Raises:
        InputError: If there are none, too few of them, or they do not fit one another.
    """
    path = Path(given.data).expanduser()
    source = f"npz:{path / 'cifar10.npz' if path.is_dir() else path}"
    whole, held = load(source, "train"), load(source, "test")
    if whole.image_shape != held.image_shape:
        raise InputError(
            f"{path}: training images are {whole.image_shape}, test images {held.image_shape}; "
            "both must be alike"
        )
    chosen = whole.take(select(whole.labels, given.train, "balanced", given.seed))
    held = held.take(select(held.labels, given.test, "balanced", given.seed))
    prepared = Preprocessor.fit(whole.images, "standardize")
    train, test = prepared.apply(chosen.images), prepared.apply(held.images)
    digest = hashlib.sha256(f"{train.shape} {test.shape} {whole.num_classes}".encode())
    for array in (train, test, chosen.labels, held.labels):
        digest.update(np.ascontiguousarray(array).data)
    backend = get_backend(given.backend, threads=len(os.sched_getaffinity(0)))
    settings = Settings(
        len(train), len(test), given.seed, backend.arithmetic, digest.hexdigest()[:24]
    )
    return Task(train, chosen.labels, test, held.labels, whole.num_classes, backend, settings)


def compute(
    task: Task, names: Sequence[str], output: Path, clock: Clock
) -> list[tuple[Rows, Rows]] | None:
    """Compute the kernels of some depths, in one pass of the deepest where the backend can.

    Returns:
        For each the Gram of the images trained on, of which the lower triangle is filled, and
        the kernel of the test images with them; None if the limit came first.
    """
    archs, n = [Architecture.parse(name) for name in names], len(task.train)
    shape = task.train.shape[1:]
    family = Family(task.backend, archs, (shape[0], shape[1], shape[2]))
    prints = [task.settings.fingerprint(arch) for arch in archs]
    both = list(zip(names, prints, strict=True))
    grams = [Rows.open(kept(output, name, "gram"), of, (n, n)) for name, of in both]
    size = len(task.test), n
    crosses = [Rows.open(kept(output, name, "test"), of, size) for name, of in both]
    few, others = (family.prepare(images[:2]) for images in (task.train, task.test))
    for side in (few, others):  # compiled before the turn, and before the clock starts
        family.block(few, side)
    states: dict[tuple[bool, int], Any] = {}

    def state(trained_on: bool, start: int) -> Any:
        if (trained_on, start) not in states:
            images = task.train if trained_on else task.test
            states[trained_on, start] = family.prepare(images[start : start + BLOCK])
        return states[trained_on, start]

    def fill(parts: Sequence[Rows], trained_on: bool, start: int) -> None:
        """Fill a row of tiles, of the Grams up to their diagonals."""
        for left in range(0, start + 1 if trained_on else n, BLOCK):
            tiles = family.block(state(trained_on, start), state(True, left))
            for rows, tile in zip(parts, tiles, strict=True):
                high, wide = tile["ntk"].shape
                rows.values[start : start + high, left : left + wide] = tile["ntk"]

    rate = 0.0  # seconds an entry, of all depths
    with turn():
        for label, parts, trained_on in (("Gram", grams, True), ("test", crosses, False)):
            total = len(parts[0].values)
            for start in range(min(rows.done for rows in parts), total, BLOCK):
                size_of = min(BLOCK, total - start)
                entries = size_of * (start + (size_of + 1) / 2 if trained_on else n)
                if not clock.allows(rate * entries):
                    return None
                began = time.perf_counter()
                fill(parts, trained_on, start)
                took = time.perf_counter() - began
                rate = took / entries
                for rows in parts:
                    rows.keep(start + size_of, took / len(parts))
                said = f"{', '.join(names)} {label}: {start + size_of} of {total} rows"
                print(f"{said}, {1e6 * rate:.3g} µs an entry", file=sys.stderr, flush=True)
    return list(zip(grams, crosses, strict=True))


def kept(output: Path, name: str, part: str) -> Path:
    """Return the file of an unfinished depth's rows."""
    return output.with_name(f"{output.stem}-{name}.{part}.npz")


def judge(task: Task, depth: int, gram: Rows, cross: Rows) -> dict[str, Any]:
    """Fit, predict, and return what there is to say of a depth."""
    lower = np.tril(gram.values)
    model = KernelRegression.fit(lower + np.tril(lower, -1).T, task.labels, task.num_classes)
    right = 100 * accuracy(model.predict(cross.values), task.test_labels)
    published = task.published(depth)
    difference = None if published is None else right - published
    seconds = gram.seconds + cross.seconds
    return {
        "depth": depth,
        "accuracy": right,
        "published": published,
        "difference": difference,
        "near": None if difference is None else abs(difference) <= NEAR,
        "seconds": seconds,
        "entries": task.entries,
        "us_per_entry": 1e6 * seconds / task.entries,
        "machine": machine(),
    }


def parser() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    where = "npz file, or the folder of cifar10.npz (NTKDIST_DATA)"
    options.add_argument("--data", default=os.environ.get("NTKDIST_DATA"), help=where)
    options.add_argument("--depths", default=",".join(map(str, DEPTHS)), help="joined by commas")
    options.add_argument("--train", type=int, default=PUBLISHED_WITH, help="images trained on")
    options.add_argument("--test", type=int, default=2000, help="images predicted")
    options.add_argument("--seed", type=int, default=0, help="of the draw of images")
    options.add_argument("--backend", choices=("cuda", "cpu"), default="cuda")
    options.add_argument("--seconds", type=float, default=math.inf, help="when to stop")
    default = _common.RESULTS / "depths.json"
    options.add_argument("--output", type=Path, default=default, help="JSON to add to")
    again = "drop what the output holds of other settings"
    options.add_argument("--replace", action="store_true", help=again)
    return options


def passes(task: Task, depths: Sequence[int]) -> list[list[int]]:
    """Return which depths to compute together: all where one pass gives all, else one by one."""
    archs = [Architecture.parse(f"{NETWORK}-{depth}") for depth in depths]
    shape = task.train.shape[1:]
    if archs and Family(task.backend, archs, (shape[0], shape[1], shape[2])).together:
        return [list(depths)]
    return [[depth] for depth in depths]


def run(given: argparse.Namespace) -> int:
    """Compute the depths that are missing; the exit code.

    Raises:
        InputError: For bad options or data.
    """
    clock = Clock(given.seconds)
    try:
        depths = list(dict.fromkeys(int(word) for word in given.depths.split(",")))
    except ValueError:
        raise InputError(
            f"--depths {given.depths!r}: numbers joined by commas are needed"
        ) from None
    if not given.seconds > 0:
        raise InputError(f"--seconds {given.seconds:g} must be more than 0")
    if not given.data:
        raise InputError("no images are named; give --data FILE or FOLDER, or set NTKDIST_DATA")
    names = {depth: f"{NETWORK}-{depth}" for depth in depths}
    for name in names.values():
        Architecture.parse(name)
    task = read(given)
    there = rows_of(given.output, task.settings, replace=given.replace)
    given.output.parent.mkdir(parents=True, exist_ok=True)
    missing = [depth for depth in depths if depth not in {row["depth"] for row in there}]
    for depths_of_pass in passes(task, missing):
        of_depths = [names[depth] for depth in depths_of_pass]
        kernels = compute(task, of_depths, given.output, clock)
        if kernels is None:
            break
        for depth, parts in zip(depths_of_pass, kernels, strict=True):
            row = judge(task, depth, *parts)
            more = {"command": _common.command(), "published": PUBLISHED[NETWORK]}
            add(given.output, task.settings, row, more, replace=given.replace)
            for rows in parts:
                rows.path.unlink(missing_ok=True)
            missing.remove(depth)
    if missing:
        left = ", ".join(map(str, missing))
        print(f"the limit came before depth {left}; the same command goes on", file=sys.stderr)
    found = rows_of(given.output, task.settings, replace=given.replace)
    print(f"{len(task.train)} training and {len(task.test)} test images; {given.output}")
    print(table([row for row in found if row["depth"] in depths]))
    return 1 if missing else 0


def main() -> None:
    """Compute, print, write."""
    try:
        code = run(parser().parse_args())
    except InputError as error:
        print(f"depths.py: {error}", file=sys.stderr)
        code = 2
    sys.exit(code)


if __name__ == "__main__":
    main()
