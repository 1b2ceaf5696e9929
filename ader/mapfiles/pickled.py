"""ADEval's pickle, ``{image path: (map, score, mask path)}``, read without unpickling: a pickle is a program.

Nothing in the file is ever run, and its arrays stay in it until they are asked for. ``Walker`` reads other pickles of
plain data as well (``ader.datasets._cifar_batches``).
"""

from __future__ import annotations

import math
import pickletools
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ader.mapfiles.formats import AGAIN, MapAndScore, UnusableError, check_plane, plane, unreadable
from ader.system.errors import UserError
from ader.system.files import check_regular, sha256

PICKLES = frozenset({".pkl", ".pickle"})

SHAPE = "save {image path: (2-d NumPy array, score as a number, mask path or None)}"

#: The only names that a pickle may mention. Both spellings: NumPy 2 moved ``numpy.core`` to ``numpy._core``.
GLOBALS = {
    "_codecs encode": "encode",
    "numpy dtype": "dtype",
    "numpy ndarray": "ndarray",
    **{f"numpy.{core}.multiarray _reconstruct": "reconstruct" for core in ("core", "_core")},
    **{f"numpy.{core}.multiarray scalar": "scalar" for core in ("core", "_core")},
    **{f"numpy.{core}.numeric _frombuffer": "frombuffer" for core in ("core", "_core")},
}
LITERALS = frozenset(
    {
        *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "FLOAT", "BINFLOAT"),
        *("UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"),
    }
)
CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
BYTES = frozenset({"SHORT_BINBYTES", "BINBYTES", "BINBYTES8", "BYTEARRAY8"})
TUPLES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
SMALL = 64  # bytes; what is shorter may be a scalar, and is kept


class ForeignError(UnusableError):
    """A pickle holds something else than is read from it; whoever reads it says what it should hold."""


@contextmanager
def explained(path: Path, expected: str, again: str = AGAIN) -> Iterator[None]:
    """Turns whatever goes wrong while a pickle is read into one line that names it.

    Args:
        path: the pickle.
        expected: how to fix one that holds something else.
        again: how to fix a damaged one.
    """
    check_regular(path)
    try:
        yield
    except ForeignError as error:
        raise UserError(f"{path} {error}: {expected}") from error
    except UnusableError as error:
        raise UserError(f"{path} {error}") from error
    except Exception as error:  # a damaged pickle breaks anywhere: too short, a wrong type, a number too large
        if isinstance(error, OSError) and error.errno:
            raise unreadable(path, error) from error
        what = str(error) or type(error).__name__
        raise UserError(f"{path} is truncated, damaged or no pickle ({what}): {again}") from error


def find_entries(path: Path) -> tuple[dict[str, Callable[[], MapAndScore]], str]:
    """What reads the map and the score of every key, and the file's SHA-256.

    Raises:
        UserError: the file is damaged, or holds anything but plain arrays in ADEval's order.
    """
    with explained(path, SHAPE):
        with path.open("rb") as file:
            entries = _entries(Walker(file).walk())
        digest = sha256(path)
    return {key: partial(_read, path, key, *entry) for key, entry in entries.items()}, digest


def _read(path: Path, key: str, array: Array, score: float) -> MapAndScore:
    """One map of a pickle."""
    try:
        return plane(array.load(path)), score
    except UnusableError as error:
        raise UserError(f"{path} holds under {key!r} a map that {error}") from error
    except OSError as error:
        raise unreadable(path, error) from error


def _entries(loaded: object) -> dict[str, tuple[Array, float]]:
    """Map and score of every key, if this is what ADEval reads."""
    if not isinstance(loaded, dict):
        raise ForeignError("holds no dict")
    checked: dict[str, tuple[Array, float]] = {}
    for key, value in loaded.items():
        match value:
            case (Array() as array, int() | float() as score, str() | None):
                try:
                    array.check()
                except UnusableError as error:
                    raise UnusableError(f"holds under {key!r} a map that {error}") from error
                checked[key] = (array, float(score))
            case _:
                raise ForeignError(f"has something else under {key!r}")
    return checked


class Span(NamedTuple):
    """Bytes that stay in the file."""

    start: int
    length: int


@dataclass
class _Dtype:
    """A NumPy data type under construction: ``"f4"`` and a byte order."""

    name: str
    order: str = "="

    def numpy(self) -> np.dtype[Any]:
        return np.dtype(self.order + self.name)


@dataclass
class Array:
    """A NumPy array under construction."""

    shape: tuple[int, ...] = ()
    dtype: _Dtype | None = None
    fortran: bool = False
    data: bytes | Span = b""

    def check(self) -> None:
        """Refuses what is no map, or whose shape does not fit its bytes: nothing is allocated for a shape alone."""
        if self.dtype is None or not all(type(side) is int and side >= 0 for side in self.shape):
            raise UnusableError(f"is not finished: {AGAIN}")
        check_plane(self.shape, self.dtype.numpy())
        length = self.data.length if isinstance(self.data, Span) else len(self.data)
        if math.prod(self.shape) * self.dtype.numpy().itemsize != length:
            raise UnusableError(f"has shape {self.shape} and {length} bytes, which do not go together: {AGAIN}")

    def load(self, path: Path) -> NDArray[Any]:
        """The array, read from the pickle at ``path``; checked before."""
        data = self.data
        if isinstance(data, Span):
            start, length = data
            with path.open("rb") as file:  # opened each time, so that threads do not share a position
                file.seek(start)
                data = file.read(length)
            if len(data) != length:
                raise UnusableError("is no longer whole, the file has changed: start again")
        assert self.dtype is not None
        return np.frombuffer(data, self.dtype.numpy()).reshape(self.shape, order="F" if self.fortran else "C")


@dataclass(frozen=True)
class _Global:
    """A name from `GLOBALS`; it stands for nothing that could be called."""

    name: str


class Walker:
    """Reads what a pickle of NumPy arrays would build, without building it.

    A pickle is a program. This one's instructions are listed by ``pickletools`` and only those that make plain data
    are followed, on a stack of our own: nothing is imported, nothing is called and no NumPy object is made from the
    file's claims (NumPy's own ``__setstate__`` trusts them). Depth, memo and declared sizes cost nothing either.
    """

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def walk(self) -> object:
        """The object that the pickle describes: dicts, tuples, numbers and texts, and `Array` for arrays.

        Raises:
            UnusableError: the pickle holds anything else.
            Exception: of any kind, if it is damaged.
        """
        stack, memo = self.stack, self.memo
        argument: Any
        for opcode, argument, _ in pickletools.genops(self.file):
            name = opcode.name
            if name in LITERALS:
                stack.append(argument)
            elif name in CONSTANTS:
                stack.append(CONSTANTS[name])
            elif name in BYTES:
                size = len(argument)
                stack.append(bytes(argument) if size <= SMALL else Span(self.file.tell() - size, size))
            elif name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
                memo[len(memo) if argument is None else argument] = stack[-1]
            elif name in ("GET", "BINGET", "LONG_BINGET"):
                stack.append(memo[argument])
            elif name in TUPLES:
                stack.append(tuple(self.take(len(stack) - TUPLES[name])))
            elif name == "STOP":
                return stack.pop()
            elif name not in ("PROTO", "FRAME"):
                self.other(name, argument)
        raise AssertionError("genops ends with STOP or an error")

    def other(self, name: str, argument: Any) -> None:
        """The instructions that work on several things."""
        stack = self.stack
        if name == "MARK":
            self.marks.append(len(stack))
        elif name == "TUPLE":
            stack.append(tuple(self.take(self.marks.pop())))
        elif name == "EMPTY_DICT":
            stack.append({})
        elif name == "DICT":
            items = self.take(self.marks.pop())
            stack.append({})
            self.set(items)
        elif name in ("SETITEM", "SETITEMS"):
            self.set(self.take(len(stack) - 2 if name == "SETITEM" else self.marks.pop()))
        elif name == "GLOBAL":
            stack.append(_known(argument))
        elif name == "STACK_GLOBAL":
            module, attribute = self.take(len(stack) - 2)
            stack.append(_known(f"{module} {attribute}"))
        elif name == "REDUCE":
            function, arguments = self.take(len(stack) - 2)
            stack.append(_reduce(function, arguments))
        elif name == "BUILD":
            _build(stack[-2], stack.pop())
        elif name in ("PERSID", "BINPERSID"):
            raise ForeignError("refers to objects outside the file (a persistent id)")
        else:
            what = f"{name} {argument}" if name == "INST" else name  # the one of them that names a class
            raise ForeignError(f"holds more than plain arrays (instruction {what[:100]})")

    def take(self, start: int) -> list[Any]:
        """Removes and returns the stack from ``start`` on."""
        if not 0 <= start <= len(self.stack):
            raise ValueError("the stack is too short")
        taken = self.stack[start:]
        del self.stack[start:]
        return taken

    def set(self, items: Sequence[Any]) -> None:
        """Keys and values in turn, into the dict on top of the stack."""
        for key, value in zip(items[::2], items[1::2], strict=True):
            if not isinstance(key, str):  # nothing else is hashed: a deep tuple's hash would overflow the C stack
                raise ForeignError(f"has a key of type {type(key).__name__}")
            self.stack[-1][key] = value


def _known(name: str) -> _Global:
    """A name that NumPy's arrays need; ``name`` is module and attribute with a space between."""
    if name not in GLOBALS:
        raise ForeignError(
            f"names {name.replace(' ', '.')[:100]!r}; only plain NumPy arrays, numbers and texts are read from a "
            "pickle, and nothing in it is ever run"
        )
    return _Global(GLOBALS[name])


def _reduce(function: object, arguments: object) -> object:
    """What a call would return; each has exactly the arguments that NumPy writes."""
    match function, arguments:
        case _Global("reconstruct"), (_Global("ndarray"), tuple(), bytes() | str()):
            return Array()
        case _Global("frombuffer"), (
            bytes() | Span() as data,
            _Dtype() as dtype,
            tuple() as shape,
            "C" | "F" as order,
        ):
            return Array(shape, dtype, order == "F", data)
        case _Global("scalar"), (_Dtype() as dtype, bytes() as data):
            (number,) = np.frombuffer(data, dtype.numpy()).tolist()
            return number
        case _Global("dtype"), (str() as name, bool() | int(), bool() | int()):
            if not re.fullmatch("f[248]|[iu][1248]|b1", name):
                raise ForeignError(f"holds an array of type {name[:20]!r}, not of real numbers")
            return _Dtype(name)
        case _Global("encode"), (str() as text, "latin1"):
            return text.encode("latin-1")
        case _:
            raise ForeignError("builds an array in a way that NumPy does not")


def _build(target: object, state: object) -> None:
    """Completes an array or its type."""
    match target, state:
        case _Dtype(), (int(), "<" | ">" | "|" | "=" as order, None, None, None, *_):
            target.order = order
        case Array(), (int(), tuple() as shape, _Dtype() as dtype, bool() as fortran, bytes() | Span() as data):
            target.shape, target.dtype, target.fortran, target.data = shape, dtype, fortran, data
        case _:
            raise ForeignError("builds an array in a way that NumPy does not")
