"""What the Gram says about labels: which are wrong, which labelings clean, which classes hard."""

from __future__ import annotations

from ntkdist.cli.app import DEFAULTS, LABELS, app, with_probabilities
from ntkdist.cli.options import By, Files, Out, Probabilities, Settings, Target
from ntkdist.cli.result import CommandResult, opened


@app.command(group=LABELS, sort_key=1)
def labels(
    target: Target = None,
    *,
    probabilities: Probabilities = False,
    settings: Settings = DEFAULTS,
    out: Out,
) -> CommandResult:
    """Which labels are wrong, and what should they be? Refurbish them with the stored factor.

    Example: ntkdist labels runs/mine --labels.method exact

    Writes labels/ and labels.csv of the run, the most suspicious image first.
    --probabilities gives labels.csv a column for each class, which other
    software, such as cleanlab, takes.
    """
    from ntkdist.analyses.status import describe_labels, read_labels
    from ntkdist.cli.audit import warn_of_few

    settings = with_probabilities(settings, wanted=probabilities)
    with opened(settings, out) as session:
        if warning := warn_of_few(session.pipeline.run):
            out.note(warning)
        session.pipeline.labels()
        run = session.pipeline.run
        labels = read_labels(run)
        printed = {"labels": labels, "labels_csv": run.address("labels.csv")}
        return session.result(printed, describe_labels(labels), next=["ntkdist report RUN"])


@app.command(group=LABELS, sort_key=2)
def labelings(
    target: Target = None, *, files: Files, settings: Settings = DEFAULTS, out: Out
) -> CommandResult:
    """Which of several labelings, such as pseudo-labels, is the cleanest? Rank them by L(Z).

    Example: ntkdist labelings runs/mine --files model-a.npy model-b.txt

    Writes nothing but the factor, where that is missing; lower L(Z) is cleaner.
    """
    from ntkdist.analyses.labelings import describe_labelings, score_labelings

    with opened(settings, out) as session:
        labelings = score_labelings(session.pipeline, files)
        return session.result(
            {"labelings": labelings}, describe_labelings(labelings), next=["ntkdist bias RUN"]
        )


@app.command(group=LABELS, sort_key=3)
def bias(
    target: Target = None, *, by: By = "auto", settings: Settings = DEFAULTS, out: Out
) -> CommandResult:
    """Which classes are hard, and which pairs entangled? Rank both by what the kernel says.

    Example: ntkdist bias runs/mine

    Writes nothing but the factor, where that is missing.
    """
    from ntkdist.analyses.bias import describe_bias, find_bias

    with opened(settings, out) as session:
        names, result = session.pipeline.run.manifest.class_names, find_bias(session.pipeline, by)
        ranking = result.ranking
        printed = {
            "labels": result.labels,
            "class_names": names,
            "classes": [names[k] for k in ranking.intra],
            "class_scores": ranking.intra_scores,
            "pairs": [[names[k], names[d]] for k, d in ranking.inter],
            "pair_scores": ranking.inter_scores,
        }
        text = describe_bias(result, names)
        return session.result(printed, text, next=["ntkdist label-aware RUN"])
