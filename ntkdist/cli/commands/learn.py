"""What the Gram predicts: other images, training, widths, architectures, images to label."""

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
from ntkdist.cli.result import CommandResult, opened


@app.command(group=LEARN, sort_key=1)
def predict(target: Target = None, *, settings: Settings = DEFAULTS, out: Out) -> CommandResult:
    """How well does the kernel predict images it has not seen? Kernel regression on them.

    Example: ntkdist predict runs/mine --predict.on holdout

    Writes cross/NAME/predictions.csv and predict.svg of the run.
    """
    from ntkdist.analyses.predict import describe_predictions, predict as predicted

    with opened(settings, out) as session:
        result = predicted(session.pipeline)
        more = ["ntkdist dynamics RUN", "ntkdist report RUN"]
        return session.result(result, describe_predictions(result), next=more)


@app.command(group=LEARN, sort_key=2)
def compare(
    target: Target = None, *, architectures: Architectures, settings: Settings = DEFAULTS, out: Out
) -> CommandResult:
    """Which architecture suits the data? Rank several by what their kernels say.

    Example: ntkdist compare jobs/mnist.yaml --architectures fc-2,cnn-2,cntk-gap-4

    Writes a run for each into RUN-compare/, and compare.json and compare.svg beside them.
    """
    from ntkdist.analyses.compare import (
        compare_architectures,
        describe_comparison,
        folder_of,
        ranks,
    )

    with out.watch() as watch:
        results = compare_architectures(settings, architectures, watch.subscribers)
    folder = folder_of(settings)
    printed = {
        "architectures": results,
        "ranks": ranks(results),
        "place": folder,
        "stages": watch.stages,
    }
    shown = [describe_comparison(results, folder)]
    return CommandResult(printed, shown, folder, [f"ntkdist run {results[0].run}"])


@app.command(group=LEARN, sort_key=5)
def sweep(
    target: Target = None,
    *,
    over: Over,
    values: Values = (),
    images: Images = 400,
    settings: Settings = DEFAULTS,
    out: Out,
) -> CommandResult:
    """What do depth, initial variance, nonlinearity and width change? Try several values of one.

    Example: ntkdist sweep runs/mine --over depth --values 2,4,8

    Writes sweep/ and sweep-OVER.svg of the run.
    """
    from ntkdist.analyses.sweep import describe_sweep, sweep as swept

    with opened(settings, out) as session:
        result = swept(session.pipeline, over, values, images)
        return session.result(result, describe_sweep(result), next=["ntkdist report RUN"])


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
) -> CommandResult:
    """How does training go, and when should it stop? Gradient flow in closed form.

    Example: ntkdist dynamics runs/mine --cross-entropy

    Writes dynamics/ and dynamics.svg of the run.

    Parameters
    ----------
    learning_rate:
        Learning rate of the flow; by default half of the largest stable one.
    ridge:
        Pull towards the initial function, relative to the mean diagonal.
    times:
        Number of times, from the fastest component's to the slowest's.
    folds:
        Number of folds of the training images that choose the stopping time.
    seed:
        Seed of the folds.
    """
    from ntkdist.analyses.dynamics import describe_dynamics, find_dynamics

    with opened(settings, out) as session:
        result = find_dynamics(
            session.pipeline, cross_entropy=cross_entropy, learning_rate=learning_rate,
            ridge=ridge, times=times, folds=folds, seed=seed,
        )  # fmt: skip
        more = ["ntkdist widths RUN", "ntkdist report RUN"]
        return session.result(result, describe_dynamics(result), next=more)


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
) -> CommandResult:
    """How wide must a network be to behave as its kernel says? Draw and train finite ones.

    Example: ntkdist widths runs/mine --widths 32,128,512

    Writes widths/ and widths.svg of the run.

    Parameters
    ----------
    images:
        Number of images of the run that kernels are compared on and networks trained on.
    test:
        Number of other images of the run that outputs are compared on.
    seeds:
        Number of networks of each width.
    trained:
        Number of networks of each width that are trained, beside their linearisations.
    """
    from ntkdist.analyses.widths import describe_widths, measure_widths

    with opened(settings, out) as session:
        result = measure_widths(
            session.pipeline, widths=widths, images=images, test=test, seeds=seeds, trained=trained
        )
        return session.result(result, describe_widths(result), next=["ntkdist report RUN"])


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
) -> CommandResult:
    """Do labels inside the kernel help to tell two classes apart? Try label-aware kernels.

    Example: ntkdist label-aware runs/mine --classes cat,dog

    Writes label_aware/ and label_aware.svg of the run.

    Parameters
    ----------
    folds:
        Number of cross-validation folds that choose the multiplier.
    seed:
        Seed of the held-out images, the folds and the sketches.
    """
    from ntkdist.analyses.label_aware import compare_label_aware, describe_label_aware

    with opened(settings, out) as session:
        result = compare_label_aware(
            session.pipeline, classes=classes or None, variants=variants or None, folds=folds,
            seed=seed,
        )  # fmt: skip
        return session.result(result, describe_label_aware(result), next=["ntkdist report RUN"])


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
) -> CommandResult:
    """Which images should be labelled next? Simulate active learning with several criteria.

    Example: ntkdist lookahead runs/mine --criteria mlmoc,random --start 20

    Writes lookahead/ and lookahead.svg of the run.

    Parameters
    ----------
    start:
        Number of images labelled at first, drawn at random.
    rounds:
        Number of queries.
    count:
        Number of images of a query.
    seeds:
        Number of seeds, each with its own split and first labels.
    picks:
        How a query's images are picked: greedy (each given the ones before it) or top.
    width:
        Width of the networks, with --empirical.
    """
    from ntkdist.analyses.lookahead import describe_active_learning, simulate_active_learning

    with opened(settings, out) as session:
        result = simulate_active_learning(
            session.pipeline, criteria=criteria, start=start, rounds=rounds, count=count,
            seeds=seeds, picks=picks, empirical=empirical, width=width,
        )  # fmt: skip
        text = describe_active_learning(result)
        return session.result(result, text, next=["ntkdist report RUN"])
