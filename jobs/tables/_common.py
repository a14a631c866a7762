"""What every table of the papers needs here: options, images, kernels kept on disk, records, plots.

Image sets are the files SET.npz (x_train, y_train, x_test, y_test) in the folder named by --data
or NTKDIST_DATA; ``digits``, ``shapes`` and ``corners`` need no file.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ntkdist.data import Preprocessor, load, select
from ntkdist.kernels import kernel_matrix
from ntkdist.networks.architecture import Architecture

# one record of the machine for tables and benchmarks alike
sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
from _record import machine

RESULTS = Path(__file__).parent / "results"
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
    description: str, *, n: int, sets: Sequence[str] | None = None, seeds: int | None = None
) -> argparse.ArgumentParser:
    """Return the options that all tables share; no ``--sets`` or ``--seeds`` where it is None."""
    options = argparse.ArgumentParser(description=description)
    options.add_argument("--data", default=os.environ.get("NTKDIST_DATA"), help="folder of SET.npz")
    if sets is not None:
        options.add_argument("--sets", nargs="+", default=list(sets), help="data sets")
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
    if name in SETS and not folder:
        sys.exit(f"{name}: name the folder that holds {name}.npz with --data or NTKDIST_DATA")
    source = f"npz:{folder}/{name}.npz" if name in SETS else name
    train = load(source, "train")
    data = train if split == "train" else load(source, split)
    if n is not None:
        data = data.take(select(data.labels, min(n, len(data.labels)), subset, seed))
    images = Preprocessor.fit(train.images, preprocess).apply(data.images)
    return Images(images, data.images, data.labels, data.num_classes, tuple(data.class_names))


def gram(
    architecture: str, images: np.ndarray, cache: str | None = None, dtype: str = "float32"
) -> tuple[np.ndarray, float]:
    """Return the NTK Gram matrix (N, N) and the seconds it took, from the cache if it is there."""
    arch = Architecture.parse(architecture)
    digest = hashlib.sha256(f"{arch} {images.shape} {images.dtype} {dtype}".encode())
    digest.update(np.ascontiguousarray(images).data)
    path = Path(cache or "", f"gram-{digest.hexdigest()[:24]}.npz")
    if cache and path.exists():
        kept = np.load(path)
        return kept["gram"], float(kept["seconds"])
    kernel_matrix(arch, images[:2], dtype=dtype)  # compiled before the clock starts
    start = time.perf_counter()
    matrix = kernel_matrix(arch, images, dtype=dtype)
    seconds = time.perf_counter() - start
    if cache:
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(f".{os.getpid()}.npz")
        np.savez(part, gram=matrix, seconds=seconds)
        part.replace(path)
    return matrix, seconds


def command() -> str:
    """Return the command line as anyone would give it again."""
    hidden = {"--data", "--cache", "--out"}
    words, skip = [], False
    for word in sys.argv[1:]:
        if not skip and word not in hidden:
            words.append(word)
        skip = not skip and word in hidden
    return " ".join(["python", f"jobs/tables/{Path(sys.argv[0]).name}", *words])


def write(name: str, out: Path, rows: list[dict[str, Any]], more: dict[str, Any]) -> Path:
    """Write OUT/NAME.json: the command, the machine, the settings, one object a row."""
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"{name}.json"
    found = {"command": command(), "machine": machine(), **more, "rows": rows}
    path.write_text(json.dumps(found, indent=1) + "\n")
    return path


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
