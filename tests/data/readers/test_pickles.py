"""The pickle reader: reads what CIFAR's archives hold, runs nothing."""

from __future__ import annotations

import io
import pickle
import pickletools
import struct
from collections import OrderedDict

import numpy as np
import pytest
from hypothesis import given, strategies as st

from ntkdist.data.readers.pickles import read_plain
from ntkdist.errors import InputError

PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)


def read_bytes(tmp_path, data):
    path = tmp_path / "batch"
    path.write_bytes(data)
    return read_plain(path)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["u1", "<i8", ">i4", "<f4"])
def test_every_protocol_is_read(tmp_path, protocol, order, dtype):
    array = np.asarray(np.arange(600).reshape(20, 30) % 251, dtype=dtype, order=order)
    batch = {
        "data": array,
        "labels": list(range(300)),
        "pair": (1, -2),
        "triple": (2.5, None, True),
        "empty": [],
        "nothing": (),
        "long": tuple(range(5)),
        "big": 2**70,
        "nested": {"a": ["x", {"b": "ü"}]},
        "same": ["x"] * 3,
        "bytes": b"\x00\xff",
    }
    read = read_bytes(tmp_path, pickle.dumps(batch, protocol=protocol))
    np.testing.assert_array_equal(read.pop("data"), batch.pop("data"))
    if protocol == 0:
        # protocol 0 has no empty bytes or text of its own kind; values are equal all the same
        assert read.pop("bytes") == batch.pop("bytes")
    assert read == batch


leaves = st.integers() | st.text() | st.booleans() | st.none() | st.binary(min_size=1)
values = st.recursive(leaves, lambda inner: st.lists(inner, max_size=5), max_leaves=12)


@pytest.mark.slow
@given(st.dictionaries(st.text(), values, max_size=6), st.sampled_from([2, 4, 5]))
def test_plain_data_are_those_of_pickle(tmp_path_factory, batch, protocol):
    folder = tmp_path_factory.getbasetemp()
    assert read_bytes(folder, pickle.dumps(batch, protocol=protocol)) == batch


def string(text):
    data = text if isinstance(text, bytes) else text.encode()
    if len(data) < 256:
        return b"U" + bytes([len(data)]) + data
    return b"T" + struct.pack("<i", len(data)) + data


def test_a_batch_of_python_2_is_read(tmp_path):
    """The byte sequence that cPickle of Python 2 writes for a batch, protocol 2."""
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3072), dtype=np.uint8)
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\nq\x05cnumpy\nndarray\nq\x06K\x00\x85U\x01b\x87Rq\x07"
        b"(K\x01K\x02M\x00\x0c\x86cnumpy\ndtype\nq\x08U\x02u1K\x00K\x01\x87Rq\x09"
        b"(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89"
    )  # fmt: skip
    array += string(pixels.tobytes()) + b"tb"
    stream = (
        b"\x80\x02}q\x01("
        + string("batch_label")
        + string("testing batch 1 of 1")
        + string("labels")
        + b"]q\x02(K\x06K\x09e"
        + string("data")
        + array
        + string("filenames")
        + b"]("
        + string("domestic_cat_s_000907.png")
        + string("a.png")
        + b"eu."
    )
    theirs = pickle.loads(stream, encoding="bytes")
    np.testing.assert_array_equal(theirs[b"data"], pixels)
    read = read_bytes(tmp_path, stream)
    np.testing.assert_array_equal(read["data"], pixels)
    assert read["labels"] == [6, 9]
    assert read["filenames"] == ["domestic_cat_s_000907.png", "a.png"]


def test_the_text_protocol_of_python_2_is_read(tmp_path):
    stream = (
        b"(dp1\nS'label_names'\np2\n(lp3\nS'airplane'\np4\naS'auto\\'mobile'\np5\nasS'n'\nI3\ns."
    )
    assert read_bytes(tmp_path, stream) == {"label_names": ["airplane", "auto'mobile"], "n": 3}


class Calls:
    """Pickles as a call of ``function(*arguments)``."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    ("payload", "named"),
    [
        (lambda target: Calls(open, target, "w"), "open"),
        (lambda target: Calls(eval, f"open({target!r}, 'w')"), "eval"),
        (lambda target: Calls(np.save, target, 1), "save"),
        (lambda target: OrderedDict(a=1), "OrderedDict"),
        (lambda target: np.array([{"a": 1}], dtype=object), "array"),
        (lambda target: np.zeros(2, dtype=[("a", "u1")]), "array"),
        (lambda target: {1, 2}, ""),
    ],
)
def test_calls_are_refused_and_do_not_run(tmp_path, protocol, payload, named):
    target = tmp_path / "owned"
    data = pickle.dumps({"data": payload(str(target))}, protocol=protocol)
    with pytest.raises(InputError, match=f"is refused: it is a pickle that holds .*{named}"):
        read_bytes(tmp_path, data)
    assert not target.exists()


@pytest.mark.parametrize(
    "stream",
    [
        b"cnumpy\nndarray\n(K\x02tR.",  # a known name called as a function
        b"}cnumpy\ndtype\n(U\x01OK\x00K\x01tRb.",  # the state of a plain dict
        b"(cos\nsystem\nS'true'\no.",
        b"(S'true'\nios\nsystem\n.",
        b"\x80\x02cos\nsystem\nU\x04true\x85R.",
        b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x04true\x85R.",
        b"\x80\x02cos\nsystem\nU\x04true\x85\x81.",
        b"Ppersistent\n.",
        b"\x80\x02\x82\x01.",
        b"}" + b")" + b"\x85" * 100_000 + b"K\x01s.",  # hashing deeper keys overflows C's stack
        b"}]K\x01s.",
        b"\x80\x04\x8c\x02o\n\x8c\x03s\ny\x93.",
        b"c_codecs\nencode\n(U\x01aU\x04idnatR.",
    ],
)
def test_handwritten_attacks_are_refused(tmp_path, stream):
    pickletools.dis(stream, out=io.StringIO())  # each one is a stream that pickle would read
    with pytest.raises(InputError, match="is refused: it is a pickle that holds") as caught:
        read_bytes(tmp_path, stream)
    assert "\n" not in str(caught.value)


def test_a_large_memo_index_takes_no_memory(tmp_path):
    stream = b"}r\xff\xff\xff\x7f."
    assert read_bytes(tmp_path, stream) == {}


@pytest.mark.parametrize(
    "stream",
    [
        b"",
        b"hello world",
        b"\x80\x02}q\x01(U\x05label",
        b"}h\x07.",
        b"e.",
        b"\x80\x02(t",
        b"K\x01K\x02K\x03s.",
        b"}(K\x01u.",
        b"\x8e\xff\xff\xff\xff\xff\xff\xff\x3f.",
        b"K\x01K\x02a.",
        b"S'num\\py'\n",
        b".",
    ],
)
def test_damaged_streams_are_one_clear_line(tmp_path, stream):
    with pytest.raises(InputError, match="batch is not a readable pickle") as caught:
        read_bytes(tmp_path, stream)
    assert "\n" not in str(caught.value)


@given(st.data())
def test_no_damage_gives_anything_but_a_dict_or_an_input_error(tmp_path_factory, data):
    whole = pickle.dumps({"data": np.zeros((2, 8), np.uint8), "labels": [1, 2], "n": ("a", 1.5)}, 2)
    stream = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 4))):
        stream[data.draw(st.integers(0, len(stream) - 1))] = data.draw(st.integers(0, 255))
    message = ""
    try:
        assert isinstance(read_bytes(tmp_path_factory.getbasetemp(), bytes(stream)), dict)
    except InputError as error:
        message = str(error)
    assert "\n" not in message
