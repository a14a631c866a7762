"""Settings of a more accurate kernel to suggest for a run."""

from __future__ import annotations

import shlex

from ntkdist.data.whitening import MOST_VALUES
from ntkdist.networks.architecture import POOLING_PRESET
from ntkdist.runs.run import Run

_COLOURS = 3


def flags_of_better_kernel(run: Run) -> str:
    """Return the settings, as flags, of a kernel that ranks wrong labels better than the run's.

    Its network averages over windows. Images in colour, which are mostly photographs, are whitened
    too, and the kernel is averaged over flips; on grey ones, such as digits, that ranks them worse.
    This was chosen by looking at the true labels of MNIST, Fashion-MNIST and CIFAR-10
    (``jobs/tables/results/label_kernels.json``).

    Returns:
        ``--architecture cntk-lap-6-2``, in colour with ``--data.preprocess contrast+zca
        --gram.invariance flip`` unless they are too large to be whitened, and a folder beside the
        run's, ``--run``. Empty for features, and for a run that has such a kernel.
    """
    if run.manifest.is_features:
        return ""
    _, height, width, channels = run.shape
    network, place = f"--architecture {POOLING_PRESET}", f"{run.url}-{POOLING_PRESET}"
    if channels != _COLOURS or height * width * channels > MOST_VALUES:
        return "" if run.architecture.pools else f"{network} --run {shlex.quote(place)}"
    settings = run.config
    whitened = "zca" in settings.data.preprocess
    if run.architecture.pools and whitened and settings.gram.invariance == "flip":
        return ""
    more = "--data.preprocess contrast+zca --gram.invariance flip"
    return f"{network} {more} --run {shlex.quote(f'{place}-flip')}"
