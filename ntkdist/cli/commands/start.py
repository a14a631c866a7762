"""Where to start: own images, the demo, a run file; and first whether and how long."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from ntkdist.cli.app import (
    DEFAULTS,
    OTHER,
    START,
    app,
    begins_with,
    run_settings,
    with_probabilities,
)
from ntkdist.cli.console import Table
from ntkdist.cli.options import (
    Counts,
    Out,
    Probabilities,
    Quick,
    Rates,
    Settings,
    Source,
    Target,
    read_rates,
)
from ntkdist.cli.result import CommandResult, Session, opened
from ntkdist.config import DataConfig, GramConfig, NoiseConfig, RunConfig, differences
from ntkdist.errors import InputError
from ntkdist.networks.architecture import Architecture, preset_of

if TYPE_CHECKING:
    from ntkdist.runs.run import Run

DEMO = RunConfig(run="runs/demo", noise=NoiseConfig(rate=0.3))
AUDIT = RunConfig(  # its run and source are those of what is audited
    run="runs/NAME_OF_SOURCE",
    architecture="cnn-2",
    data=DataConfig(source="SOURCE", size="auto"),
    gram=GramConfig(executor="inline"),
)
FOR_FEATURES = "fc-2"


def audit_settings(arguments: Mapping[str, Any]) -> RunConfig:
    """Return the settings of an audit.

    Raises:
        InputError: The source is missing or not an image set.
    """
    from ntkdist.cli.audit import WANTED, recognise, run_name_of
    from ntkdist.data.readers import holds_features

    source = arguments.get("source")
    if source is None:
        raise InputError(f"audit: {WANTED}")
    known = recognise(source)
    typed = arguments.get("settings")
    features = typed.data.features if isinstance(typed, RunConfig) else None
    alone = holds_features(known)
    return dataclasses.replace(
        AUDIT,
        run=f"runs/{run_name_of(known, features)}",
        architecture=AUDIT.architecture if features is None and not alone else FOR_FEATURES,
        data=dataclasses.replace(AUDIT.data, source=known, size=None if alone else AUDIT.data.size),
    )


@app.command(group=START, sort_key=1)
@begins_with(audit_settings)
def audit(
    source: Source = None,
    *,
    probabilities: Probabilities = False,
    settings: Settings = AUDIT,
    out: Out,
) -> CommandResult:
    """Which labels of your own images look wrong? All stages on them, by a kernel that is fast.

    SOURCE is a folder that holds a folder for each class, a .csv file with
    columns file and label, an .npz file, MNIST's idx files, or a source such
    as images:FOLDER. Images may have several sizes: they are scaled to one.
    --data.features FILE.npy gives features of the images, from a pretrained
    network: the kernel is then computed from these instead of the pixels. An
    .npz file may hold features alone.

    What an audit takes unless it is told otherwise: --architecture cnn-2
    (fc-2 for features), --data.size auto, --gram.executor inline, no noise,
    the method posterior.

    The output includes a verdict on how far the list can be trusted.
    reliable: every label that is more probably wrong than right is flagged.
    weak: only the labels most probably wrong are flagged. cannot judge: no
    label is flagged, and no label is called clean.

    Example: ntkdist audit photos/

    Writes a run, runs/NAME_OF_SOURCE unless --run says otherwise, with
    labels.csv (every image, the most suspicious first) and report.html.
    Another architecture has a run of its own, runs/NAME-ARCHITECTURE; so have
    averages over flips (--gram.invariance flip), runs/NAME-flip, features,
    runs/NAME-FILE, and labels that were corrected since the last
    audit, runs/NAME-2. Corrected labels need no new Gram: the new run takes
    Gram and factor of the old one, and has the images in its order. Every tile
    and panel is read and its checksum compared first. In folders they become
    links, which take no space; the old run may be removed.
    """
    from ntkdist.analyses.status import describe_flags, describe_reliability
    from ntkdist.cli.audit import (
        choose_run,
        run_name,
        run_name_of,
        table_of,
        warn_of_few,
        worst_labels,
    )
    from ntkdist.runs.inputs import sees_features

    settings = with_probabilities(settings, wanted=probabilities)
    data = settings.data
    features = sees_features(data)
    usual = str(Architecture.parse(FOR_FEATURES)) if features else AUDIT.architecture
    name = run_name_of(data.source, data.features)
    named = settings.run != f"runs/{name}"
    if not named:
        place = run_name(name, settings, usual)
        settings = dataclasses.replace(settings, run=place)
    choice = choose_run(settings, out, named=named)
    settings = choice.settings
    with opened(settings, out, choice.prepared) as session:
        if warning := warn_of_few(session.pipeline.run):
            out.note(warning)
        result = _all_stages(session)
        run, labels = session.pipeline.run, result["labels"]
        worst = worst_labels(run)
        few = f", the {len(worst)} most suspicious:" if len(worst) < labels.issues else ":"
        head = describe_flags(labels) + (few if worst else "")
        verdict = "\n".join(describe_reliability(labels))
        files = f"every image  {result['labels_csv']}\nreport       {result['report']}"
        table = table_of(worst, "image" if run.has_pictures else "row")
        shown: list[str | Table] = [head, *([table] if worst else []), verdict, files]
        origin = run.manifest.gram_from
        about = {
            "source": settings.data.source,
            "notes": run.notes,
            "gram_from": None if origin is None else origin.run,
            "suspicious": worst,
        }
        outcome = session.result({**result, **about}, *shown)
    if features or settings.architecture != usual:
        return dataclasses.replace(outcome, next=[f"ntkdist predict {shlex.quote(run.url)}"])
    return dataclasses.replace(outcome, next=_more_careful(run))


def _more_careful(run: Run) -> list[str]:
    """Return how to audit with a better kernel, and how to learn first how long that takes."""
    from ntkdist.runs.advice import flags_of_better_kernel

    flags = flags_of_better_kernel(run)
    return [
        f"ntkdist audit {shlex.quote(run.config.data.source)} {flags}",
        f"ntkdist plan {shlex.quote(run.url)} {flags}",
    ]


@app.command(group=START, sort_key=2)
@begins_with(lambda _: DEMO)
def demo(*, settings: Settings = DEMO, out: Out) -> CommandResult:
    """What does this do? All stages on scikit-learn's digits with 30 % of the labels replaced.

    What it takes unless it is told otherwise: --run runs/demo,
    --data.source digits, --architecture cntk-gap-4, --noise.rate 0.3.

    Example: ntkdist demo

    Writes the run runs/demo with labels.csv and report.html; needs no data and no GPU.
    """
    return _run(settings, out)


@app.command(group=START, sort_key=3)
def run(target: Target = None, *, settings: Settings = DEFAULTS, out: Out) -> CommandResult:
    """What do the Gram and the labels say? All stages: gram, factor, labels, report.

    Example: ntkdist run jobs/mnist.yaml --run runs/mine --data.n 5000

    Writes the run with labels.csv and report.html; each stage resumes where it ended.
    """
    return _run(settings, out)


def _run(settings: RunConfig, out: Out) -> CommandResult:
    from ntkdist.analyses.status import describe_labels, next_after_report

    with opened(settings, out) as session:
        result = _all_stages(session)
        shown = (describe_labels(result["labels"]), result["report"])
        more = next_after_report(session.pipeline.run)
        return session.result(result, *shown, next=[more] if more else [])


def _all_stages(session: Session) -> dict[str, Any]:
    from ntkdist.analyses.status import read_labels
    from ntkdist.api import execute

    execute(session.pipeline)
    run = session.pipeline.run
    return {
        "labels": read_labels(run),
        "labels_csv": run.address("labels.csv"),
        "report": run.address("report.html"),
    }


@app.command(group=START, sort_key=4)
def plan(
    target: Target = None,
    *,
    price: float | None = None,
    budget: float | None = None,
    max_hours: float | None = None,
    rates: Rates = (),
    workers: Counts = (1, 2, 4, 8, 16, 32, 64),
    seconds: float = 12.0,
    settings: Settings = DEFAULTS,
    out: Out,
) -> CommandResult:
    """How long will a run take, what will it store and cost? A minute of measurement.

    Example: ntkdist plan jobs/cifar10.yaml --price 2.5 --budget 500

    Writes nothing. Above --budget or --max-hours it exits with 2.

    Parameters
    ----------
    price:
        Of an hour of one worker: its GPU, or its cores; of those given by --rates alone, if any.
    budget:
        Most the run may cost; above it, exit code 2.
    max_hours:
        Most hours it may take; above it, exit code 2.
    seconds:
        How long tiles are measured; longer is more certain where a machine is shared.
    """
    from ntkdist.planning.plan import Limits, describe_plan, make_plan

    limits, given = Limits(price, budget, max_hours), read_rates(rates)
    estimate = make_plan(
        settings, limits, rates=given, workers=workers, seconds=seconds,
        on_step=lambda text: out.note(f"plan: {text}"),
    )  # fmt: skip
    failure = None if estimate.refusal is None else InputError(estimate.refusal)
    again = () if failure or target is None else (run_command(target, settings),)
    if again and estimate.is_done:
        again = (f"ntkdist status {shlex.quote(settings.run)}",)
    return CommandResult(estimate, [describe_plan(estimate)], settings.run, again, failure)


def run_command(target: str, settings: RunConfig) -> str:
    """Return the command that runs a target with the settings that were typed over it."""
    words = ["ntkdist", "run", target]
    base = run_settings(run, {"target": target})
    for name, _, value in differences(base, settings.to_dict()):
        if name == "architecture":
            value = preset_of(Architecture.parse(value)) or value
        if isinstance(value, bool):
            section, _, key = name.rpartition(".")
            words.append(f"--{name}" if value else f"--{section}.no-{key}")
        elif value is not None:
            text = ",".join(value) if isinstance(value, list) else str(value)
            words += [f"--{name}", text]
    return shlex.join(words)


def _doctor_settings(arguments: Mapping[str, Any]) -> RunConfig:
    if arguments.get("target") is None:
        return DEFAULTS
    return RunConfig.from_dict(run_settings(run, arguments))


@app.command(group=START, sort_key=5)
@begins_with(_doctor_settings)
def doctor(
    target: Target = None, *, quick: Quick = False, settings: Settings = DEFAULTS, out: Out
) -> CommandResult:
    """Can a run be done on this machine, how fast, and if not, what is missing?

    Example: ntkdist doctor jobs/mnist.yaml --quick

    Writes nothing. Exits with 2 where something stands in the way of the run that is given.
    """
    from ntkdist.cli.doctor import describe_finding, diagnose

    given = target is not None or settings != DEFAULTS
    findings = []
    for one in diagnose(settings, quick=quick):
        findings.append(one)
        out.show(describe_finding(one))
    problems = [one for one in findings if one.state == "problem"]
    failure = InputError(problems[0].sentence) if problems and given else None
    again = () if target is None or problems else (run_command(target, settings),)
    if target is None and not problems:
        again = ("ntkdist demo",)
    return CommandResult(
        {"findings": findings}, (), settings.run if given else None, again, failure
    )


@app.command(group=OTHER)
def completion(shell: Literal["bash", "zsh", "fish"] = "bash", *, out: Out) -> CommandResult:
    """How do commands, flags, presets and runs complete in the shell? Print the script for it.

    Example: ntkdist completion bash

    Writes nothing: send the script to where the shell looks for it, with >.
    bash: ~/.local/share/bash-completion/completions/ntkdist
    fish: ~/.config/fish/completions/ntkdist.fish
    zsh:  a file _ntkdist in a folder of its fpath
    """
    script = app.generate_completion(shell=shell)
    return CommandResult({"shell": shell, "script": script}, [script])
