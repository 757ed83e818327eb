"""Processes, device meshes, and the mapping from logical axes to mesh axes.

Models name *logical* axes, on parameters (`Param(..., axes=("embed", "mlp"))`) and on activations
(`constrain(x, "batch", "sequence", None)`). `ShardingRules` maps each logical axis to mesh axes.

    with use_mesh(make_mesh(data=2, fsdp=2, tensor=2)):
        state = jax.device_put(state, shardings(state))
"""

from __future__ import annotations

import contextlib
import contextvars
import itertools
import math
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx
from jax.experimental import mesh_utils
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from glamm_jax.errors import GLaMMError
from glamm_jax.process_group import (
    JOIN_TIMEOUT,
    ProcessError,
    ProcessGroup,
    ProcessIdentity,
    join_processes,
    split_address,
)

MESH_AXES = ("data", "fsdp", "tensor")
MIB, GIB = 2**20, 2**30  # bytes, in which sizes on a device are shown
ADDRESS_VARIABLE = "JAX_COORDINATOR_ADDRESS"
SHUTDOWN_TIMEOUT = 24 * 3600  # seconds that a finished process waits for the others
ANY_PROGRAM = ProcessIdentity("", {})
MeshAxes = tuple[str, ...]


class MeshError(GLaMMError):
    """A mesh that cannot be built from the available devices."""


class MeshSizes(NamedTuple):
    """The number of devices along each axis of a mesh."""

    data: int = 1
    fsdp: int = 1
    tensor: int = 1

    def __str__(self) -> str:
        return " x ".join(f"{name} {size}" for name, size in self._asdict().items())


ONE_DEVICE = MeshSizes()


def parse_mesh(text: str) -> MeshSizes:
    """Parse sizes such as "fsdp=4,tensor=2"; an axis that is not named has one device.

    Raises:
        MeshError: an axis is unknown or named twice, or a size is not a number of at least 1.
    """
    sizes: dict[str, int] = {}
    for entry in text.split(","):
        name, _, size = entry.strip().partition("=")
        if name not in MESH_AXES or name in sizes or not (size.isdecimal() and int(size)):
            raise MeshError(
                f"mesh {text!r}: {entry!r} is not AXIS=SIZE with another axis of "
                f"{', '.join(MESH_AXES)} and a size of at least 1, as in fsdp=4,tensor=2"
            )
        sizes[name] = int(size)
    return MeshSizes(**sizes)


@dataclass(frozen=True)
class ShardingRules:
    """The mesh axes that each logical axis is sharded over. An empty tuple means replicated."""

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
    copies: MeshAxes = ("data",)  # of the weights; each serves its part of the batch
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


_context: contextvars.ContextVar[_MeshContext | None] = contextvars.ContextVar(
    "mesh_context", default=None
)

_group: ProcessGroup | None = None  # of this program
_waits = itertools.count()


def initialize_processes(
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    identity: ProcessIdentity = ANY_PROGRAM,
    timeout: float = JOIN_TIMEOUT,
    share_devices: bool = True,
) -> ProcessGroup | None:
    """Connect this process with the others of the same program. Call it before anything uses jax.

    Without arguments, the processes are those that JAX detects: on TPU pods and slices, GKE, Slurm
    and Open MPI; elsewhere there is one. `num_processes` = 1 detects nothing.

    Args:
        coordinator: HOST:PORT of process 0.
        num_processes: number of all processes.
        process_id: of this process, from 0.
        identity: what all processes must have in common.
        timeout: seconds to wait for the others.
        share_devices: join their devices, for computations over all of them.

    Returns:
        The processes; None if there is only this one.

    Raises:
        ProcessError: the arguments are inconsistent, or some process did not join in time.
    """
    problem = _arguments_problem(coordinator, num_processes, process_id)
    if problem:
        raise ProcessError(problem)
    local_devices = None
    if num_processes is None:
        found = _detect_cluster(timeout)
        if found is None:
            if ADDRESS_VARIABLE in os.environ:
                raise ProcessError(
                    f"{ADDRESS_VARIABLE} is set, but no cluster is detected: give --coordinator, "
                    "--processes and --process, or --processes 1 for a single process"
                )
            return None
        coordinator, num_processes, process_id, local_devices = found
    if num_processes == 1 or coordinator is None or process_id is None:
        return None
    global _group
    _group = group = join_processes(coordinator, num_processes, process_id, identity, timeout)
    if share_devices:
        # The others joined, so that neither time is ever reached.
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.distributed.initialize(
            coordinator,
            num_processes,
            process_id,
            local_devices,
            "deactivate",
            initialization_timeout=math.ceil(timeout),
            shutdown_timeout_seconds=SHUTDOWN_TIMEOUT,
        )
    return group


def wait_for_processes() -> None:
    """Wait until all processes have called this as often as this one.

    Collective operations on CPU fail after 30 seconds, and compiling may take some longer.

    Raises:
        ProcessError: another process was lost.
    """
    if _group is not None:
        _group.barrier(f"wait {next(_waits)}")


def _arguments_problem(coordinator: str | None, count: int | None, index: int | None) -> str:
    """Return what is wrong with the arguments of `initialize_processes`, "" for nothing."""
    named = {"--coordinator": coordinator, "--processes": count, "--process": index}
    given = [name for name, value in named.items() if value is not None]
    if (count is not None and count < 1) or (index is not None and index < 0):
        return "--processes must be at least 1 and --process at least 0"
    if not given or (given == ["--processes"] and count == 1):
        return ""
    missing = [name for name in named if name not in given]
    if missing:
        return f"{' and '.join(given)} without {' and '.join(missing)}: give all three, or none"
    if index is not None and count is not None and index >= count:
        return f"--process {index} of --processes {count}: it must be 0 to {count - 1}"
    split_address(str(coordinator))
    return ""


def _detect_cluster(timeout: float) -> tuple[str, int, int, list[int] | None] | None:
    """Return address, number, index and devices as jax detects them; None outside of a cluster.

    jax has no public function for this: `jax.distributed.initialize` connects at once, and ends the
    process from C++ if a host does not join.

    Raises:
        ProcessError: there is a cluster, but its description cannot be read.
    """
    from jax._src.clusters import ClusterEnv

    try:
        address, count, index, devices = ClusterEnv.auto_detect_unset_distributed_params(
            os.environ.get(ADDRESS_VARIABLE), None, None, None, None, math.ceil(timeout)
        )
    except Exception as error:  # of the cluster's own interface
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ProcessError(
            f"a cluster was detected, but not its processes: {reason}. Give --coordinator, "
            "--processes and --process, or --processes 1 for a single process"
        ) from error
    if address is None or count is None or index is None:
        return None
    return address, count, index, None if devices is None else list(devices)


def make_mesh(
    data: int = 1, fsdp: int = 1, tensor: int = 1, devices: Sequence[Any] | None = None
) -> Mesh:
    """Return a mesh over the first data * fsdp * tensor of the devices.

    With one process, jax chooses the order of the devices, since it knows the interconnect. Where
    it cannot (some of the chips of a torus, TPU v4 with two devices a chip), and with several
    processes, they are in the order of their process and their id, `tensor` varying fastest, then
    `fsdp`. So the devices of a process are adjacent and its part of a batch is contiguous.

    Devices of several TPU slices, which only the data center's network connects, are divided along
    `data`: each slice has the same consecutive part of it, so that `fsdp` and `tensor` stay within
    a slice, as with `mesh_utils.create_hybrid_device_mesh`.

    Args:
        data: devices along the axis that shards the batch alone.
        fsdp: devices along the axis that shards the batch and the weights.
        tensor: devices along the axis that shards heads, MLP width and vocabulary.
        devices: the devices to choose from; None: all devices of all processes.

    Raises:
        MeshError: a size is below 1, there are too few devices, or the slices cannot divide them.
    """
    shape = (data, fsdp, tensor)
    if min(shape) < 1:
        raise MeshError(f"a {data}x{fsdp}x{tensor} mesh: every axis needs at least one device")
    count = math.prod(shape)
    available = list(jax.devices() if devices is None else devices)
    if len(available) < count:
        raise MeshError(
            f"a {data}x{fsdp}x{tensor} mesh needs {count} devices, there are {len(available)}"
        )
    slices = _device_slices(available, shape)
    part = (data // len(slices), fsdp, tensor)
    ordered = np.concatenate([_ordered_devices(devices, part) for devices in slices])
    return Mesh(ordered, MESH_AXES, axis_types=(AxisType.Auto,) * len(shape))


def _slice_index(device: Any) -> int:
    """Return the TPU slice of a device; all other devices are one slice."""
    return getattr(device, "slice_index", 0) if device.platform == "tpu" else 0


def _device_slices(available: list[Any], shape: tuple[int, int, int]) -> list[list[Any]]:
    """Return the devices of a mesh, the first of those available, by their TPU slice.

    Raises:
        MeshError: the slices do not have equal parts of the mesh.
    """
    data, count = shape[0], math.prod(shape)
    if jax.process_count() > 1:
        available.sort(key=lambda device: (device.process_index, device.id))
    available.sort(key=_slice_index)
    slices = [[*group] for _, group in itertools.groupby(available[:count], _slice_index)]
    if len(slices) == 1:
        return slices
    sizes = [len(devices) for devices in slices]
    if len(set(sizes)) > 1:
        raise MeshError(
            f"a mesh of {count} devices has {', '.join(map(str, sizes))} devices of {len(sizes)} "
            "TPU slices; all must have the same number: use whole slices (mesh.devices)"
        )
    if data % len(slices):
        raise MeshError(
            f"a {'x'.join(map(str, shape))} mesh over {len(slices)} TPU slices: data = {data} must "
            "be a multiple of the number of slices, since fsdp and tensor stay within a slice; "
            f"set mesh.data to 0 or a multiple of {len(slices)}, and mesh.fsdp x mesh.tensor to "
            f"divide the {sizes[0]} devices of a slice"
        )
    return slices


def _ordered_devices(devices: list[Any], shape: tuple[int, int, int]) -> np.ndarray:
    """Return the devices of one TPU slice, or all others, as an array of a shape."""
    if jax.process_count() == 1:
        # Raised where jax has no order for these devices; they then have that of their ids.
        with contextlib.suppress(NotImplementedError, AssertionError, ValueError):
            return mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)
    ordered = np.empty(len(devices), object)
    ordered[:] = sorted(devices, key=lambda device: (device.process_index, device.id))
    return ordered.reshape(shape)


@contextlib.contextmanager
def use_mesh(
    mesh: Mesh | AbstractMesh, rules: ShardingRules | None = None
) -> Iterator[Mesh | AbstractMesh]:
    """Make `constrain`, `sharding` and `shardings` place arrays on this mesh.

    It becomes jax's current mesh too, so that jit does not reuse a function that was compiled
    without a mesh. An abstract mesh has no devices; it serves to compute shardings.
    """
    token = _context.set(_MeshContext(mesh, rules or ShardingRules()))
    abstract = isinstance(mesh, AbstractMesh)
    try:
        with jax.sharding.use_abstract_mesh(mesh) if abstract else jax.set_mesh(mesh):
            yield mesh
    finally:
        _context.reset(token)


def current_mesh() -> Mesh | None:
    """Return the mesh of the innermost `use_mesh`; None without one or if it has no devices."""
    context = _context.get()
    return context.mesh if context and isinstance(context.mesh, Mesh) else None


def platform() -> str:
    """Return the platform that is compiled for: "cpu", "gpu" or "tpu".

    It is the platform of the current mesh, whose devices need not be present, or jax's default.
    """
    mesh = current_mesh()
    name = mesh.devices.flat[0].platform if mesh else jax.default_backend()
    return "gpu" if name in ("cuda", "rocm") else name


def num_shards(axis: str) -> int:
    """Return the number of parts that the current mesh divides a logical axis into, or 1."""
    context = _context.get()
    if context is None:
        return 1
    return math.prod(context.mesh.shape[name] for name in getattr(context.rules, axis))


def shard_batch_axis(x: Any) -> Any:
    """Shard the first axis of an array as a batch axis; without a mesh, return it unchanged."""
    if current_mesh() is None:
        return x
    return jax.device_put(x, sharding(("batch", *(None,) * (x.ndim - 1)), x.shape))


def to_host(x: Any) -> np.ndarray:
    """Return a complete array on the host.

    If other processes hold parts of it, all processes must call this.
    """
    if not isinstance(x, jax.Array) or x.is_fully_addressable or x.is_fully_replicated:
        return np.asarray(x)
    from jax.experimental import multihost_utils

    return np.asarray(multihost_utils.process_allgather(x, tiled=True))


def bytes_on_device(tree: Any) -> int:
    """Return the bytes that arrays take on a device of this process, the fullest one.

    Args:
        tree: of arrays; shapes with a sharding count as the arrays that they stand for.
    """
    of_device: Counter[Any] = Counter()
    abstract = 0
    for leaf in jax.tree.leaves(tree):
        if isinstance(leaf, jax.Array):
            for shard in leaf.addressable_shards:
                of_device[shard.device] += shard.data.nbytes
        else:
            abstract += math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
    return abstract + max(of_device.values(), default=0)


def num_processes(mesh: Mesh | None) -> int:
    """Return the number of processes that have devices of a mesh."""
    return 1 if mesh is None else len({device.process_index for device in mesh.devices.flat})


def memory_limit() -> int | None:
    """Return the bytes that jax may use of a device of this process; None: unknown, as on CPUs."""
    return (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit")


def has_mesh() -> bool:
    """Whether there is a current mesh, concrete or abstract."""
    return _context.get() is not None


def is_sharded() -> bool:
    """Whether the current mesh has more than one device."""
    mesh = current_mesh()
    return mesh is not None and mesh.size > 1


def partition_spec(axes: tuple[str | None, ...], shape: tuple[int, ...]) -> PartitionSpec:
    """Return the mesh axes of an array of this shape whose dimensions have these logical axes.

    If the mesh axes of a dimension do not divide its length, the longest leading part of them that
    does is used, so that any model runs on any mesh.

    Raises:
        ValueError: a logical axis is unknown, the rank is wrong, or two dimensions need the same
            mesh axis.
    """
    context = _context.get()
    if context is None:
        return PartitionSpec()
    if len(axes) != len(shape):
        raise ValueError(f"logical axes {axes} do not match an array of shape {shape}")
    sizes = dict(context.mesh.shape)
    used_by: dict[str, str] = {}
    entries: list[MeshAxes | None] = []
    for axis, length in zip(axes, shape, strict=True):
        if axis is not None and not hasattr(context.rules, axis):
            raise ValueError(f"no sharding rule for logical axis {axis!r} in {axes}")
        mesh_axes = () if axis is None else getattr(context.rules, axis)
        mesh_axes = tuple(name for name in mesh_axes if sizes[name] > 1)
        while mesh_axes and length % math.prod(sizes[name] for name in mesh_axes):
            mesh_axes = mesh_axes[:-1]
        for name in mesh_axes:
            if name in used_by:
                raise ValueError(
                    f"{axes}: {used_by[name]!r} and {axis!r} are both sharded over {name!r}"
                )
            used_by[name] = str(axis)
        entries.append(mesh_axes or None)
    return PartitionSpec(*entries)


def constrain(x: jax.Array, *axes: str | None) -> jax.Array:
    """Constrain the sharding of an activation by its logical axes; no-op without a mesh."""
    context = _context.get()
    if context is None:
        return x
    spec = partition_spec(axes, x.shape)
    return jax.lax.with_sharding_constraint(x, NamedSharding(context.mesh, spec))


def sharding(axes: tuple[str | None, ...], shape: tuple[int, ...]) -> NamedSharding:
    """Return the sharding of an array with these logical axes on the current mesh.

    Raises:
        ValueError: there is no mesh, or `partition_spec` fails.
    """
    context = _context.get()
    if context is None:
        raise ValueError("no mesh: call inside `with use_mesh(...)`")
    return NamedSharding(context.mesh, partition_spec(axes, shape))


def shardings(state: nnx.State) -> nnx.State:
    """Return the sharding of every leaf of a model's state, from the axes of its variables.

    Raises:
        ValueError: a variable has no axes; the message names it.
    """

    def leaf_sharding(path: tuple, variable: nnx.Variable) -> nnx.Variable:
        axes = variable.get_metadata().get("axes")
        if axes is None:
            raise ValueError(f"{'.'.join(map(str, path))} has no logical axes")
        return variable.replace(sharding(axes, variable.get_value().shape))

    return nnx.map_state(leaf_sharding, state)
