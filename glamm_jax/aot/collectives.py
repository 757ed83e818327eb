"""Communication of devices in the text of a compiled program.

program = step.lower(graphdef, frozen, state, batch).compile().as_text()
assert not gathered_stacks(program, frozen)
print(exchanged_activations(program, (frozen, state.trainable), num_devices=8))
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from flax import nnx

# The result of an all-gather: an array, or a tuple of its input and output.
_ALL_GATHER = re.compile(r"= (.*?) all-gather(?:-start)?\(")
_COLLECTIVE = re.compile(
    r"= (.*?) (?:all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter"
    r"|ragged-all-to-all|collective-broadcast)(?:-start)?\("
)
_SHAPE = re.compile(r"\w+\[([\d,]*)\]")


def gathered_shapes(program: str) -> set[tuple[int, ...]]:
    """Return the shapes that a compiled program gathers from the devices."""
    return _shapes(_ALL_GATHER, program)


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


def exchanged_shapes(program: str) -> set[tuple[int, ...]]:
    """Return the shapes of the results of all collectives of a compiled program."""
    return _shapes(_COLLECTIVE, program)


def exchanged_activations(
    program: str, parameters: Sequence[nnx.State], num_devices: int
) -> set[tuple[int, ...]]:
    """Return the shapes that devices exchange and that no parameter or gradient has.

    Axes of length 1 are left out, and scalars. A shape is that of a parameter if it has the axes of
    a leaf or of one of its layers in any order, one of them perhaps divided among devices.

    Args:
        program: text of the compiled program.
        parameters: all of the model.
        num_devices: of the mesh.
    """
    shapes = {_long_axes(shape) for shape in exchanged_shapes(program)}
    of_parameters = set()
    for state in parameters:
        for _, variable in nnx.to_flat_state(state):
            shape = variable.get_value().shape
            for axes in (shape, shape[1:]):
                of_parameters |= _divided(axes, num_devices)
    return {shape for shape in shapes if shape and tuple(sorted(shape)) not in of_parameters}


def _long_axes(shape: Sequence[int]) -> tuple[int, ...]:
    return tuple(length for length in shape if length > 1)


def _divided(shape: tuple[int, ...], num_devices: int) -> set[tuple[int, ...]]:
    """Return the sorted axes of the parts of an array that up to so many devices may hold."""
    parts = {tuple(sorted(_long_axes(shape)))}
    for axis, length in enumerate(shape):
        for count in range(2, num_devices + 1):
            if num_devices % count == 0 and length % count == 0:
                part = (*shape[:axis], length // count, *shape[axis + 1 :])
                parts.add(tuple(sorted(_long_axes(part))))
    return parts


def _shapes(pattern: re.Pattern[str], program: str) -> set[tuple[int, ...]]:
    """Return the shapes in the results of the instructions that a pattern finds."""
    results = " ".join(pattern.findall(program))
    return {tuple(map(int, filter(None, shape.split(",")))) for shape in _SHAPE.findall(results)}
