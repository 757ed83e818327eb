"""Damage of a JSON tree: one place in it is changed, removed or duplicated."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from typing import Any

from hypothesis import strategies as st

from tests.data.sources.small_datasets import block

Place = tuple[str | int, ...]

# Values to insert. None of them is an id in the trees.
BAD_VALUES: tuple[Any, ...] = (
    *(None, True, -1, 7_777_777, 10**400, 0.5, 1e300, math.nan, math.inf, -math.inf),
    *("", " ", "00", "\ud800", "\0", "../..", "x" * 50_000, "a b " * 12_500),
    *([], {}, [None], [[]], {"": None}, [7, 7], [[7]], {"size": [1, 1]}, {"a dog": {}}),
    *([-9.0, -9.0, -1.0, -1.0], [9, 9, 1, 1], [0, 0, 1e9, 1e9], [math.nan] * 4),
    *([[1, 2, 3, 4]], [[1, 2, 3, 4, 5, 1e15]], [[1, 2, 3, 4, 5]], [[math.nan] * 6]),
    *(block(0, 0, 2, 2), [block(0, 0, 2, 2)], {"size": [48, 64], "counts": "zz"}),
    *({"size": [2, 2], "counts": [5, -1]}, {"size": [10**9, 10**9], "counts": [10**18]}),
)


def places(tree: Any, place: Place = ()) -> Iterator[Place]:
    """Every place in a tree, the root first."""
    yield place
    if isinstance(tree, dict | list):
        for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
            yield from places(value, (*place, key))


@st.composite
def damaged(draw: st.DrawFn, tree: Any) -> tuple[Place, Any]:
    """A place, and the tree with a damage there."""
    place = draw(st.sampled_from(list(places(tree))))
    value = draw(st.sampled_from(range(len(BAD_VALUES))))
    action = draw(st.sampled_from(["change", "change", "drop", "double"]))
    if not place:
        return place, BAD_VALUES[value]
    changed = copy.deepcopy(tree)
    holder = changed
    for key in place[:-1]:
        holder = holder[key]
    if action == "drop":
        del holder[place[-1]]
    elif action == "double" and isinstance(holder, list):
        holder.append(holder[place[-1]])
    else:
        holder[place[-1]] = copy.deepcopy(BAD_VALUES[value])
    return place, changed
