"""Reading of pickles that hold plain data, without executing code from them.

A pickle is a program. Only the instructions that build texts, numbers, lists, tuples and
dictionaries are allowed, and numpy's numbers, which two functions of this module build in place of
numpy's own. A pickle with any other instruction (imports, calls, persistent ids) is refused before
anything is executed.
"""

from __future__ import annotations

import io
import pickle
import pickletools
from collections.abc import Iterator
from typing import Any

import numpy as np

from glamm_jax.errors import GLaMMError

_TEXTS = "STRING BINSTRING SHORT_BINSTRING UNICODE BINUNICODE SHORT_BINUNICODE BINUNICODE8"
_BYTES = "BINBYTES SHORT_BINBYTES BINBYTES8"
_NUMBERS = "INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT NONE NEWTRUE NEWFALSE"
_CONTAINERS = "EMPTY_LIST LIST APPEND APPENDS EMPTY_DICT DICT SETITEM SETITEMS"
_TUPLES = "EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3"
_CONTROL = "PROTO FRAME MARK POP POP_MARK DUP STOP"
_MEMO_WRITES = ("PUT", "BINPUT", "LONG_BINPUT")
_MEMO_READS = "MEMOIZE GET BINGET LONG_BINGET"
ALLOWED = frozenset(
    " ".join(
        (_TEXTS, _BYTES, _NUMBERS, _CONTAINERS, _TUPLES, _CONTROL, _MEMO_READS, *_MEMO_WRITES)
    ).split()
)
# Only with one of `_IMPORTS`, which the unpickler checks again.
CALLS = frozenset({"GLOBAL", "STACK_GLOBAL", "REDUCE", "BUILD"})


# The first bytes of files that are no pickles, and what to do.
_NO_PICKLES = (
    (b"\x1f\x8b", "a gzip file; unpack it first"),
    (b"PK\x03\x04", "a zip file; unpack it first"),
    (b"version https://git-lfs", "a pointer of Git LFS; run git lfs pull in its repository"),
    (b"[", "JSON, not a pickle; write it with pickle.dump"),
    (b"{", "JSON, not a pickle; write it with pickle.dump"),
)


class PickleError(GLaMMError):
    """A pickle is damaged, or contains more than plain data."""


class _NumberType:
    """The type of a numpy number, in place of numpy.dtype."""

    __slots__ = ("dtype",)

    def __init__(self, code: Any, *_: Any):
        code = code.decode("ascii") if isinstance(code, bytes) else code
        if not isinstance(code, str) or code[:1] not in ("b", "i", "u", "f") or len(code) != 2:
            raise PickleError(f"refused: a numpy value of type {code!r}, which is not a number")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: Any) -> None:
        order = state[1]
        order = order.decode("ascii") if isinstance(order, bytes) else order
        self.dtype = self.dtype.newbyteorder(">" if order == ">" else "<")


def _numpy_number(number_type: Any, data: Any) -> Any:
    """A numpy number as a number of Python, in place of numpy.core.multiarray.scalar."""
    if not isinstance(number_type, _NumberType) or not isinstance(data, bytes):
        raise PickleError("refused: a numpy value that is not a number")
    return np.frombuffer(data, number_type.dtype, count=1)[0].item()


def _encoded(text: Any, encoding: Any = "latin1") -> bytes:
    """Bytes, as Python 3 writes them for Python 2, in place of codecs.encode."""
    if not isinstance(text, str) or encoding not in ("latin1", b"latin1"):
        raise PickleError("refused: it encodes a text")
    return text.encode("latin-1")


_IMPORTS: dict[tuple[str, str], Any] = {
    ("numpy", "dtype"): _NumberType,
    ("numpy.core.multiarray", "scalar"): _numpy_number,
    ("numpy._core.multiarray", "scalar"): _numpy_number,
    ("_codecs", "encode"): _encoded,
}


class _ClosedUnpickler(pickle.Unpickler):
    """Imports nothing but the functions of this module."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _IMPORTS:
            raise PickleError(_refusal(f"it imports {module}.{name}"))
        return _IMPORTS[module, name]


def load_plain(data: bytes) -> Any:
    """Return the value of a pickle of any protocol; numpy's numbers become those of Python.

    Strings of Python 2 are read as UTF-8, bytes that are not UTF-8 as Windows-1252 (Western
    European). Bytes of Python 3 are read in the same way.

    Raises:
        PickleError: it is damaged, or contains more than plain data.
    """
    for start, problem in _NO_PICKLES:
        if data.startswith(start):
            raise PickleError(problem)
    try:
        texts: list[str] = []  # names that STACK_GLOBAL may refer to
        for name, argument in _instructions(data):
            if isinstance(argument, str):
                texts.append(argument)
            if name == "GLOBAL":
                module, _, attribute = str(argument).partition(" ")
                if (module, attribute) not in _IMPORTS:
                    raise PickleError(_refusal(f"GLOBAL {argument}"))
            elif name == "STACK_GLOBAL":
                if not any(module in texts and x in texts for module, x in _IMPORTS):
                    raise PickleError(_refusal("STACK_GLOBAL"))
            elif name not in ALLOWED and name not in CALLS:
                raise PickleError(_refusal(f"{name} {argument or ''}"))
            # The unpickler allocates as many memo entries as the largest index says.
            if name in _MEMO_WRITES and int(argument or 0) > len(data):
                raise PickleError("damaged: a memo index is larger than the file")
        return _decode_texts(_ClosedUnpickler(io.BytesIO(data), encoding="bytes").load(), {})
    except PickleError:
        raise
    except RecursionError as error:
        raise PickleError("damaged: nested too deeply") from error
    except Exception as error:  # damaged pickles raise many kinds
        raise PickleError(f"damaged: {error}") from error


def _refusal(what: str) -> str:
    return (
        f"refused: it contains more than plain data: {what}. A pickle can run code; write lists, "
        "dictionaries, texts and numbers (for numpy: x.tolist())"
    )


def _instructions(data: bytes) -> Iterator[tuple[str, Any]]:
    """Names and arguments of the instructions. `pickletools.genops` fails at non-ASCII strings."""
    stream = io.BytesIO(data)
    while True:
        code = stream.read(1)
        if code not in _OPCODES:
            position = stream.tell() - len(code)
            problem = f"no instruction {code!r}" if code else "the file ends too early"
            raise PickleError(f"damaged: byte {position}: {problem}")
        opcode = _OPCODES[code]
        argument: Any = None
        if opcode.name == "STRING":
            argument = stream.readline()
        elif opcode.arg is not None:
            argument = opcode.arg.reader(stream)
        yield opcode.name, argument
        if opcode.name == "STOP":
            return


_OPCODES = {opcode.code.encode("latin-1"): opcode for opcode in pickletools.opcodes}


def _decode_texts(value: Any, done: dict[int, Any]) -> Any:
    """A copy in which bytes are texts. `done` has the copies of containers by their ids."""
    if isinstance(value, bytes):
        return _text(value)
    if isinstance(value, list | tuple | dict):
        if id(value) in done:
            return done[id(value)]
        if isinstance(value, tuple):
            result: Any = tuple(_decode_texts(x, done) for x in value)
            done[id(value)] = result
        elif isinstance(value, list):
            result = done[id(value)] = []
            result.extend(_decode_texts(x, done) for x in value)
        else:
            result = done[id(value)] = {}
            for key, item in value.items():
                result[_decode_texts(key, done)] = _decode_texts(item, done)
        return result
    if isinstance(value, str | int | float | None):
        return value
    raise PickleError(f"refused: it contains more than plain data: {type(value).__name__}")


def _text(data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode("cp1252", errors="replace")
