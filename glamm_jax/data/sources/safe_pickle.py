"""Reading of pickles that hold plain data, without executing code from them.

A pickle is a program. Only the instructions that build texts, numbers, lists, tuples and
dictionaries are allowed. A pickle with any other instruction (imports, calls, persistent ids) is
refused before anything is executed.
"""

from __future__ import annotations

import io
import pickle
import pickletools
from typing import Any

from glamm_jax.errors import GLaMMError

_TEXTS = "STRING BINSTRING SHORT_BINSTRING UNICODE BINUNICODE SHORT_BINUNICODE BINUNICODE8"
_NUMBERS = "INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT NONE NEWTRUE NEWFALSE"
_CONTAINERS = "EMPTY_LIST LIST APPEND APPENDS EMPTY_DICT DICT SETITEM SETITEMS"
_TUPLES = "EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3"
_CONTROL = "PROTO FRAME MARK POP POP_MARK DUP STOP"
_MEMO_WRITES = ("PUT", "BINPUT", "LONG_BINPUT")
_MEMO_READS = "MEMOIZE GET BINGET LONG_BINGET"
ALLOWED = frozenset(
    " ".join((_TEXTS, _NUMBERS, _CONTAINERS, _TUPLES, _CONTROL, _MEMO_READS, *_MEMO_WRITES)).split()
)


class PickleError(GLaMMError):
    """A pickle is damaged, or contains more than plain data."""


class _NoImports(pickle.Unpickler):
    """A second safeguard: no import passes even if the check of the instructions misses one."""

    def find_class(self, module: str, name: str) -> Any:
        raise PickleError(f"refused: it imports {module}.{name}")


def load_plain(data: bytes) -> Any:
    """Return the value of a pickle of any protocol. Strings of Python 2 are read as UTF-8.

    Raises:
        PickleError: it is damaged, or contains more than plain data.
    """
    try:
        for operation, argument, _ in pickletools.genops(data):
            if operation.name not in ALLOWED:
                instruction = f"{operation.name} {argument or ''}"
                raise PickleError(f"refused: it contains more than plain data: {instruction}")
            # The unpickler allocates as many memo entries as the largest index says.
            if operation.name in _MEMO_WRITES and int(argument or 0) > len(data):
                raise PickleError("damaged: a memo index is larger than the file")
        stream = io.BytesIO(data)
        return _NoImports(stream, encoding="utf-8", errors="replace").load()
    except PickleError:
        raise
    except Exception as error:  # damaged pickles raise many kinds
        raise PickleError(f"damaged: {error}") from error
