"""Weight rules: (torch tensor, jax leaf, named transform), total and invertible.

A table says what happens to every tensor of a checkpoint family. `load` turns torch tensors into
leaves, `dump` turns leaves back into the same bytes; both fail with ONE error that lists every
offender. Pure numpy: models are seen only as {leaf path: shape}.

    Rule("layers.{layer}.mlp.fc1.weight", "layers.mlp.up.kernel", "linear", layers=(0, 1, 2))

`{layer}` in a tensor's name runs over `layers`. In the leaf it either becomes part of the path or,
when the leaf does not contain it, the position in the stacked leaf's leading axis.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np


@dataclass(frozen=True)
class Transform:
    """`load` maps torch's layout to ours (it may look at the leaf's shape), `dump` back."""

    load: Callable[[np.ndarray, tuple[int, ...]], np.ndarray]
    dump: Callable[[np.ndarray], np.ndarray]


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


class WeightsError(ValueError):
    """Tensors and leaves do not match; the message lists every one that does not."""


@dataclass(frozen=True)
class Rule:
    """One line of a table."""

    tensor: str
    leaf: str
    transform: str = "same"
    layers: tuple[int, ...] = ()

    def entries(self) -> list[Entry]:
        """One entry a tensor."""
        if "{layer}" not in self.tensor:
            return [Entry(self.tensor, self.leaf, None, self.transform)]
        stacked = "{layer}" not in self.leaf
        return [
            Entry(
                self.tensor.replace("{layer}", str(layer)),
                self.leaf.replace("{layer}", str(position)),
                position if stacked else None,
                self.transform,
            )
            for position, layer in enumerate(self.layers)
        ]


@dataclass(frozen=True)
class Entry:
    """A rule for one tensor: its leaf, and its position in that leaf if the leaf is a stack."""

    tensor: str
    leaf: str
    position: int | None
    transform: str


@dataclass(frozen=True)
class Unread:
    """Tensors that no leaf comes from. `kind` says what becomes of them.

    computed: a function of the configuration, checked on import and regenerated on export.
    carried: read by nobody here, but it returns on export.
    dropped: it does not return, for the reason given.
    """

    tensor: str
    kind: str
    reason: str
    layers: tuple[int, ...] = ()

    def names(self) -> list[str]:
        if "{layer}" not in self.tensor:
            return [self.tensor]
        return [self.tensor.replace("{layer}", str(layer)) for layer in self.layers]


@dataclass(frozen=True)
class Table:
    """Everything known about one family of checkpoints."""

    rules: tuple[Rule, ...]
    unread: tuple[Unread, ...] = field(default=())

    def __add__(self, other: Table) -> Table:
        return Table(self.rules + other.rules, self.unread + other.unread)

    def under(self, tensor: str = "", leaf: str = "") -> Table:
        """The same table with prefixes on both sides."""
        return Table(
            tuple(replace(r, tensor=tensor + r.tensor, leaf=leaf + r.leaf) for r in self.rules),
            tuple(replace(u, tensor=tensor + u.tensor) for u in self.unread),
        )

    def entries(self) -> list[Entry]:
        return [entry for rule in self.rules for entry in rule.entries()]

    def unread_names(self) -> dict[str, Unread]:
        return {name: unread for unread in self.unread for name in unread.names()}


def load(
    table: Table,
    names: Iterable[str],
    read: Callable[[str], np.ndarray],
    leaves: Mapping[str, tuple[int, ...]],
) -> dict[str, np.ndarray]:
    """Every leaf, filled once from its tensors.

    Args:
        names: the tensors that the checkpoint holds; `read` gives one by name, in torch's layout.
        leaves: path and shape of every leaf of the model.

    Raises: WeightsError listing missing, unknown and misshapen tensors and unfilled leaves.
    """
    entries, names = table.entries(), set(names)
    problems = [f"missing tensor {e.tensor}" for e in entries if e.tensor not in names]
    known = {entry.tensor for entry in entries} | set(table.unread_names())
    problems += [f"unknown tensor {name}" for name in sorted(names - known)]
    problems += [f"no such leaf {e.leaf} (for {e.tensor})" for e in entries if e.leaf not in leaves]
    unfilled = set(leaves) - {entry.leaf for entry in entries}
    problems += [f"leaf {leaf} is filled by no tensor" for leaf in sorted(unfilled)]
    out: dict[str, np.ndarray] = {}
    for entry in entries:
        if entry.tensor in names and entry.leaf in leaves:
            problem = _place(out, entry, read(entry.tensor), leaves[entry.leaf])
            problems += [problem] if problem else []
    if problems:
        raise WeightsError("\n".join([f"{len(problems)} problems with the weights:", *problems]))
    return out


def _place(
    out: dict[str, np.ndarray], entry: Entry, tensor: np.ndarray, shape: tuple[int, ...]
) -> str | None:
    """Write one tensor to its place; returns what is wrong with it, if anything."""
    target = shape if entry.position is None else shape[1:]
    if entry.position is not None and entry.position >= shape[0]:
        return f"{entry.tensor}: the leaf {entry.leaf} holds {shape[0]} layers"
    try:
        array = TRANSFORMS[entry.transform].load(tensor, target)
    except (ValueError, IndexError):
        array = None
    if array is None or array.shape != target:
        return f"{entry.tensor}: shape {tensor.shape} does not become {target} of {entry.leaf}"
    if entry.position is None:
        out[entry.leaf] = array
    else:
        stack = out.setdefault(entry.leaf, np.empty(shape, array.dtype))
        stack[entry.position] = array
    return None


def tensor_shapes(
    table: Table, leaves: Mapping[str, tuple[int, ...]]
) -> dict[str, tuple[int, ...]]:
    """Shape of every torch tensor that the table's rules name, from the leaves' shapes alone."""
    out = {}
    for entry in table.entries():
        shape = leaves[entry.leaf] if entry.position is None else leaves[entry.leaf][1:]
        empty = np.broadcast_to(np.int8(0), shape)  # takes no memory
        out[entry.tensor] = TRANSFORMS[entry.transform].dump(empty).shape
    return out


def dump(table: Table, leaves: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The torch tensors that these leaves came from, in torch's layout."""
    out = {}
    for entry in table.entries():
        if entry.leaf not in leaves:
            raise WeightsError(f"leaf {entry.leaf} is missing (for {entry.tensor})")
        array = leaves[entry.leaf]
        array = array if entry.position is None else array[entry.position]
        out[entry.tensor] = np.ascontiguousarray(TRANSFORMS[entry.transform].dump(array))
    return out
