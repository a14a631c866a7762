"""Labels as people hold them: numbers, names and missing values, the same at every entry."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, strategies as st
from PIL import Image

from ntkdist import find_label_issues, refurbish
from ntkdist.checks import (
    MOST_CLASSES,
    check_labels,
    count_classes,
    label_values,
    normal_name,
    number_names,
    numbers_in,
    refuse_two_spellings,
)
from ntkdist.data import load, symmetric
from ntkdist.errors import InputError
from ntkdist.learning import KernelRegression

Y = np.array([0, 1, 2, 0, 1, 2, 0, 1])
ROWS = np.random.default_rng(0).normal(size=(8, 6))
NAMES = ["ant", "bee", "cow"]


@pytest.mark.parametrize(
    "labels",
    [
        Y.tolist(),
        tuple(Y.tolist()),
        Y.astype(np.uint8),
        Y.astype(">i2"),
        Y.astype(float),
        Y.astype(object),
        Y[:, None],
        Y[:, None].tolist(),
        pd.Series(Y),
        pd.Series(Y, dtype="Int64"),
        pd.Series(Y, dtype="category"),
        pd.DataFrame({"label": Y}),
        np.ma.array(Y, mask=False),
    ],
)
def test_whole_numbers_of_every_type_are_labels(labels):
    assert check_labels(labels, 3).tolist() == Y.tolist()
    assert check_labels(labels, 3).dtype == np.int64


def test_truth_values_are_two_classes():
    for labels in (Y > 0, (Y > 0).tolist(), pd.Series(Y > 0), (Y > 0)[:, None]):
        assert check_labels(labels, 2).tolist() == (Y > 0).tolist()


@pytest.mark.parametrize("value", [None, float("nan"), np.nan, pd.NA, pd.NaT, np.float32("nan")])
@pytest.mark.parametrize("others", [Y.tolist(), [NAMES[k] for k in Y]])
def test_missing_labels_are_refused_by_index(value, others):
    labels = [*others[:3], value, *others[4:]]
    for held in (labels, np.array(labels, dtype=object), pd.Series(labels, dtype=object)):
        with pytest.raises(InputError, match="the label at index 3 is missing"):
            label_values(held)


@pytest.mark.parametrize("kind", ["Int64", "Float64", "string", "category"])
def test_missing_labels_of_pandas_are_refused_by_index(kind):
    values = [NAMES[k] for k in Y] if kind in ("string", "category") else Y.tolist()
    column = pd.Series(values, dtype=kind)
    column[5] = pd.NA
    with pytest.raises(InputError, match="the label at index 5 is missing"):
        number_names([str(one) for one in label_values(column)], lambda i: f"at index {i}")
    with pytest.raises(InputError, match="the label at index 2 is missing"):
        label_values(np.ma.array(Y, mask=np.arange(8) == 2))


@pytest.mark.parametrize(
    "text",
    ["", " ", "\ufeff", "\u200b", "nan", "NaN", "NA", "N/A", "None", "null", "<NA>", " nan "],
)
def test_texts_that_mean_nothing_are_missing(text):
    with pytest.raises(InputError, match=r"the label in line 2 is missing"):
        number_names(["a", text, "b"], lambda i: f"in line {i + 1}")


@pytest.mark.parametrize(
    ("spellings", "name"),
    [
        (["caf\u00e9", "cafe\u0301"], "caf\u00e9"),
        (["\ufeff1", "1", " 1", "01", "1.0", "1\u200b", "1\x00"], "1"),
        (["x\u00ad y", "x y\u00a0", "\u200ex y"], "x y"),
        (["none"], "none"),
        (["\u200d\u0915\u200d"], "\u200d\u0915\u200d"),
    ],
)
def test_look_alikes_are_one_class(spellings, name):
    labels, names = number_names([*spellings, "2"], lambda i: f"at index {i}")
    assert sorted(names) == sorted([name, "2"])
    assert len(set(labels[:-1].tolist())) == 1
    if name != "1":
        assert numbers_in(names, spellings).tolist() == labels[:-1].tolist()


@pytest.mark.parametrize(
    ("one", "other"), [("Cat", "cat"), ("x y", "xy"), ("\u0915\u200d\u0916", "\u0915\u0916")]
)
def test_two_spellings_of_a_name_are_refused(one, other):
    with pytest.raises(InputError, match="write both alike"):
        refuse_two_spellings([one, "dog", other], lambda i: f"at index {i}")


def test_letters_of_either_case_are_classes():
    refuse_two_spellings(["a", "A", "b"], lambda i: f"at index {i}")
    assert number_names(["b", "A", "a"], str)[1] == ("A", "a", "b")


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ([0, 1.5, 2], "label 1.5 at index 1 is not a whole number"),
        (np.array([0, np.inf, 2]), "label inf at index 1 is not a whole number"),
        ([0, 2**70, 2], "label 1180591620717411303424 at index 1 is outside the classes 0..2"),
        ([0, 1e300, 2], "at index 1 is outside the classes 0..2"),
        (np.array([0, 255, 1], np.uint8), "label 255 at index 1 is outside the classes 0..2"),
        (np.eye(3), r"labels have shape \(3, 3\).*argmax"),
        ([[0], [1, 2]], "different lengths"),
        (3, r"labels have shape \(\)"),
        (None, r"labels have shape \(\)"),
        ("cat", r"labels have shape \(\)"),
        (["a", "b", "c"], "label 'a' is a name"),
        ([0, print, 1], "at index 1 is neither a whole number nor a name"),
        (np.array(["a", "b"], "S"), "label 'a' is a name"),
        ([b"\xe9", b"b"], r"b'\\xe9', is not in UTF-8; decode it"),
        (np.array([1, 2], "M8[D]"), "neither whole numbers nor names"),
    ],
)
def test_what_is_no_label_is_named(labels, said):
    with pytest.raises(InputError, match=said) as caught:
        check_labels(labels, 3)
    assert "\n" not in str(caught.value)


def test_there_is_a_limit_on_the_number_of_classes():
    for K in (10**9, MOST_CLASSES + 1):
        with pytest.raises(InputError, match=f"num_classes={K} is above {MOST_CLASSES}; give each"):
            check_labels(Y, K)
    with pytest.raises(InputError, match=f"name {MOST_CLASSES + 1} classes, more than"):
        number_names([str(k) for k in range(MOST_CLASSES + 1)], str)
    for stray in (255, 10**9):
        with pytest.raises(InputError, match=f"label {stray} is the largest, but only 4 of"):
            count_classes(np.append(Y, stray))
    assert count_classes(Y + 1, [0, 6]) == 7


def csv_of(folder, labels):
    lines = ["file,label"]
    for i, label in enumerate(labels):
        Image.fromarray(np.full((2, 2), i, np.uint8)).save(folder / f"{i}.png")
        lines.append(f"{i}.png,{label}")
    (folder / "a.csv").write_text("\n".join(lines), encoding="utf-8")
    return load(f"csv:{folder / 'a.csv'}")


def npz_of(folder, labels):
    np.savez(folder / "a.npz", x_train=ROWS, y_train=labels)
    return load(f"npz:{folder / 'a.npz'}")


# what takes labels: of find_label_issues, of a source, and of functions that are told K
ENTRIES = {
    "find_label_issues": lambda _, labels: find_label_issues(ROWS, labels),
    "refurbish": lambda _, labels: refurbish(np.eye(8), labels, 3, method="posterior"),
    "npz": npz_of,
    "regression": lambda _, labels: KernelRegression.fit(np.eye(8), labels, 3, ridge=0.1),
    "noise": lambda _, labels: symmetric(labels, 3, 0.5),
}


@pytest.mark.parametrize("entry", ENTRIES.values(), ids=ENTRIES)
@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (Y + 0.5, "label 0.5 at index 0 is not a whole number"),
        (np.where(Y == 2, np.nan, Y), "the label at index 2 is missing"),
        (np.eye(3)[Y], r"shape \(8, 3\).*argmax"),
        (np.where(np.arange(8) == 3, 255, Y).astype(np.uint8), "label 255 "),
        (np.where(np.arange(8) == 3, 10**9, Y), "label 1000000000 "),
        (Y - 1, "label -1 at index 0 is outside the classes"),
    ],
)
def test_every_entry_refuses_what_is_no_label(tmp_path, entry, labels, said):
    with pytest.raises(InputError, match=said):
        entry(tmp_path, labels)


@pytest.mark.parametrize("entry", ENTRIES.values(), ids=ENTRIES)
@pytest.mark.parametrize("labels", [Y[:, None], Y.astype(float), Y > 0, Y.astype(np.uint64)])
def test_every_entry_takes_whole_numbers_of_any_type(tmp_path, entry, labels):
    entry(tmp_path, labels)


def test_names_are_the_same_classes_at_every_entry(tmp_path):
    names = [f"{10 - k}" for k in Y]
    expected = [2 - k for k in Y]
    table = find_label_issues(ROWS, names)
    assert table["given_label"].tolist() == expected
    assert table["given_class"].tolist() == names
    for read in (npz_of(tmp_path, np.array(names)), csv_of(tmp_path, names)):
        assert read.labels.tolist() == expected
        assert read.class_names == ("8", "9", "10")


def test_one_class_is_refused_alike(tmp_path):
    said = "at least two classes are needed: give images of two"
    for entry in (
        lambda: find_label_issues(ROWS, [0] * 8, num_classes=3),
        lambda: find_label_issues(ROWS, ["cat"] * 8),
        lambda: refurbish(np.eye(8), [0] * 8, 3),
        lambda: csv_of(tmp_path, ["cat"] * 8),
        lambda: npz_of(tmp_path, np.array(["cat"] * 8)),
    ):
        with pytest.raises(InputError, match=said):
            entry()


def test_unused_classes_are_said_in_the_table():
    table = find_label_issues(ROWS, Y + 1)
    assert table.attrs["unused_classes"] == [0]
    assert not (table["suggested_label"] == 0).any()
    assert find_label_issues(ROWS, Y).attrs["unused_classes"] == []


@pytest.mark.parametrize("name", ["cafe\u0301", "caf\u00e9", "\ufeffcaf\u00e9 "])
def test_class_names_have_one_spelling(tmp_path, name):
    np.savez(tmp_path / "a.npz", x_train=ROWS, y_train=Y, class_names=["ant", name, "cow"])
    assert load(f"npz:{tmp_path / 'a.npz'}").class_names == ("ant", "caf\u00e9", "cow")
    assert normal_name(name) == "caf\u00e9"


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (
            ["ant", "\u200b", "cow"],
            "the name of class 1, .* is empty or stands for a missing value",
        ),
        (["ant", "Cow", "cow"], "class 'cow' is the name of class 2, but 'Cow' is the name of"),
        (["ant", "Cow", "cow"], "differ in case, blanks or invisible characters alone; write both"),
        (["caf\u00e9", "cafe\u0301", "cow"], "write both alike"),
        (["ant", "bee", "ant"], "classes 0 and 2 are both called 'ant'; give each class a name"),
    ],
)
def test_class_names_that_look_alike_are_refused(tmp_path, names, said):
    np.savez(tmp_path / "a.npz", x_train=ROWS, y_train=Y, class_names=names)
    with pytest.raises(InputError, match=said):
        load(f"npz:{tmp_path / 'a.npz'}")


def test_names_in_bytes_are_those_in_text(tmp_path):
    """HDF5 and TFRecord files hold names so."""
    names = np.array([f"{NAMES[k]}\u00e9" for k in Y])
    coded = [name.encode() for name in names]
    np.savez(tmp_path / "text.npz", x_train=ROWS, y_train=names)
    wanted = load(f"npz:{tmp_path / 'text.npz'}")
    np.savez(tmp_path / "coded.npz", x_train=ROWS, y_train=np.array(coded))
    numbers = {"y_train": Y, "class_names": np.array(sorted(set(coded)))}
    np.savez(tmp_path / "classes.npz", x_train=ROWS, **numbers)
    for name in ("coded", "classes"):
        read = load(f"npz:{tmp_path / name}.npz")
        assert read.class_names == wanted.class_names
        assert read.labels.tolist() == wanted.labels.tolist()
    assert label_values(coded).tolist() == names.tolist()


@pytest.mark.parametrize("digits", [4000, 5000])
def test_long_numbers_are_names(digits):
    """Python refuses to read more than 4,300 digits as a number."""
    _, names = number_names(["9" * digits, "1"], lambda i: f"at index {i}")
    assert names == ("1", "9" * digits)


@pytest.mark.parametrize(
    ("y_train", "y_test", "said"),
    [
        (Y, np.full(8, -1), r"\(train\): labels of the other split: label -1 at index 0"),
        (Y, np.full(8, np.nan), "labels of the other split: the label at index 0 is missing"),
        (["a", "b"] * 4, Y, "labels of one split are names, those of the other are numbers"),
        (Y, ["a", "b"] * 4, "labels of one split are names, those of the other are numbers"),
    ],
)
def test_the_split_of_a_wrong_label_is_named(tmp_path, y_train, y_test, said):
    np.savez(tmp_path / "a.npz", x_train=ROWS, y_train=y_train, x_test=ROWS, y_test=y_test)
    with pytest.raises(InputError, match=said):
        load(f"npz:{tmp_path / 'a.npz'}")


def test_labels_that_are_names_are_looked_up_in_the_class_names(tmp_path):
    def read(labels):
        np.savez(
            tmp_path / "a.npz", x_train=ROWS, y_train=labels, class_names=["cow", "bee", "ant"]
        )
        return load(f"npz:{tmp_path / 'a.npz'}")

    data = read(np.array(NAMES)[Y])
    assert (data.labels.tolist(), data.class_names) == ((2 - Y).tolist(), ("cow", "bee", "ant"))
    with pytest.raises(InputError, match="label 'ape' at index 0 is none of the 3 names of cl"):
        read(np.array(["ape", *["ant"] * 7]))
    with pytest.raises(InputError, match=r"the label at index 1 is missing \('nan'\)"):
        read(np.array(["ant", "nan", *["ant"] * 6]))
    assert numbers_in(["7", "cow"], ["7.0", "cow", "07"]).tolist() == [0, 1, 0]


ODD = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.binary(), st.dates(),
    st.complex_numbers(), st.tuples(st.integers()), st.just(pd.NA), st.just(object()),
    st.decimals(), st.fractions(), st.sampled_from([np.uint8(3), np.str_("a"), np.float16(2)]),
)  # fmt: skip


@given(st.lists(ODD, max_size=6), st.sampled_from([list, tuple, pd.Series, str, iter]))
def test_labels_of_any_kind_are_labels_or_one_clear_line(values, kind):
    message = "labels"
    try:
        labels = label_values(kind(values, dtype=object) if kind is pd.Series else kind(values))
        if any(isinstance(label, str) for label in labels):
            number_names([str(label) for label in labels], lambda i: f"at index {i}")
        else:
            check_labels(labels, 4)
    except InputError as error:
        message = str(error)
    assert message
    assert "\n" not in message
