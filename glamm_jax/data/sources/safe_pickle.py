"""Pickles of plain data, read without giving them the chance to do anything.

A pickle is a program. Of its instructions only those that build texts, numbers, lists and
dictionaries are allowed; whatever imports, calls or reaches beyond its own stack is refused before
anything is executed.
"""

from __future__ import annotations

import io
import pickle
import pickletools
from typing import Any

from glamm_jax.errors import GLaMMError

_TEXTS = "STRING BINSTRING SHORT_BINSTRING UNICODE BINUNICODE SHORT_BINUNICODE BINUNICODE8"
_NUMBERS = "INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT NONE NEWTRUE NEWFALSE"
_BUILT = "EMPTY_LIST LIST APPEND APPENDS EMPTY_DICT DICT SETITEM SETITEMS"
_TUPLES = "EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3"
_ORDER = "PROTO FRAME MARK POP POP_MARK DUP STOP"
_MEMORY = ("PUT", "BINPUT", "LONG_BINPUT")
_READ_BACK = "MEMOIZE GET BINGET LONG_BINGET"
ALLOWED = frozenset(
    " ".join((_TEXTS, _NUMBERS, _BUILT, _TUPLES, _ORDER, _READ_BACK, *_MEMORY)).split()
)


class PickleError(GLaMMError):
    """A pickle that is damaged, or holds more than plain data."""


class _NoImports(pickle.Unpickler):
    """The second lock on the same door."""

    def find_class(self, module: str, name: str) -> Any:
        raise PickleError(f"it wants to import {module}.{name}")


def load_plain(data: bytes) -> Any:
    """The value of a pickle of any protocol. Texts of Python 2 are read as UTF-8.

    Raises: PickleError.
    """
    try:
        for operation, argument, _ in pickletools.genops(data):
            if operation.name not in ALLOWED:
                raise PickleError(f"it does more than hold data: {operation.name} {argument or ''}")
            # The unpickler makes room for as many values as the largest number says.
            if operation.name in _MEMORY and int(argument or 0) > len(data):
                raise PickleError("damaged: it remembers more values than it can hold")
        stream = io.BytesIO(data)
        return _NoImports(stream, encoding="utf-8", errors="replace").load()
    except PickleError:
        raise
    except Exception as error:  # a damaged pickle fails in any way
        raise PickleError(f"damaged: {error}") from error
