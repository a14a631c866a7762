"""What was found about training on a run, as figures and in words."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ntkdist import storage
from ntkdist.runs.run import Run

if TYPE_CHECKING:
    from ntkdist.learning.dynamics import Stopping
    from ntkdist.learning.dynamics.curves import Curves
    from ntkdist.learning.dynamics.spread import Spread

# What the command lists of the components.
_LISTED = 8


@dataclass(frozen=True, eq=False)
class TrainingDynamics:
    """What the kernel says about training on a run's images.

    Attributes:
        how: Which images test curves are of: ``test``, ``rest`` or ``holdout``.
        trained_on: N.
        tested_on: M.
        learning_rate: η that times are counted with.
        largest_stable_rate: From which on gradient descent diverges.
        ridge: Relative to the mean of the Gram's diagonal.
        squared: Curves of the squared loss, at times from 0 to infinity.
        cross_entropy: Curves of the cross-entropy, at finite times; None where not asked for.
        stopping: The time that held-out training images choose, from the times of ``squared``.
        eigenvalues: (N,) of the Gram, descending.
        time_constants: (N,) N/(η(λ + ρ)).
        energy: (N,) share of each eigenvector in the targets.
        spread: Of the infinite ensemble at the stopping time; None without the NNGP kernel.
        unsettled: How many eigenvalues, ridge included, lie within the rounding of the Gram's
            entries: what is learned along them is noise.
        place: The run.
    """

    how: str
    trained_on: int
    tested_on: int
    learning_rate: float
    largest_stable_rate: float
    ridge: float
    squared: Curves
    cross_entropy: Curves | None
    stopping: Stopping
    eigenvalues: NDArray[np.float64] = field(repr=False)
    time_constants: NDArray[np.float64] = field(repr=False)
    energy: NDArray[np.float64] = field(repr=False)
    spread: Spread | None
    unsettled: int
    place: str

    def learned_at(self, time: float) -> int:
        """Return of how many eigenvectors at least 1 − 1/e is learned at a time."""
        return int((self.time_constants <= time).sum())


def store_dynamics(run: Run, found: TrainingDynamics) -> None:
    """Write figures and arrays into a run, and the picture."""
    from ntkdist.analyses.dynamics_plot import draw_dynamics

    stopping = found.stopping
    run.write_attributes("dynamics", _summary(found))
    for name, curves in (("squared", found.squared), ("cross_entropy", found.cross_entropy)):
        if curves is not None:
            for part, values in curves.arrays().items():
                run.write(f"dynamics/{name}/{part}", values)
    for part in ("losses", "accuracies"):
        run.write(f"dynamics/stopping/{part}", getattr(stopping, part))
    for part in ("eigenvalues", "time_constants", "energy"):
        run.write(f"dynamics/{part}", getattr(found, part))
    if found.spread is not None:
        run.write("dynamics/spread/std", found.spread.std)
        run.write("dynamics/spread/disagreement", found.spread.disagreement)
    with storage.writing(run.address("dynamics.svg")) as path:
        draw_dynamics(
            path,
            squared=found.squared.arrays(),
            cross_entropy=None if found.cross_entropy is None else found.cross_entropy.arrays(),
            held_out=stopping.losses,
            stop=stopping.time,
            eigenvalues=found.eigenvalues,
            energy=found.energy,
            learned=found.learned_at(stopping.time),
        )


def _summary(found: TrainingDynamics) -> dict[str, Any]:
    """Return the figures that are kept as JSON; a stopping time of None is infinity, the end."""
    stop = found.stopping.index
    ends = {}
    for name, place in (("stopped", stop), ("end", -1)):
        values = found.squared.arrays()
        ends[name] = {k: float(v[place]) for k, v in values.items() if k != "times"}
        ends[name]["held_out_loss"] = float(found.stopping.losses[place])
        ends[name]["held_out_accuracy"] = float(found.stopping.accuracies[place])
    spread, entropy = found.spread, found.cross_entropy
    last = None
    if entropy is not None:
        last = {name: float(values[-1]) for name, values in entropy.arrays().items()}
    return {
        "on": found.how,
        "trained_on": found.trained_on,
        "tested_on": found.tested_on,
        "learning_rate": found.learning_rate,
        "largest_stable_rate": found.largest_stable_rate,
        "ridge": found.ridge,
        "stopping_time": found.stopping.time if np.isfinite(found.stopping.time) else None,
        "held_out": found.stopping.images,
        "unsettled": found.unsettled,
        "learned_at_stopping": found.learned_at(found.stopping.time),
        "squared": ends,
        "cross_entropy": last,
        "spread": None
        if spread is None
        else {
            "std_auc": spread.std_auc,
            "disagreement_auc": spread.disagreement_auc,
            "errors_by_quarter": spread.errors.tolist(),
        },
    }


def describe_dynamics(found: TrainingDynamics) -> str:
    """Return what the command prints."""
    stop, s, q = found.stopping, found.stopping.index, found.squared
    words = {"test": "of the test split", "rest": "left out of the run", "holdout": "of the run"}
    lines = [
        f"time      counts steps of η = {found.learning_rate:.3g}; gradient descent diverges from "
        f"{found.largest_stable_rate:.3g} on",
        f"stop at   t = {_time(stop.time)}, where {stop.images} training images held out in turn "
        f"have the least loss ({stop.accuracies[s]:.2%} of them right; at the end "
        f"{stop.accuracies[-1]:.2%})",
        f"          {found.learned_at(stop.time)} of {found.trained_on} eigenvectors are learned "
        f"by then, with {found.energy[: found.learned_at(stop.time)].sum():.1%} of the targets",
        "",
        "squared loss          stopped      at the end",
        f"  held-out loss     {stop.losses[s]:9.4f}       {stop.losses[-1]:9.4f}",
        f"  training accuracy {q.train_accuracy[s]:9.2%}       {q.train_accuracy[-1]:9.2%}",
    ]
    if q.true_accuracy is not None:
        lines.append(
            f"  ... true labels   {q.true_accuracy[s]:9.2%}       {q.true_accuracy[-1]:9.2%}"
        )
    lines += [
        f"  test loss         {q.test_loss[s]:9.4f}       {q.test_loss[-1]:9.4f}",
        f"  test accuracy     {q.test_accuracy[s]:9.2%}       {q.test_accuracy[-1]:9.2%}"
        f"    {found.tested_on} images {words[found.how]}",
        "",
        "eigenvector  time constant  eigenvalue  share of the targets",
    ]
    lines += [
        f"{i + 1:11d}  {found.time_constants[i]:13.4g}  {found.eigenvalues[i]:10.4g}  "
        f"{found.energy[i]:20.2%}"
        for i in range(min(_LISTED, found.trained_on))
    ]
    lines += ["", *_more(found)]
    return "\n".join(lines)


def _more(found: TrainingDynamics) -> list[str]:
    """Return the lines on the cross-entropy, the ensemble and the picture."""
    lines, c, spread = [], found.cross_entropy, found.spread
    if found.unsettled:
        lines.append(
            f"note          {found.unsettled} eigenvalues lie within the rounding of the Gram's "
            "entries: the end of training is noise there; give a ridge such as 1e-6"
        )
    if c is not None:
        lines.append(
            f"cross-entropy at t = {_time(c.times[-1])}: training accuracy "
            f"{c.train_accuracy[-1]:.2%}, test accuracy {c.test_accuracy[-1]:.2%}, test loss "
            f"{c.test_loss[-1]:.4f} (least {c.test_loss.min():.4f} at t = "
            f"{_time(c.times[c.test_loss.argmin()])})"
        )
    if spread is None:
        lines.append(
            "ensemble      no spread: the run has no NNGP kernel; begin one with --gram.kinds "
            "ntk,nngp, under another --run"
        )
    elif spread.disagreement_auc is None:
        lines.append("ensemble      every prediction is right (or none is): no errors to foretell")
    else:
        quarters = ", ".join(f"{share:.1%}" for share in spread.errors)
        lines.append(
            f"ensemble      networks of other beginnings disagree on wrong predictions more than "
            f"on right ones with chance {spread.disagreement_auc:.3f} (spread alone "
            f"{spread.std_auc:.3f}); wrong in each quarter, most agreed on first: {quarters}"
        )
    lines.append(f"picture       {found.place}/dynamics.svg")
    return lines


def _time(t: float) -> str:
    return f"{t:.4g}" if np.isfinite(t) else "∞"
