"""Class probabilities of a run for other software: cleanlab looks for label issues in them.

python jobs/examples/cleanlab_from_run.py        # 600 of scikit-learn's digits, 10 % mislabelled
python jobs/examples/cleanlab_from_run.py 1797 0.3

``ntkdist audit --probabilities`` gives labels.csv a column probability_CLASS for each class: its
leave-one-out probability. Usually cleanlab is given those of a cross-validated network.
"""

import subprocess
import sys
import tempfile

import pandas as pd
from cleanlab.filter import find_label_issues


def main(n: int = 600, rate: float = 0.1) -> None:
    with tempfile.TemporaryDirectory() as folder:
        run = f"{folder}/run"
        flags = ["--data.n", str(n), "--noise.rate", str(rate), "--probabilities", "--quiet"]
        command = ["audit", "digits", "--run", run, *flags]
        subprocess.run([sys.executable, "-m", "ntkdist", *command], check=True)
        table = pd.read_csv(f"{run}/labels.csv")

    columns = [name for name in table.columns if name.startswith("probability_")]
    theirs = find_label_issues(table["given_label"].to_numpy(), table[columns].to_numpy(), n_jobs=1)
    ours = table["is_label_issue"].to_numpy()
    both, either = int((ours & theirs).sum()), int((ours | theirs).sum())
    print(f"ntkdist finds {ours.sum()} label issues, cleanlab {theirs.sum()}, {both} are the same")
    print(f"agreement: {both / max(either, 1):.3f} (by both, as a share of those by either)")


if __name__ == "__main__":
    main(*(kind(text) for kind, text in zip((int, float), sys.argv[1:], strict=False)))
