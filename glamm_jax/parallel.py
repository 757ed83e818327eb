"""Logical axes to mesh axes: one dataclass of rules, and the two functions that apply it.

Models name *logical* axes, on parameters (`Param(..., axes=("embed", "mlp"))`) and activations
(`constrain(x, "batch", "sequence", None)`). Which mesh axis carries a logical axis is decided here.

    with use_mesh(make_mesh(data=2, fsdp=2, tensor=2)):
        state = jax.device_put(state, shardings(state))
"""

from __future__ import annotations

import contextlib
import contextvars
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

MESH_AXES = ("data", "fsdp", "tensor")
MeshAxes = tuple[str, ...]


@dataclass(frozen=True)
class ShardingRules:
    """Mesh axes of every logical axis. An empty tuple means replicated."""

    # parameters
    layers: MeshAxes = ()
    embed: MeshAxes = ("fsdp",)
    rank: MeshAxes = ()
    # parameters and activations
    heads: MeshAxes = ("tensor",)
    mlp: MeshAxes = ("tensor",)
    vocab: MeshAxes = ("tensor",)
    # activations
    batch: MeshAxes = ("data", "fsdp")
    sequence: MeshAxes = ()

    def __post_init__(self) -> None:
        for rule in fields(self):
            unknown = set(getattr(self, rule.name)) - set(MESH_AXES)
            if unknown:
                raise ValueError(f"ShardingRules.{rule.name}: no mesh axis {sorted(unknown)}")


@dataclass(frozen=True)
class _MeshContext:
    mesh: Mesh | AbstractMesh
    rules: ShardingRules


_placement: contextvars.ContextVar[_MeshContext | None] = contextvars.ContextVar(
    "placement", default=None
)


def make_mesh(
    data: int = 1, fsdp: int = 1, tensor: int = 1, devices: Sequence[Any] | None = None
) -> Mesh:
    """A mesh over the first data * fsdp * tensor of these devices, or of all there are.

    One process leaves their order to jax, which knows how they are wired. Of several, each keeps
    its devices together, so that its part of a batch is one piece.
    """
    count = data * fsdp * tensor
    found = list(jax.devices() if devices is None else devices)
    if len(found) < count:
        raise ValueError(
            f"a {data}x{fsdp}x{tensor} mesh needs {count} devices, there are {len(found)}"
        )
    shape, kinds = (data, fsdp, tensor), (AxisType.Auto,) * 3
    if jax.process_count() == 1:
        return jax.make_mesh(shape, MESH_AXES, kinds, devices=found[:count])
    found.sort(key=lambda device: (device.process_index, device.id))
    return Mesh(np.array(found[:count]).reshape(shape), MESH_AXES, axis_types=kinds)


@contextlib.contextmanager
def use_mesh(
    mesh: Mesh | AbstractMesh, rules: ShardingRules | None = None
) -> Iterator[Mesh | AbstractMesh]:
    """Make `constrain`, `sharding` and `shardings` place arrays on this mesh.

    It is jax's mesh, too, so that a function compiled without a mesh is not taken for one with it.
    An abstract mesh, which has no devices, serves to ask where things would be.
    """
    token = _placement.set(_MeshContext(mesh, rules or ShardingRules()))
    abstract = isinstance(mesh, AbstractMesh)
    try:
        with jax.sharding.use_abstract_mesh(mesh) if abstract else jax.set_mesh(mesh):
            yield mesh
    finally:
        _placement.reset(token)


def current_mesh() -> Mesh | None:
    """The mesh of the innermost `use_mesh`; None without one, or when it has no devices."""
    placement = _placement.get()
    return placement.mesh if placement and isinstance(placement.mesh, Mesh) else None


def platform() -> str:
    """What is compiled for, "cpu", "gpu" or "tpu": the mesh's devices, present or not, say it."""
    mesh = current_mesh()
    name = mesh.devices.flat[0].platform if mesh else jax.default_backend()
    return "gpu" if name in ("cuda", "rocm") else name


def num_batch_shards() -> int:
    """Among how many pieces the current mesh spreads the first axis of a batch; 1 without one."""
    placement = _placement.get()
    if placement is None:
        return 1
    return math.prod(placement.mesh.shape[name] for name in placement.rules.batch)


def shard_batch_axis(x: Any) -> Any:
    """An array with its first axis spread over the batch's devices; without a mesh, as it is."""
    if current_mesh() is None:
        return x
    return jax.device_put(x, sharding(("batch", *(None,) * (x.ndim - 1)), x.shape))


def to_host(x: Any) -> np.ndarray:
    """The whole of an array, also where other processes hold some of it; all must ask for it."""
    if not isinstance(x, jax.Array) or x.is_fully_addressable or x.is_fully_replicated:
        return np.asarray(x)
    from jax.experimental import multihost_utils

    return np.asarray(multihost_utils.process_allgather(x, tiled=True))


def has_mesh() -> bool:
    """Whether there is a mesh, be it an abstract one."""
    return _placement.get() is not None


def is_sharded() -> bool:
    """Whether there is a mesh of more than one device."""
    mesh = current_mesh()
    return mesh is not None and mesh.size > 1


def partition_spec(axes: tuple[str | None, ...], shape: tuple[int, ...]) -> PartitionSpec:
    """The mesh axes of an array of this shape whose dimensions carry these logical axes.

    A dimension that its mesh axes do not divide keeps the longest leading part that does, so that
    any mesh runs any model; two dimensions on one mesh axis raise.

    Raises: ValueError for an unknown logical axis, a wrong rank or a collision.
    """
    placement = _placement.get()
    if placement is None:
        return PartitionSpec()
    if len(axes) != len(shape):
        raise ValueError(f"logical axes {axes} do not fit an array of shape {shape}")
    sizes = dict(placement.mesh.shape)
    taken: dict[str, str] = {}
    entries: list[MeshAxes | None] = []
    for axis, length in zip(axes, shape, strict=True):
        if axis is not None and not hasattr(placement.rules, axis):
            raise ValueError(f"no sharding rule for logical axis {axis!r} in {axes}")
        wanted = () if axis is None else getattr(placement.rules, axis)
        wanted = tuple(name for name in wanted if sizes[name] > 1)
        while wanted and length % math.prod(sizes[name] for name in wanted):
            wanted = wanted[:-1]
        for name in wanted:
            if name in taken:
                raise ValueError(f"{axes}: {axis!r} and {taken[name]!r} both want {name!r}")
            taken[name] = str(axis)
        entries.append(wanted or None)
    return PartitionSpec(*entries)


def constrain(x: jax.Array, *axes: str | None) -> jax.Array:
    """Place an activation by its logical axes; without a mesh, return it as it is."""
    placement = _placement.get()
    if placement is None:
        return x
    spec = partition_spec(axes, x.shape)
    return jax.lax.with_sharding_constraint(x, NamedSharding(placement.mesh, spec))


def sharding(axes: tuple[str | None, ...], shape: tuple[int, ...]) -> NamedSharding:
    """Where an array lives under the current mesh."""
    placement = _placement.get()
    if placement is None:
        raise ValueError("no mesh: call inside `with use_mesh(...)`")
    return NamedSharding(placement.mesh, partition_spec(axes, shape))


def shardings(state: nnx.State) -> nnx.State:
    """The sharding of every leaf of a model's state, from the axes its variables carry.

    Raises: ValueError, naming the parameter, when one carries no axes.
    """

    def place(path: tuple, variable: nnx.Variable) -> nnx.Variable:
        axes = variable.get_metadata().get("axes")
        if axes is None:
            raise ValueError(f"{'.'.join(map(str, path))} carries no logical axes")
        return variable.replace(sharding(axes, variable.get_value().shape))

    return nnx.map_state(place, state)
