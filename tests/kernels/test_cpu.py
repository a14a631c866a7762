import numpy as np
import pytest

from ntkdist import Architecture, kernel_matrix
from ntkdist.errors import InputError
from ntkdist.kernels import get_backend
from tests.kernels.images import awkward_images, two_sets
from tests.tolerances import RTOL, assert_close

BIASED = ["Conv(5, b_std=0.1)", "Relu", "Dense(b_std=0.3)", "Relu", "Conv(3, b_std=0.2)", "Relu"]
CASES = [
    ("fc-2", (5, 4, 3)),
    ("fc-21", (6, 5, 1)),
    ("fc-3", (32, 32, 3)),
    ("cnn-1", (9, 7, 2)),
    ("cnn-2", (7, 9, 2)),
    ("cntk-v-21", (9, 7, 2)),
    ("cntk-v-11", (12, 12, 3)),
    ("cntk-gap-4", (12, 12, 3)),
    ("cntk-gap-4", (1, 1, 3)),
    ("cntk-gap-4", (1, 6, 1)),
    ("cntk-gap-4", (5, 2, 16)),
    ("cntk-gap-11", (9, 7, 2)),
    ("cntk-gap-21", (9, 7, 1)),
    ("cntk-gap-21", (5, 8, 3)),
    ([*BIASED, "GlobalAvgPool", "Dense(b_std=0.1)", "Dense"], (7, 9, 2)),
    ([*BIASED, "Flatten", "Dense", "Relu", "Dense(trainable=False)"], (7, 9, 2)),
    (["Conv(7, b_std=0.5)", "Relu", "Conv(9, b_std=0.5)", "GlobalAvgPool", "Dense"], (5, 6, 1)),
    (["Relu", "Relu", "Conv", "Relu", "GlobalAvgPool", "Dense"], (5, 6, 2)),
    (["Conv(trainable=False)", "Relu", "Conv(3, b_std=0.3)", "Flatten", "Dense"], (5, 6, 2)),
]


@pytest.mark.slow(but="fc-2-(5, 4, 3)")
@pytest.mark.parametrize(("arch", "shape"), CASES, ids=str)
def test_float32_entries_are_near_the_reference(arch, shape):
    x, y = two_sets(shape)
    for kind in ("ntk", "nngp"):
        found = kernel_matrix(arch, x, y, kind=kind, backend="cpu")
        expected = kernel_matrix(arch, x, y, kind=kind, backend="reference", dtype="float64")
        assert found.dtype == np.float32
        assert_close(found, expected, RTOL["float32"])


@pytest.mark.slow(but="cntk-gap-4")
@pytest.mark.parametrize("arch", ["cntk-gap-4", "cntk-v-5"])
def test_full_size_pair_is_near_the_reference(arch):
    x = awkward_images((32, 32, 3), 5)
    found = kernel_matrix(arch, x[[0]], x[[1, 4]], backend="cpu")
    expected = kernel_matrix(arch, x[[0]], x[[1, 4]], backend="reference", dtype="float64")
    assert_close(found, expected, RTOL["float32"])


@pytest.mark.parametrize("scale", [1e-3, 1e3])
def test_ill_scaled_images_keep_their_digits(scale):
    x, y = two_sets((6, 7, 2))
    found = kernel_matrix("cntk-gap-11", x * scale, y, backend="cpu")
    expected = kernel_matrix("cntk-gap-11", x * scale, y, backend="reference", dtype="float64")
    assert_close(found, expected, RTOL["float32"])


@pytest.mark.slow
def test_pixels_on_a_zero_background_keep_their_digits():
    x = np.clip(awkward_images((10, 10, 1), 8), 0, None)
    x[:, :4], x[:, :, :3] = 0, 0
    for arch in ("cntk-gap-11", "cntk-v-21"):
        found = kernel_matrix(arch, x, backend="cpu")
        expected = kernel_matrix(arch, x, backend="reference", dtype="float64")
        assert_close(found, expected, RTOL["float32"])


def test_entries_do_not_depend_on_their_block():
    x = awkward_images((6, 5, 2), 16 + 7)
    whole = kernel_matrix("cntk-gap-4", x, x.copy(), backend="cpu")
    rows, columns = (np.array_split(np.arange(len(x)), k) for k in (3, 4))
    parts = [
        np.hstack([kernel_matrix("cntk-gap-4", x[r], x[c], backend="cpu") for c in columns])
        for r in rows
    ]
    assert (np.vstack(parts) == whole).all()


def test_entries_do_not_depend_on_threads_or_repetition():
    x = awkward_images((6, 5, 2), 40)
    one = kernel_matrix("cntk-gap-4", x, backend="cpu", threads=1)
    for threads in (1, 2, 3):
        assert (kernel_matrix("cntk-gap-4", x, backend="cpu", threads=threads) == one).all()


@pytest.mark.parametrize("arch", ["cntk-gap-4", "cnn-2", "fc-2"])
def test_diagonal_block_is_symmetric_and_equals_the_full_one(arch):
    x = awkward_images((6, 5, 2), 2 * 16 + 3)
    K = kernel_matrix(arch, x, backend="cpu")
    full = kernel_matrix(arch, x, x.copy(), backend="cpu")
    assert (K == K.T).all()
    assert (np.triu(K) == np.triu(full)).all()


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("arch", ["fc-2", "cntk-v-3"])
def test_large_diagonal_block_equals_the_full_one(arch, threads):
    x = awkward_images((3, 2, 1), 300)
    K = kernel_matrix(arch, x, backend="cpu", threads=threads)
    full = kernel_matrix(arch, x, x.copy(), backend="cpu", threads=threads)
    assert (K == K.T).all()
    assert (np.triu(K) == np.triu(full)).all()


def test_both_kinds_come_from_one_pass():
    backend = get_backend("cpu")
    state = backend.prepare(Architecture.parse("cntk-gap-4"), awkward_images((5, 5, 1), 6))
    both = backend.block(state, state, ("nngp", "ntk"))
    assert list(both) == ["ntk", "nngp"]
    for kind, found in both.items():
        assert (found == backend.block(state, state, (kind,))[kind]).all()


@pytest.mark.parametrize(
    ("arch", "reason"),
    [
        (["AvgPool(3, 1, 'SAME')", "Conv", "Flatten", "Dense"], "can follow padded windows"),
        (
            ["Conv(padding='CIRCULAR')", "Conv(padding='VALID')", "Flatten", "Dense"],
            "with CIRCULAR padding",
        ),
    ],
    ids=str,
)
def test_what_is_not_covered_is_said(arch, reason):
    backend = get_backend("cpu")
    assert reason in backend.supports(Architecture.parse(arch), (8, 8, 1))
    with pytest.raises(InputError, match=r"backend 'cpu'"):
        backend.prepare(Architecture.parse(arch), np.ones((2, 8, 8, 1)))
