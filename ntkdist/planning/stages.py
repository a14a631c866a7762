"""What comes after the Gram, measured on a small run in a temporary folder and extrapolated.

The small run has some of the run's images and labels, a cheap kernel in place of the NTK, and a
memory limit that is smaller in the ratio of the matrices, so that it takes the same ways
through the code (one panel or several, the factor in memory or on disk). Its stages are run as
they are. Their cubic part (LAPACK) is timed alone and grows with N³; the
rest, which reads and writes matrices, with N²; what a tiny run takes is constant.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ntkdist.config import DataConfig, GramConfig, NoiseConfig, PredictConfig, RunConfig
from ntkdist.errors import StageError
from ntkdist.gram.store import GramStore
from ntkdist.gram.tiling import Tiling
from ntkdist.labels.ridge import MOST_IMAGES
from ntkdist.linalg import blas, parse_memory
from ntkdist.linalg.blas import ITEM, blas_threads
from ntkdist.linalg.panels import LARGEST_BLOCK, PanelPlan, least_memory, plan_panels
from ntkdist.linalg.tasks import thread_count
from ntkdist.planning.devices import timed
from ntkdist.runs.run import Run

STAGES = ("factor", "inverse", "diagonal", "labels", "report")
_SMALL, _TINY = 2048, 256
_LAPACK = 3072  # rows of the matrix that LAPACK is timed with
_GEMM_SECONDS = 1.0
_REPEATS = 3
_IMPORTS = 5.0  # seconds; a first time that takes longer has compiled


def stages_of(method: str) -> tuple[str, ...]:
    """Return those of ``STAGES`` that a label method has: posterior forms no inverse."""
    left_out = "inverse" if method == "posterior" else "diagonal"
    return tuple(stage for stage in STAGES if stage != left_out)


@dataclass(frozen=True)
class Rates:
    """What this machine does a second where work grows with N³.

    Attributes:
        factor: Operations of LAPACK's Cholesky with all threads.
        inverse: Operations of LAPACK's inverse with all threads.
        product: Operations of products side by side, one thread each.
        read: Bytes read from a stored factor.
    """

    factor: float
    inverse: float
    product: float
    read: float


@dataclass(frozen=True)
class StageCosts:
    """What the stages after the Gram take at any N.

    Attributes:
        n: Images of the small run; its stages' seconds are ``small``.
        small: Part → seconds.
        tiny: Stage → seconds of a run so small that only what is constant counts.
        once: Stage → seconds of its first time in a process, beyond those of the next.
        rates: Of what grows with N³.
        memory: The factor stage's limit in bytes, as configured.
        whole: Images of the run, that ``small`` has been scaled down from.
    """

    n: int
    small: dict[str, float]
    tiny: dict[str, float]
    once: dict[str, float]
    rates: Rates
    memory: int
    whole: int

    def seconds(self, stage: str, n: int) -> float:
        """Return the seconds of a stage with ``n`` images."""
        parts = ("noise", "labels") if stage == "labels" else (stage,)
        return sum(self._seconds(part, n) for part in parts)

    def _seconds(self, part: str, n: int) -> float:
        small, constant = self.small[part], min(self.tiny[part], self.small[part])
        if n == self.n:
            return self.once[part] + small
        if part == "report":
            return self.once[part] + small
        if part == "noise":  # eigenvectors of a sample
            growth = (min(n, MOST_IMAGES) / min(self.n, MOST_IMAGES)) ** 3
            return self.once[part] + constant + (small - constant) * growth
        limit = scaled_limit(self.memory, self.n, self.whole)
        square = max(0.0, small - constant - self._cubic(part, self.n, limit))
        constant += self.once[part] + square * (n / self.n) ** 2
        return constant + self._cubic(part, n, self.memory)

    def _cubic(self, part: str, n: int, memory: int) -> float:
        """Return the seconds of what grows with N³ in the factor, its inverse and the diagonal."""
        if part not in ("factor", "inverse", "diagonal"):
            return 0.0
        rates, plan = self.rates, plan_panels(n, memory)
        streamed = ITEM * n * n / 2 > memory  # the factor is read anew for each block of columns
        if part == "diagonal":
            # each block reads what is below and right of it, N³/6 entries for blocks of one column
            columns = max(1, min(2 * LARGEST_BLOCK, memory // (4 * ITEM * n)))
            again = ITEM / 6 * n**3 / columns / rates.read if streamed else 0.0
            return n**3 / 3 / rates.product + again
        if plan.count == 1:
            speed = rates.factor if part == "factor" else rates.inverse
            return n**3 / 3 / speed * (1 if part == "factor" else 2)
        if part == "factor":
            return sum(map(plan.flops, range(plan.count))) / rates.product
        again = ITEM / 3 * n**3 / plan.block / rates.read if streamed else 0.0  # read twice
        return 2 * n**3 / 3 / rates.product + again


def no_stages(n: int) -> StageCosts:
    """Return the costs where every stage is stored, so that none was measured."""
    return StageCosts(n, {}, {}, {}, Rates(1.0, 1.0, 1.0, 1.0), 0, n)


def scaled_limit(memory: int, m: int, n: int) -> int:
    """Return the memory limit of a run of ``m`` images in place of ``n``."""
    if m >= n:
        return memory
    return max(int(memory * (m / n) ** 2), 2**20, least_memory(m))


def measure_stages(
    config: RunConfig, images: np.ndarray, labels: np.ndarray, n: int, *, small: int = _SMALL
) -> StageCosts:
    """Measure what comes after the Gram.

    Args:
        config: The run's configuration.
        images: (m, H, W, C) some of its images.
        labels: (m,) their labels.
        n: Images of the run.
        small: Most images of the small run.
    """
    memory = parse_memory(config.factor.memory_limit)
    count = min(len(images), small)
    with tempfile.TemporaryDirectory(prefix="ntkdist-plan-") as folder:

        def run(name: str, m: int) -> dict[str, float]:
            limit = scaled_limit(memory, m, n)
            place = os.path.join(folder, name)
            return _stages(_scratch(config, place, limit), place, images[:m], labels[:m])

        first = run("first", min(count, _TINY))  # imports, and may compile
        tiny = run("tiny", min(count, _TINY))
        # the better of two: what other programs take for a moment, a long run gets back
        measured = _least(tiny if count <= _TINY else run("small", count), run("again", count))
        read = _reading(os.path.join(folder, "again"))
    once = {part: min(max(0.0, first[part] - tiny[part]), _IMPORTS) for part in measured}
    rates = (
        _rates(n, memory, read, config.labels.method) if count < n else Rates(1.0, 1.0, 1.0, 1.0)
    )
    return StageCosts(count, measured, tiny, once, rates, memory, n)


def _scratch(config: RunConfig, place: str, limit: int) -> RunConfig:
    """Return the small run's configuration; it stores nothing outside of its folder."""
    labels = replace(config.labels, locked=None)
    return RunConfig(
        run=os.path.join(place, "run"),
        architecture="fc-1",
        data=DataConfig(source=f"npz:{place}/images.npz", preprocess="none"),
        noise=NoiseConfig(),
        gram=GramConfig(backend="cpu", executor="inline"),
        factor=replace(
            config.factor,
            memory_limit=str(limit),
            scheduler="auto" if config.factor.scheduler == "ray" else config.factor.scheduler,
            device="cpu",
        ),
        labels=labels,
        predict=PredictConfig(),
    )


def _stages(
    config: RunConfig, place: str, images: np.ndarray, labels: np.ndarray
) -> dict[str, float]:
    """Run factor, labels and report on a kernel that is computed in a moment; return seconds."""
    from ntkdist.api import report
    from ntkdist.pipeline import Pipeline

    os.makedirs(place)
    _, known = np.unique(labels, return_inverse=True)  # classes that none of these has are left out
    np.savez(os.path.join(place, "images.npz"), x_train=images, y_train=known)
    run = Run.create(config)
    _store_kernel(run, images)
    marks: list[tuple[str, float]] = []

    def listen(event: Any) -> None:
        marks.append((type(event).__name__, time.perf_counter()))

    seconds = {}
    with Pipeline(config, [listen]) as pipeline:
        began = time.perf_counter()
        pipeline.factor()
        ended = time.perf_counter()
        panels = [at for name, at in marks if name == "PanelDone"]
        seconds["factor"] = panels[-1] - began
        part = "diagonal" if config.labels.method == "posterior" else "inverse"
        seconds[part] = ended - panels[-1]
        # the label stage begins with a look at the noise, in a sample of the images
        seconds["noise"] = timed(pipeline.choice)[1]
        seconds["labels"] = timed(pipeline.labels)[1]
        seconds["report"] = timed(lambda: report(pipeline))[1]
    return seconds


def _least(one: dict[str, float], other: dict[str, float]) -> dict[str, float]:
    return {stage: min(seconds, other[stage]) for stage, seconds in one.items()}


def _store_kernel(run: Run, images: np.ndarray) -> None:
    """Store exp(cos) of the images, which is positive definite and knows something of classes."""
    n = len(images)
    flat = images.reshape(n, -1).astype(np.float64)
    flat = flat - flat.mean(axis=0)
    flat /= np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-12)
    tiling = Tiling.from_target(n, max(1, -(-n // 4)))
    store = GramStore.create(
        run.address("gram", "ntk"),
        tiling,
        fingerprint=run.fingerprint,
        kind="ntk",
        attributes={"arithmetic": run.manifest.arithmetic},
    )
    for key in tiling.keys():  # noqa: SIM118
        rows, cols = tiling.slices(key)
        store.write(key, np.exp(flat[rows] @ flat[cols].T).astype(np.float32))


def _reading(place: str) -> float:
    """Return the bytes a second that the small run's factor is read with."""
    from ntkdist.linalg.panels import FactorStore

    ridge = os.listdir(os.path.join(place, "run", "factor", "ntk"))[0]
    opened = FactorStore.open(os.path.join(place, "run", "factor", "ntk", ridge))
    if opened is None:
        raise StageError(f"{place}: the factor that was measured is gone; start the plan again")
    store, _ = opened
    seconds = timed(lambda: deque(store.strips(0), maxlen=0))[1]
    return store.kept_bytes() / max(seconds, 1e-9)


def _rates(n: int, memory: int, read: float, method: str) -> Rates:
    """Time what grows with N³, in the form in which the run has it."""
    plan = plan_panels(n, memory)
    threads = thread_count()
    m = min(n, _LAPACK)
    factor = inverse = product = float("inf")
    if plan.count == 1:
        with blas_threads(threads):
            pairs = [_lapack(m) for _ in range(_REPEATS)]
        factor, inverse = (max(pair[part] for pair in pairs) for part in (0, 1))
    if plan.count > 1 or method == "posterior":  # whose tasks take some columns each
        product = _products(plan, threads)
    return Rates(factor, inverse, product, read)


def _lapack(m: int) -> tuple[float, float]:
    """Return the operations a second of Cholesky and of the inverse from it."""
    matrix = _definite(m)
    _, factor = timed(lambda: blas.cholesky_lower(matrix))
    _, inverse = timed(lambda: blas.inverse_from_lower(matrix))
    return m**3 / 3 / factor, 2 * m**3 / 3 / inverse


def _products(plan: PanelPlan, threads: int) -> float:
    """Return the operations a second of a panel's products on as many threads as tasks run on."""
    width = min(plan.width, 2048)
    rng = np.random.default_rng(0)
    left, right = rng.normal(size=(plan.block, width)), rng.normal(size=(width, width))
    outs = [np.zeros((plan.block, width)) for _ in range(threads)]
    end = time.perf_counter() + _GEMM_SECONDS

    def work(out: np.ndarray) -> float:
        flops = 0.0
        while not flops or time.perf_counter() < end:
            blas.subtract_product(out, left, right, tb=True)
            flops += 2.0 * plan.block * width * width
        return flops

    with blas_threads(1), ThreadPoolExecutor(threads) as pool:
        began = time.perf_counter()
        flops = sum(pool.map(work, outs))
        return flops / (time.perf_counter() - began)


def _definite(m: int) -> np.ndarray:
    factor = np.random.default_rng(0).normal(size=(m, 64))
    return factor @ factor.T / 64 + np.eye(m)
