"""The stages of one run, in order, each resumable.

inputs → gram → factor → labels. A stage reads what the stage before it stored, and does nothing
where its own result is stored and was made from the same inputs.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np

from ntkdist.config import RunConfig
from ntkdist.data.features import feature_words
from ntkdist.errors import InterruptedRunError, StageError
from ntkdist.events.bus import Subscribers
from ntkdist.events.log import EventLog
from ntkdist.events.types import DriverWaited, RunStarted, StageDone, StageStarted, StepContinues
from ntkdist.gram.signals import StopFlag, stop_on_signals
from ntkdist.pipeline.gram import Matrix, compute_matrix, gram_of, stored_gram
from ntkdist.pipeline.growth import current_factor, grow_factor, roll_forward
from ntkdist.pipeline.labels import (
    EVERY,
    FlipProgress,
    RoundProgress,
    read_locked,
    refresh_table,
    store_kpca,
    summarise,
    thumbnail,
    write_table,
)
from ntkdist.pipeline.reuse import take_from_origin
from ntkdist.runs.run import Prepared, Run
from ntkdist.storage.lease import Holder, Lease
from ntkdist.words import counted

if TYPE_CHECKING:
    from ntkdist.gram.store import GramStore
    from ntkdist.labels import RefurbishResult
    from ntkdist.linalg import CholeskyFactor

Needs = Literal["inverse", "diagonal", "solutions"]
T = TypeVar("T")
#: Version of the noise estimate; results of other versions are computed again.
NOISE_VERSION = 2


class Pipeline:
    """An open run: holds its lease and event log, and runs its stages.

    A context manager. SIGINT and SIGTERM stop it after the work in flight is finished.

    Args:
        config: Configuration of the run.
        subscribers: Receive every event, beside the run's own log.
        prepared: Inputs of a new run, where its source has been read already.
    """

    def __init__(
        self,
        config: RunConfig,
        subscribers: Sequence[Callable[[Any], None]] = (),
        prepared: Prepared | None = None,
    ) -> None:
        self.config = config
        self._prepared = prepared
        self._subscribers = subscribers

    def __enter__(self) -> Pipeline:
        started = time.monotonic()
        self._emit = Subscribers(*self._subscribers)
        self._log: EventLog | None = None
        self._lease = Lease(self.config.run, on_wait=self._on_wait, on_lost=self._on_lease_lost)
        self._signals = stop_on_signals()
        self.stop: threading.Event = self._signals.__enter__()
        try:
            self.run = roll_forward(
                Run.create(self.config, hold=self._lease.acquire, prepared=self._prepared)
            )
            self.config = self.run.config  # data.preprocess=auto is resolved in it
            self._begin(started)
            self.run = take_from_origin(
                self.run, self.config.gram.tile, self.forward, self.check_stop
            )
        except BaseException:
            self._end()
            raise
        return self

    def _begin(self, started: float) -> None:
        from ntkdist.events.metrics import RayMetrics

        self._log = EventLog(self.run.url)
        self._emit.subscribe(self._log)
        if self.config.gram.executor == "ray":
            self._emit.subscribe(RayMetrics(self.run.url))
        self._emit(RunStarted(self.run.url, self.run.fingerprint))
        shape = self.run.shape
        words = feature_words(*shape) if len(shape) == 2 else "×".join(map(str, shape))
        self._emit(StageDone("inputs", time.monotonic() - started, words))

    def __exit__(self, *exc: Any) -> None:
        self._end(*exc)

    def _end(self, *exc: Any) -> None:
        try:
            self._signals.__exit__(*(exc or (None, None, None)))
        finally:
            try:
                if self._log is not None:
                    self._log.close()
            finally:
                self._lease.release()

    def _on_wait(self, holder: Holder, seconds: float) -> None:
        self._emit(DriverWaited(str(holder), seconds))

    def _on_lease_lost(self, holder: Holder) -> None:
        """Stop as after a signal: another driver has taken over the lease."""
        if isinstance(self.stop, StopFlag):
            self.stop.signal = f"another driver, {holder}"
        self.stop.set()

    @contextmanager
    def stage(self, name: str) -> Iterator[list[str]]:
        """Emit a stage's start and end; words appended to the list go into its ``StageDone``."""
        self.check_stop()
        detail: list[str] = []
        self._emit(StageStarted(name))
        started = time.monotonic()
        yield detail
        self._emit(StageDone(name, time.monotonic() - started, ", ".join(detail)))

    def check_stop(self) -> None:
        """Raise ``InterruptedRunError`` if the stop flag is set."""
        if self.stop.is_set():
            name = getattr(self.stop, "signal", "") or "a signal"
            raise InterruptedRunError(f"stopped by {name}; what was finished is kept")

    def forward(self, event: Any) -> None:
        """Emit an event, then call ``check_stop``."""
        self._emit(event)
        self.check_stop()

    def watched(self, step: str, work: Callable[[Callable[[Any], None]], T]) -> T:
        """Run long work in a thread, and emit its events, at least one every few seconds."""
        events: SimpleQueue[Any] = SimpleQueue()
        began = time.monotonic()
        with ThreadPoolExecutor(1, thread_name_prefix="stage") as pool:
            future = pool.submit(work, events.put)
            future.add_done_callback(lambda _: events.put(None))
            while True:
                try:
                    event = events.get(timeout=EVERY)
                except Empty:
                    event = StepContinues(step, time.monotonic() - began)
                if event is None:
                    return future.result()
                self._emit(event)

    def check_settings(self, stages: Collection[str]) -> None:
        """Raise ``InputError`` for settings of later stages that do not fit the run's images.

        To be called before the Gram is computed, which can take days.
        """
        from ntkdist.labels.options import check_noise_rate
        from ntkdist.linalg import check_device, parse_memory, plan_panels

        run, n, factor = self.run, self.run.shape[0], self.config.factor
        if "factor" in stages and not run.has("factor"):
            plan_panels(n, parse_memory(factor.memory_limit))
            if factor.scheduler != "ray":  # whose cluster begins with the stage
                check_device(
                    factor.device, None if factor.scheduler == "auto" else factor.scheduler
                )
        if "labels" in stages:
            settings = self.config.labels
            read_locked(settings.locked, n)
            if settings.noise_rate != "auto":
                check_noise_rate(settings.noise_rate, run.num_classes)

    def gram(self, recompute: Sequence[str] = ()) -> None:
        """Compute the tiles that are missing."""
        with self.stage("gram") as detail:
            detail += self.compute(gram_of(self.run), recompute)

    def compute(self, matrix: Matrix, recompute: Sequence[str] = ()) -> list[str]:
        """Compute the missing tiles of a kernel matrix; return what was done, in words."""
        return compute_matrix(
            self.run, self.config, matrix, on_event=self._emit, stop=self.stop, recompute=recompute
        )

    def gram_store(self, kind: str = "ntk") -> GramStore:
        """Open the finished Gram.

        Raises:
            StageError: If tiles are missing.
        """
        store = stored_gram(self.run, kind)
        if store is None:
            raise StageError(f"{self.run.url}: has no Gram yet; ntkdist gram {self.run.url}")
        if missing := store.missing():
            raise StageError(
                f"{self.run.url}: {counted(len(missing), 'tile')} of the Gram missing, the first "
                f"{missing[0]}; ntkdist gram {self.run.url}"
            )
        return store

    @contextmanager
    def scheduler(self) -> Iterator[str | None]:
        """Yield the scheduler of the factor stage, with a Ray cluster where it needs one."""
        from ntkdist.gram.executors.cluster import cluster, cores, package_path

        name = self.config.factor.scheduler
        if name != "ray":
            yield None if name == "auto" else name
            return
        with cluster(
            self.config.gram.address,
            cpus=cores(),
            gpus=0,
            environment=package_path(),
            on_wait=lambda step, seconds: self.forward(StepContinues(step, seconds)),
        ):
            yield name

    def factor_address(self) -> str:
        """Return the address of the factor for ``ridge()``."""
        return self.run.address("factor", "ntk", f"ridge-{self.ridge():g}")

    def ridge(self) -> float:
        """Return the ridge: as configured, fixed (posterior), or estimated."""
        from ntkdist.labels import POSTERIOR_RIDGE

        ridge = self.config.factor.ridge
        if ridge != "auto":
            return float(ridge)
        if self.config.labels.method == "posterior":
            return POSTERIOR_RIDGE
        return self.choice()["ridge"]

    def choice(self) -> dict[str, Any]:
        """Estimate ridge and label noise by likelihood, or read them from the run."""
        from ntkdist.labels import choose_ridge
        from ntkdist.labels.options import check_locked

        run, settings = self.run, self.config.labels
        given = run.read("inputs", "labels")
        locked = read_locked(settings.locked, len(given))
        rate = None if settings.noise_rate == "auto" else settings.noise_rate
        parts = [NOISE_VERSION, settings.noise, rate, _listed(locked)]
        key = hashlib.sha256(
            run.fingerprint.encode() + given.tobytes() + json.dumps(parts).encode()
        ).hexdigest()
        stored = run.attributes("noise")
        if stored.get("fingerprint") != key or not run.has("noise", "eigenvalues"):
            chosen = self.watched(
                "choosing the ridge",
                lambda _: choose_ridge(
                    self.gram_store(),
                    given,
                    run.num_classes,
                    noise=settings.noise,
                    noise_rate=rate,
                    locked=check_locked(locked, len(given)),
                ),
            )
            stored = {
                "ridge": chosen.ridge,
                "noise_rate": chosen.noise.rate,
                "images": chosen.images,
                "tried": [[r, n.rate, n.log_likelihood] for r, n in chosen.tried],
                "estimate": chosen.estimate.to_dict(),
                "fingerprint": key,
            }
            arrays = {"eigenvalues": chosen.eigenvalues}
            if chosen.estimate.first_probs is not None:
                arrays["pred_probs"] = chosen.estimate.first_probs
            run.write_result("noise", arrays, stored)
        return stored

    def grow_factor(self, address: str, gram: Any, *, appended: bool = True) -> bool:
        """Append the rows of an extension to an older factor; see ``growth.grow_factor``."""
        return grow_factor(
            self.run,
            address,
            gram,
            memory_limit=self.config.factor.memory_limit,
            on_event=self.forward,
            appended=appended,
        )

    def factor(self, needs: Needs | None = None) -> CholeskyFactor:
        """Factor the Gram plus ridge, and compute the part of its inverse that is needed.

        Args:
            needs: ``inverse``: the whole inverse (for exact and paper); ``diagonal``: its
                diagonal (for posterior); ``solutions``: no part of it, the caller solves with the
                factor. None: what ``labels.method`` needs.
        """
        from ntkdist.linalg import factorize

        settings = self.config.factor
        if needs is None:
            needs = "diagonal" if self.config.labels.method == "posterior" else "inverse"
        with self.stage("factor") as detail, self.scheduler() as scheduler:
            store = self.gram_store()
            self.grow_factor(self.factor_address(), store)
            factor = factorize(
                store,
                self.factor_address(),
                ridge=self.ridge(),
                memory_limit=settings.memory_limit,
                scheduler=scheduler,
                device=settings.device,
                on_event=self.forward,
                fingerprint=self.run.fingerprint,
            )
            if needs == "inverse":
                factor.inverse(on_event=self.forward)
            elif needs == "diagonal":
                factor.diagonal_of_inverse(on_event=self.forward)
            panels = counted(factor.panel_count, "panel")
            detail.append(f"{panels} on {factor.device}, ridge {factor.ridge:g}")
        return factor

    def labels(self) -> None:
        """Refurbish the labels and store what was found."""
        from ntkdist.labels import drop_checkpoint, label_report

        run, settings = self.run, self.config.labels
        with self.stage("labels") as detail:
            given = run.read("inputs", "labels")
            locked = read_locked(settings.locked, len(given))
            fingerprint = self._labels_fingerprint(given, locked)
            wanted = settings.probabilities and not run.has("labels", "pred_probs")
            if run.attributes("labels").get("fingerprint") == fingerprint and not wanted:
                detail.append("as stored")
                refresh_table(run, probabilities=settings.probabilities)
                if not run.has("labels", "kpca", "points"):  # by a version without these figures
                    self.choice()
                    self._picture_components(given)
                return
            store = self.gram_store()
            inverse = self._inverse()
            result = self._refurbished(inverse, given, locked)
            table = label_report(given, result)
            run.write_attributes("labels", {"fingerprint": None, "summary": None})
            for name in table.columns.drop(["index", "given_label"]):
                run.write(f"labels/{name}", table[name].to_numpy())
            run.write("labels/refurbished", result.labels)
            run.write("labels/losses", result.losses)
            run.write("labels/pred_probs", result.to_pred_probs().astype(np.float32))
            history = result.to_dataframe()
            for name in history.columns:
                run.write(f"labels/history/{name}", history[name].to_numpy())
            summary = self.watched(
                "class matrices of the labels",
                lambda _: summarise(run, self.config, self.ridge(), inverse, given, result),
            )
            summary["num_issues"] = int(table["is_label_issue"].sum())
            run.write("labels/transition", result.noise.transition)
            picture, bounds = self.watched(
                "picture of the Gram", lambda _: thumbnail(store, given, run.num_classes)
            )
            run.write("labels/gram_by_class", picture, {"boundaries": bounds})
            self._picture_components(given)
            run.write_attributes("labels", {"summary": summary, "fingerprint": fingerprint})
            write_table(run, table, probabilities=settings.probabilities)
            if run.has("labels", "checkpoint"):
                drop_checkpoint(run.address("labels", "checkpoint"))
            flips, issues = summary["flips"], summary["num_issues"]
            posterior = settings.method == "posterior"
            detail.append(counted(flips, "changed label" if posterior else "flip"))
            judges = result.reliability.can_judge
            detail.append(counted(issues, "suspicious label") if judges else "cannot judge")

    def _inverse(self) -> Any:
        """Return the inverse in the form that the label method asks for."""
        from ntkdist.labels import FactorInverse
        from ntkdist.linalg import parse_memory

        limit = self.config.factor.memory_limit
        factor = current_factor(self.run, self.factor_address(), limit)
        if self.config.labels.method == "posterior":
            diagonal = factor.diagonal_of_inverse(on_event=self.forward)
            return FactorInverse(factor, diagonal)
        inverse = factor.inverse(on_event=self.forward)
        if 8 * factor.n**2 > parse_memory(limit):
            return inverse  # read row by row as flips need them
        return self.watched("reading the inverse", lambda _: np.asarray(inverse))

    def _refurbished(
        self, inverse: Any, given: np.ndarray, locked: np.ndarray | None
    ) -> RefurbishResult:
        """Refurbish the given labels, and emit events of the progress."""
        from ntkdist.labels import NoiseEstimate, refurbish
        from ntkdist.labels.posterior import ROUNDS
        from ntkdist.linalg import parse_memory

        run, settings = self.run, self.config.labels
        choice = self.choice()
        sampled = choice["images"] < len(given)
        first = None if sampled else run.read("noise", "pred_probs")
        options: dict[str, Any] = {
            "method": settings.method,
            "steps": None if settings.steps == "none" else settings.steps,
            "beta": settings.beta,
            "noise": settings.noise,
            "noise_rate": None if settings.noise_rate == "auto" else settings.noise_rate,
            "estimate": NoiseEstimate.from_dict(choice["estimate"], first),
            "locked": locked,
            "confidence": settings.confidence,
        }
        if settings.method == "posterior":

            def run_posterior(emit: Callable[[Any], None]) -> RefurbishResult:
                def emit_and_check(event: Any) -> None:
                    emit(event)
                    self.check_stop()

                observed = inverse.with_listener(emit_and_check)
                rounds = RoundProgress(emit_and_check, ROUNDS)
                return refurbish(observed, given, run.num_classes, on_round=rounds, **options)

            return self.watched("rounds of the posterior", run_posterior)
        blocks = settings.blocks
        if blocks == "auto":  # four float64 (N, K): G, its transpose, two work arrays
            memory = parse_memory(self.config.factor.memory_limit)
            blocks = -(-32 * len(given) * run.num_classes // memory)
        with self._label_client(blocks) as client:

            def run_flips(emit: Callable[[Any], None]) -> RefurbishResult:
                return refurbish(
                    inverse,
                    given,
                    run.num_classes,
                    blocks=blocks,
                    flips_per_step=settings.flips_per_step,
                    client=client,
                    checkpoint=run.address("labels", "checkpoint"),
                    on_step=FlipProgress(emit, self.check_stop),
                    **options,
                )

            return self.watched("changing labels", run_flips)

    def _picture_components(self, given: np.ndarray) -> None:
        self.watched(
            "kernel principal components",
            lambda _: store_kpca(self.run, self.gram_store(), given),
        )

    @contextmanager
    def _label_client(self, blocks: int) -> Iterator[Any]:
        """Yield a Dask client for the row blocks; None keeps them in this process."""
        name = self.config.factor.scheduler
        if "://" not in name or blocks == 1:
            yield None
            return
        from distributed import Client

        with Client(name) as client:
            yield client

    def _labels_fingerprint(self, given: np.ndarray, locked: np.ndarray | None) -> str:
        settings = self.config.labels
        parts = [
            self.run.fingerprint,
            self.ridge(),
            [settings.method, settings.steps, settings.beta],
            [settings.noise_rate, settings.confidence, settings.flips_per_step],
            [NOISE_VERSION, settings.noise],
            hashlib.sha256(given.tobytes()).hexdigest(),
            _listed(locked),
        ]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _listed(locked: np.ndarray | None) -> list[int] | None:
    return None if locked is None else locked.tolist()
