"""What every table of the papers needs here: options, images, kernels kept on disk, records, plots.

Image sets are the files SET.npz (x_train, y_train, x_test, y_test) in the folder named by --data
or NTKDIST_DATA; ``digits``, ``shapes`` and ``corners`` need no file.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ntkdist.data import Preprocessor, load, select
from ntkdist.kernels import kernel_matrix
from ntkdist.networks.architecture import Architecture

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
import _measure

RESULTS = Path(__file__).parent / "results"
HIDDEN = ("--data", "--cache", "--out", "--runs")  # folders, left out of the recorded command
SETS = ("mnist", "fashion_mnist", "cifar10", "cifar100")
NAMES = {
    "mnist": "MNIST",
    "fashion_mnist": "Fashion-MNIST",
    "cifar10": "CIFAR-10",
    "cifar100": "CIFAR-100",
    "shapes": "Shapes",
    "corners": "Corners",
    "digits": "digits",
}


def parser(
    description: str,
    *,
    n: int | None = None,
    sets: Sequence[str] | None = None,
    seeds: int | None = None,
) -> argparse.ArgumentParser:
    """Return the options that all tables share; no ``--n``, ``--sets`` or ``--seeds`` for None."""
    options = argparse.ArgumentParser(description=description)
    options.add_argument("--data", default=os.environ.get("NTKDIST_DATA"), help="folder of SET.npz")
    if sets is not None:
        options.add_argument("--sets", nargs="+", default=list(sets), help="data sets")
    if n is not None:
        options.add_argument("-n", "--n", type=int, default=n, help="training images of each set")
    if seeds is not None:
        options.add_argument("--seeds", type=int, default=seeds, help="how many seeds, from 0")
    options.add_argument("--cache", help="folder that keeps Gram matrices for the next time")
    options.add_argument("--out", type=Path, default=RESULTS, help="folder of JSON and plot")
    return options


@dataclass(frozen=True)
class Images:
    """Labelled images, prepared for a kernel.

    Attributes:
        images: (N, H, W, C) float32.
        raw: (N, H, W, C) as read.
        labels: (N,) int64.
        num_classes: K.
        class_names: One name a class.
    """

    images: np.ndarray
    raw: np.ndarray
    labels: np.ndarray
    num_classes: int
    class_names: tuple[str, ...]


def source_of(name: str, folder: str | None) -> str:
    """Return the data source of a set, or end the program where its folder is not named."""
    if name in SETS and not folder:
        sys.exit(f"{name}: name the folder that holds {name}.npz with --data or NTKDIST_DATA")
    return f"npz:{folder}/{name}.npz" if name in SETS else name


def read(
    name: str,
    folder: str | None,
    n: int | None,
    *,
    preprocess: str = "standardize",
    split: str = "train",
    subset: str = "balanced",
    seed: int = 0,
) -> Images:
    """Read, choose and preprocess a data set, with statistics of its whole training split."""
    source = source_of(name, folder)
    train = load(source, "train")
    data = train if split == "train" else load(source, split)
    if n is not None:
        data = data.take(select(data.labels, min(n, len(data.labels)), subset, seed))
    images = Preprocessor.fit(train.images, preprocess).apply(data.images)
    return Images(images, data.images, data.labels, data.num_classes, tuple(data.class_names))


def cached(
    cache: str | None, name: str, parts: Iterable[Any], compute: Callable[[], np.ndarray]
) -> tuple[np.ndarray, float]:
    """Return an array and the seconds it took, from the folder ``cache`` if it is there.

    ``parts``, texts, bytes and arrays, are all that the array depends on.
    """
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray):
            digest.update(f"{part.shape} {part.dtype}".encode())
            digest.update(np.ascontiguousarray(part).data)
        else:
            digest.update(part if isinstance(part, bytes) else str(part).encode())
    path = Path(cache or "", f"{name}-{digest.hexdigest()[:24]}.npz")
    if cache and path.exists():
        with np.load(path) as kept:
            return kept["values"], float(kept["seconds"])
    seconds, values = _measure.timed(compute)
    if cache:
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(f".{os.getpid()}.npz")
        np.savez(part, values=values, seconds=seconds)
        part.replace(path)
    return values, seconds


def gram(
    architecture: str,
    images: np.ndarray,
    cache: str | None = None,
    dtype: str = "float32",
    invariance: str = "none",
) -> tuple[np.ndarray, float]:
    """Return the NTK Gram matrix (N, N) and the seconds it took, from the cache if it is there."""
    arch = Architecture.parse(architecture)

    def compute() -> np.ndarray:
        return kernel_matrix(arch, images, dtype=dtype, invariance=invariance)

    kernel_matrix(arch, images[:2], dtype=dtype)  # compiled before the clock starts
    averaged = "" if invariance == "none" else f" {invariance}"
    return cached(cache, "gram", (f"{arch} {dtype}{averaged}", images), compute)


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder, which is made: of several processes one is inside."""
    folder.mkdir(parents=True, exist_ok=True)
    number = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(number, fcntl.LOCK_EX)
        yield
    finally:
        os.close(number)


def write(name: str, out: Path, rows: list[dict[str, Any]], more: dict[str, Any]) -> Path:
    """Write OUT/NAME.json: the command, the machine, the settings, one object a row."""
    return _measure.write(out / f"{name}.json", rows, more, hidden=HIDDEN)


def show(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print a small table; None is a dash."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for place, column in enumerate(columns):
        table.add_column(column, justify="left" if place == 0 else "right")
    for row in rows:
        table.add_row(*("–" if cell is None else str(cell) for cell in row))
    Console(width=None if sys.stdout.isatty() else 160).print(table)


def figure(width: float, height: float) -> Any:
    """Return an empty Matplotlib figure, drawn without a display."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def save(drawn: Any, out: Path, name: str) -> Path:
    """Write OUT/NAME.svg."""
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"{name}.svg"
    drawn.savefig(path, metadata={"Date": None})
    return path
