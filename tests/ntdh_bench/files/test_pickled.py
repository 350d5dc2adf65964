"""Pickles that are followed without being loaded, against the pickle module."""

from __future__ import annotations

import io
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ntdh_bench.files.pickled import PickledArray, npy_object, plain_value


@pytest.mark.parametrize(
    "array",
    [
        np.arange(6.0).reshape(2, 3),
        np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        np.arange(4, dtype=np.int32),
        np.arange(4, dtype=">f4"),
        np.array(2.5),
        np.array([1, 200, 255], np.uint8),
    ],
)
def test_arrays_come_back(array: Any) -> None:
    (found,) = plain_value(pickle.dumps([array], protocol=2))
    assert isinstance(found, PickledArray)
    values = found.values()
    np.testing.assert_array_equal(values, array)
    assert (values.dtype, values.shape) == (array.dtype, array.shape)


def test_plain_values_come_back() -> None:
    shared = ["a", "é", 3]
    value = {
        "x": shared, "y": [shared, (), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)], "none": None,
        "numbers": [0, 255, 256, 70_000, -1, True, False], "empty": [[], {}],
        "many": list(range(1500)),
    }  # fmt: skip
    assert plain_value(pickle.dumps(value, protocol=2)) == value


def test_a_npy_of_an_object() -> None:
    file = io.BytesIO()
    np.save(file, np.zeros(()))
    with pytest.raises(ValueError, match="not one Python object"):
        npy_object(file.getvalue())
    header = b"\x93NUMPY\x01\x00v\x00" + b"{'descr': '|O', 'fortran_order': False, 'shape': (), }"
    content = pickle.dumps(np.array({"x": np.arange(3)}, dtype=object), protocol=2)
    found = npy_object(header.ljust(127) + b"\n" + content)
    assert found["x"].values().tolist() == [0, 1, 2]


class _Trap:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def test_nothing_is_called(tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    content = pickle.dumps([_Trap(trap)], protocol=2)
    with pytest.raises(ValueError, match="something else than arrays"):
        plain_value(content)
    assert not trap.exists()
    pickle.loads(content)
    assert trap.exists()  # so the trap is one


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b".",
        b"\x80\x02",
        b"\x80\x02t.",  # a tuple from a mark that is not there
        b"\x80\x02K\x01\x86.",  # two values of a stack of one
        b"\x80\x02h\x05.",  # what was never remembered
        b"\x80\x02K\x01K\x02.",  # two values
        b"\x80\x02]X\x01\x00\x00\x00aK\x02s.",  # an item of a list
        b"\x80\x02}(K\x01K\x02u.",  # a key that is no text
        b"\x80\x02}(X\x01\x00\x00\x00aK\x02K\x03u.",  # a key without value
        b"\x80\x02K\x01)b.",  # the state of a number
        b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00aX\x05\x00\x00\x00utf-8\x86R.",
        b"\x80\x02X\xff\xff\xff\x7fa.",  # text longer than the file
        pickle.dumps([1], protocol=4),
        pickle.dumps(1.5, protocol=2),
        pickle.dumps(1 << 70, protocol=2),
    ],
)
def test_what_is_refused(content: bytes) -> None:
    with pytest.raises((ValueError, LookupError)):
        plain_value(content)


def test_long_files_of_little_are_refused() -> None:
    """A byte an empty list would be a hundredfold in memory."""
    with pytest.raises(ValueError, match="too many instructions"):
        plain_value(b"\x80\x02(" + b"]" * 1_000_000 + b"l.")
    deep = plain_value(b"\x80\x02)" + b"\x85" * 90_000 + b".")
    assert isinstance(deep, tuple)


def test_shapes_are_checked_against_the_values() -> None:
    content = pickle.dumps(np.zeros(3), protocol=2)
    state = b"K\x03\x85"
    assert content.count(state) == 1
    for other in (b"K\x04\x85", b"J\xff\xff\xff\x7f\x85", b"J\xff\xff\xff\xff\x85", b"N\x85"):
        with pytest.raises(ValueError, match=r"shape|size|kind"):
            plain_value(content.replace(state, other)).values()
    for kind in (b"U8", b"O8", b"V8", b"f3", b"c8"):
        changed = content.replace(b"\x02\x00\x00\x00f8", b"\x02\x00\x00\x00" + kind)
        assert changed != content
        with pytest.raises(ValueError, match="no array of numbers"):
            plain_value(changed).values()
