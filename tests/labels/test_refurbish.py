from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from ntkdist.errors import InputError
from ntkdist.labels import block_error, block_error_gradient, class_matrix, refurbish
from ntkdist.labels.compiled import moved
from ntkdist.labels.inverse import StoredInverse

from .oracle import clustered, loss
from .test_inverse import ColumnsOnly


def naive_exact(A, labels, K, beta, steps):
    """The exact descent by evaluating L of every flip anew."""
    labels, flips = labels.copy(), []
    for _ in range(steps):
        now, best = loss(A, labels, K, beta), (-1e-11, -1, -1)
        counts = np.bincount(labels, minlength=K)
        for i, j in np.ndindex(len(labels), K):
            if j == labels[i] or counts[j] == 0 or counts[labels[i]] <= 2:
                continue
            trial = labels.copy()
            trial[i] = j
            change = loss(A, trial, K, beta) - now
            if change < best[0] - 1e-13:
                best = (change, i, j)
        if best[1] < 0:
            break
        flips.append((best[1], int(labels[best[1]]), best[2]))
        labels[best[1]] = best[2]
    return flips, labels


def naive_paper(A, labels, K, beta, steps):
    """Algorithm 1 line by line with the public gradient."""
    labels, flips = labels.copy(), []
    for _ in range(steps):
        G, Z = class_matrix(A, labels, K)
        m = -block_error_gradient(G, Z, np.bincount(labels, minlength=K), beta)
        b, c = m[np.arange(len(labels)), labels], m.max(axis=1)
        i = int(np.argmax(c - b))
        j = int(np.argmax(m[i]))
        if j == labels[i]:
            break
        flips.append((i, int(labels[i]), j))
        labels[i] = j
    return flips, labels


def moves(result):
    return [(f.index, f.old, f.new) for f in result.history]


@pytest.mark.parametrize("beta", [0.0, 1.0, 2.0])
@pytest.mark.parametrize(("method", "naive"), [("exact", naive_exact), ("paper", naive_paper)])
def test_flips_are_those_of_a_plain_implementation(method, naive, beta):
    A, labels, _ = clustered(36, 4, 0.4, 7)
    flips, end = naive(A, labels, 4, beta, 25)
    result = refurbish(A, labels, 4, method=method, steps=25, beta=beta)
    assert moves(result) == flips
    np.testing.assert_array_equal(result.labels, end)


@pytest.mark.parametrize("method", ["exact", "paper"])
def test_losses_are_those_of_the_labels_along_the_way(method):
    A, labels, _ = clustered(60, 5, 0.4, 1)
    result = refurbish(A, labels, 5, method=method, steps=20)
    current = labels.copy()
    assert result.losses[0] == pytest.approx(loss(A, current, 5), rel=1e-10)
    for flip, value in zip(result.history, result.losses[1:], strict=True):
        assert flip.old == current[flip.index]
        current[flip.index] = flip.new
        assert value == flip.loss == pytest.approx(loss(A, current, 5), rel=1e-10)
    np.testing.assert_allclose([f.delta_loss for f in result.history], np.diff(result.losses))


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 1000),
    K=st.integers(2, 8),
    beta=st.sampled_from([0.0, 1.0, 5.0]),
)
def test_exact_lowers_the_loss_at_every_step_and_stops_where_no_flip_helps(seed, K, beta):
    A, _, _ = clustered(40, 3, 0.0, seed)
    labels = np.random.default_rng(seed).integers(0, K, 40)
    result = refurbish(A, labels, K, beta=beta)
    assert (np.diff(result.losses) < 0).all()
    if np.count_nonzero(np.bincount(labels, minlength=K)) > 1:
        assert result.stopped == "no change of one label lowers L(Z)"
        assert naive_exact(A, result.labels, K, beta, 1)[0] == []
    again = refurbish(A, result.labels, K, beta=beta)
    assert len(again.history) == 0


def test_renaming_classes_renames_the_flips():
    A, labels, _ = clustered(50, 4, 0.4, 3)
    order = np.array([2, 0, 3, 1])
    plain = refurbish(A, labels, 4)
    renamed = refurbish(A, order[labels], 4)
    assert [(i, order[o], order[n]) for i, o, n in moves(plain)] == moves(renamed)


@pytest.mark.slow(but="7-exact")
@pytest.mark.parametrize("method", ["exact", "paper"])
@pytest.mark.parametrize("blocks", [2, 7, 16, 1000])
def test_any_number_of_row_blocks_gives_the_same_flips_to_the_bit(method, blocks):
    A, labels, _ = clustered(203, 5, 0.4, 11)
    one = refurbish(A, labels, 5, method=method, steps=80)
    many = refurbish(A, labels, 5, method=method, steps=80, blocks=blocks)
    assert many.history == one.history
    np.testing.assert_array_equal(many.G, one.G)


def test_equal_gains_go_to_the_smallest_image_then_the_smallest_class():
    # Three clusters of four identical points each, one point of each mislabelled alike.
    block = np.full((4, 4), 0.9) + 0.1 * np.eye(4)
    A = np.linalg.inv(np.kron(np.eye(3), block))
    A = np.round((A + A.T) / 2, 6)  # equal entries are equal to the bit
    labels = np.array([1, 0, 0, 0, 2, 1, 1, 1, 0, 2, 2, 2])
    for blocks in (1, 3, 12):
        result = refurbish(A, labels, 3, blocks=blocks)
        assert moves(result)[0] == (0, 1, 0)
        np.testing.assert_array_equal(result.labels, np.repeat([0, 1, 2], 4))


def test_columns_from_a_store_or_any_source_give_the_same_flips():
    import zarr

    A, labels, _ = clustered(120, 4, 0.4, 5)
    memory = refurbish(A, labels, 4)
    stored = refurbish(StoredInverse(zarr.array(A, chunks=(1, 120))), labels, 4)
    source = ColumnsOnly(A)
    other = refurbish(source, labels, 4)
    assert moves(memory) == moves(stored) == moves(other)
    # one pass for G and one for the posterior, then batches: far fewer fetches than flips
    assert len(source.asked) - 2 < len(other.history) / 4


def test_after_many_flips_g_equals_h_inverse_y():
    A, labels, _ = clustered(400, 10, 0.7, 2)
    result = refurbish(A, labels, 10, method="paper", steps=500)
    assert len(result.history) == 500
    fresh, Z = class_matrix(A, result.labels, 10)
    assert np.abs(result.G - fresh).max() <= 1e-9 * np.abs(fresh).max()
    counts = np.bincount(result.labels, minlength=10)
    assert result.losses[-1] == pytest.approx(block_error(Z, counts), rel=1e-9)


def test_moved_is_z_of_the_moved_label():
    A, labels, _ = clustered(20, 4, 0.0, 9)
    G, Z = class_matrix(A, labels, 4)
    new = (labels[3] + 1) % 4
    after = moved(Z, G[3], A[3, 3], labels[3], new)
    labels[3] = new
    np.testing.assert_allclose(after, class_matrix(A, labels, 4)[1], rtol=1e-9, atol=1e-10)


def test_restores_corrupted_labels_of_well_separated_clusters():
    A, labels, true = clustered(300, 5, 0.3, 4)
    result = refurbish(A, labels, 5)
    bad = labels != true
    assert (result.labels == true)[bad].mean() >= 0.97
    assert (result.labels == true).mean() >= 0.98


@pytest.mark.parametrize("noise", [0.0, 0.1, 0.3, 0.5])
def test_auto_changes_about_as_many_labels_as_are_wrong(noise):
    A, labels, true = clustered(400, 5, noise, 6)
    result = refurbish(A, labels, 5, steps="auto")
    assert result.noise.rate == pytest.approx(noise, abs=0.03)
    assert (result.labels != labels).mean() == pytest.approx(noise, abs=0.03)
    assert (result.labels == true).mean() >= 0.97
    paper = refurbish(A, labels, 5, method="paper", steps="auto")
    assert len(paper.history) <= round(paper.noise.rate * 400)


def test_auto_counts_changed_labels_not_flips_back_and_forth():
    A, labels, _ = clustered(400, 10, 0.7, 1)
    result = refurbish(A, labels, 10, steps="auto")
    changed = int((result.labels != labels).sum())
    assert "number of changed labels reached the number of labels estimated wrong" in result.stopped
    assert changed == round(result.noise.rate * 400)
    assert len(result.history) > changed


def test_callback_sees_each_flip_as_it_happens():
    A, labels, _ = clustered(60, 4, 0.4, 8)
    seen = []
    result = refurbish(A, labels, 4, steps=np.int64(5), on_step=seen.append)
    assert tuple(seen) == result.history
    assert [f.step for f in seen] == [1, 2, 3, 4, 5]
    assert "5 steps" in result.stopped


def test_history_becomes_a_table_even_when_empty():
    A, labels, _ = clustered(60, 4, 0.4, 8)
    full, empty = (refurbish(A, labels, 4, steps=s).to_dataframe() for s in (5, 0))
    assert list(full.columns) == ["step", "index", "old", "new", "delta_loss", "loss"]
    assert list(full.columns) == list(empty.columns)
    assert (full.dtypes == empty.dtypes).all()
    assert (len(full), len(empty)) == (5, 0)


def test_exact_keeps_two_members_of_a_class_and_never_fills_an_empty_one():
    # Labels that have nothing to do with the clusters: much to change.
    A, _, _ = clustered(30, 3, 0.0, 10)
    labels = np.array([0] * 13 + [1] * 13 + [2] * 2 + [3] + [0])
    result = refurbish(A, labels, 5)
    counts = np.bincount(result.labels, minlength=5)
    assert len(result.history) > 0
    assert counts[2] >= 2
    assert counts[3] >= 1
    assert counts[4] == 0
    assert any("classes [4] have no members" in m for m in result.left_out)
    assert any("classes [3] have one member" in m for m in result.left_out)


def test_paper_puts_nothing_into_a_class_without_members():
    A, labels, _ = clustered(40, 3, 0.5, 12)
    result = refurbish(A, labels, 5, method="paper", steps=60)
    assert len(result.history) > 0
    assert np.bincount(result.labels, minlength=5)[3:].tolist() == [0, 0]


@pytest.mark.parametrize("K", [1, 3])
@pytest.mark.parametrize("method", ["posterior", "exact", "paper"])
def test_labels_of_one_class_are_refused(method, K):
    A, _, _ = clustered(10, 1, 0.0, 0)
    with pytest.raises(InputError, match="all 10 labels are 0; at least two classes are needed"):
        refurbish(A, np.zeros(10, dtype=int), K, method=method, steps=4)


@pytest.mark.parametrize("method", ["posterior", "exact", "paper"])
def test_classes_without_images_are_never_suggested(method):
    A, labels, _ = clustered(200, 4, 0.2, 3)
    result = refurbish(A, labels + 1, 6, method=method, steps=20)
    assert result.history
    assert set(result.labels.tolist()) <= {1, 2, 3, 4}


def test_the_given_labels_are_left_as_they_are():
    A, labels, _ = clustered(50, 4, 0.4, 3)
    before, A_before = labels.copy(), A.copy()
    refurbish(A, labels, 4)
    np.testing.assert_array_equal(labels, before)
    np.testing.assert_array_equal(A, A_before)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            {"method": "exakt"},
            "method='exakt' is not one of posterior, exact, paper; did you mean 'exact'",
        ),
        ({"method": "paper"}, "does not stop by itself: give steps"),
        ({"steps": -1}, "steps=-1 must be a whole number ≥ 0"),
        ({"steps": 2.5}, "steps=2.5"),
        ({"steps": True}, "steps=True"),
        ({"steps": "atuo"}, "steps='atuo'.*did you mean 'auto'"),
        ({"beta": -1.0}, "beta=-1.0"),
        ({"beta": float("nan")}, "beta=nan"),
        ({"blocks": 0}, "blocks=0 must be a whole number from 1"),
        ({"flips_per_step": 0}, "flips_per_step=0 must be a whole number from 1"),
        ({"checkpoint_every": 0.5}, "checkpoint_every=0.5 must be a whole number from 1"),
        ({"noise_rate": 1.5}, "noise_rate=1.5 must be a number from 0 to 1"),
        ({"noise_rate": "auto"}, "noise_rate='auto' must be a number from 0 to 1"),
        ({"first_probs": np.ones((20, 2))}, r"first_probs has shape \(20, 2\)"),
        ({"first_probs": np.ones((20, 3))}, "first_probs: row 0 does not hold probabilities"),
        ({"confidence": -0.1}, "confidence=-0.1 must be a number from 0 to 1"),
        ({"locked": [3, 20]}, "locked names image 20; they are numbered 0 to 19"),
        ({"locked": np.ones(19, bool)}, r"locked has type bool and shape \(19,\)"),
    ],
)
def test_refuses_options_that_do_not_fit(options, said):
    A, labels, _ = clustered(20, 3, 0.3, 0)
    with pytest.raises(InputError, match=said):
        refurbish(A, labels, 3, **options)


@pytest.mark.parametrize(
    ("labels", "said"), [([0, 1], "2 labels for 3 images"), ([0, 1, 7], "label 7 at index 2")]
)
def test_refuses_labels_that_do_not_fit(labels, said):
    with pytest.raises(InputError, match=said):
        refurbish(np.eye(3), labels, 3)


def test_a_factor_stored_by_panels_serves_as_the_inverse(tmp_path):
    from ntkdist.linalg import factorize

    x = np.random.default_rng(3).standard_normal((90, 6))
    H = np.exp(-((x[:, None] - x) ** 2).sum(axis=2) / 12)
    labels = np.random.default_rng(4).integers(0, 3, 90)
    stored = factorize(H, tmp_path / "factor", ridge=0.1).inverse(tmp_path / "inverse")
    memory = np.linalg.inv(H + 0.1 * np.eye(90))
    from_store, from_memory = refurbish(stored, labels, 3), refurbish(memory, labels, 3)
    assert moves(from_store) == moves(from_memory)
    assert len(from_store.history) > 3


@pytest.mark.parametrize("method", ["posterior", "exact", "paper"])
def test_locked_labels_are_never_changed(method):
    A, labels, true = clustered(240, 4, 0.4, 21)
    wrong = np.flatnonzero(labels != true)
    free = refurbish(A, labels, 4, method=method, steps=60, noise_rate=0.4)
    touched = {flip.index for flip in free.history} & set(wrong.tolist())
    locked = sorted(touched)[:10]
    mask = np.zeros(240, bool)
    mask[locked] = True
    for trusted in (locked, mask):
        known = {"noise_rate": 0.4, "locked": trusted}
        result = refurbish(A, labels, 4, method=method, steps=60, **known)
        assert not {flip.index for flip in result.history} & set(locked)
        np.testing.assert_array_equal(result.labels[locked], labels[locked])
        assert (result.posterior.probabilities[locked, labels[locked]] == 1).all()
        assert len(result.history) > 0


def test_confidence_keeps_uncertain_labels_and_marks_them():
    A, labels, _ = clustered(200, 5, 0.5, 22, ridge=1.0)
    bold = refurbish(A, labels, 5, method="posterior", steps="auto")
    timid = refurbish(A, labels, 5, method="posterior", steps="auto", confidence=0.9)
    assert 0 < len(timid.history) < len(bold.history)
    for flip in timid.history:
        assert timid.posterior.probabilities[flip.index, flip.new] >= 0.9
    np.testing.assert_array_equal(timid.abstained, timid.posterior.probabilities.max(axis=1) < 0.9)
    assert timid.abstained.any()
    assert not bold.abstained.any()
    nothing = refurbish(A, labels, 5, confidence=1.0)
    assert nothing.history == ()


@pytest.mark.parametrize("method", ["exact", "paper"])
def test_several_flips_per_step_each_lower_the_loss(method):
    A, labels, true = clustered(180, 6, 0.4, 14)
    steps = None if method == "exact" else 100
    one = refurbish(A, labels, 6, method=method, steps=steps)
    many = refurbish(A, labels, 6, method=method, steps=steps, flips_per_step=8)
    current = labels.copy()
    for flip in many.history:
        assert flip.old == current[flip.index]
        current[flip.index] = flip.new
        assert flip.loss == pytest.approx(loss(A, current, 6), rel=1e-9)
    if method == "exact":
        assert (np.diff(many.losses) < 0).all()
        assert naive_exact(A, many.labels, 6, 1.0, 1)[0] == []
    assert abs((many.labels == true).mean() - (one.labels == true).mean()) < 0.03


def test_cleanlab_takes_the_leave_one_out_probabilities():
    from cleanlab.filter import find_label_issues
    from cleanlab.rank import get_label_quality_scores

    A, labels, true = clustered(300, 5, 0.2, 17)
    result = refurbish(A, labels, 5, method="posterior", steps="auto")
    p = result.to_pred_probs()
    assert p.shape == (300, 5)
    np.testing.assert_allclose(p.sum(axis=1), 1)
    found = find_label_issues(labels, p, n_jobs=1)  # it would fork, with JAX's threads about
    assert (found == (labels != true)).mean() >= 0.97
    scores = get_label_quality_scores(labels, p)
    assert scores[labels != true].max() < np.median(scores[labels == true])
