"""The stored kernel in scikit-learn: an SVM and a Gaussian process beside kernel regression.

python jobs/examples/sklearn_kernels.py             # 300 digits to train on, 200 to predict
python jobs/examples/sklearn_kernels.py 1000 500
"""

import sys
import tempfile

import numpy as np
from sklearn.gaussian_process import GaussianProcessClassifier
from sklearn.gaussian_process.kernels import Kernel
from sklearn.svm import SVC

from ntkdist import RunConfig
from ntkdist.learning import KernelRegression
from ntkdist.pipeline import Pipeline
from ntkdist.pipeline.cross import held_out


class StoredKernel(Kernel):
    """A precomputed kernel matrix; an image is given by its index, in a column."""

    def __init__(self, matrix: np.ndarray) -> None:
        self.matrix = matrix

    def __call__(self, X, Y=None, eval_gradient=False):
        """Return the kernel of the images ``X`` with ``Y``."""
        rows, columns = X[:, 0], (X if Y is None else Y)[:, 0]
        return self.matrix[np.ix_(rows, columns)]

    def diag(self, X):
        """Return the kernel of each image with itself."""
        return self.matrix[X[:, 0], X[:, 0]]

    def is_stationary(self):
        """Return False: it depends on more than the difference of two images."""
        return False


def main(n: int = 300, m: int = 200) -> None:
    with tempfile.TemporaryDirectory() as folder:
        settings = {"run": f"{folder}/run", "architecture": "cntk-gap-4", "data": {"n": n}}
        settings |= {"gram": {"executor": "inline"}, "predict": {"on": "rest", "n": m}}
        with Pipeline(RunConfig.from_dict(settings)) as pipeline:
            pipeline.gram()
            held = held_out(pipeline)
            K, cross = np.asarray(held.gram()), np.asarray(held.cross())
            own = held.diagonal()
    scale = np.diagonal(K).mean()
    train, test, K, cross = held.train_labels, held.labels, K / scale, cross / scale

    both = np.zeros((n + m, n + m))  # kernel of training and test images together
    both[:n, :n], both[n:, :n], both[:n, n:] = K, cross, cross.T
    both[range(n, n + m), range(n, n + m)] = own / scale
    numbers = np.arange(n + m)[:, None]
    process = GaussianProcessClassifier(StoredKernel(100 * both), optimizer=None)
    process.fit(numbers[:n], train)

    predicted = {
        "SVC": SVC(kernel="precomputed", C=100.0).fit(K, train).predict(cross),
        "Gaussian process": process.predict(numbers[n:]),
        "KernelRegression": KernelRegression.fit(K, train, 10, ridge=1e-3)
        .predict(cross)
        .argmax(axis=1),
    }
    for name, classes in predicted.items():
        print(f"{name:<17} accuracy: {(classes == test).mean():.3f}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
