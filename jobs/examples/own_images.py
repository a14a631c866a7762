"""From a table of image files to a list of suspicious labels with one command.

python jobs/examples/own_images.py                  # 3,000 images in folders, 5 % of labels wrong
python jobs/examples/own_images.py 500 0.1 photos   # into the folder photos, which is kept

Writes PNG files of digits on larger backgrounds in several folders and sizes, and labels.csv with
the columns file and label. Then starts ``ntkdist audit labels.csv``, as on your own images, and
counts how many of the corrupted labels are at the head of its list.
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from sklearn.datasets import load_digits

from ntkdist.data import symmetric


def make(folder: Path, n: int, rate: float) -> np.ndarray:
    """Write n images and labels.csv; return which labels are wrong."""
    digits, rng = load_digits(), np.random.default_rng(0)
    which = rng.integers(0, len(digits.target), n)
    labels, _ = symmetric(digits.target[which], 10, rate, seed=0)
    files = []
    for i, k in enumerate(which):
        picture = Image.fromarray((digits.images[k] * 15.9).astype(np.uint8)).resize((24, 24))
        field = Image.new("L", (28, 28) if i % 3 else (40, 40))
        left, top = rng.integers(0, np.array(field.size) - 23)
        field.paste(picture, (int(left), int(top)))
        files.append(f"{('left', 'right', 'attic')[i % 3]}/{i:05d}.png")
        (folder / files[-1]).parent.mkdir(parents=True, exist_ok=True)
        field.save(folder / files[-1])
    names = [f"digit {k}" for k in labels]
    pd.DataFrame({"file": files, "label": names}).to_csv(folder / "labels.csv", index=False)
    return labels != digits.target[which]


def main(n: int = 3000, rate: float = 0.05, folder: str | None = None) -> None:
    with tempfile.TemporaryDirectory() as passing:
        place = folder or passing
        wrong = make(Path(place), n, rate)
        command = ["audit", f"{place}/labels.csv", "--run", f"{place}/run"]
        started = time.perf_counter()
        subprocess.run([sys.executable, "-m", "ntkdist", *command], check=True)
        seconds = time.perf_counter() - started
        worst = pd.read_csv(f"{place}/run/labels.csv")["index"].to_numpy()
        k = int(wrong.sum())
        print(f"{n} images in {seconds:.0f} s; precision at {k}: {wrong[worst[:k]].mean():.3f}")


if __name__ == "__main__":
    main(*(kind(text) for kind, text in zip((int, float, str), sys.argv[1:], strict=False)))
