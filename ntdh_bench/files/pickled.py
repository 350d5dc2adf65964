"""Plain values and arrays that are stored as a pickle, read without unpickling.

Nothing that the file names is imported or called: the few instructions that lists, dicts, text,
numbers and NumPy's arrays need are followed here, and everything else is refused.

Source: Python's pickletools, which documents each instruction; NumPy's ``ndarray.__reduce__``.
"""

from __future__ import annotations

import io
import math
import pickletools
import re
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

_MAX_HEADER = 10_000
_MAX_STEPS = 100_000
_ARRAY = ("numpy.core.multiarray _reconstruct", "numpy._core.multiarray _reconstruct")
_BYTES, _DTYPE, _NDARRAY = "_codecs encode", "numpy dtype", "numpy ndarray"
_GLOBALS = (*_ARRAY, _BYTES, _DTYPE, _NDARRAY)
_NUMBERS = re.compile(r"[iuf][1248]")
_MARK = object()


@dataclass(frozen=True)
class _Global:
    name: str


@dataclass(frozen=True)
class _Bytes:
    """Bytes as version 2 of the format stores them: a character each."""

    text: str


@dataclass
class _Type:
    code: str
    order: str = "|"


@dataclass
class PickledArray:
    """An array whose values are decoded when they are asked for."""

    shape: tuple[int, ...] = ()
    type: str = ""
    columns_first: bool = False
    content: Any = None

    @property
    def nbytes(self) -> int:
        """Bytes of the values."""
        return len(self.content.text) if isinstance(self.content, _Bytes) else 0

    def values(self) -> NDArray[Any]:
        """Return the numbers.

        Raises:
            ValueError: they are none, or not as many as the shape says.
        """
        if not isinstance(self.content, _Bytes) or not _NUMBERS.fullmatch(self.type[1:]):
            raise ValueError("no array of numbers")
        dtype = np.dtype(self.type)
        if math.prod(self.shape) * dtype.itemsize != self.nbytes:
            raise ValueError("an array of another size than its shape")
        flat = np.frombuffer(self.content.text.encode("latin-1"), dtype)
        return flat.reshape(self.shape, order="F" if self.columns_first else "C")


def npy_object(content: bytes) -> Any:
    """Return the Python object that a ``.npy`` of no dimensions holds.

    Args:
        content: of the file.

    Raises:
        Exception: it is damaged, or of another kind; see :func:`~.reading.reading`.
    """
    file = io.BytesIO(content)
    if npy.read_magic(file) != (1, 0):
        raise ValueError("another version of the format")
    shape, _, dtype = npy.read_array_header_1_0(file, max_header_size=_MAX_HEADER)
    if shape or dtype != np.dtype(object):
        raise ValueError("not one Python object")
    found = plain_value(content[file.tell() :])
    (value,) = found.content
    return value


def plain_value(content: bytes) -> Any:
    """Return what a pickle holds: text, whole numbers, lists, tuples, dicts, PickledArrays.

    Args:
        content: of version 2, as Python 3 writes it.

    Raises:
        Exception: it holds something else, or is damaged; see :func:`~.reading.reading`.
    """
    machine = _Machine()
    for instruction, argument, _ in islice(pickletools.genops(content), _MAX_STEPS):
        if instruction.name == "STOP":
            (value,) = machine.stack
            return value
        machine.steps[instruction.name](argument)
    raise ValueError("too many instructions")


class _Machine:
    """The stack machine of the format, with the instructions in :attr:`steps` alone."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        push, sized = self.stack.append, self._tuple
        self.steps: dict[str, Callable[[Any], None]] = {
            "PROTO": lambda _: None,
            "NONE": lambda _: push(None),
            "NEWTRUE": lambda _: push(True),
            "NEWFALSE": lambda _: push(False),
            "MARK": lambda _: push(_MARK),
            "EMPTY_LIST": lambda _: push([]),
            "EMPTY_DICT": lambda _: push({}),
            "EMPTY_TUPLE": lambda _: push(()),
            "TUPLE": lambda _: push(tuple(self._from_mark())),
            "TUPLE1": lambda _: sized(1),
            "TUPLE2": lambda _: sized(2),
            "TUPLE3": lambda _: sized(3),
            "APPEND": self._append,
            "APPENDS": self._extend,
            "SETITEM": self._set_item,
            "SETITEMS": self._set_items,
            "GLOBAL": self._global,
            "REDUCE": self._reduce,
            "BUILD": self._build,
        }
        self.steps |= dict.fromkeys(("BININT", "BININT1", "BININT2", "BINUNICODE"), push)
        self.steps |= dict.fromkeys(("BINPUT", "LONG_BINPUT"), self._remember)
        self.steps |= dict.fromkeys(("BINGET", "LONG_BINGET"), self._recall)

    def _remember(self, number: int) -> None:
        self.memo[number] = self.stack[-1]

    def _recall(self, number: int) -> None:
        self.stack.append(self.memo[number])

    def _from_mark(self) -> list[Any]:
        place = len(self.stack) - 1
        while self.stack[place] is not _MARK:  # IndexError if there is none
            place -= 1
        items = self.stack[place + 1 :]
        del self.stack[place:]
        return items

    def _tuple(self, size: int) -> None:
        if len(self.stack) < size:
            raise ValueError("an empty stack")
        items = tuple(self.stack[-size:])
        del self.stack[-size:]
        self.stack.append(items)

    def _append(self, _: None) -> None:
        item = self.stack.pop()
        _expect(self.stack[-1], list).append(item)

    def _extend(self, _: None) -> None:
        items = self._from_mark()
        _expect(self.stack[-1], list).extend(items)

    def _set_item(self, _: None) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        _expect(self.stack[-1], dict)[_expect(key, str)] = value

    def _set_items(self, _: None) -> None:
        items = self._from_mark()
        keys = [_expect(key, str) for key in items[::2]]
        _expect(self.stack[-1], dict).update(zip(keys, items[1::2], strict=True))

    def _global(self, name: str) -> None:
        if name not in _GLOBALS:
            raise ValueError("something else than arrays and plain values")
        self.stack.append(_Global(name))

    def _reduce(self, _: None) -> None:
        arguments = _expect(self.stack.pop(), tuple)
        name = _expect(self.stack.pop(), _Global).name
        made: Any
        if name in _ARRAY:
            made = PickledArray()
        elif name == _DTYPE:
            made = _Type(_expect(arguments[0], str))
        elif name == _BYTES and arguments[1:] == ("latin1",):
            made = _Bytes(_expect(arguments[0], str))
        else:
            raise ValueError("an object of another kind")
        self.stack.append(made)

    def _build(self, _: None) -> None:
        state = _expect(self.stack.pop(), tuple)
        target = self.stack[-1]
        if isinstance(target, _Type):
            target.order = _expect(state[1], str)
            return
        _, shape, dtype, columns_first, content = state
        _expect(target, PickledArray).shape = tuple(_side(side) for side in _expect(shape, tuple))
        target.type = (_expect(dtype, _Type).order + dtype.code).replace("|", "=", 1)
        target.columns_first = _expect(columns_first, bool)
        target.content = content


def _expect(value: Any, kind: type) -> Any:
    if not isinstance(value, kind):
        raise ValueError("an instruction for another kind of value")
    return value


def _side(value: Any) -> int:
    if _expect(value, int) < 0:
        raise ValueError("no shape")
    return int(value)
