"""The command line: commands to functions below, no logic of its own.

Exit codes: 0 done, 1 some tiles or stages failed, 2 bad input, 130 interrupted and resumable.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from cyclopts import App, CycloptsError
from cyclopts.config import Dict

from ntkdist.architecture import Architecture
from ntkdist.config import NoiseConfig, RunConfig, load_yaml
from ntkdist.errors import InputError, NtkdistError, StageError
from ntkdist.options import (
    Architectures,
    Classes,
    Counts,
    Criteria,
    CrossEntropy,
    Empirical,
    Files,
    Images,
    Over,
    Quick,
    Rates,
    Recompute,
    Repair,
    Settings,
    Target,
    Values,
    Variants,
    Widths,
    read_rates,
)

if TYPE_CHECKING:
    from ntkdist.pipeline import Pipeline

_DEFAULTS = RunConfig()
DEMO = RunConfig(run="runs/demo", noise=NoiseConfig(rate=0.3))

app = App(
    name="ntkdist",
    help="Infinite-width neural tangent kernels of CNNs at data-set scale, and what they say "
    "about labels. Every command takes a run file (YAML) or the folder or URL of a run; settings "
    "on the command line go over those of the file. Started again, a command resumes.",
    version_flags=["--version"],
)


@app.command
def demo(*, settings: Settings = DEMO) -> None:
    """All stages on scikit-learn's digits with 30 % label noise; needs no data and no GPU."""
    _execute(settings, ("gram", "factor", "labels", "report"))


@app.command
def run(target: Target = None, *, settings: Settings = _DEFAULTS) -> None:
    """All stages: gram, factor, labels, report; each resumes where it ended."""
    _execute(settings, ("gram", "factor", "labels", "report"))


@app.command
def gram(
    target: Target = None, *, recompute: Recompute = (), settings: Settings = _DEFAULTS
) -> None:
    """Compute the tiles of the Gram matrix that are missing."""
    _execute(settings, ("gram",), recompute)


@app.command
def extend(target: Target = None, *, settings: Settings = _DEFAULTS) -> None:
    """Add images of the run's source: --data.n says how many in all; none takes all there are.

    Only new tiles are computed, and finished factors get new rows.
    """
    from ntkdist.pipeline.extend import as_stored, describe_extension
    from ntkdist.pipeline.extend import extend as extended

    with _pipeline(as_stored(settings)) as pipeline:
        print(describe_extension(extended(pipeline, settings.data.n)))


@app.command
def factor(target: Target = None, *, settings: Settings = _DEFAULTS) -> None:
    """Factor the stored Gram plus ridge (Cholesky), and store its inverse."""
    _execute(settings, ("factor",))


@app.command
def labels(target: Target = None, *, settings: Settings = _DEFAULTS) -> None:
    """Refurbish the labels with the stored inverse; writes labels.csv."""
    _execute(settings, ("labels",))


@app.command
def verify(
    target: Target = None,
    *,
    tiles: int = 4,
    entries: int = 16,
    repair: Repair = False,
    settings: Settings = _DEFAULTS,
) -> None:
    """Read all that a run holds, compute some of it again, and say what is wrong with it.

    Parameters
    ----------
    tiles:
        Of each matrix, computed again and compared bit by bit.
    entries:
        Of each matrix, compared with the float64 reference.
    """
    from ntkdist.console import StageLines
    from ntkdist.pipeline.verify import describe_check, verify_and_repair

    lines = StageLines()
    found, done = verify_and_repair(settings, tiles, entries, repair=repair, subscribers=[lines])
    print("\n".join([describe_check(found, settings.run), *done]))
    if found.problems:
        raise StageError(f"{len(found.problems)} problems found in {settings.run}")


@app.command
def predict(target: Target = None, *, settings: Settings = _DEFAULTS) -> None:
    """Predict other images by kernel regression, with a ridge from the images trained on."""
    from ntkdist.pipeline.predict import describe_predictions
    from ntkdist.pipeline.predict import predict as predicted

    with _pipeline(settings) as pipeline:
        print(describe_predictions(predicted(pipeline)))


@app.command
def bias(target: Target = None, *, settings: Settings = _DEFAULTS) -> None:
    """Rank classes and pairs of classes by how hard the kernel finds them."""
    from ntkdist.pipeline.labelings import find_bias
    from ntkdist.status import describe_bias

    with _pipeline(settings) as pipeline:
        print(describe_bias(find_bias(pipeline), pipeline.run.manifest.class_names))


@app.command
def labelings(target: Target = None, *, files: Files, settings: Settings = _DEFAULTS) -> None:
    """Rank labelings of a run's images, such as pseudo-labels, by L(Z); lower is cleaner."""
    from ntkdist.pipeline.labelings import score_labelings
    from ntkdist.status import describe_labelings

    with _pipeline(settings) as pipeline:
        print(describe_labelings(score_labelings(pipeline, files)))


@app.command
def compare(
    target: Target = None, *, architectures: Architectures, settings: Settings = _DEFAULTS
) -> None:
    """Rank architectures on a data set by what their kernels say, before any training."""
    from ntkdist.console import StageLines
    from ntkdist.gram.progress import GramProgress
    from ntkdist.pipeline.compare import compare_architectures, folder_of
    from ntkdist.status import describe_comparison

    with GramProgress() as progress:
        found = compare_architectures(settings, architectures, [progress, StageLines()])
    print(describe_comparison(found, folder_of(settings)))


@app.command
def sweep(
    target: Target = None,
    *,
    over: Over,
    values: Values = (),
    images: Images = 400,
    settings: Settings = _DEFAULTS,
) -> None:
    """Change one setting of the network: what its kernel is like, and how it predicts."""
    from ntkdist.pipeline.sweep import describe_sweep
    from ntkdist.pipeline.sweep import sweep as swept

    with _pipeline(settings) as pipeline:
        print(describe_sweep(swept(pipeline, over, values, images)))


@app.command
def dynamics(
    target: Target = None,
    *,
    cross_entropy: CrossEntropy = False,
    learning_rate: float | None = None,
    ridge: float = 0.0,
    times: int = 60,
    folds: int = 5,
    seed: int = 0,
    settings: Settings = _DEFAULTS,
) -> None:
    """Follow training by gradient flow in closed form, and say when to stop it.

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
    from ntkdist.pipeline.dynamics import describe_dynamics, find_dynamics

    with _pipeline(settings) as pipeline:
        found = find_dynamics(
            pipeline, cross_entropy=cross_entropy, learning_rate=learning_rate, ridge=ridge,
            times=times, folds=folds, seed=seed,
        )  # fmt: skip
        print(describe_dynamics(found))


@app.command
def widths(
    target: Target = None,
    *,
    widths: Widths = (32, 64, 128, 256, 512),
    images: int = 20,
    test: int = 20,
    seeds: int = 12,
    trained: int = 2,
    settings: Settings = _DEFAULTS,
) -> None:
    """Draw and train finite networks: how near they come to the infinite one, by width.

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
    from ntkdist.pipeline.widths import describe_widths, measure_widths

    with _pipeline(settings) as pipeline:
        found = measure_widths(
            pipeline, widths=widths, images=images, test=test, seeds=seeds, trained=trained
        )
        print(describe_widths(found))


@app.command
def label_aware(
    target: Target = None,
    *,
    classes: Classes = (),
    variants: Variants = (),
    folds: int = 5,
    seed: int = 0,
    settings: Settings = _DEFAULTS,
) -> None:
    """Tell two classes apart with kernels that labels enter, and with the plain one.

    Parameters
    ----------
    folds:
        Of the cross-validation that chooses the multiplier.
    seed:
        Decides who is held out, folds and sketches.
    """
    from ntkdist.pipeline.label_aware import compare_label_aware, describe_label_aware

    with _pipeline(settings) as pipeline:
        found = compare_label_aware(
            pipeline, classes=classes or None, variants=variants or None, folds=folds, seed=seed
        )
        print(describe_label_aware(found))


@app.command
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
    settings: Settings = _DEFAULTS,
) -> None:
    """Simulate active learning: which ways of asking for labels need the fewest of them.

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
    from ntkdist.pipeline.lookahead import describe_active_learning, simulate_active_learning

    with _pipeline(settings) as pipeline:
        found = simulate_active_learning(
            pipeline, criteria=criteria, start=start, rounds=rounds, count=count, seeds=seeds,
            picks=picks, empirical=empirical, width=width,
        )  # fmt: skip
        print(describe_active_learning(found))


@app.command
def report(target: Target = None, *, settings: Settings = _DEFAULTS) -> None:
    """Write the report, one HTML file, and print its path."""
    _execute(settings, ("report",))


@app.command
def status(target: Target = None, *, settings: Settings = _DEFAULTS) -> None:
    """Say which stages of a run are done, and what to run next."""
    from ntkdist.status import describe

    print(describe(settings.run))


@app.command
def plan(
    target: Target = None,
    *,
    price: float | None = None,
    budget: float | None = None,
    max_hours: float | None = None,
    rates: Rates = (),
    workers: Counts = (1, 2, 4, 8, 16, 32, 64),
    seconds: float = 12.0,
    settings: Settings = _DEFAULTS,
) -> None:
    """Say what a run will store and how long it will take, by a minute of measurement.

    Parameters
    ----------
    price:
        Of an hour of one device: of one worker's GPU, or of its cores.
    budget:
        Most the run may cost; above it, exit code 2.
    max_hours:
        Most hours it may take; above it, exit code 2.
    seconds:
        How long tiles are measured; longer is more certain where a machine is shared.
    """
    from ntkdist.pipeline._plan_table import describe_plan
    from ntkdist.pipeline.plan import Limits, make_plan

    limits, given = Limits(price, budget, max_hours), read_rates(rates)
    found = make_plan(settings, limits, rates=given, workers=workers, seconds=seconds)
    print(describe_plan(found))
    found.check()


@app.command
def doctor(target: Target = None, *, quick: Quick = False, settings: Settings = _DEFAULTS) -> None:
    """Describe this machine, and whether and how fast a run can be done on it; writes nothing."""
    from ntkdist.doctor import diagnose

    for line in diagnose(settings, quick=quick):
        print(line, flush=True)


@contextmanager
def _pipeline(settings: RunConfig) -> Iterator[Pipeline]:
    from ntkdist.console import StageLines
    from ntkdist.gram.progress import GramProgress
    from ntkdist.pipeline import Pipeline

    with GramProgress() as progress, Pipeline(settings, [progress, StageLines()]) as pipeline:
        print(f"backend {pipeline.run.manifest.reason}", file=sys.stderr)
        yield pipeline


def _execute(settings: RunConfig, stages: Sequence[str], recompute: Sequence[str] = ()) -> None:
    from ntkdist.status import describe_labels

    with _pipeline(settings) as pipeline:
        pipeline.execute(stages, recompute=recompute)
        if "labels" in stages:
            print(describe_labels(pipeline.run))
        if "report" in stages:
            print(pipeline.run.address("report.html"))


def _base(command: Callable[..., Any], target: str | None) -> dict[str, Any]:
    """Return the settings that the command line goes over: of a run file, or of a run."""
    if command is demo:
        return DEMO.to_dict()
    if target is None and command is doctor:
        return _DEFAULTS.to_dict()
    if target is None:
        name = app.name_transform(command.__name__)
        raise InputError(f"{name}: give a run file (jobs/mnist.yaml) or the folder of a run")
    if target.endswith((".yaml", ".yml")):
        values = load_yaml(target)
        if "architecture" in values:
            values["architecture"] = str(Architecture.parse(values["architecture"]))
        return RunConfig.from_dict(values, where=target).to_dict()
    from ntkdist.run import Run

    stored = Run.open(target, unsettled=True).config.to_dict()
    if command is extend:
        stored["data"]["n"] = None  # not as many as it has already
    return stored


def _parse(tokens: Sequence[str]) -> Callable[[], Any]:
    """Read the command line twice: once for the target, then over the target's settings."""
    app.config = ()
    command, bound, _ = app.parse_args(tokens, print_error=False, exit_on_error=False)
    if "settings" in getattr(command, "__annotations__", {}):
        base = _base(command, bound.arguments.get("target"))
        # under the command's name: keys that are names of commands, such as gram, get lost else
        name = app.name_transform(command.__name__)
        app.config = (Dict({name: base}, source="run file"),)
        command, bound, _ = app.parse_args(tokens, print_error=False, exit_on_error=False)
    return lambda: command(*bound.args, **bound.kwargs)


def main(tokens: Sequence[str] | None = None) -> None:
    """Run one command and exit with its code."""
    tokens = list(sys.argv[1:] if tokens is None else tokens)
    again = "ntkdist " + " ".join(tokens)
    try:
        _parse(tokens)()
    except NtkdistError as error:
        print(f"ntkdist: {error}", file=sys.stderr)
        if error.exit_code == 130:
            print(f"resume with: {again}", file=sys.stderr)
        sys.exit(error.exit_code)
    except CycloptsError as error:
        print(f"ntkdist: {_one_line(error)}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print(f"ntkdist: interrupted\nresume with: {again}", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


def _one_line(error: CycloptsError) -> str:
    return " ".join(str(error).split())
