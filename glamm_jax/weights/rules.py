"""Weight rules: torch tensor, leaf of the model, and the transform between them.

A `WeightTable` says what happens to every tensor of a family of checkpoints: its rules convert
tensors to leaves; its unmapped tensors fill no leaf. `find_problems` compares names and shapes with
the table before a tensor is read. `weights.transfer` converts torch tensors to leaves, and leaves
back to the same bytes. Only numpy is used: a model is its {leaf path: shape}.

    WeightRule("layers.{layer}.mlp.fc1.weight", "layers.mlp.up.kernel", "linear", layers=(0, 1, 2))

`{layer}` in a tensor's name takes the values of `layers`. If the leaf's path contains `{layer}`,
there is one leaf per layer. If not, the leaf is a stack, and the layers are the entries of its
leading axis.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from glamm_jax.errors import GLaMMError

Shape = tuple[int, ...]
Shapes = Mapping[str, Shape]
# What happens to a tensor on import; see `UnmappedTensor` for all but "converted".
Disposition = Literal["converted", "recomputed", "carried", "dropped"]


@dataclass(frozen=True)
class Transform:
    """A change of layout and its inverse.

    Attributes:
        to_leaf: (tensor in torch's layout, shape of the leaf or layer) -> leaf or layer.
        to_tensor: the inverse.
    """

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
    """Tensors and leaves do not match; the message lists every problem."""


@dataclass(frozen=True)
class WeightRule:
    """A line of a table.

    Attributes:
        tensor: torch name, with `{layer}` if there is one tensor per layer.
        leaf: dotted path of the leaf.
        transform: key of TRANSFORMS.
        layers: layer numbers in the torch names.
    """

    tensor: str
    leaf: str
    transform: str = "same"
    layers: tuple[int, ...] = ()

    def mappings(self) -> list[TensorMapping]:
        """Return one mapping per tensor."""
        if "{layer}" not in self.tensor:
            return [TensorMapping(self.tensor, self.leaf, None, self.transform)]
        is_stacked = "{layer}" not in self.leaf
        return [
            TensorMapping(
                self.tensor.replace("{layer}", str(layer)),
                self.leaf.replace("{layer}", str(position)),
                position if is_stacked else None,
                self.transform,
            )
            for position, layer in enumerate(self.layers)
        ]


@dataclass(frozen=True)
class TensorMapping:
    """A rule for one tensor.

    Attributes:
        tensor: torch name.
        leaf: dotted path of the leaf.
        position: in the leaf's leading axis; None: the tensor is the complete leaf.
        transform: key of TRANSFORMS.
    """

    tensor: str
    leaf: str
    position: int | None
    transform: str


@dataclass(frozen=True)
class UnmappedTensor:
    """Tensors that fill no leaf.

    Attributes:
        tensor: torch name, with `{layer}` if there is one tensor per layer.
        disposition: "recomputed": a function of the configuration, compared on import and written
            on export. "carried": unused here; stored in the model folder and written on export.
            "dropped": not written on export.
        reason: why; printed after a conversion.
        layers: layer numbers in the torch names.
        compute: computes a recomputed tensor.
        equal_to: the tensor of a rule that a recomputed one repeats.
    """

    tensor: str
    disposition: Disposition
    reason: str
    layers: tuple[int, ...] = ()
    compute: Callable[[], np.ndarray] | None = None
    equal_to: str | None = None

    def names(self) -> list[str]:
        if "{layer}" not in self.tensor:
            return [self.tensor]
        return [self.tensor.replace("{layer}", str(layer)) for layer in self.layers]


@dataclass(frozen=True)
class WeightTable:
    """All tensors of a family of checkpoints.

    Attributes:
        rules: tensors that fill the leaves; all are required.
        unmapped: tensors that fill no leaf; all are optional, since some versions do not save them.
    """

    rules: tuple[WeightRule, ...]
    unmapped: tuple[UnmappedTensor, ...] = field(default=())

    def __add__(self, other: WeightTable) -> WeightTable:
        return WeightTable(self.rules + other.rules, self.unmapped + other.unmapped)

    def with_prefix(self, tensor: str = "", leaf: str = "") -> WeightTable:
        """Return the same table with prefixes before the torch names and the leaf paths."""
        return WeightTable(
            tuple(replace(r, tensor=tensor + r.tensor, leaf=leaf + r.leaf) for r in self.rules),
            tuple(replace(u, tensor=tensor + u.tensor) for u in self.unmapped),
        )

    def mappings(self) -> list[TensorMapping]:
        return [mapping for rule in self.rules for mapping in rule.mappings()]

    def unmapped_by_name(self) -> dict[str, UnmappedTensor]:
        return {name: unmapped for unmapped in self.unmapped for name in unmapped.names()}


def tensor_shapes(table: WeightTable, leaves: Shapes) -> dict[str, Shape]:
    """Compute the shape of every torch tensor of the table's rules from the leaves' shapes."""
    shapes = {}
    for mapping in table.mappings():
        shape = leaves[mapping.leaf]
        if mapping.position is not None:
            shape = shape[1:]
        empty = np.broadcast_to(np.int8(0), shape)  # takes no memory
        shapes[mapping.tensor] = TRANSFORMS[mapping.transform].to_tensor(empty).shape
    return shapes


def find_problems(table: WeightTable, tensors: Shapes, leaves: Shapes) -> list[str]:
    """List what prevents a checkpoint from filling a model.

    Args:
        table: maps one to the other.
        tensors: name and shape of everything in the checkpoint, in torch's layout.
        leaves: path and shape of every leaf of the model.

    Returns:
        A sentence for every tensor that is missing, unknown or of the wrong shape, and for every
        leaf that is not filled completely and once, in the order of the table.
    """
    mappings, unmapped = table.mappings(), table.unmapped_by_name()
    problems = [f"missing tensor {m.tensor}" for m in mappings if m.tensor not in tensors]
    names = {mapping.tensor for mapping in mappings} | set(unmapped)
    problems += [f"unknown tensor {name}" for name in sorted(set(tensors) - names)]
    problems += [
        f"no such leaf {m.leaf} (for {m.tensor})" for m in mappings if m.leaf not in leaves
    ]
    positions: dict[str, list[int | None]] = {}
    for mapping in mappings:
        positions.setdefault(mapping.leaf, []).append(mapping.position)
    for leaf, shape in leaves.items():
        filled = positions.get(leaf, [])
        if not filled:
            problems.append(f"leaf {leaf} is filled by no tensor")
        elif filled != [None] and sorted(filled, key=str) != sorted(range(shape[0]), key=str):
            problems.append(f"leaf {leaf} of {shape[0]} layers is filled at {filled}")
    rules = tuple(r for r in table.rules if all(m.leaf in leaves for m in r.mappings()))
    expected = tensor_shapes(WeightTable(rules), leaves)
    for name, tensor in unmapped.items():
        if tensor.compute is not None and name in tensors:
            expected[name] = tensor.compute().shape
    problems += [
        f"{name}: shape {tuple(tensors[name])}, but the model expects {shape}"
        for name, shape in expected.items()
        if name in tensors and tuple(tensors[name]) != shape
    ]
    return problems
