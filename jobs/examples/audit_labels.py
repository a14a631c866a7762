"""Which labels of my images are wrong? Some are corrupted here, to count how many are found.

python jobs/examples/audit_labels.py          # 600 of scikit-learn's digits, 10 % of labels wrong
python jobs/examples/audit_labels.py 1797 0.3
"""

import sys

import numpy as np
from sklearn.datasets import load_digits

import ntkdist
from ntkdist.data import symmetric


def main(n: int = 600, rate: float = 0.1) -> None:
    digits = load_digits()
    images, true = digits.images[:n].astype(np.float32), digits.target[:n]
    labels, _ = symmetric(true, 10, rate, seed=0)

    table = ntkdist.find_label_issues(images, labels)

    worst = table.sort_values("label_quality")["index"].to_numpy()
    wrong = labels != true
    for k in (10, int(wrong.sum())):
        print(f"precision at {k}: {wrong[worst[:k]].mean():.3f}")
    suggested = table.sort_values("index")["suggested_label"].to_numpy()
    print(f"labels right: {(~wrong).mean():.3f} given, {(suggested == true).mean():.3f} suggested")


if __name__ == "__main__":
    main(*(kind(text) for kind, text in zip((int, float), sys.argv[1:], strict=False)))
