"""``ntkdist verify``: whether what a run holds is what it says, and repair of what is not.

Every array beside the matrices and factors is read whole: inputs, results of the label stage and of
the analyses. Their chunks have checksums, and a missing chunk or array is found too.

Three things can be wrong with a tile: its bytes (its checksum fails, or it cannot be read), its
place (it is whole, and another tile's or another run's), or its origin (it was wrong when it was
stored). Digests kept when tiles were stored find the second. A tile without one (stored right
before a kill) is probed: a few of its entries are computed again. The third is looked for by
computing whole tiles again, and single entries by the float64 reference.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from ntkdist import storage
from ntkdist.config import RunConfig
from ntkdist.errors import InputError, NtkdistError, StoreError
from ntkdist.events.bus import Subscribers
from ntkdist.events.types import TilesVerified
from ntkdist.gram.store import GramStore, read_digests, tile_digest
from ntkdist.gram.tiling import TileKey, Tiling, few_keys
from ntkdist.gram.worker import GramJob, TileWorker
from ntkdist.networks.architecture import Architecture
from ntkdist.pipeline.gram import Matrix, gram_of, job_of, threads_of
from ntkdist.pipeline.growth import factor_names
from ntkdist.pipeline.stages import Pipeline
from ntkdist.runs.inputs import fingerprint
from ntkdist.runs.manifest import STAGING
from ntkdist.runs.run import Run, is_result_key
from ntkdist.storage.arrays import METADATA, damages, open_array, read_metadata
from ntkdist.words import counted

if TYPE_CHECKING:
    from ntkdist.linalg import CholeskyFactor


_INVERSE_COLUMNS = 3
_INVERSE_BOUND = 1e-6
_FACTOR_BOUND = 1e-10  # a factor's backward error is 1e-16, that of another matrix 1e-5 or more


@dataclass(frozen=True)
class RunCheck:
    """What was found out about a run.

    Attributes:
        inputs: What is wrong with the stored inputs, one line each.
        grams: One check for each kernel matrix, the run's own first.
        factors: Address of each factor → what is wrong with it, its inverse or the diagonal of
            that, one line each.
        results: Name in the run of each damaged array of a result → what is wrong with it.
        matrices: The matrices of ``grams``, to compute bad tiles of again.
    """

    inputs: tuple[str, ...]
    grams: tuple[GramCheck, ...]
    factors: dict[str, tuple[str, ...]]
    results: dict[str, str] = field(default_factory=dict)
    matrices: tuple[Matrix, ...] = field(default=(), repr=False)

    @property
    def problems(self) -> list[str]:
        """Everything that is wrong, one line each."""
        problems = [f"inputs: {text}" for text in self.inputs]
        problems += [f"{check.address}: {text}" for check in self.grams for text in check.problems]
        problems += [f"{where}: {text}" for where, texts in self.factors.items() for text in texts]
        problems += list(self.results.values())
        return problems


def verify_run(
    run: Run,
    *,
    recompute: int = 4,
    entries: int = 16,
    seed: int = 0,
    on_event: Callable[[Any], None] | None = None,
) -> RunCheck:
    """Read the inputs, matrices and factors of a run, recompute samples, and change nothing.

    Inputs: the fingerprint of the stored images. Every kernel matrix: see ``verify_gram``. Every
    finished factor: the sha256 of each panel; the backward error, if no tile is bad or missing;
    every checksum of its inverse (or the diagonal), and a few columns against the factor.

    Args:
        run: The run.
        recompute: Tiles of each matrix to compute again.
        entries: Entries of each matrix to compare with the float64 reference.
        seed: Seed of the random draws.
        on_event: Called with ``TilesVerified``.

    Raises:
        StoreError: If there is no Gram yet.
    """
    inputs = tuple(_inputs(run))
    if inputs:  # nothing can be computed from them to compare with
        recompute = entries = 0
    matrices, checks = [], []
    for matrix in _matrices(run):
        for kind, address in matrix.outputs:
            if not GramStore.exists(address):
                continue
            tiling = Tiling(matrix.shape[0], GramStore.open(address).tiling.edge, matrix.shape[1])
            checks.append(
                verify_gram(
                    job_of(run, run.config, matrix, tiling.edge, threads_of(run.config)),
                    kind,
                    tiling,
                    recompute=recompute,
                    entries=entries,
                    seed=seed,
                    on_event=on_event,
                )
            )
            matrices.append(matrix)
    if not checks:
        raise StoreError(f"{run.url}: has no Gram to verify yet; ntkdist gram {run.url}")
    whole = not any(check.bad or check.missing for check in checks)
    names = factor_names(run, sorted(storage.children(run.address("factor"))))
    places = [run.address("factor", name) for name in names]
    factors = {where: tuple(_factor(run, where, whole=whole)) for where in places}
    results = {name: text for name, text in _arrays(run) if not name.startswith("inputs/")}
    return RunCheck(inputs, tuple(checks), factors, results, tuple(matrices))


def repair_run(pipeline: Pipeline, check: RunCheck) -> list[str]:
    """Compute bad and missing tiles; drop factors, inverses and diagonals that are bad.

    Raises:
        StoreError: If the inputs themselves are damaged.
        StageError: If tiles failed.
    """
    run = pipeline.run
    if check.inputs:
        raise StoreError(
            f"{run.url}: {check.inputs[0]}; nothing can be computed from them: make the run anew,"
            " under another --run"
        )
    done = []
    for matrix in dict.fromkeys(check.matrices):
        mine = [c for c, m in zip(check.grams, check.matrices, strict=True) if m == matrix]
        for one in mine:
            if one.stale is not None:
                restamp(one.address, matrix.fingerprint)
        keys = sorted({tile.key for one in mine for tile in one.bad})
        wanted = len(keys) + len({key for one in mine for key in one.missing} - set(keys))
        if wanted:
            with pipeline.stage("repair") as detail:
                detail += pipeline.compute(matrix, [str(key) for key in keys])
            done.append(f"{mine[0].address}: {counted(wanted, 'tile')} computed again")
        elif any(one.stale for one in mine):
            done.append(f"{mine[0].address}: fingerprint restored")
    done += _repair_factors(run, check)
    done += _repair_results(run, check)
    return done


def _repair_results(run: Run, check: RunCheck) -> Iterator[str]:
    """Remove the results that have a damaged array, so that their command computes them again."""
    for folder in sorted({_result_of(name) for name in check.results}):
        group = folder.partition("/")[0]
        for name in run.array_names(folder):  # not a checkpoint of the labels
            if group != "cross" or name not in run.config.gram.kinds:
                storage.remove_all(run.address(folder, name))
        if group == "labels":
            storage.remove(run.address(group, METADATA))  # it may be damaged
            run.write_attributes("labels", {"fingerprint": None, "summary": None})
        elif group != "cross":
            storage.remove_all(run.address(folder))
            if folder != group:
                run.write_attributes(group, {})  # without the names of its arrays
        command = _COMMANDS.get(group, group)
        yield f"{run.address(folder)}: removed; ntkdist {command} {run.url} computes it again"


#: The command that computes a result, where its group has another name.
_COMMANDS = {"cross": "predict", "noise": "labels", "label_aware": "label-aware"}


def _result_of(name: str) -> str:
    """Return the folder in the run of the result that an array belongs to."""
    group, inner = (*name.split("/"), "")[:2]
    apart = inner and (group == "cross" or is_result_key(inner))
    return f"{group}/{inner}" if apart else group


def _repair_factors(run: Run, check: RunCheck) -> Iterator[str]:
    """Drop what is damaged of the factors, and those that are of another matrix."""
    from ntkdist.linalg.maintenance import drop_damaged, drop_factor, drop_part

    for where, texts in check.factors.items():
        again = f"ntkdist factor {run.url} computes it again"
        panel = drop_damaged(where)
        if panel is not None:
            yield f"{where}: dropped from panel {panel} on; {again}"
        elif _misfit(run, where):  # it was computed from tiles that were bad already
            drop_factor(where)
            run.write_attributes("labels", {"fingerprint": None})
            yield f"{where}: is not of this Gram, dropped; the labels are stale; {again}"
        elif texts:
            bad = [p for p in ("inverse", "diagonal") if any(t.startswith(p) for t in texts)]
            for part in bad:
                drop_part(where, part)
                yield f"{where}: {part} dropped; {again}"
            if not bad:
                drop_factor(where)
                yield f"{where}: dropped; {again}"


def verify_and_repair(
    config: RunConfig,
    recompute: int,
    entries: int,
    *,
    repair: bool,
    subscribers: Sequence[Callable[[Any], None]] = (),
) -> tuple[RunCheck, list[str]]:
    """Verify a run, and repair what is bad if that is asked for."""
    emit = Subscribers(*subscribers)

    def look(run: Run) -> RunCheck:
        return verify_run(run, recompute=recompute, entries=entries, on_event=emit)

    run = Run.open(config.run)
    check = look(run)
    if not repair or not check.problems:
        return check, []
    problems = [f"FOUND     {text}" for text in check.problems]
    with Pipeline(config, subscribers) as pipeline:
        done = repair_run(pipeline, check)
    return look(run), problems + [f"REPAIRED  {text}" for text in done]


def describe_check(check: RunCheck, url: str) -> str:
    """Return what was found in a few lines, with what to run next."""
    lines = [f"inputs    {'; '.join(check.inputs) or 'as fingerprinted'}"]
    for one in check.grams:
        name = one.address[len(url.rstrip("/")) + 1 :]
        lines.append(
            f"{name:<9} {one.tiles - len(one.missing) - len(one.bad)} of {one.tiles} tiles right"
            f" ({one.probed} without a digest probed, {one.recomputed} computed again with the same"
            " bits)"
        )
        lines.append(
            f"          {one.entries} entries against the float64 reference: largest relative error"
            f" {one.reference_error:.1e}"
            + (
                ""
                if one.least_eigenvalue is None
                else f"; least eigenvalue of a submatrix {one.least_eigenvalue:+.1e} of the largest"
            )
        )
        lines += [f"          note: {note}" for note in one.notes]
    for where in check.factors:
        name = where[len(url.rstrip("/")) + 1 :]
        lines.append(f"{name}  {'; '.join(check.factors[where]) or 'every panel right'}")
    problems = check.problems
    lines += [f"PROBLEM   {text}" for text in problems]
    lines.append(
        f"verdict   {counted(len(problems), 'problem')}; repair with: ntkdist verify {url} --repair"
        if problems
        else "verdict   nothing is wrong"
    )
    return "\n".join(lines)


def _inputs(run: Run) -> Iterator[str]:
    damaged = [text for name, text in _arrays(run) if name.startswith("inputs/")]
    if damaged:
        yield from damaged
        return
    images = run.read("inputs", "images")
    now = fingerprint(images, run.architecture, run.config.gram, run.manifest.arithmetic)
    if now != run.fingerprint:
        yield f"the stored images have fingerprint {now[:12]}, the run's is {run.fingerprint[:12]}"


def _arrays(run: Run) -> Iterator[tuple[str, str]]:
    """Yield the name and the problem of each damaged or missing array, beside matrices and factors.

    Missing arrays are those that a group was stored with, and those of which only chunks are left.
    """
    objects = storage.list_objects(run.url)
    present = {name.removesuffix("/zarr.json") for name in objects if name.endswith("/zarr.json")}
    parts = (name.partition("/c/")[0] for name in objects if "/c/" in name)
    names = present | {name for name in parts if not _is_apart(name)}
    for group in {name.partition("/")[0] for name in present}:
        with contextlib.suppress(StoreError):  # read again below
            names |= {f"{group}/{name}" for name in run.stored_names(group)}
    matrices = {
        f"cross/{name}/{kind}"
        for name in storage.children(run.address("cross"))
        for kind in run.config.gram.kinds
    }
    tops = storage.children(run.url)  # a listing leaves out objects that are empty
    names |= {name for name in tops if storage.exists(run.address(name, METADATA))}
    for name in sorted(names):
        address, remedy = run.address(name), run.remedy(name)
        if _is_apart(name) or (name in matrices and name in present):
            continue
        try:
            if read_metadata(address, remedy).get("node_type") == "array":
                yield from ((name, str(error)) for error in damages(address, remedy))
        except FileNotFoundError:
            yield name, f"{address}: is missing; {remedy}"
        except StoreError as error:
            yield name, str(error)


def _is_apart(name: str) -> bool:
    """Return whether an array is of a matrix or factor, or of work that is not finished."""
    return name.split("/")[0] in ("gram", "factor", STAGING) or "checkpoint" in name.split("/")


def _matrices(run: Run) -> Iterator[Matrix]:
    """Yield the run's own matrix, and those with other images."""
    yield gram_of(run)
    columns = run.address("inputs", "images")
    n = run.array("inputs", "images").shape[0]
    for name in sorted(storage.children(run.address("cross"))):
        stored = run.attributes("cross", name, "labels").get("fingerprint")
        if stored is None or not run.has("cross", name, "images"):
            continue  # images held out of the run's own are in its own matrix
        outputs = tuple((k, run.address("cross", name, k)) for k in run.config.gram.kinds)
        if any(GramStore.exists(a) and GramStore.open(a).shape[1] < n for _, a in outputs):
            continue  # of the run before it was extended, which nothing reads any more
        yield Matrix(
            outputs=outputs,
            fingerprint=str(stored),
            rows=run.address("cross", name, "images"),
            shape=(run.array("cross", name, "images").shape[0], n),
            columns=columns,
        )


def _open_factor(run: Run, address: str) -> CholeskyFactor | None:
    """Open a factor; None where it is not finished: what is missing is computed when asked for."""
    from ntkdist.linalg import CholeskyFactor

    try:
        return CholeskyFactor.open(address, memory_limit=run.config.factor.memory_limit)
    except StoreError:
        return None


def _misfit(run: Run, address: str) -> str:
    """Return why a factor does not belong to the run's matrix of its kind; empty if it does."""
    factor = _open_factor(run, address)
    matrix = address.rstrip("/").split("/")[-2]
    if factor is None or matrix not in run.config.gram.kinds:
        return ""
    if factor.fingerprint != run.fingerprint:
        return ""  # of a smaller matrix, and known to be
    error = factor.backward_error(GramStore.open(run.address("gram", matrix)))
    if error <= _FACTOR_BOUND:
        return ""
    return f"backward error {error:.1e} with the stored Gram: it belongs to another matrix"


def _factor(run: Run, address: str, *, whole: bool) -> Iterator[str]:
    factor = _open_factor(run, address)
    if factor is None:
        return
    try:
        factor.verify()
    except StoreError as error:
        yield str(error)
        return
    if whole and (misfit := _misfit(run, address)):
        yield misfit
    yield from _inverse(factor)
    yield from _diagonal(factor)


def _inverse(factor: CholeskyFactor) -> Iterator[str]:
    """Yield what is wrong with the stored inverse; an unfinished one is no result yet."""
    from ntkdist.linalg import InverseStore

    try:
        if not factor.has_inverse:
            return
        worst = _inverse_gap(factor, InverseStore.open(f"{factor.url}/inverse"))
    except (StoreError, InputError) as error:
        yield f"inverse: {error}"
        return
    if worst > _INVERSE_BOUND:
        yield f"inverse: a column is {worst:.1e} (relative) from the factor's solution"


def _diagonal(factor: CholeskyFactor) -> Iterator[str]:
    """Yield what is wrong with the diagonal of the inverse where it is stored by itself."""
    try:
        stored = factor.stored_diagonal()
    except (StoreError, InputError) as error:
        yield f"diagonal of the inverse: {error}"
        return
    if stored is None:
        return
    chosen = _few_columns(factor.n)
    solved = factor.inverse_columns(chosen)[chosen, np.arange(len(chosen))]
    worst = float(np.abs(stored[chosen] / solved - 1).max())
    if not worst <= _INVERSE_BOUND:
        yield f"diagonal of the inverse: an entry is {worst:.1e} (relative) from the factor's"


def _inverse_gap(factor: Any, inverse: Any) -> float:
    """Read all of the inverse, and return how far a few of its columns are from solutions."""
    n = inverse.shape[0]
    diagonal = inverse.diagonal()
    for r0, r1 in inverse.plan.blocks(0, n):
        rows = inverse.rows(r0, r1)
        if not np.array_equal(rows[np.arange(r1 - r0), np.arange(r0, r1)], diagonal[r0:r1]):
            return float("inf")
    chosen = _few_columns(n)
    stored, solved = inverse.columns(chosen), factor.inverse_columns(chosen)
    return float(np.abs(stored - solved).max() / np.abs(solved).max())


def _few_columns(n: int) -> np.ndarray:
    return np.random.default_rng(0).permutation(n)[:_INVERSE_COLUMNS]


REFERENCE_BOUND = {"float32": 2e-5, "float64": 1e-9}
"""Largest accepted relative error of an entry against the float64 reference."""
_SMALL = 1e-2  # see ``reference_error``

_READERS = 4
_PSD_IMAGES = 256


@dataclass(frozen=True)
class BadTile:
    """A tile that cannot be trusted, and why, in a few words."""

    key: TileKey
    reason: str


@dataclass(frozen=True)
class GramCheck:
    """What was found out about one stored matrix.

    Attributes:
        kind: Of kernel.
        address: Where it is.
        tiles: Tiles it has in all.
        missing: Tiles that are not there.
        bad: Tiles that cannot be trusted.
        stale: The fingerprint in its metadata, if it is not the one it should have.
        probed: Tiles without a digest, of which single entries were computed again.
        recomputed: Tiles computed again and equal to the bit (mixed tiles: to rounding).
        entries: Entries compared with the float64 reference.
        reference_error: Largest relative error of these.
        least_eigenvalue: Of a principal submatrix, relative to its largest; None where there
            is none to look at.
        notes: What could not be checked here, and why.
        dtype: Of the entries.
    """

    kind: str
    address: str
    tiles: int
    missing: tuple[TileKey, ...] = ()
    bad: tuple[BadTile, ...] = ()
    stale: str | None = None
    probed: int = 0
    recomputed: int = 0
    entries: int = 0
    reference_error: float = 0.0
    least_eigenvalue: float | None = None
    notes: tuple[str, ...] = ()
    dtype: str = "float32"

    @property
    def problems(self) -> list[str]:
        """What is wrong, one line each; empty if nothing is."""
        problems = []
        if self.stale is not None:
            problems.append(f"its metadata have the fingerprint {self.stale[:12]} of another run")
        if self.missing:
            count = f"{len(self.missing)} of {self.tiles}"
            problems.append(f"{count} tiles are missing: {few_keys(self.missing)}")
        problems += [f"tile {tile.key}: {tile.reason}" for tile in self.bad]
        if self.reference_error > REFERENCE_BOUND[self.dtype]:
            problems.append(
                f"an entry is {self.reference_error:.1e} from the float64 reference (relative);"
                f" the limit is {REFERENCE_BOUND[self.dtype]:g}"
            )
        if self.least_eigenvalue is not None and self.least_eigenvalue < -_psd_bound(self.dtype):
            problems.append(
                f"it is not positive semi-definite: an eigenvalue of a submatrix is"
                f" {self.least_eigenvalue:.1e} of the largest"
            )
        return problems


def verify_gram(
    job: GramJob,
    kind: str,
    tiling: Tiling,
    *,
    recompute: int = 4,
    entries: int = 16,
    seed: int = 0,
    on_event: Callable[[Any], None] | None = None,
) -> GramCheck:
    """Check one stored matrix; nothing of it is changed.

    Args:
        job: What it was computed from and where it is.
        kind: Which of the job's kinds.
        tiling: What it must be cut like.
        recompute: How many of the good tiles, drawn at random, are computed again and compared.
        entries: How many entries, drawn at random, are compared with the float64 reference.
        seed: Seed of the random draws.
        on_event: Called with ``TilesVerified`` after each tile.

    Raises:
        InputError: If a newer version wrote the store.
        StoreError: If there is none, it is cut otherwise, or it does not answer.
    """
    check = _Check(job, kind, tiling, np.random.default_rng(seed), on_event or (lambda event: None))
    check.read_all()
    check.recompute(recompute)
    check.compare(entries)
    check.spectrum()
    return check.result()


def restamp(address: str, fingerprint: str) -> None:
    """Write the fingerprint that a matrix should have into its metadata.

    Call it only when every tile of another run is known: see ``GramCheck.bad``.
    """
    place = storage.join(address, "zarr.json")
    metadata = json.loads(storage.read_text(place) or "{}")
    metadata["attributes"]["fingerprint"] = fingerprint
    storage.write_text(place, json.dumps(metadata, indent=2))


@dataclass
class _Check:
    job: GramJob
    kind: str
    tiling: Tiling
    random: np.random.Generator
    emit: Callable[[Any], None]
    bad: dict[TileKey, str] = field(default_factory=dict)
    results: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.store = GramStore.open(dict(self.job.outputs)[self.kind], "r")
        if self.store.tiling != self.tiling:
            raise StoreError(
                f"{self.store.address}: is a matrix of shape {self.store.shape} in tiles of edge"
                f" {self.store.tiling.edge}, not {self.tiling.shape} and {self.tiling.edge}; it"
                " belongs to another run: move it away and compute it again"
            )
        self.stale = self.store.fingerprint != self.job.fingerprint
        self.digests = {} if self.stale else read_digests(self.store.address)
        self.again = Recomputer(self.job, self.kind, self.store)
        self.good: list[TileKey] = []

    def read_all(self) -> None:
        """Read every tile, and compare it with its digest or probe it."""
        done = sorted(self.store.done())
        missing = sorted(set(self.store.tiling.keys()) - set(done))
        unknown: list[TileKey] = []
        with ThreadPoolExecutor(_READERS) as pool:
            for count, (key, reason) in enumerate(pool.map(self._read, done), start=1):
                if reason == "":
                    self.good.append(key)
                elif reason is None:
                    unknown.append(key)
                else:
                    self.bad[key] = reason
                self.emit(TilesVerified(self.kind, count, len(done)))
        probed = 0
        if unknown and self.again.why_not:
            self.notes.append(
                f"not probed, without a digest: {counted(len(unknown), 'tile')};"
                f" {self.again.why_not}"
            )
        elif unknown:
            for key in unknown:
                reason = self.again.probe(key, self.random)
                if reason:
                    self.bad[key] = reason
                else:
                    self.good.append(key)
            probed = len(unknown)
        self.results |= {"missing": tuple(missing), "probed": probed}

    def _read(self, key: TileKey) -> tuple[TileKey, str | None]:
        """Return "" for a tile that is right, a reason for one that is not, None if unknown."""
        try:
            block = self.store.block(key.row, key.col)
        except StoreError as error:
            return key, _reason(error)
        if self.store.tiling.symmetric and key.row == key.col and not (block == block.T).all():
            return key, "it lies on the diagonal and is not symmetric"
        digest = self.digests.get(key)
        if digest is None:
            return key, None
        if tile_digest(self.kind, key, block) != digest:
            return key, "its entries are not those that were stored for it"
        return key, ""

    def recompute(self, count: int) -> None:
        """Compute some tiles again."""
        if self.again.why_not:
            if count:
                self.notes.append(f"no tile was computed again: {self.again.why_not}")
            return
        chosen = self._draw(count)
        for key in chosen:
            reason = self.again.compare(key)
            if reason:
                self.bad[key] = reason
                self.good.remove(key)
        self.results["recomputed"] = sum(key in self.good for key in chosen)

    def _draw(self, count: int) -> list[TileKey]:
        picked = self.random.permutation(len(self.good))[:count]
        return [self.good[i] for i in sorted(picked)]

    def compare(self, count: int) -> None:
        """Compare entries of good tiles with the float64 reference."""
        worst = 0.0
        pairs = []
        for _ in range(count if self.good else 0):
            key = self.good[self.random.integers(len(self.good))]
            rows, cols = self.store.tiling.slices(key)
            i, j = (
                self.random.integers(rows.start, rows.stop),
                self.random.integers(cols.start, cols.stop),
            )
            pairs.append((int(i), int(j)))
        for i, j in pairs:
            worst = max(worst, self.again.reference_error(i, j))
        self.results |= {"entries": len(pairs), "reference_error": worst}

    def spectrum(self) -> None:
        """Take the eigenvalues of a principal submatrix out of a few block rows."""
        tiling = self.store.tiling
        if not tiling.symmetric:
            return
        good = set(self.good)
        drawn = self.random.permutation(tiling.grid[0])[:4].tolist()
        blocks = [block for block in drawn if TileKey(block, block) in good]
        kept: list[int] = []
        for block in blocks:
            if all(TileKey(min(block, b), max(block, b)) in good for b in kept):
                kept.append(block)
        if not kept:
            self.notes.append("no submatrix of good tiles was found to take eigenvalues of")
            return
        edge, images = tiling.edge, []
        for block in kept:
            rows = np.arange(block * edge, min((block + 1) * edge, tiling.n_rows))
            images.append(self.random.permutation(rows)[: _PSD_IMAGES // len(kept)])
        chosen = np.sort(np.concatenate(images))
        values = np.linalg.eigvalsh(self.store[chosen, chosen].astype(np.float64))
        self.results["least_eigenvalue"] = float(values[0] / max(values[-1], np.finfo(float).tiny))

    def result(self) -> GramCheck:
        """Return what was found."""
        return GramCheck(
            kind=self.kind,
            address=self.store.address,
            tiles=self.store.tiling.count,
            bad=tuple(BadTile(key, self.bad[key]) for key in sorted(self.bad)),
            stale=self.store.fingerprint if self.stale else None,
            notes=tuple(self.notes),
            dtype=str(self.store.dtype),
            **self.results,
        )


def _psd_bound(dtype: str) -> float:
    """Return how far below 0 rounding takes an eigenvalue, relative to the largest."""
    return _PSD_IMAGES * float(np.finfo(dtype).eps)


def _reason(error: NtkdistError) -> str:
    """Return what a store says of a tile, without address and remedy."""
    text = " ".join(str(error).split())
    return text.partition("): ")[2].partition("; restore it")[0] or text


_PROBES = 3  # rows and columns of a tile
_ROUNDING = {"float32": 5e-5, "float64": 1e-9}
"""Relative difference of entries that other groups of images, or another backend, may make."""


class Recomputer:
    """Computes parts of one matrix with the backend that made it.

    Args:
        job: What the matrix was computed from.
        kind: Of kernel.
        store: Where it is.

    Attributes:
        why_not: Why the backend cannot be used here; empty if it can.
    """

    def __init__(self, job: GramJob, kind: str, store: GramStore) -> None:
        self._job, self._kind, self._store = job, kind, store
        self._mixed = store.mixed_tiles()
        self._images: dict[str, Any] = {}
        self._reference: Any = None
        self._worker = TileWorker(job, "verify")
        self.why_not = ""
        try:
            self._worker.start_computing()
        except (NtkdistError, ImportError) as error:
            self.why_not = str(error)

    def compare(self, key: TileKey) -> str:
        """Compute a tile again; return what differs, in words, or nothing."""
        block = self._worker.blocks(key)[self._kind]
        if self._store.tiling.symmetric and key.row == key.col:
            block = np.triu(block) + np.triu(block, 1).T
        stored = self._store.block(key.row, key.col)
        same = self._mixed.get(key, self._store.arithmetic) in ("", self._job.arithmetic)
        if same and (block == stored).all():
            return ""
        gap = _gap(block, stored)
        if not same and gap <= _ROUNDING[str(self._store.dtype)]:
            return ""
        return f"computed again it differs by {gap:.1e} (relative)"

    def probe(self, key: TileKey, random: np.random.Generator) -> str:
        """Compute a few entries of a tile again; return what differs, in words, or nothing."""
        rows, cols = self._store.tiling.slices(key)
        inside = [
            np.sort(random.permutation(part.stop - part.start)[:_PROBES]) for part in (rows, cols)
        ]
        a = self._take(self._job.images, inside[0] + rows.start)
        b = self._take(self._job.columns or self._job.images, inside[1] + cols.start)
        block = self._worker.block_of(a, b)[self._kind]
        gap = _gap(block, self._store.block(key.row, key.col)[np.ix_(*inside)])
        if gap <= _ROUNDING[str(self._store.dtype)]:
            return ""
        return f"entries computed again differ by {gap:.1e} (relative)"

    def reference_error(self, i: int, j: int) -> float:
        """Return the relative error of a stored entry against the float64 reference.

        Relative to the entry, or to ``_SMALL`` of √(k(x, x) k(x', x')) if that is more: an entry
        can be a difference of larger numbers, or 0.
        """
        from ntkdist.kernels.registry import get_backend

        if self._reference is None:
            invariance = self._job.invariance
            self._reference = get_backend("reference", dtype="float64", invariance=invariance)
        arch = Architecture.parse(self._job.architecture)
        a = self._reference.prepare(arch, self._take(self._job.images, [i]))
        columns = self._job.columns or self._job.images
        same = columns == self._job.images and i == j
        b = a if same else self._reference.prepare(arch, self._take(columns, [j]))

        def entry(x: Any, y: Any) -> float:
            return float(self._reference.block(x, y, (self._kind,))[self._kind][0, 0])

        exact, edge = entry(a, b), self._store.tiling.edge
        stored = self._store.block(i // edge, j // edge)[i % edge, j % edge]
        error, unit = abs(float(stored) - exact), abs(exact)
        if error > REFERENCE_BOUND[str(self._store.dtype)] * unit:
            # else not needed, and these two entries cost as much as the one
            unit = max(unit, _SMALL * float(np.sqrt(entry(a, a) * entry(b, b))))
        return error / max(unit, np.finfo(np.float64).tiny)

    def _take(self, address: str, indices: Any) -> np.ndarray:
        if address not in self._images:
            self._images[address] = open_array(address)
        images = self._images[address]
        return np.stack([np.asarray(images[int(i)]) for i in indices])


def _gap(block: np.ndarray, stored: np.ndarray) -> float:
    """Return the largest difference relative to the largest entry."""
    if block.shape != stored.shape:
        raise InputError(f"blocks of shape {block.shape} and {stored.shape} are compared")
    scale = max(float(np.abs(block).max()), np.finfo(np.float64).tiny)
    return float(np.abs(block.astype(np.float64) - stored).max()) / scale
