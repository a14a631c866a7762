"""What the Gram says about labels: which are wrong, which labelings clean, which classes hard."""

from __future__ import annotations

from ntkdist.cli.app import DEFAULTS, LABELS, app, with_probabilities
from ntkdist.cli.options import By, Files, Out, Probabilities, Settings, Target
from ntkdist.cli.session import Outcome, opened


@app.command(group=LABELS, sort_key=1)
def labels(
    target: Target = None,
    *,
    probabilities: Probabilities = False,
    settings: Settings = DEFAULTS,
    out: Out,
) -> Outcome:
    """Which labels are wrong, and what should they be? Refurbish them with the stored factor.

    Example: ntkdist labels runs/mine --labels.method exact

    Writes labels/ and labels.csv of the run, the most suspicious image first.
    --probabilities gives labels.csv a column for each class, which other
    software, such as cleanlab, takes.
    """
    from ntkdist.cli.audit.suspects import warn_of_few
    from ntkdist.cli.status import describe_labels
    from ntkdist.pipeline.status import read_labels

    settings = with_probabilities(settings, wanted=probabilities)
    with opened(settings, out) as session:
        if warning := warn_of_few(session.pipeline.run):
            out.note(warning)
        session.pipeline.labels()
        run = session.pipeline.run
        found = read_labels(run)
        result = {"labels": found, "labels_csv": run.address("labels.csv")}
        return session.outcome(result, describe_labels(found), next=["ntkdist report RUN"])


@app.command(group=LABELS, sort_key=2)
def labelings(
    target: Target = None, *, files: Files, settings: Settings = DEFAULTS, out: Out
) -> Outcome:
    """Which of several labelings, such as pseudo-labels, is the cleanest? Rank them by L(Z).

    Example: ntkdist labelings runs/mine --files model-a.npy model-b.txt

    Writes nothing but the factor, where that is missing; lower L(Z) is cleaner.
    """
    from ntkdist.analyses.labelings import score_labelings
    from ntkdist.cli.status import describe_labelings

    with opened(settings, out) as session:
        found = score_labelings(session.pipeline, files)
        return session.outcome(
            {"labelings": found}, describe_labelings(found), next=["ntkdist bias RUN"]
        )


@app.command(group=LABELS, sort_key=3)
def bias(
    target: Target = None, *, by: By = "auto", settings: Settings = DEFAULTS, out: Out
) -> Outcome:
    """Which classes are hard, and which pairs entangled? Rank both by what the kernel says.

    Example: ntkdist bias runs/mine

    Writes nothing but the factor, where that is missing.
    """
    from ntkdist.analyses.labelings import find_bias
    from ntkdist.cli.status import describe_bias

    with opened(settings, out) as session:
        names, bias = session.pipeline.run.manifest.class_names, find_bias(session.pipeline, by)
        found = bias.ranking
        result = {
            "labels": bias.labels,
            "class_names": names,
            "classes": [names[k] for k in found.intra],
            "class_scores": found.intra_scores,
            "pairs": [[names[k], names[d]] for k, d in found.inter],
            "pair_scores": found.inter_scores,
        }
        return session.outcome(
            result, describe_bias(found, names, bias.labels), next=["ntkdist label-aware RUN"]
        )
