"""What the Gram predicts: other images, training, widths, architectures, labels to ask for."""

from __future__ import annotations

from ntkdist.cli.app import DEFAULTS, LEARN, app
from ntkdist.cli.options import (
    Architectures,
    Classes,
    Criteria,
    CrossEntropy,
    Empirical,
    Images,
    Out,
    Over,
    Settings,
    Target,
    Values,
    Variants,
    Widths,
)
from ntkdist.cli.session import Outcome, opened


@app.command(group=LEARN, sort_key=1)
def predict(target: Target = None, *, settings: Settings = DEFAULTS, out: Out) -> Outcome:
    """How well does the kernel predict images it has not seen? Kernel regression on them.

    Example: ntkdist predict runs/mine --predict.on holdout

    Writes cross/NAME/predictions.csv and predict.svg of the run.
    """
    from ntkdist.analyses.predict import describe_predictions
    from ntkdist.analyses.predict import predict as predicted

    with opened(settings, out) as session:
        found = predicted(session.pipeline)
        return session.outcome(
            found,
            describe_predictions(found),
            next=["ntkdist dynamics RUN", "ntkdist report RUN"],
        )


@app.command(group=LEARN, sort_key=2)
def compare(
    target: Target = None, *, architectures: Architectures, settings: Settings = DEFAULTS, out: Out
) -> Outcome:
    """Which architecture suits the data? Rank several by what their kernels say.

    Example: ntkdist compare jobs/mnist.yaml --architectures fc-2,cnn-2,cntk-gap-4

    Writes a run for each into RUN-compare/, and compare.json and compare.svg beside them.
    """
    from ntkdist.analyses.compare import compare_architectures, folder_of, ranks
    from ntkdist.cli.status import describe_comparison

    with out.watch() as watch:
        found = compare_architectures(settings, architectures, watch.subscribers)
    folder = folder_of(settings)
    result = {
        "architectures": found,
        "ranks": ranks(found),
        "place": folder,
        "stages": watch.stages,
    }
    return Outcome(
        result, [describe_comparison(found, folder)], folder, [f"ntkdist run {found[0].run}"]
    )


@app.command(group=LEARN, sort_key=5)
def sweep(
    target: Target = None,
    *,
    over: Over,
    values: Values = (),
    images: Images = 400,
    settings: Settings = DEFAULTS,
    out: Out,
) -> Outcome:
    """What do depth, initial variance, nonlinearity and width change? Try one's values.

    Example: ntkdist sweep runs/mine --over depth --values 2,4,8

    Writes sweep/ and sweep-OVER.svg of the run.
    """
    from ntkdist.analyses.sweep import describe_sweep
    from ntkdist.analyses.sweep import sweep as swept

    with opened(settings, out) as session:
        found = swept(session.pipeline, over, values, images)
        return session.outcome(found, describe_sweep(found), next=["ntkdist report RUN"])


@app.command(group=LEARN, sort_key=3)
def dynamics(
    target: Target = None,
    *,
    cross_entropy: CrossEntropy = False,
    learning_rate: float | None = None,
    ridge: float = 0.0,
    times: int = 60,
    folds: int = 5,
    seed: int = 0,
    settings: Settings = DEFAULTS,
    out: Out,
) -> Outcome:
    """How does training go, and when should it stop? Gradient flow in closed form.

    Example: ntkdist dynamics runs/mine --cross-entropy

    Writes dynamics/ and dynamics.svg of the run.

    Parameters
    ----------
    learning_rate:
        Of the flow; none takes half of what gradient descent bears.
    ridge:
        Pull back to the beginning, relative to the mean diagonal.
    times:
        How many, from the fastest component's to the slowest's.
    folds:
        Of the images trained on, for the stopping time.
    seed:
        Of the folds.
    """
    from ntkdist.analyses.dynamics import describe_dynamics, find_dynamics

    with opened(settings, out) as session:
        found = find_dynamics(
            session.pipeline, cross_entropy=cross_entropy, learning_rate=learning_rate,
            ridge=ridge, times=times, folds=folds, seed=seed,
        )  # fmt: skip
        return session.outcome(
            found, describe_dynamics(found), next=["ntkdist widths RUN", "ntkdist report RUN"]
        )


@app.command(group=LEARN, sort_key=4)
def widths(
    target: Target = None,
    *,
    widths: Widths = (32, 64, 128, 256, 512),
    images: int = 20,
    test: int = 20,
    seeds: int = 12,
    trained: int = 2,
    settings: Settings = DEFAULTS,
    out: Out,
) -> Outcome:
    """How wide must a network be to behave as its kernel says? Draw and train finite ones.

    Example: ntkdist widths runs/mine --widths 32,128,512

    Writes widths/ and widths.svg of the run.

    Parameters
    ----------
    images:
        Of the run, that kernels are compared on and networks trained on.
    test:
        Others of the run, that outputs are compared on.
    seeds:
        Networks of each width.
    trained:
        How many of them are trained, beside their linearisations.
    """
    from ntkdist.analyses.widths import describe_widths, measure_widths

    with opened(settings, out) as session:
        found = measure_widths(
            session.pipeline, widths=widths, images=images, test=test, seeds=seeds, trained=trained
        )
        return session.outcome(found, describe_widths(found), next=["ntkdist report RUN"])


@app.command(group=LEARN, sort_key=6)
def label_aware(
    target: Target = None,
    *,
    classes: Classes = (),
    variants: Variants = (),
    folds: int = 5,
    seed: int = 0,
    settings: Settings = DEFAULTS,
    out: Out,
) -> Outcome:
    """Do labels inside the kernel help to tell two classes apart? Try kernels that they enter.

    Example: ntkdist label-aware runs/mine --classes cat,dog

    Writes label_aware/ and label_aware.svg of the run.

    Parameters
    ----------
    folds:
        Of the cross-validation that chooses the multiplier.
    seed:
        Decides who is held out, folds and sketches.
    """
    from ntkdist.analyses.label_aware import compare_label_aware, describe_label_aware

    with opened(settings, out) as session:
        found = compare_label_aware(
            session.pipeline, classes=classes or None, variants=variants or None, folds=folds,
            seed=seed,
        )  # fmt: skip
        return session.outcome(found, describe_label_aware(found), next=["ntkdist report RUN"])


@app.command(group=LEARN, sort_key=7)
def lookahead(
    target: Target = None,
    *,
    criteria: Criteria = ("mlmoc", "emoc", "eer", "margin", "random"),
    start: int = 50,
    rounds: int = 10,
    count: int = 10,
    seeds: int = 3,
    picks: str = "greedy",
    empirical: Empirical = False,
    width: int = 128,
    settings: Settings = DEFAULTS,
    out: Out,
) -> Outcome:
    """Which images should be labelled next? Simulate ways of asking for labels a few at a time.

    Example: ntkdist lookahead runs/mine --criteria mlmoc,random --start 20

    Writes lookahead/ and lookahead.svg of the run.

    Parameters
    ----------
    start:
        Images labelled at first, drawn at random.
    rounds:
        Queries.
    count:
        Images of a query.
    seeds:
        How many splits and first draws, from 0.
    picks:
        greedy (each pick supposes the ones before it) or top.
    width:
        Of the networks, with --empirical.
    """
    from ntkdist.analyses.lookahead import describe_active_learning, simulate_active_learning

    with opened(settings, out) as session:
        found = simulate_active_learning(
            session.pipeline, criteria=criteria, start=start, rounds=rounds, count=count,
            seeds=seeds, picks=picks, empirical=empirical, width=width,
        )  # fmt: skip
        return session.outcome(found, describe_active_learning(found), next=["ntkdist report RUN"])
