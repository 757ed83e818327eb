"""All-gathers in the text of a compiled program.

program = step.lower(graphdef, frozen, state, batch).compile().as_text()
assert not gathered_stacks(program, frozen)
"""

from __future__ import annotations

import re

from flax import nnx

# The result of an all-gather: an array, or a tuple of its input and output.
_ALL_GATHER = re.compile(r"= (.*?) all-gather(?:-start)?\(")
_SHAPE = re.compile(r"\w+\[([\d,]+)\]")


def gathered_shapes(program: str) -> set[tuple[int, ...]]:
    """Return the shapes that a compiled program gathers from the devices."""
    results = " ".join(_ALL_GATHER.findall(program))
    return {tuple(map(int, shape.split(","))) for shape in _SHAPE.findall(results)}


def gathered_stacks(program: str, frozen: nnx.State) -> list[str]:
    """Return the leaf paths of frozen kernels that a program gathers with all their layers.

    A sharded program that scans over layers should gather one layer at a time, so that the list
    is empty.
    """
    shapes = gathered_shapes(program)
    return [
        ".".join(map(str, path))
        for path, variable in nnx.to_flat_state(frozen)
        for axes, shape in [(variable.get_metadata()["axes"], variable.get_value().shape)]
        if axes[:1] == ("layers",) and len(shape) > 2 and shape[0] > 1 and shape in shapes
    ]
