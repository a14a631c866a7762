"""The oracle against an independent small implementation of the published recursion."""

import numpy as np
import pytest

from ntkdist import Architecture, kernel_matrix
from tests.kernels.images import awkward_images
from tests.tolerances import assert_close


def arora(x, y, depth, *, pooled, fix):
    """CNTK of one pair as Arora et al. 2019, section 4 print it, cell by cell."""
    P, Q, _ = x.shape
    cells = [(i, j) for i in range(P) for j in range(Q)]

    def box(M):
        out = {}
        for i, j in cells:
            for k, l in cells:
                out[i, j, k, l] = sum(
                    M.get((i + u, j + v, k + u, l + v), 0.0) for u in (-1, 0, 1) for v in (-1, 0, 1)
                )
        return out

    def product(u, v):
        return {(*s, *t): float(u[s] @ v[t]) for s in cells for t in cells}

    xy, xx, yy = box(product(x, y)), box(product(x, x)), box(product(y, y))
    theta = dict.fromkeys(xy, 0.0) if fix else dict(xy)
    for layer in range(1, depth):
        K, dK = {}, {}
        Kx, Ky = {}, {}
        for key, value in xy.items():
            a, b = xx[key[:2] * 2], yy[key[2:] * 2]
            c = min(1.0, max(-1.0, value / np.sqrt(a * b))) if a * b > 0 else 0.0
            angle = np.pi - np.arccos(c)
            K[key] = (c * angle + np.sqrt(1 - c * c)) * np.sqrt(a * b) / (9 * np.pi)
            dK[key] = angle / (9 * np.pi)
        for own, K_own in ((xx, Kx), (yy, Ky)):
            for key, value in own.items():
                a, b = own[key[:2] * 2], own[key[2:] * 2]
                c = min(1.0, max(-1.0, value / np.sqrt(a * b))) if a * b > 0 else 0.0
                s = (c * (np.pi - np.arccos(c)) + np.sqrt(1 - c * c)) * np.sqrt(a * b)
                K_own[key] = s / (9 * np.pi)
        if layer == depth - 1:
            last = {key: dK[key] * theta[key] + (0.0 if fix else K[key]) for key in theta}
            break
        theta = box({key: theta[key] * dK[key] + K[key] for key in theta})
        xy, xx, yy = box(K), box(Kx), box(Ky)
    if pooled:
        return sum(last.values()) / (P * Q) ** 2
    return sum(last[s + s] for s in cells)


@pytest.mark.parametrize(
    ("name", "pooled", "fix"),
    [("cntk-v-4", False, False), ("cntk-gap-4", True, True), ("cntk-gap-3", True, True)],
)
def test_presets_equal_the_published_recursion_up_to_one_factor(name, pooled, fix):
    x = awkward_images((4, 3, 2), 5)
    depth = int(name[-1])
    published = np.array([[arora(a, b, depth, pooled=pooled, fix=fix) for b in x] for a in x])
    ours = kernel_matrix(name, x, backend="reference", dtype="float64")
    assert_close(ours / ours[0, 0], published / published[0, 0], 1e-7)


@pytest.mark.parametrize("fix", [False, True])
def test_fix_flag_is_trainable_false_on_the_first_and_last_layer(fix):
    t = not fix
    arch = [
        f"Conv(trainable={t})",
        "Relu",
        "Conv",
        "Relu",
        "GlobalAvgPool",
        f"Dense(trainable={t})",
    ]
    x = awkward_images((3, 4, 1), 5)
    published = np.array([[arora(a, b, 3, pooled=True, fix=fix) for b in x] for a in x])
    ours = kernel_matrix(arch, x, backend="reference", dtype="float64")
    assert_close(ours / ours[0, 0], published / published[0, 0], 1e-7)


def test_fully_connected_network_is_the_textbook_recursion():
    rng = np.random.default_rng(3)
    x = rng.normal(size=(6, 3, 3, 2))
    flat = x.reshape(6, -1)
    K = 2 * flat @ flat.T / flat.shape[1] + 0.01
    theta = K.copy()
    for _ in range(2):
        d = np.sqrt(np.diag(K))
        c = np.clip(K / np.outer(d, d), -1, 1)
        slope = (np.pi - np.arccos(c)) / (2 * np.pi)
        K = np.outer(d, d) * (np.sqrt(1 - c * c) + (np.pi - np.arccos(c)) * c) / (2 * np.pi)
        K = 2 * K + 0.01
        theta = 2 * theta * slope + K
    arch = ["Dense(b_std=0.1)", "Relu", "Dense(b_std=0.1)", "Relu", "Dense(b_std=0.1)"]
    found = kernel_matrix(arch, x, backend="reference", dtype="float64")
    assert_close(found, theta, 1e-7)


def test_diagonal_block_is_symmetric_to_the_bit():
    x = awkward_images((5, 4, 1), 7)
    K = kernel_matrix("cnn-2", x, backend="reference", dtype="float64")
    assert (K == K.T).all()


def test_residual_branches_must_leave_the_same_pixels():
    from ntkdist.errors import InputError

    arch = Architecture.parse(["Conv", "Residual(branch=(Conv(stride=2),))", "Flatten", "Dense"])
    with pytest.raises(InputError, match="give both the same strides"):
        kernel_matrix(arch, np.ones((2, 4, 4, 1)), backend="reference", dtype="float64")
