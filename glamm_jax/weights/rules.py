"""Weight rules: (torch tensor, jax leaf, named transform), total and invertible.

A table says what happens to every tensor of a checkpoint family. `find_problems` compares names and
shapes with it before a byte is read; `weights.transfer` turns torch tensors into leaves and leaves
back into the same bytes. Pure numpy: models are seen only as {leaf path: shape}.

    WeightRule("layers.{layer}.mlp.fc1.weight", "layers.mlp.up.kernel", "linear", layers=(0, 1, 2))

`{layer}` in a tensor's name runs over `layers`. In the leaf it either becomes part of the path or,
when the leaf does not contain it, the position in the stacked leaf's leading axis.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from glamm_jax.errors import GLaMMError

Shape = tuple[int, ...]
Shapes = Mapping[str, Shape]
Disposition = Literal["converted", "recomputed", "carried", "dropped"]


@dataclass(frozen=True)
class Transform:
    """`load` maps torch's layout to ours (it may look at the leaf's shape), `dump` back."""

    to_leaf: Callable[[np.ndarray, Shape], np.ndarray]
    to_tensor: Callable[[np.ndarray], np.ndarray]


TRANSFORMS: Mapping[str, Transform] = {
    "same": Transform(lambda x, _: x, lambda x: x),
    # [out, in] <-> [in, out]
    "linear": Transform(lambda x, _: x.T, lambda x: x.T),
    # OIHW <-> HWIO
    "conv": Transform(lambda x, _: x.transpose(2, 3, 1, 0), lambda x: x.transpose(3, 2, 0, 1)),
    # a 1x1 convolution [out, in, 1, 1] <-> [in, out]
    "conv1x1": Transform(lambda x, _: x[:, :, 0, 0].T, lambda x: x.T[:, :, None, None]),
    # a transposed convolution [in, out, h, w] <-> [in, h, w, out]
    "conv_transposed": Transform(
        lambda x, _: x.transpose(0, 2, 3, 1), lambda x: x.transpose(0, 3, 1, 2)
    ),
    # a linear layer over a flattened (channel, row, column) map <-> [row, column, channel, out]
    "map_linear": Transform(
        lambda x, shape: x.reshape(shape[3], shape[2], shape[0], shape[1]).transpose(2, 3, 1, 0),
        lambda x: x.transpose(3, 2, 0, 1).reshape(x.shape[3], -1),
    ),
    # [1, ...] <-> [...]
    "squeeze": Transform(lambda x, _: x[0], lambda x: x[None]),
}


class WeightsError(GLaMMError):
    """Tensors and leaves do not match; the message lists every one that does not."""


@dataclass(frozen=True)
class WeightRule:
    """One line of a table."""

    tensor: str
    leaf: str
    transform: str = "same"
    layers: tuple[int, ...] = ()

    def mappings(self) -> list[TensorMapping]:
        """One entry a tensor."""
        if "{layer}" not in self.tensor:
            return [TensorMapping(self.tensor, self.leaf, None, self.transform)]
        stacked = "{layer}" not in self.leaf
        return [
            TensorMapping(
                self.tensor.replace("{layer}", str(layer)),
                self.leaf.replace("{layer}", str(position)),
                position if stacked else None,
                self.transform,
            )
            for position, layer in enumerate(self.layers)
        ]


@dataclass(frozen=True)
class TensorMapping:
    """A rule for one tensor: its leaf, and its position in that leaf if the leaf is a stack."""

    tensor: str
    leaf: str
    position: int | None
    transform: str


@dataclass(frozen=True)
class UnmappedTensor:
    """Tensors that no leaf comes from. `kind` says what becomes of them.

    recomputed: a function of the configuration: `value` is checked on import, written on export.
    carried: read by nobody here, but it returns on export.
    dropped: it does not return, for the reason given.
    """

    tensor: str
    disposition: Disposition
    reason: str
    layers: tuple[int, ...] = ()
    compute: Callable[[], np.ndarray] | None = None

    def names(self) -> list[str]:
        if "{layer}" not in self.tensor:
            return [self.tensor]
        return [self.tensor.replace("{layer}", str(layer)) for layer in self.layers]


@dataclass(frozen=True)
class WeightTable:
    """Everything known about one family of checkpoints.

    `rules` must all be there; what is `unread` may be absent: other versions do not save it.
    """

    rules: tuple[WeightRule, ...]
    unmapped: tuple[UnmappedTensor, ...] = field(default=())

    def __add__(self, other: WeightTable) -> WeightTable:
        return WeightTable(self.rules + other.rules, self.unmapped + other.unmapped)

    def with_prefix(self, tensor: str = "", leaf: str = "") -> WeightTable:
        """The same table with prefixes on both sides."""
        return WeightTable(
            tuple(replace(r, tensor=tensor + r.tensor, leaf=leaf + r.leaf) for r in self.rules),
            tuple(replace(u, tensor=tensor + u.tensor) for u in self.unmapped),
        )

    def mappings(self) -> list[TensorMapping]:
        return [entry for rule in self.rules for entry in rule.mappings()]

    def unmapped_by_name(self) -> dict[str, UnmappedTensor]:
        return {name: unread for unread in self.unmapped for name in unread.names()}


def tensor_shapes(table: WeightTable, leaves: Shapes) -> dict[str, Shape]:
    """Shape of every torch tensor that the table's rules name, from the leaves' shapes alone."""
    out = {}
    for entry in table.mappings():
        shape = leaves[entry.leaf] if entry.position is None else leaves[entry.leaf][1:]
        empty = np.broadcast_to(np.int8(0), shape)  # takes no memory
        out[entry.tensor] = TRANSFORMS[entry.transform].to_tensor(empty).shape
    return out


def find_problems(table: WeightTable, tensors: Shapes, leaves: Shapes) -> list[str]:
    """List tensors that are not exactly those of the table, and leaves that they do not fill.

    Args:
        tensors: name and shape of everything the checkpoint holds, in torch's layout.
        leaves: path and shape of every leaf of the model.

    Returns:
        One sentence for every missing, unknown and misshapen tensor and every unfilled leaf, in
        the order of the table.
    """
    entries, unread = table.mappings(), table.unmapped_by_name()
    problems = [f"missing tensor {e.tensor}" for e in entries if e.tensor not in tensors]
    known = {entry.tensor for entry in entries} | set(unread)
    problems += [f"unknown tensor {name}" for name in sorted(set(tensors) - known)]
    problems += [f"no such leaf {e.leaf} (for {e.tensor})" for e in entries if e.leaf not in leaves]
    problems += _misfilled(entries, leaves)
    placeable = tuple(r for r in table.rules if all(e.leaf in leaves for e in r.mappings()))
    wanted = tensor_shapes(WeightTable(placeable), leaves)
    for name, unused in unread.items():
        if unused.compute is not None and name in tensors:
            wanted[name] = unused.compute().shape
    problems += [
        f"{name}: shape {tuple(tensors[name])}, but the model wants {shape}"
        for name, shape in wanted.items()
        if name in tensors and tuple(tensors[name]) != shape
    ]
    return problems


def _misfilled(entries: list[TensorMapping], leaves: Shapes) -> list[str]:
    """Leaves that are not filled whole and once."""
    places: dict[str, list[int | None]] = {}
    for entry in entries:
        places.setdefault(entry.leaf, []).append(entry.position)
    problems = []
    for leaf, shape in leaves.items():
        filled = places.get(leaf, [])
        if not filled:
            problems.append(f"leaf {leaf} is filled by no tensor")
        elif filled != [None] and sorted(filled, key=str) != sorted(range(shape[0]), key=str):
            problems.append(f"leaf {leaf} of {shape[0]} layers is filled at {filled}")
    return problems
