import numpy as np
import pytest

from ntkdist.kernels.cuda.unroll import known, paste, registers, unroll, written_out


def sums(x, flag):
    """Sum every row, and all but the first row with its neighbour in front."""
    total, last = registers(rows)  # noqa: F821
    found = start  # noqa: F821
    for r in unroll(rows):  # noqa: F821
        total[r] = 0
        for k in range(x.shape[1]):
            total[r] += x[r, k]
        if r > 0:
            last[r] = total[r] + total[r - 1]
        else:
            last[0] = total[0]
    for r in unroll(rows):  # noqa: F821
        found = found + (last[r] if wanted else total[r])  # noqa: F821
        if flag:
            found += 1
    return found


@pytest.mark.parametrize(("wanted", "flag"), [(True, 0), (False, 1)])
def test_marked_loops_and_arrays_are_written_out(wanted, flag):
    x = np.arange(12).reshape(4, 3)
    made = written_out(sums, {"rows": 4, "wanted": wanted}, {"start": 1})
    row_sums = x.sum(axis=1)
    by_hand = 1 + (2 * row_sums.sum() - row_sums[-1] if wanted else row_sums.sum()) + 4 * flag
    assert made(x, flag) == by_hand


def test_what_is_written_out_has_neither_loop_nor_array():
    import dis

    made = written_out(sums, {"rows": 3, "wanted": True}, {"start": 0})
    names = {i.argval for i in dis.get_instructions(made) if i.opname.startswith("STORE_FAST")}
    assert {"total_0", "total_2", "last_2"} <= names
    assert "r" not in names
    assert "unroll" not in made.__code__.co_names


def bad(x):
    y = registers(2)
    for k in range(x):
        y[k] = x
    return y[0]


def test_an_index_that_is_not_known_is_refused():
    with pytest.raises(ValueError, match="k is not known"):
        written_out(bad, {}, {})


def above(x, total, rows):
    """Add what exceeds a limit, pasted where ``total`` is an array."""
    for r in unroll(rows):
        for k in range(x.shape[1]):
            total[r] += limited(x[r, k])
    highest = total[0]
    for r in unroll(rows):
        highest = max(highest, total[r])


def limited(value):
    return max(0, value - 5)


def around(x):
    total = registers(rows)  # noqa: F821
    for r in unroll(rows):  # noqa: F821
        total[r] = 0
    paste(above)
    return total[0], total[1], highest  # noqa: F821


def test_a_pasted_body_shares_names_and_finds_what_its_module_has():
    made = written_out(around, {"rows": 2}, {})
    assert made(np.arange(8).reshape(2, 4)) == (0, 3, 3)


def parted(x):
    if wide and x > 0:  # noqa: F821
        return unknown(x)  # noqa: F821
    return -x


def test_a_condition_with_a_part_known_to_be_false_is_dropped():
    made = written_out(parted, {"wide": False}, {})
    assert "unknown" not in made.__code__.co_names
    assert made(3) == -3
    made = written_out(parted, {"wide": True}, {"unknown": abs})
    assert (made(3), made(-3)) == (3, 3)


def switched(x):
    for n in unroll(steps):  # noqa: F821
        x = x + kinds[n - 1] if kinds[n] == 1 else x * 2  # noqa: F821
    return x


def test_tuples_are_known_by_their_elements():
    made = written_out(switched, {"steps": 3, "kinds": (7, 1, 0)}, {})
    assert "kinds" not in made.__code__.co_names
    assert made(1) == (1 * 2 + 7) * 2


def halved(x):
    half = known(count // 2)  # noqa: F821
    total = registers(half)
    for k in unroll(half):
        last = known(k == half - 1)
        total[k] = x + k
        if last:
            x = total[k]
    return x


def test_names_are_known_from_their_mark_on():
    made = written_out(halved, {"count": 6}, {})
    assert not {"half", "last", "known"} & {*made.__code__.co_varnames, *made.__code__.co_names}
    assert made(10) == 12


def changing(x):
    k = known(3)
    for k in range(x):
        x += k
    return x


def test_a_known_name_that_is_assigned_to_is_refused():
    with pytest.raises(ValueError, match="k is known, and assigned to"):
        written_out(changing, {}, {})
