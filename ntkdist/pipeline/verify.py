"""``ntkdist verify``: whether what a run holds is what it says, and repair of what is not."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from ntkdist import storage
from ntkdist.config import RunConfig
from ntkdist.errors import InputError, StoreError
from ntkdist.events.bus import Subscribers
from ntkdist.gram.store import GramStore
from ntkdist.gram.tiling import Tiling
from ntkdist.gram.verify import GramCheck, restamp, verify_gram
from ntkdist.pipeline.gram import Matrix, gram_of, job_of, threads_of
from ntkdist.pipeline.stages import Pipeline
from ntkdist.runs.inputs import fingerprint
from ntkdist.runs.run import Run

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
        matrices: The matrices of ``grams``, to compute bad tiles of again.
    """

    inputs: tuple[str, ...]
    grams: tuple[GramCheck, ...]
    factors: dict[str, tuple[str, ...]]
    matrices: tuple[Matrix, ...] = field(default=(), repr=False)

    @property
    def problems(self) -> list[str]:
        """Everything that is wrong, one line each."""
        found = [f"inputs: {text}" for text in self.inputs]
        found += [f"{check.address}: {text}" for check in self.grams for text in check.problems]
        found += [f"{where}: {text}" for where, texts in self.factors.items() for text in texts]
        return found


def verify_run(
    run: Run,
    *,
    recompute: int = 4,
    entries: int = 16,
    seed: int = 0,
    on_event: Callable[[Any], None] | None = None,
) -> RunCheck:
    """Read everything a run holds, compute some of it again, and change nothing.

    Inputs: the fingerprint of the stored images is taken again. Every kernel matrix: see
    ``verify_gram``. Every finished factor: the sha256 of each panel; of its inverse, or of the
    diagonal of that, every checksum, and a few columns against solutions with the factor.

    Args:
        run: The run.
        recompute: Tiles of each matrix to compute again.
        entries: Entries of each matrix to compare with the float64 reference.
        seed: Of the draws.
        on_event: Told how far it is.

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
    factors = {where: tuple(_factor(run, where, whole=whole)) for where in _factors(run)}
    return RunCheck(inputs, tuple(checks), factors, tuple(matrices))


def repaired(pipeline: Pipeline, check: RunCheck) -> list[str]:
    """Compute tiles again that were found bad, and only those; drop what else is bad.

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
            done.append(f"{mine[0].address}: {wanted} tiles computed again")
        elif any(one.stale for one in mine):
            done.append(f"{mine[0].address}: fingerprint restored")
    done += _repair_factors(run, check)
    return done


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
            yield f"{where}: is not of this Gram, dropped with what followed from it; {again}"
        elif texts:
            for part in ("inverse", "diagonal"):
                if any(text.startswith(part) for text in texts):
                    drop_part(where, part)
                    yield f"{where}: {part} dropped; {again}"


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
    found = look(run)
    if not repair or not found.problems:
        return found, []
    problems = [f"FOUND     {text}" for text in found.problems]
    with Pipeline(config, subscribers) as pipeline:
        done = repaired(pipeline, found)
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
        f"verdict   {len(problems)} problems; repair with: ntkdist verify {url} --repair"
        if problems
        else "verdict   nothing is wrong"
    )
    return "\n".join(lines)


def _inputs(run: Run) -> Iterator[str]:
    settings = run.config.gram
    try:
        images = run.read("inputs", "images")
        run.read("inputs", "labels")
        if run.has_pictures:
            run.read("inputs", "pictures")
    except StoreError as error:
        yield str(error)
        return
    now = fingerprint(
        images, run.architecture, settings.kinds, settings.dtype, run.manifest.arithmetic
    )
    if now != run.fingerprint:
        yield f"the stored images have fingerprint {now[:12]}, the run's is {run.fingerprint[:12]}"


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


def _factors(run: Run) -> Iterator[str]:
    """Yield the addresses of what may be finished factors."""
    for matrix in sorted(storage.children(run.address("factor"))):
        for ridge in sorted(storage.children(run.address("factor", matrix))):
            if ridge.startswith("ridge-"):
                yield run.address("factor", matrix, ridge)


def _open_factor(run: Run, address: str) -> CholeskyFactor | None:
    """Open a factor; None where it is not finished: what is missing is computed when asked for."""
    from ntkdist.linalg import CholeskyFactor

    try:
        return CholeskyFactor.open(address, memory_limit=run.config.factor.memory_limit)
    except StoreError:
        return None


def _misfit(run: Run, address: str) -> str:
    """Return how far a factor of the run's own NTK is from that matrix, if it is not its own."""
    factor = _open_factor(run, address)
    matrix = address.rstrip("/").split("/")[-2]
    if factor is None or matrix not in run.config.gram.kinds:
        return ""
    if factor.fingerprint != run.fingerprint:
        return ""  # of a smaller matrix, and known to be
    error = factor.backward_error(GramStore.open(run.address("gram", matrix)))
    if error <= _FACTOR_BOUND:
        return ""
    return f"backward error {error:.1e} with the stored Gram: it is of another matrix"


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
