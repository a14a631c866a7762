"""Checks of arguments; each error names the value, the limit and the remedy."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ntkdist.errors import InputError, did_you_mean, shown
from ntkdist.words import first_of


def is_whole(value: Any) -> bool:
    """Return whether a value is an integer, and not a bool."""
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    """Return whether a value is a real number that a float can hold, and not a bool."""
    if isinstance(value, int):  # of Python, which has no largest one
        return not isinstance(value, bool) and abs(value) < 2**1023
    return isinstance(value, (float, np.integer, np.floating))


def is_auto(value: Any) -> bool:
    """Return whether a value is the word ``auto``; arrays have no truth in comparisons."""
    return isinstance(value, str) and value == "auto"


def check_choice(name: str, value: Any, known: Collection[str]) -> None:
    """Raise ``InputError`` unless the value is one of the known words."""
    if not isinstance(value, str) or value not in known:
        near = did_you_mean(value, known) if isinstance(value, str) else ""
        raise InputError(f"{name}={shown(value)} is not one of {', '.join(known)}{near}")


def check_flag(name: str, value: Any, remedy: str = "give True or False") -> bool:
    """Return the value as bool; ``InputError`` unless it is one."""
    if not isinstance(value, bool | np.bool_):
        raise InputError(f"{name}={shown(value)} must be True or False; {remedy}")
    return bool(value)


def check_text(name: str, value: Any) -> None:
    """Raise ``InputError`` unless the value is None or a text that can be stored."""
    if value is not None and not (isinstance(value, str) and _is_utf8(value)):
        raise InputError(f"{name}={shown(value)} must be text in UTF-8, or None")


def check_whole(name: str, value: Any, least: int, remedy: str, *, most: int | None = None) -> int:
    """Return the value as int; ``InputError`` unless it is an integer in ``least``..``most``."""
    if not is_whole(value) or value < least or (most is not None and value > most):
        limits = f"of at least {least}" if most is None else f"from {least} to {most}"
        raise InputError(f"{name}={shown(value)} must be a whole number {limits}; {remedy}")
    return int(value)


LARGEST_SEED = 2**128  # what NumPy's generators can tell apart


def check_seed(seed: Any, name: str = "seed") -> int:
    """Return a seed as int; ``InputError`` unless it is an integer of at least 0."""
    if not is_whole(seed) or not 0 <= seed <= LARGEST_SEED:
        raise InputError(
            f"{name}={shown(seed)} must be a whole number of at least 0 and at most 2**128; give "
            "another seed"
        )
    return int(seed)


def check_number(name: str, value: Any, least: float, below: float, remedy: str) -> float:
    """Return the value as float; ``InputError`` unless ``least`` <= value < ``below``."""
    if not is_number(value) or not least <= value < below:
        limit = f"at least {least:g}" + (f" and below {below:g}" if math.isfinite(below) else "")
        raise InputError(f"{name}={shown(value)} must be a finite number, {limit}; {remedy}")
    return float(value)


def check_fraction(name: str, value: Any, remedy: str) -> float:
    """Return the value as float; ``InputError`` unless it is above 0 and below 1."""
    if not is_number(value) or not 0 < value < 1:
        raise InputError(f"{name}={shown(value)} must be a number above 0 and below 1; {remedy}")
    return float(value)


def real_array(name: str, value: Any) -> NDArray[np.float64]:
    """Return real numbers of any shape as a float64 array, which may be the one that is given.

    Raises:
        InputError: They are no numbers, complex, or rows of several lengths.
    """
    try:
        given = np.asarray(value)
        if given.dtype.kind == "O" and given.ndim and all(map(is_number, given.flat)):
            given = given.astype(np.float64)
    except (TypeError, ValueError):  # rows of several lengths
        given = np.empty((), dtype=object)
    if given.dtype.kind not in "buif":
        what = f"has dtype {given.dtype}" if given.ndim else f"is {shown(value)}"
        raise InputError(f"{name} {what}; an array of real numbers is needed")
    return np.asarray(given, dtype=np.float64)


def finite_array(name: str, value: Any) -> NDArray[np.float64]:
    """Return what ``real_array`` does; ``InputError`` if it holds NaN or infinity too."""
    given = real_array(name, value)
    if not np.isfinite(given).all():
        raise InputError(f"{name} holds NaN or infinity; give finite numbers")
    return given


def check_indices(indices: Any, n: int) -> NDArray[np.intp]:
    """Return integers from 0 to n - 1 as a one-dimensional array."""
    try:
        wanted = np.asarray(indices)
    except ValueError:
        raise InputError(f"indices={shown(indices)}; give whole numbers, (m,)") from None
    if wanted.size == 0:
        return np.zeros(0, dtype=np.intp)
    if wanted.ndim != 1 or wanted.dtype.kind not in "iu":
        raise InputError(
            f"indices must be one-dimensional integers, not {wanted.dtype} {wanted.shape}"
        )
    if wanted.min() < 0 or wanted.max() >= n:
        worst = int(wanted.min()) if wanted.min() < 0 else int(wanted.max())
        raise InputError(f"index {worst} is outside 0 to {n - 1}")
    return wanted.astype(np.intp)


def check_matrix(name: str, value: Any) -> Any:
    """Return a matrix that can be sliced: one that is stored or lazy as it is, others as float64.

    Raises:
        InputError: It has another number of axes than two, no rows or columns, or no numbers.
    """
    lazy = all(hasattr(value, attribute) for attribute in ("shape", "__getitem__"))
    plain = not lazy or isinstance(value, np.ndarray | np.generic)
    matrix = real_array(name, value) if plain else value
    shape = tuple(matrix.shape)
    if len(shape) != 2 or 0 in shape:
        raise InputError(f"{name} has shape {shape}; two axes are needed, with rows and columns")
    # as it was given where that is an array of numbers: float32 is widened in bands
    return value if isinstance(value, np.ndarray) and value.dtype.kind in "iuf" else matrix


def check_square(name: str, value: Any) -> Any:
    """Return what ``check_matrix`` does; ``InputError`` unless it is (N, N)."""
    matrix = check_matrix(name, value)
    if matrix.shape[0] != matrix.shape[1]:
        raise InputError(f"{name} has shape {tuple(matrix.shape)}; (N, N) is needed")
    return matrix


def check_made(name: str, value: Any, kind: type, remedy: str) -> None:
    """Raise ``InputError`` unless a value is an object of this package's class ``kind``."""
    if not isinstance(value, kind):
        raise InputError(f"{name} is {shown(value)}, not a {kind.__name__}; {remedy}")


#: Under a larger ridge, fewer than four digits of a kernel's entries are left in float64.
LARGEST_RIDGE = 1e12


def check_ridge(ridge: Any, name: str = "ridge", *, otherwise: str = "") -> float:
    """Return a ridge as a float.

    Args:
        ridge: The ridge, relative to the mean of the diagonal.
        name: Name of the argument, for the message.
        otherwise: What else the argument may be, as the end of the message.

    Raises:
        InputError: It is not a number from 0 to ``LARGEST_RIDGE``.
    """
    if not is_number(ridge) or not 0 <= ridge <= LARGEST_RIDGE:
        raise InputError(
            f"{name}={shown(ridge)} must be at least 0 and at most {LARGEST_RIDGE:g}, relative to "
            f"the mean of the diagonal{otherwise}"
        )
    return float(ridge)


def check_ridges(ridges: Any) -> list[float]:
    """Return ridges in ascending order, each once; ``InputError`` for what is no list of them."""
    listed = isinstance(ridges, list | tuple | set | range)
    if not listed and not (isinstance(ridges, np.ndarray) and ridges.ndim == 1):
        raise InputError(f"ridges={shown(ridges)} is no list; give ridges to try, as (1e-4, 1e-2)")
    return sorted({check_ridge(ridge) for ridge in ridges})


#: Most classes: a matrix (K, K) of float64 then takes 8 GiB.
MOST_CLASSES = 2**15
#: How tables write a value that is missing; pandas reads the same texts so.
_MISSING = frozenset(
    ["#N/A", "#NA", "<NA>", "N/A", "NA", "NULL", "NaN", "NaT", "None", "n/a", "nan", "null", "-nan"]
)
# Characters without width that change nothing in print: NUL, soft hyphen, spaces, directions.
_INVISIBLE = dict.fromkeys(
    [
        0x00,
        0xAD,
        0x180E,
        0x200B,
        0x200E,
        0x200F,
        *range(0x202A, 0x202F),
        *range(0x2060, 0x206A),
        0xFEFF,
    ]
)
# These can change letters or symbols beside them: joiners and variation selectors.
_JOINERS = dict.fromkeys([0x200C, 0x200D, 0xFE0E, 0xFE0F])
_WHOLE = re.compile(r"[+-]?\d{1,40}(\.0+)?")  # 3.0 is how pandas writes the 3 of a column with gaps


def normal_name(name: str) -> str:
    """Return a class name in its one spelling, empty where it is a missing value.

    Letters and their accents are composed (Unicode NFC), characters without width are left out, and
    so are blanks at both ends. Texts such as ``nan``, ``NA`` and ``None`` are missing values.
    """
    text = unicodedata.normalize("NFC", name.translate(_INVISIBLE)).strip()
    return "" if text in _MISSING or not text.translate(_JOINERS) else text


def _is_utf8(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def refuse_undecoded(names: Iterable[str], what: str) -> None:
    """Raise ``InputError`` for a name that is not in UTF-8, as tables and reports need it.

    Python reads the bytes of such a file name as half characters. ``what`` is what has the name,
    such as ``the folder of a class``.
    """
    for name in names:
        if not isinstance(name, str):
            raise InputError(f"the name of {what}, {shown(name)}, is no text; give names")
        if not _is_utf8(name):
            raise InputError(
                f"the name of {what}, {shown(name)}, is not in UTF-8; rename it, for example with "
                "convmv -f latin1 -t utf8"
            )


def refuse_two_spellings(names: Iterable[str], place: Callable[[int], str]) -> None:
    """Raise ``InputError`` where two names differ in case, blanks or invisible characters alone.

    Such names are two classes where one is meant. Single letters that differ in case are two
    classes. ``place`` says where the name of an index stands, such as ``in line 3``.
    """
    seen: dict[str, tuple[str, int]] = {}
    for i, name in enumerate(names):
        text = "".join(normal_name(name).translate(_JOINERS).split())
        before, first = seen.setdefault(text if len(text) == 1 else text.casefold(), (name, i))
        if before != name:
            raise InputError(
                f"class {name!r} {place(i)}, but {before!r} {place(first)}, which differ in case, "
                "blanks or invisible characters alone; write both alike, or, where two classes are "
                "meant, give one of them another name"
            )


def number_names(
    names: Sequence[str], place: Callable[[int], str]
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Return the class of each label that is a name, and the names of the classes.

    Args:
        names: N labels as given.
        place: Says where the label of an index stands, such as ``in line 3``.

    Returns:
        (N,) int64 in 0..K−1, and K names in their normal form, sorted: by number where all are
        whole numbers, which then are written without leading zeros and decimals.

    Raises:
        InputError: A label is missing, two are spellings of one name, or all are of one class.
    """
    normal = {name: normal_name(name) for name in dict.fromkeys(names)}
    if not all(normal.values()):
        at = next(i for i, name in enumerate(names) if not normal[name])
        raise _missing_label(names[at], place(at))
    if all(map(_WHOLE.fullmatch, normal.values())):
        normal = {name: _whole_number(text) for name, text in normal.items()}
        classes = sorted(set(normal.values()), key=int)
    else:
        classes = sorted(set(normal.values()))
    refuse_two_spellings((normal[name] for name in names), place)
    if len(classes) > MOST_CLASSES:
        raise InputError(
            f"the labels name {len(classes)} classes, more than {MOST_CLASSES}; {_FEWER}"
        )
    numbers = {name: k for k, name in enumerate(classes)}
    labels = np.fromiter((numbers[normal[name]] for name in names), np.int64, len(names))
    refuse_one_class(labels, classes)
    return labels, tuple(classes)


def numbers_in(class_names: Sequence[str], names: Sequence[str]) -> NDArray[np.int64]:
    """Return the place among ``class_names`` of each label that is a name, (N,) int64.

    Raises:
        InputError: A label is missing, or is none of them.
    """
    known = {_whole_number(normal_name(name)): k for k, name in enumerate(class_names)}
    normal = {name: _whole_number(normal_name(name)) for name in dict.fromkeys(names)}
    for i, name in enumerate(names):
        if not normal[name]:
            raise _missing_label(name, f"at index {i}")
        if normal[name] not in known:
            raise InputError(
                f"label {name!r} at index {i} is none of the {len(known)} names of classes"
                + (did_you_mean(name, known) or f": {first_of(list(known))}")
            )
    return np.array([known[normal[name]] for name in names], dtype=np.int64)


def _whole_number(name: str) -> str:
    """Return a name that is a whole number without leading zeros and decimals, others as is."""
    return str(int(name.partition(".")[0])) if _WHOLE.fullmatch(name) else name


def refuse_one_class(
    labels: NDArray[np.int64], names: Sequence[str] = (), remedy: str = "give images of two"
) -> None:
    """Raise ``InputError`` where all labels (N,), N ≥ 1, are equal; ``names`` are of classes."""
    if len(labels) and labels.min() == labels.max():
        name = repr(names[labels[0]]) if names else labels[0]
        raise InputError(
            f"all {len(labels)} labels are {name}; at least two classes are needed: {remedy}"
        )


def label_values(labels: Any) -> NDArray[Any]:
    """Return labels as a vector of numbers, or of text where they are names.

    Args:
        labels: (N,) or (N, 1) whole numbers of any dtype, bool or names, also as bytes in UTF-8: a
            list, an array, a column of pandas.

    Returns:
        (N,) of a dtype of integers, or of ``object`` (Python's ``str`` or ``int``).

    Raises:
        InputError: For a wrong shape, a missing label (the first one is named), or labels that are
            neither whole numbers nor names.
    """
    mask = np.ma.getmaskarray(labels) if isinstance(labels, np.ma.MaskedArray) else None
    try:
        given = np.asarray(labels.to_numpy() if hasattr(labels, "to_numpy") else labels)
        if given.dtype.kind in "US" and not isinstance(labels, np.ndarray):
            # NumPy would write a missing one among names as text
            given = np.array(labels, dtype=object)
    except ValueError:
        raise InputError("labels have different lengths; give one for each image, (N,)") from None
    if given.ndim == 2 and given.shape[1] == 1:
        given, mask = given[:, 0], None if mask is None else mask[:, 0]
    if given.ndim != 1:
        hint = "; turn one-hot rows into classes with argmax(axis=1)" if given.ndim == 2 else ""
        raise InputError(f"labels have shape {given.shape}; give one for each image, (N,){hint}")
    if mask is not None and mask.any():
        raise _missing_label("masked", f"at index {int(np.argmax(mask))}")
    if given.dtype.kind == "U":
        return given.astype(object)
    if given.dtype.kind in "OS":
        return _of_objects(given.tolist())
    if given.dtype.kind == "b":
        return given.astype(np.int64)
    if given.dtype.kind == "f":
        if np.isnan(given).any():
            raise _missing_label("nan", f"at index {int(np.argmax(np.isnan(given)))}")
        if (wrong := given != np.floor(given)).any() or (wrong := np.isinf(given)).any():
            raise _not_a_label(given[wrong][0].item(), int(np.argmax(wrong)))
        # exactly, where int64 would wrap
        return given.astype(np.int64) if (abs(given) < 2**62).all() else _of_objects(given.tolist())
    if given.dtype.kind not in "iu":
        raise InputError(
            f"labels of type {given.dtype} are neither whole numbers nor names; give integers from "
            "0, or a name for each image: [str(one) for one in labels]"
        )
    return given


def check_classes(num_classes: Any) -> int:
    """Return a number of classes as int; ``InputError`` unless it is 1 to ``MOST_CLASSES``."""
    count = check_whole("num_classes", num_classes, 1, "give the number of classes")
    if count > MOST_CLASSES:
        raise InputError(f"num_classes={shown(count)} is above {MOST_CLASSES}; {_FEWER}")
    return count


def check_labels(
    labels: Any, num_classes: int | None, count: int | None = None
) -> NDArray[np.int64]:
    """Return labels as a new int64 vector.

    Args:
        labels: (N,) or (N, 1) whole numbers in 0..K−1, of any type that ``label_values`` takes.
        num_classes: K, at least 1; None sets no upper limit.
        count: N if it is known from elsewhere.

    Returns:
        (N,) int64, a copy.

    Raises:
        InputError: For a wrong shape, length, type or value (the first one is named).
    """
    if num_classes is not None:
        check_classes(num_classes)
    given = label_values(labels)
    if count is not None and len(given) != count:
        raise InputError(f"{len(given)} labels for {count} images; give one for each image")
    if given.dtype.kind == "O" and any(isinstance(one, str) for one in given):
        raise InputError(
            f"label {given[0]!r} is a name, and whole numbers 0..K-1 are needed here; number them: "
            "numpy.unique(labels, return_inverse=True)[1]"
        )
    limit = np.iinfo(np.int64).max if num_classes is None else num_classes - 1
    # compared before the conversion, which would wrap large unsigned labels
    outside = np.asarray((given < 0) | (given > limit), dtype=bool)
    if outside.any():
        first = int(np.argmax(outside))
        upper = "K-1" if num_classes is None else str(limit)
        raise InputError(
            f"label {given[first]} at index {first} is outside the classes 0..{upper} "
            f"({int(outside.sum())} such labels); number the classes from 0"
        )
    return np.array(given, dtype=np.int64)


def count_classes(*splits: Any) -> int:
    """Return one more than the largest label of some vectors, if most of these classes occur.

    Raises:
        InputError: For what ``check_labels`` refuses, or if fewer than half of the classes occur,
            as with labels 0..9 and a 255 that says that an image has no label.
    """
    occurring = np.unique(np.concatenate([check_labels(labels, None) for labels in splits]))
    largest = int(occurring.max(initial=0))
    if 2 * len(occurring) < largest + 1 and len(occurring) > 1:
        raise InputError(
            f"label {largest} is the largest, but only {len(occurring)} of the classes "
            f"0..{largest} occur; number the classes 0..K-1 and leave out images without one"
        )
    return largest + 1


_FEWER = "give each image the number or name of its class, not one of its own"


def _of_objects(values: list[Any]) -> NDArray[Any]:
    """Return labels of Python's own types as a vector of integers, or of text if there is any."""
    values = [text_of(one) if isinstance(one, bytes) else one for one in values]
    named = any(isinstance(one, str) for one in values)
    out = np.empty(len(values), dtype=object)
    for i, one in enumerate(values):
        # None, NaN of any kind, and pandas's NA and NaT, which this package need not import
        if one is None or type(one).__name__ in ("NAType", "NaTType") or _is_nan(one):
            raise _missing_label(str(one), f"at index {i}")
        if isinstance(one, str):
            out[i] = one
        elif is_number(one) or isinstance(one, bool | np.bool_):
            if not math.isfinite(one) or one != int(one):
                raise _not_a_label(one, i)
            out[i] = str(int(one)) if named else int(one)
        else:
            raise InputError(
                f"label {one!r} at index {i} is neither a whole number nor a name; give integers "
                "from 0, or a name for each image: [str(one) for one in labels]"
            )
    if named or any(abs(one) >= 2**63 for one in out):
        return out
    return out.astype(np.int64)


def text_of(value: Any) -> str:
    """Return a name as text, bytes decoded as UTF-8 (HDF5 and TFRecord files hold names so)."""
    try:
        return value.decode("utf-8") if isinstance(value, bytes) else str(value)
    except UnicodeDecodeError:
        raise InputError(
            f"the name of a class, {value!r}, is not in UTF-8; decode it: name.decode('latin-1')"
        ) from None


def _is_nan(value: Any) -> bool:
    return isinstance(value, float | np.floating) and math.isnan(value)


def _missing_label(text: str, place: str) -> InputError:
    shown = repr(text) if text else "empty"
    return InputError(
        f"the label {place} is missing ({shown}); give the image a class, or leave it out; a class "
        "that is called so needs another name"
    )


def _not_a_label(value: Any, index: int) -> InputError:
    return InputError(
        f"label {value!r} at index {index} is not a whole number; number the classes from 0"
    )
