"""Noise models of the given labels, and the choice between them.

N images, K classes. A noise model is a matrix T (K, K), T[k, l] = P(given label l | true class k).
Leave-one-out predictions are read as probabilities p (N, K) of the true class, and the given
labels as draws from p T. Two kinds:

- *symmetric*: a label is wrong with probability ε. A wrong label is drawn from the other classes
  in proportion to their sizes, so that classes of equal size are equally likely;
- *class-conditional*: each row of T is estimated from the labels by expectation maximisation, with
  pseudo-counts for its share of wrong labels and for their distribution over the other classes.

Errors of the kernel between two similar classes and wrong labels between them have the same effect
on the likelihood, so that the class-conditional model usually has the higher one even if the noise
is symmetric. ``estimate_noise`` lists the conditions under which ``auto`` selects it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from math import exp
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ntkdist.labels.class_matrix import one_hot
from ntkdist.labels.compiled import compiled
from ntkdist.labels.leave_one_out import Predict, class_shares, probabilities
from ntkdist.words import percent

AUTO, SYMMETRIC, CLASS_CONDITIONAL = "auto", "symmetric", "class-conditional"
NOISE_MODELS = (AUTO, SYMMETRIC, CLASS_CONDITIONAL)

# Bounds of the search for log τ, the softmax scale: from nearly flat to nearly one-hot.
LOG_SCALES = (-2.0, 6.0)
# Exponent of the prior (1 − ε)^2 of the symmetric rate. It matters where the likelihood is nearly
# flat in ε.
RATE_PRIOR_EXPONENT = 2.0
# Pseudo-counts of a row of T: PRIOR_ROW labels, wrong at the symmetric rate, for the share of wrong
# labels; PRIOR_WRONG wrong labels, spread evenly over the other classes, for their distribution.
PRIOR_ROW, PRIOR_WRONG = 5.0, 27.0
# Fall of the log-likelihood that ends the interval of the rate: 90 % (1.35), doubled because
# leave-one-out predictions of different images share their training images.
INTERVAL_DROP = 2.7
# Values of ε, denser near 0; values of log τ in a pass; number of passes, each over a narrower
# range of log τ.
INTERVAL_POINTS, INTERVAL_SCALES, INTERVAL_PASSES = 121, 15, 4
# The alternation of scale and T stops when the log-likelihood of all labels changes by less (nats).
LOG_LIKELIHOOD_TOLERANCE = 0.01
# Most alternations; steps of expectation maximisation in each.
ALTERNATIONS, STEPS = 60, 15
# Shares of wrong labels that the class-conditional fit starts from; the symmetric rate if higher.
LOW_START_RATE, HIGH_START_RATE = 0.05, 0.35
# The gain of class-conditional over symmetric noise must exceed GAIN_RATIO times the mean gain on
# labels simulated with symmetric noise, that mean plus GAIN_DEVIATIONS standard deviations, and
# MIN_GAIN nats.
GAIN_RATIO, GAIN_DEVIATIONS, MIN_GAIN = 2.5, 3.0, 20.0
# If the symmetric interval includes 0, the class-conditional fit must estimate at least this share
# of wrong labels: errors of a kernel between two similar classes can look like a smaller share.
MIN_CONDITIONAL_RATE = 0.05
# ``auto`` tries class-conditional noise only with this many labels per class, on average.
MIN_LABELS_PER_CLASS = 50
# Least skill (``skill_of``) under symmetric noise with which class-conditional noise is considered.
MIN_SKILL = 0.5
SIMULATIONS, FOLDS = 6, 5
# The class-conditional model is fitted and compared on this many images at most, drawn at random.
MAX_ROWS = 10_000

# Reason of a model that was not chosen by ``auto``.
SET = "it was set by the option noise"
#: Evidence for class-conditional noise: names of fields of ``NoiseEstimate``.
EVIDENCE = ("gain", "simulated_gain", "held_out_gain")
TINY = float(np.finfo(np.float64).tiny)


@dataclass(frozen=True, eq=False)
class NoiseModel:
    """The most probable parameters of one noise model.

    Attributes:
        rate: Share of wrong labels among those that are not locked, given or estimated; at most
            (K−1)/K if estimated.
        scale: Softmax scale τ, by which centered predictions are multiplied before the softmax.
        log_likelihood: Mean log-probability of a given label (nats); higher is better. It can be
            compared between ridges and architectures.
        kind: ``symmetric`` or ``class-conditional``.
        transition: (K, K) P(given label | true class), rows sum to 1.
        interval: Lower and upper end of the rate's interval; the rate twice if it was given;
            (0, (K−1)/K) until ``rate_interval`` was called.
    """

    rate: float
    scale: float
    log_likelihood: float
    kind: str
    transition: NDArray[np.float64]
    interval: tuple[float, float]

    def to_dict(self) -> dict[str, Any]:
        """Return a dictionary that can be written as JSON; floats are restored exactly."""
        plain = {"transition": self.transition.tolist(), "interval": list(self.interval)}
        return {**{name.name: getattr(self, name.name) for name in fields(self)}, **plain}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> NoiseModel:
        """Build the model that ``to_dict`` wrote down."""
        low, high = values["interval"]
        plain = {"transition": np.array(values["transition"]), "interval": (low, high)}
        return cls(**{**values, **plain})


@dataclass(frozen=True, eq=False)
class NoiseEstimate:
    """A noise model and how it was chosen.

    Attributes:
        model: The selected model.
        symmetric: The symmetric model; equal to ``model`` if that is symmetric.
        first_probs: (N, K) leave-one-out probabilities of the true class, made with the given
            labels: those of the first round of ``class_posterior``. None if ``choose_ridge``
            estimated the noise from a sample of the images.
        skill: ``skill_of`` under symmetric noise.
        reason: Why this kind of noise was selected, in words.
        gain: Log-likelihood of the class-conditional fit minus that of the symmetric one, over at
            most ``MAX_ROWS`` labels (nats); None unless ``auto`` compared the two.
        simulated_gain: Mean of the same difference on labels drawn from the symmetric model.
        held_out_gain: Mean difference per label on held-out folds (nats).
    """

    model: NoiseModel
    symmetric: NoiseModel
    first_probs: NDArray[np.float64] | None
    skill: float
    reason: str
    gain: float | None = None
    simulated_gain: float | None = None
    held_out_gain: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return all but ``first_probs`` for JSON; floats are restored exactly."""
        return {
            "model": self.model.to_dict(),
            "symmetric": self.symmetric.to_dict(),
            "skill": self.skill,
            "reason": self.reason,
            **{name: getattr(self, name) for name in EVIDENCE},
        }

    @classmethod
    def from_dict(
        cls, values: Mapping[str, Any], first_probs: NDArray[np.float64] | None
    ) -> NoiseEstimate:
        """Build the estimate that ``to_dict`` wrote down."""
        return cls(
            NoiseModel.from_dict(values["model"]),
            NoiseModel.from_dict(values["symmetric"]),
            first_probs,
            values["skill"],
            values["reason"],
            **{name: values[name] for name in EVIDENCE},
        )


def may_be_class_conditional(noise: str, count: int, num_classes: int) -> bool:
    """Return whether class-conditional noise is fitted: if set, or by ``auto`` with enough labels.

    With fewer than two classes it never is.
    """
    if num_classes < 2 or noise == SYMMETRIC:
        return False
    return noise == CLASS_CONDITIONAL or count >= MIN_LABELS_PER_CLASS * num_classes


def symmetric_transition(rate: float, shares: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return T (K, K) of symmetric noise at rate ε: T[k, l] = ε π_l/(1 − π_k) for l ≠ k.

    With π (K,) the class shares of the given labels. Rows sum to 1, except if one class has all
    labels.
    """
    T = np.outer(rate / np.maximum(1.0 - shares, TINY), shares)
    np.fill_diagonal(T, 1.0 - rate)
    return T


def highest_rate(num_classes: int) -> float:
    """Return (K−1)/K, the largest rate allowed.

    With classes of equal size, labels at this rate have no information about the true class.
    """
    return (num_classes - 1) / num_classes


def standard_error(share: float, count: int) -> float:
    """Return the standard error of a share of ``count`` independent images."""
    return float(np.sqrt(share * (1 - share) / max(count, 1)))


def likelihoods(
    transition: NDArray[np.float64],
    labels: NDArray[np.int64],
    locked: NDArray[np.bool_] | None = None,
) -> NDArray[np.float64]:
    """Return P(given label | true class k) of each image, (N, K); 0 or 1 for locked labels."""
    out = transition[:, labels].T.copy()
    if locked is not None and locked.any():
        out[locked] = one_hot(labels[locked], len(transition))
    return out


def posterior_of(
    probs: NDArray[np.float64], label_likelihoods: NDArray[np.float64], labels: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return q_ik ∝ p_ik P(a_i | k), (N, K); the one-hot given label where all products are 0."""
    q = probs * label_likelihoods
    total = q.sum(axis=1, keepdims=True)
    np.divide(q, total, out=q, where=total > 0)
    zero = total[:, 0] <= 0
    if zero.any():
        q[zero] = one_hot(labels[zero], probs.shape[1])
    return q


def fit_noise(
    predictions: NDArray[np.float64],
    labels: NDArray[np.int64],
    rate: float | None = None,
    locked: NDArray[np.bool_] | None = None,
) -> NoiseModel:
    """Return the symmetric model with the most probable rate and softmax scale.

    The likelihood of label a is (1 − ε) p_ia + ε π_a Σ_{k≠a} p_ik/(1 − π_k), with class shares π
    and ε at most (K−1)/K; with classes of one size the second term is ε (1 − p_ia)/(K − 1). The
    prior of ε is (1 − ε)². The objective can have two maxima: a small scale with little noise, and
    a large scale with much. Therefore ε is solved for at every scale of a grid, and the best scale
    is then refined.

    Args:
        predictions: (N, K) centered leave-one-out predictions made with these labels.
        labels: (N,) given labels in 0..K−1.
        rate: ε where it is known; None estimates it.
        locked: (N,) bool, labels known to be right; ε is the share of wrong ones among the rest.

    Returns:
        The model, its interval not computed; its log-likelihood does not include the prior. With
        one class or no labels the rate is ``rate`` (0 if None), the transition the identity and
        the interval (0, 0).
    """
    K = predictions.shape[1]
    if K == 1 or not len(labels):
        return NoiseModel(rate or 0.0, 1.0, 0.0, SYMMETRIC, np.eye(K), (0.0, 0.0))
    sample = _Sample(predictions, labels, locked)

    def at(log_scale: float) -> tuple[float, float]:
        return _most_probable_rate(*sample.right_and_wrong(exp(log_scale)), rate, highest_rate(K))

    log_scale = _maximum(lambda s: at(s)[1], 33)
    fitted, scale = at(log_scale)[0], exp(log_scale)
    right, wrong = sample.right_and_wrong(scale)
    likelihood = float(np.mean(np.log(np.maximum(right + fitted * (wrong - right), TINY))))
    return NoiseModel(
        fitted,
        scale,
        likelihood,
        SYMMETRIC,
        symmetric_transition(fitted, sample.shares),
        (0.0, highest_rate(K)),
    )


def rate_interval(
    predictions: NDArray[np.float64],
    labels: NDArray[np.int64],
    locked: NDArray[np.bool_] | None = None,
) -> tuple[float, float]:
    """Return the profile-likelihood interval (low, high) of the rate of symmetric noise.

    The profile at ε is the largest log-likelihood plus log-prior over all scales. The interval
    holds every ε whose profile is within ``INTERVAL_DROP`` of the largest; it spans both maxima if
    both are high. Predictions (N, K) are centered leave-one-out predictions from these labels.
    """
    K = predictions.shape[1]
    if K == 1 or not len(labels):
        return 0.0, 0.0
    sample = _Sample(predictions, labels, locked)
    rates = highest_rate(K) * np.linspace(0.0, 1.0, INTERVAL_POINTS) ** 1.5
    prior = RATE_PRIOR_EXPONENT * np.log1p(-rates)
    low, high = LOG_SCALES
    profile = np.full(len(rates), -np.inf)
    for _ in range(INTERVAL_PASSES):  # each over the range of scales with high values
        scales = np.linspace(low, high, INTERVAL_SCALES)
        table = np.stack(
            [_rate_log_likelihoods(*sample.right_and_wrong(exp(s)), rates) for s in scales]
        )
        table += prior
        profile = np.maximum(profile, table.max(axis=0))
        near = np.flatnonzero(table.max(axis=1) > profile.max() - 2 * INTERVAL_DROP)
        low, high = scales[max(near[0] - 1, 0)], scales[min(near[-1] + 1, len(scales) - 1)]
    inside = np.flatnonzero(profile >= profile.max() - INTERVAL_DROP)
    # the end lies between two points
    first, last = max(inside[0] - 1, 0), min(inside[-1] + 1, len(rates) - 1)
    ends = (rates[first] + rates[inside[0]]) / 2, (rates[last] + rates[inside[-1]]) / 2
    return (0.0 if inside[0] == 0 else float(ends[0])), float(ends[1])


def estimate_noise(
    predict: Predict,
    labels: NDArray[np.int64],
    num_classes: int,
    *,
    noise: str = "auto",
    noise_rate: float | None = None,
    locked: NDArray[np.bool_] | None = None,
    predictions: NDArray[np.float64] | None = None,
    seed: int = 0,
) -> NoiseEstimate:
    """Return the noise model chosen for the given labels.

    ``auto`` selects class-conditional noise only if all of these hold: no rate is given; there are
    ``MIN_LABELS_PER_CLASS`` labels per class on average; the skill under symmetric noise is at
    least ``MIN_SKILL``; the gain in log-likelihood over symmetric noise exceeds ``MIN_GAIN``,
    ``GAIN_RATIO`` times the mean gain on labels simulated with symmetric noise, and that mean plus
    ``GAIN_DEVIATIONS`` standard deviations; the gain on held-out folds is positive; the interval of
    the symmetric rate excludes 0, or ``MIN_CONDITIONAL_RATE`` of the labels are estimated wrong.

    Args:
        predict: Takes targets, each (N, K) with rows that sum to 1, and returns centered
            leave-one-out predictions for each, (N, K).
        labels: (N,) given labels in 0..K−1.
        num_classes: K.
        noise: ``auto``, ``symmetric`` or ``class-conditional``.
        noise_rate: ε of symmetric noise where it is known.
        locked: (N,) bool, labels known to be right.
        predictions: (N, K) what ``predict`` returns for the given labels, where it is at hand.
        seed: Seed of simulated labels, of held-out folds, and of a choice of rows.

    Returns:
        The estimate.

    Source:
        This package's own: class-conditional noise as in Natarajan et al. 2013, estimated by
        expectation maximisation (Dawid and Skene 1979), chosen by a parametric bootstrap of the
        likelihood ratio (McLachlan 1987).
    """
    K = num_classes
    if predictions is None:
        predictions = predict([one_hot(labels, K)])[0]
    symmetric = fit_noise(predictions, labels, noise_rate, locked)
    interval = (symmetric.rate,) * 2
    if noise_rate is None:
        interval = rate_interval(predictions, labels, locked)
    symmetric = replace(symmetric, interval=interval)
    probs = probabilities(predictions, symmetric.scale, class_shares(labels, K))
    skill = skill_of(probs, labels)
    reason = _why_symmetric(noise, noise_rate, len(labels), K, skill)
    if reason is not None:
        return NoiseEstimate(symmetric, symmetric, probs, skill, reason)
    rng = np.random.default_rng(seed)
    rows = np.arange(len(labels))
    if len(rows) > MAX_ROWS:
        rows = np.sort(rng.permutation(len(rows))[:MAX_ROWS])
    sample = _Sample(predictions, labels, locked).take(rows)
    conditional = fit_class_conditional(sample, symmetric.rate)
    accepted, reason, evidence = True, SET, dict.fromkeys(EVIDENCE)
    if noise == AUTO:
        gain = conditional.total - sample.total(symmetric.scale, symmetric.transition)
        gains = _simulated_gains(predict, sample, rows, symmetric, probs, labels, locked, rng)
        held_out = _held_out_gain(sample, conditional, symmetric, rng)
        wrong_share = share_wrong(
            sample.probs(conditional.scale), conditional.transition, sample.locked
        )
        accepted, reason = _compare(gain, gains, held_out, wrong_share, interval[0])
        evidence = {
            "gain": gain,
            "simulated_gain": float(np.mean(gains)),
            "held_out_gain": held_out,
        }
    if not accepted:
        return NoiseEstimate(symmetric, symmetric, probs, skill, reason, **evidence)
    full = _Sample(predictions, labels, locked)
    probs = full.probs(conditional.scale)
    model = class_conditional_model(
        conditional.transition,
        conditional.scale,
        share_wrong(probs, conditional.transition, locked),
        full.total(conditional.scale, conditional.transition) / len(labels),
        symmetric,
        full.num_unlocked,
    )
    return NoiseEstimate(model, symmetric, probs, skill, reason, **evidence)


def _why_symmetric(
    noise: str, noise_rate: float | None, count: int, num_classes: int, skill: float
) -> str | None:
    """Return why class-conditional noise is not fitted to ``count`` labels; None if it is."""
    if noise == SYMMETRIC:
        return SET
    if noise == AUTO and noise_rate is not None:
        return "a noise rate is given"
    if num_classes < 2:
        return "there is one class"
    if not may_be_class_conditional(noise, count, num_classes):
        return f"class-conditional noise needs at least {MIN_LABELS_PER_CLASS} labels per class"
    if noise == AUTO and skill < MIN_SKILL:
        return "predictions are too uncertain to tell the kernel's own errors from wrong labels"
    return None


def _compare(
    gain: float, gains: list[float], held_out: float, wrong_share: float, lowest_rate: float
) -> tuple[bool, str]:
    """Return whether ``auto`` selects class-conditional noise, and why.

    Gains are in log-likelihood over symmetric noise: on the given labels, on simulated ones, and on
    held-out folds. ``lowest_rate`` is the lower end of the interval of the symmetric rate.
    """
    simulated = float(np.mean(gains))
    clear = gain > max(
        GAIN_RATIO * max(simulated, 0.0), simulated + GAIN_DEVIATIONS * float(np.std(gains))
    )
    noisy = lowest_rate > 0 or wrong_share >= MIN_CONDITIONAL_RATE
    accepted = bool(clear and gain > MIN_GAIN and held_out > 0 and noisy)
    if accepted or not clear:
        return accepted, (
            f"class-conditional noise is {'' if accepted else 'not '}clearly better: it raises the "
            f"log-likelihood by {gain:.0f} nats, and by {simulated:.0f} on labels simulated with "
            "symmetric noise"
        )
    if not noisy:
        return False, (
            f"class-conditional noise estimates {percent(wrong_share)} wrong labels; errors "
            "of the kernel between similar classes can explain this share"
        )
    raises = f"class-conditional noise raises the log-likelihood by {gain:.0f} nats"
    if gain <= MIN_GAIN:
        return False, f"{raises}; more than {MIN_GAIN:.0f} are required"
    return False, f"{raises}, but not on held-out images"


@dataclass(frozen=True, eq=False)
class Fit:
    """A class-conditional fit: scale, T (K, K), and the log-likelihood of all labels in nats."""

    scale: float
    transition: NDArray[np.float64]
    total: float


def fit_class_conditional(
    sample: _Sample, rate: float, starts: Sequence[NDArray[np.float64]] | None = None
) -> Fit:
    """Return the likeliest class-conditional noise, from several starts T (K, K).

    ``rate`` is that of the symmetric fit, on which the pseudo-counts of T are centred. Without
    starts, those are symmetric noise at a low and at a high rate.
    """
    K = sample.num_classes
    if starts is None:
        levels = (max(rate, LOW_START_RATE), max(rate, min(HIGH_START_RATE, 0.9 * highest_rate(K))))
        starts = [symmetric_transition(level, sample.shares) for level in dict.fromkeys(levels)]
    fits = [_fit_from(sample, T, rate) for T in starts]
    return max(fits, key=lambda fit: fit.total)


def class_conditional_log_likelihoods(
    predictions: Sequence[NDArray[np.float64]],
    labels: NDArray[np.int64],
    rates: Sequence[float],
    locked: NDArray[np.bool_] | None = None,
) -> list[float]:
    """Return the log-likelihood (nats) of all labels under class-conditional noise for each ridge.

    Each ridge has predictions (N, K) and the rate of its symmetric fit; each fit after the first
    starts from the T of the ridge before it.
    """
    totals, starts = [], None
    for c, rate in zip(predictions, rates, strict=True):
        fit = fit_class_conditional(_Sample(c, labels, locked), rate, starts)
        totals.append(fit.total)
        starts = [fit.transition]  # T changes little from one ridge to the next
    return totals


def maximise_transition(
    probs: NDArray[np.float64],
    transition: NDArray[np.float64],
    labels: NDArray[np.int64],
    rate: float,
    locked: NDArray[np.bool_] | None = None,
    steps: int = STEPS,
) -> NDArray[np.float64]:
    """Return T (K, K) after some steps of expectation maximisation at fixed probabilities (N, K).

    Locked labels are not counted. ``rate`` is that of the symmetric fit, on which the pseudo-counts
    are centred. No row of T is wrong more often than (K−1)/K.
    """
    mask = np.zeros(len(labels), dtype=np.bool_) if locked is None else locked
    return _expectation_maximisation(
        np.ascontiguousarray(probs), labels, mask, transition, rate, steps
    )


def class_conditional_model(
    transition: NDArray[np.float64],
    scale: float,
    rate: float,
    log_likelihood: float,
    symmetric: NoiseModel,
    count: int,
) -> NoiseModel:
    """Return a class-conditional model with the interval of its rate, of ``count`` unlocked labels.

    The interval is a heuristic: the likelihood does not bound this rate, because images with
    uncertain predictions are mislabelled more often, by an unknown amount. The lower end is the
    smaller of the symmetric interval's lower end and the rate less 1.645 standard errors. The
    upper end is the larger of the symmetric interval's upper end and the rate plus its distance to
    the symmetric rate plus 1.645 standard errors. Both are clipped to [0, (K−1)/K].
    """
    error = 1.645 * standard_error(rate, count)
    low = min(symmetric.interval[0], rate - error)
    high = max(symmetric.interval[1], rate + abs(rate - symmetric.rate) + error)
    interval = (max(low, 0.0), min(high, highest_rate(len(transition))))
    return NoiseModel(rate, scale, log_likelihood, CLASS_CONDITIONAL, transition, interval)


def skill_of(probs: NDArray[np.float64], labels: NDArray[np.int64]) -> float:
    """Return (m − chance)/(1 − chance), with m the mean of each image's largest probability.

    Chance is the share of the largest class. 1 means that every prediction is certain, 0 that
    predictions are as uncertain as the class shares.
    """
    chance = float(class_shares(labels, probs.shape[1]).max())
    return (float(probs.max(axis=1).mean()) - chance) / max(1.0 - chance, 1e-12)


def share_wrong(
    probs: NDArray[np.float64],
    transition: NDArray[np.float64],
    locked: NDArray[np.bool_] | None = None,
) -> float:
    """Return the expected share of wrong labels among those not locked."""
    wrong = probs @ (1.0 - np.diagonal(transition))
    if locked is not None:
        wrong = wrong[~locked]
    return float(wrong.mean()) if len(wrong) else 0.0


class _Sample:
    """Centered leave-one-out predictions (N, K) with labels (N,) and class shares (K,)."""

    def __init__(
        self,
        predictions: NDArray[np.float64],
        labels: NDArray[np.int64],
        locked: NDArray[np.bool_] | None = None,
        shares: NDArray[np.float64] | None = None,
    ) -> None:
        self.predictions, self.labels = np.ascontiguousarray(predictions), labels
        none = np.zeros(len(labels), dtype=np.bool_)
        self.locked = none if locked is None else locked
        self.num_classes = predictions.shape[1]
        self.shares = class_shares(labels, self.num_classes) if shares is None else shares
        with np.errstate(divide="ignore"):
            self._log_shares = np.log(self.shares)

    @property
    def num_unlocked(self) -> int:
        """Number of labels that are not locked."""
        return int((~self.locked).sum())

    def take(self, rows: NDArray[np.int64]) -> _Sample:
        """Return the sample of some rows, with the class shares of all."""
        part = self.predictions[rows], self.labels[rows], self.locked[rows]
        return _Sample(*part, self.shares)

    def probs(self, scale: float) -> NDArray[np.float64]:
        """Return the probabilities of the true class, (N, K)."""
        return probabilities(self.predictions, scale, self.shares)

    def right_and_wrong(self, scale: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return P(given label | it is right) and P(given label | it is wrong), (N,) each.

        Under symmetric noise; locked labels have the first in both.
        """
        right, wrong = _symmetric_likelihoods(
            self.predictions, self._log_shares, self.shares, self.labels, scale
        )
        return right, np.where(self.locked, right, wrong)

    def total(self, scale: float, transition: NDArray[np.float64]) -> float:
        """Return the log-likelihood of all labels, in nats."""
        return _log_likelihood(
            self.predictions, self._log_shares, self.labels, self.locked, transition, scale
        )

    def best_scale(self, transition: NDArray[np.float64], around: float | None = None) -> float:
        """Return the likeliest scale under T: of all, or near the scale ``around``."""
        return exp(_maximum(lambda s: self.total(exp(s), transition), 17, around))


def _maximum(
    objective: Callable[[float], float], points: int, around: float | None = None
) -> float:
    """Return the log τ that maximises an objective: the best of a grid of points, refined.

    With a scale ``around``, log τ is searched within 0.4 of it instead.
    """
    from scipy.optimize import minimize_scalar

    if around is None:
        grid = np.linspace(*LOG_SCALES, points)
        best = int(np.argmax([objective(float(s)) for s in grid]))
        bounds = grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)]
    else:
        middle = float(np.log(around))
        bounds = max(middle - 0.4, LOG_SCALES[0]), min(middle + 0.4, LOG_SCALES[1])
    optimum: Any = minimize_scalar(
        lambda s: -objective(float(s)), bounds=bounds, method="bounded", options={"xatol": 1e-3}
    )
    return float(optimum.x)


def best_scale(
    predictions: NDArray[np.float64],
    labels: NDArray[np.int64],
    transition: NDArray[np.float64],
    locked: NDArray[np.bool_] | None = None,
) -> float:
    """Return the softmax scale under which the labels are most likely, for a known T (K, K)."""
    if predictions.shape[1] == 1 or not len(labels):
        return 1.0
    return _Sample(predictions, labels, locked).best_scale(transition)


def _fit_from(sample: _Sample, start: NDArray[np.float64], rate: float) -> Fit:
    """Fit the scale and T in turn: the best scale, then ``STEPS`` steps for T."""
    T, scale, last = start, None, -np.inf
    for _ in range(ALTERNATIONS):
        scale = sample.best_scale(T, scale)
        T = maximise_transition(sample.probs(scale), T, sample.labels, rate, sample.locked)
        total = sample.total(scale, T)
        if abs(total - last) < LOG_LIKELIHOOD_TOLERANCE:
            break
        last = total
    return Fit(float(scale or 1.0), T, total)


def _simulated_gains(
    predict: Predict,
    sample: _Sample,
    rows: NDArray[np.int64],
    symmetric: NoiseModel,
    probs: NDArray[np.float64],
    labels: NDArray[np.int64],
    locked: NDArray[np.bool_] | None,
    rng: np.random.Generator,
) -> list[float]:
    """Return what class-conditional noise gains on labels drawn from the symmetric model."""
    K = sample.num_classes
    drawn = []
    for _ in range(SIMULATIONS):
        given = _draw(symmetric.transition[_draw(probs, rng)], rng)
        drawn.append(given if locked is None else np.where(locked, labels, given))
    gains = []
    for given, predictions in zip(drawn, predict([one_hot(y, K) for y in drawn]), strict=True):
        simulated = _Sample(predictions, given, locked).take(rows)
        fitted = fit_noise(simulated.predictions, simulated.labels, None, simulated.locked)
        conditional = fit_class_conditional(simulated, fitted.rate)
        gains.append(conditional.total - simulated.total(fitted.scale, fitted.transition))
    return gains


def _held_out_gain(
    sample: _Sample, conditional: Fit, symmetric: NoiseModel, rng: np.random.Generator
) -> float:
    """Return the mean gain over symmetric noise (nats per image), T estimated on the other folds.

    The scale, the starting T and the symmetric model are those of all images.
    """
    n = len(sample.labels)
    folds = rng.permutation(n) % FOLDS
    probs = sample.probs(conditional.scale)
    gain = -sample.total(symmetric.scale, symmetric.transition)
    for fold in range(FOLDS):
        held_out, kept = np.flatnonzero(folds == fold), np.flatnonzero(folds != fold)
        part = sample.take(kept)
        T = maximise_transition(
            probs[kept], conditional.transition, part.labels, symmetric.rate, part.locked, 2 * STEPS
        )
        gain += sample.take(held_out).total(conditional.scale, T)
    return gain / n


def _draw(probs: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.int64]:
    """Return one class a row, drawn by its probabilities (N, K)."""
    above = probs.cumsum(axis=1) > rng.random((len(probs), 1))
    # rounding may leave the last sum below 1
    above[:, -1] |= ~above.any(axis=1)
    return above.argmax(axis=1).astype(np.int64)


def _most_probable_rate(
    right: NDArray[np.float64], wrong: NDArray[np.float64], rate: float | None, most: float
) -> tuple[float, float]:
    """Return ε, given or maximising, and log-likelihood plus log-prior at this ε."""
    if rate is None:
        rate = _best_rate(right, wrong, most)
    prior = RATE_PRIOR_EXPONENT * float(np.log1p(-min(rate, 1 - 1e-12)))
    return rate, float(_rate_log_likelihoods(right, wrong, np.array([rate]))[0]) + prior


@compiled
def _symmetric_likelihoods(predictions, log_shares, shares, labels, scale):  # type: ignore[no-untyped-def]
    """Return P(given label | it is right), P(given label | it is wrong), (N,) each."""
    n, K = predictions.shape
    right, wrong = np.empty(n), np.empty(n)
    for i in range(n):
        largest = -np.inf
        for k in range(K):
            largest = max(largest, scale * predictions[i, k] + log_shares[k])
        a = labels[i]
        total = own = others = 0.0
        for k in range(K):
            e = np.exp(scale * predictions[i, k] + log_shares[k] - largest)
            total += e
            if k == a:
                own = e
            elif shares[k] < 1.0:
                others += e / (1.0 - shares[k])
        right[i], wrong[i] = own / total, shares[a] * others / total
    return right, wrong


@compiled
def _log_likelihood(predictions, log_shares, labels, locked, T, scale):  # type: ignore[no-untyped-def]
    """Return Σ_i log Σ_k p_ik T[k, a_i]; of locked labels Σ_i log p_i,a."""
    n, K = predictions.shape
    tiny = np.finfo(np.float64).tiny
    out = 0.0
    for i in range(n):
        largest = -np.inf
        for k in range(K):
            largest = max(largest, scale * predictions[i, k] + log_shares[k])
        a = labels[i]
        total = given = 0.0
        for k in range(K):
            e = np.exp(scale * predictions[i, k] + log_shares[k] - largest)
            total += e
            if locked[i]:
                given += e if k == a else 0.0
            else:
                given += e * T[k, a]
        out += np.log(max(given / total, tiny))
    return out


@compiled
def _rate_log_likelihoods(right, wrong, rates):  # type: ignore[no-untyped-def]
    """Return Σ_i log((1 − ε) right_i + ε wrong_i) at each ε of ``rates``."""
    tiny = np.finfo(np.float64).tiny
    out = np.zeros(len(rates))
    for m in range(len(rates)):
        for i in range(len(right)):
            out[m] += np.log(max(right[i] + rates[m] * (wrong[i] - right[i]), tiny))
    return out


@compiled
def _best_rate(right, wrong, most):  # type: ignore[no-untyped-def]
    """Return the ε in [0, most] that maximises log-likelihood plus log-prior.

    It is concave in ε: bisection on its derivative.
    """
    tiny = np.finfo(np.float64).tiny
    low, high = 0.0, most
    for _ in range(40):
        middle = (low + high) / 2
        slope = -RATE_PRIOR_EXPONENT / (1 - middle)
        for i in range(len(right)):
            gap = wrong[i] - right[i]
            slope += gap / max(right[i] + middle * gap, tiny)
        if slope > 0:
            low = middle
        else:
            high = middle
    return (low + high) / 2


@compiled
def _expectation_maximisation(probs, labels, locked, T, rate, steps):  # type: ignore[no-untyped-def]
    """Return T after ``steps`` steps of expectation maximisation.

    Each takes the expected counts of (true class, given label), adds the pseudo-counts and
    normalises: first the share of wrong labels of each row, at most (K−1)/K, then its distribution
    over the other classes. Locked labels are not counted.
    """
    n, K = probs.shape
    highest = (K - 1.0) / K
    T = T.copy()
    for _ in range(steps):
        counts = np.zeros((K, K))
        for i in range(n):
            if locked[i]:
                continue
            a = labels[i]
            total = 0.0
            for k in range(K):
                total += probs[i, k] * T[k, a]
            if total > 0:
                for k in range(K):
                    counts[k, a] += probs[i, k] * T[k, a] / total
        for k in range(K):
            total = counts[k].sum()
            wrong = 1.0 - (counts[k, k] + PRIOR_ROW * (1.0 - rate)) / (total + PRIOR_ROW)
            wrong = min(max(wrong, 0.0), highest)
            others = total - counts[k, k] + PRIOR_WRONG
            for d in range(K):
                T[k, d] = wrong * (counts[k, d] + PRIOR_WRONG / (K - 1)) / others
            T[k, k] = 1.0 - wrong
    return T
