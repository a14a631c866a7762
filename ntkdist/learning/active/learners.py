"""What active learning trains: kernel regression, or a network with a kernel to look ahead by."""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ntkdist.errors import InputError, did_you_mean
from ntkdist.learning.active.look_ahead import LookAhead, look_ahead, solver
from ntkdist.learning.checks import check_images, check_number, check_whole
from ntkdist.learning.finite.training import TrainedNetwork, train
from ntkdist.learning.targets import targets_of
from ntkdist.networks.architecture import Architecture, ArchitectureSpec
from ntkdist.networks.layers import Dense

_KINDS = ("pntk", "logit", "trace")


@dataclass(frozen=True, eq=False)
class Fitted:
    """A model trained on the labelled images, and the kernel it looks ahead by.

    Attributes:
        outputs: (N, K) for the pool's images, of targets that are one-hot less 1/K.
        test_outputs: (T, K) for the test images.
        kernel: (N, N) of the pool, or a function that returns it where it is needed.
        offset: (N, K) what a change of the outputs is counted from; 0 for kernel regression.
        labelled: (L,) places in the pool.
        labels: (L,) their classes.
        ridge: Relative.
    """

    outputs: NDArray[Any]
    test_outputs: NDArray[Any]
    kernel: Any
    offset: Any
    labelled: NDArray[np.int64]
    labels: NDArray[np.int64]
    ridge: float

    def look_ahead(self, unlabelled: NDArray[np.int64]) -> LookAhead:
        """Return what labels of these images of the pool would change."""
        kernel = self.kernel() if callable(self.kernel) else self.kernel
        L, U = self.labelled, unlabelled
        f = np.broadcast_to(self.offset, self.outputs.shape)
        return look_ahead(
            kernel[np.ix_(L, L)], kernel[np.ix_(U, L)], kernel[np.ix_(U, U)],
            self.labels, self.outputs.shape[1],
            outputs_l=f[L], outputs_u=f[U], ridge=self.ridge,
        )  # fmt: skip


class KernelLearner:
    """Kernel regression with a Gram matrix, such as that of infinite width.

    Args:
        gram: (N, N) kernel of the pool's images.
        cross: (T, N) between test images and the pool's.
        num_classes: K.
        ridge: Relative to the mean diagonal of the labelled images' kernel.

    Raises:
        InputError: For shapes that do not fit.
    """

    def __init__(self, gram: Any, cross: Any, num_classes: int, *, ridge: float = 1e-6) -> None:
        self.gram, self.cross = np.asarray(gram), np.asarray(cross)
        if self.gram.ndim != 2 or self.gram.shape[0] != self.gram.shape[1]:
            raise InputError(f"the pool's kernel has shape {self.gram.shape}; (N, N) is needed")
        if self.cross.ndim != 2 or self.cross.shape[1] != len(self.gram):
            raise InputError(
                f"the test images' kernel has shape {self.cross.shape}; (T, {len(self.gram)}) is "
                "needed"
            )
        self.count, self.test_count = len(self.gram), len(self.cross)
        self.num_classes = check_whole("num_classes", num_classes, 2, "nothing to ask with one")
        self.ridge = ridge

    def fit(self, labelled: NDArray[np.int64], labels: NDArray[np.int64]) -> Fitted:
        """Solve for these images of the pool with these labels (L,)."""
        A = np.asarray(self.gram[np.ix_(labelled, labelled)], dtype=np.float64)
        G = solver(A, self.ridge)[0](targets_of(labels, self.num_classes))
        f, test = self.gram[:, labelled] @ G, self.cross[:, labelled] @ G
        return Fitted(f, test, self.gram, 0.0, labelled, labels, self.ridge)


class NetworkLearner:
    """A network of finite width, trained anew by least squares from the same initial weights.

    Outputs of an untrained network are as large as the targets, and remain in what it predicts
    for images unlike the labelled ones; ``readout`` makes them small. It scales the kernel
    evenly and so leaves the regression it stands for as it is.

    Args:
        architecture: A preset name, a list of layers, canonical text, or an ``Architecture``; the
            last layer is Dense.
        images: (N, H, W, C) of the pool.
        test_images: (T, H, W, C).
        num_classes: K.
        kernel: What looks ahead: a kind of ``empirical_kernel``, ``trace`` (the mean over
            outputs of their kernels, the nearest of all κ ⊗ I to the whole), ``pntk`` or
            ``logit``, taken where training ended; or the pool's (N, N) Gram matrix at infinite
            width, which stays the same.
        width: Channels or units of every weight layer but the last.
        epochs: Most passes over the labelled images.
        stop_loss: Training stops behind the first epoch whose mean loss is below.
        readout: The last layer's W_std is multiplied by this.
        ridge: Relative to the mean diagonal of the labelled images' kernel.
        seed: Decides the initial weights and the order of the images.

    Raises:
        InputError: For images, a kernel or settings that do not fit.
    """

    def __init__(
        self,
        architecture: ArchitectureSpec,
        images: Any,
        test_images: Any,
        num_classes: int,
        *,
        kernel: Any = "trace",
        width: int = 256,
        epochs: int = 300,
        stop_loss: float = 1e-3,
        readout: float = 0.1,
        ridge: float = 1e-6,
        seed: int = 0,
    ) -> None:
        self._images = check_images(images)
        self._test = check_images(test_images, self._images.shape[1:])
        self.count, self.test_count = len(self._images), len(self._test)
        self.num_classes = check_whole("num_classes", num_classes, 2, "nothing to ask with one")
        self.ridge = ridge
        check_number("readout", readout, 1e-3, np.inf, "0.1 makes untrained outputs small")
        layers = Architecture.parse(architecture).layers
        last = layers[-1]
        if not isinstance(last, Dense):
            raise InputError(f"the last layer is {last}; a Dense layer is needed")
        scaled = dataclasses.replace(last, W_std=last.W_std * readout)
        self._architecture = Architecture((*layers[:-1], scaled))
        if isinstance(kernel, str):
            if kernel not in _KINDS:
                raise InputError(
                    f"kernel={kernel!r} is unknown; use {', '.join(_KINDS)} or a Gram matrix"
                    + did_you_mean(kernel, _KINDS)
                )
        elif np.shape(kernel) != (self.count, self.count):
            raise InputError(
                f"the pool's kernel has shape {np.shape(kernel)}; "
                f"({self.count}, {self.count}) is needed"
            )
        self._kernel = kernel
        self._settings: dict[str, Any] = {
            "width": width, "epochs": epochs, "stop_loss": stop_loss, "seed": seed
        }  # fmt: skip

    def fit(self, labelled: NDArray[np.int64], labels: NDArray[np.int64]) -> Fitted:
        """Train on these images of the pool with these labels (L,)."""
        trained = train(
            self._architecture, self._images[labelled], labels, self.num_classes,
            loss="mse", **self._settings,
        )  # fmt: skip
        f, test = trained.predict(self._images), trained.predict(self._test)
        kernel = self._kernel
        if isinstance(kernel, str):
            kernel = functools.partial(self._empirical, trained)
        return Fitted(f, test, kernel, f, labelled, labels, self.ridge)

    def _empirical(self, trained: TrainedNetwork) -> NDArray[Any]:
        from ntkdist.learning.empirical.kernel import empirical_kernel

        return empirical_kernel(trained.network, trained.params, self._images, kind=self._kernel)


Learner: TypeAlias = KernelLearner | NetworkLearner
