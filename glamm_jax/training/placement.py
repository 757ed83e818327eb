"""Placement of a training run's arrays on the device mesh.

    with use_mesh(make_mesh(fsdp=8)):
        graphdef, frozen, state = place_split(split_model(model, is_trained, optimizer, dtype))
        part = process_slice()
        batches = open_batches(config.data, config.model, part.index, part.count)
        state, metrics = step(graphdef, frozen, state, place_batch(next(batches).batch))

Parameters are sharded by their logical axes, the optimizer's moments as their parameters, and the
first axis of every array of a batch is divided over `data` and `fsdp`. A step keeps the shardings
of the state, so that its memory is reused and nothing moves between steps.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from glamm_jax.config.experiment import ExperimentConfig, MeshConfig
from glamm_jax.data.collate import join_slices
from glamm_jax.errors import GLaMMError
from glamm_jax.models.abstract import abstract_model
from glamm_jax.parallel import (
    MeshError,
    current_mesh,
    has_mesh,
    make_mesh,
    num_shards,
    sharding,
    shardings,
)
from glamm_jax.training.optimizer import make_optimizer
from glamm_jax.training.parameter_groups import trainable_filter
from glamm_jax.training.state import ModelSplit, TrainState, split_model
from glamm_jax.types import Batch
from glamm_jax.weights.flat_state import flatten_state


class PlacementError(GLaMMError):
    """A batch, or the processes, do not fit the mesh."""


class BatchSlice(NamedTuple):
    """Slice `index` of `count` equal slices of every step's batch."""

    index: int
    count: int


def make_run_mesh(config: MeshConfig) -> Mesh:
    """Return the mesh of a run over all devices, or over the first `config.devices` of them.

    Raises:
        MeshError: it does not have as many devices as there are.
    """
    available = jax.device_count()
    count = config.devices or available
    if count > available:
        raise MeshError(f"mesh.devices = {count}, but there are {available} devices")
    data = config.data or max(count // (config.fsdp * config.tensor), 1)
    if data * config.fsdp * config.tensor != count:
        used = data * config.fsdp * config.tensor
        advice = f", or set mesh.devices = {used} to leave the others idle" if used < count else ""
        if config.devices and used <= available:
            advice = f", or mesh.devices to {used} (0: all {available})"
        raise MeshError(
            f"a mesh of data {data} x fsdp {config.fsdp} x tensor {config.tensor} has {used} "
            f"devices, but {count} are to be used; change mesh.data, mesh.fsdp or "
            f"mesh.tensor{advice}"
        )
    return make_mesh(data, config.fsdp, config.tensor)


# ------------------------------------------------------------------------ the model's state


def state_shardings(state: TrainState) -> TrainState:
    """Return the sharding of every leaf of a state, concrete or abstract, on the current mesh.

    The optimizer's moments have the leaf path of their parameter as dict key, or are variables with
    the parameter's axes. The optimizer has only scalars besides; they are replicated.
    """
    parameters = flatten_state(shardings(state.trainable))
    replicated: Any = sharding((), ())

    def leaf_sharding(path: tuple, leaf: Any) -> Any:
        if isinstance(leaf, nnx.Variable):
            return leaf.replace(sharding(leaf.get_metadata()["axes"], leaf.get_value().shape))
        name = path[-1].key if isinstance(path[-1], jax.tree_util.DictKey) else ""
        return parameters.get(name, replicated)

    opt_state = jax.tree_util.tree_map_with_path(
        leaf_sharding, state.opt_state, is_leaf=lambda x: isinstance(x, nnx.Variable)
    )
    return TrainState(replicated, shardings(state.trainable), opt_state)


def keep_sharding(state: TrainState) -> TrainState:
    """Inside a step, give the new state the shardings of the old one, so its memory is reused."""
    if current_mesh() is None:
        return state
    return jax.lax.with_sharding_constraint(state, state_shardings(state))


def place_split(split: ModelSplit) -> ModelSplit:
    """Put all arrays of a model on the current mesh; without a mesh, return them as they are.

    All processes must pass the same values.
    """
    if current_mesh() is None:
        return split
    places = ModelSplit(split.graphdef, shardings(split.frozen), state_shardings(split.state))
    return split._replace(
        frozen=jax.device_put(split.frozen, places.frozen),
        state=jax.device_put(split.state, places.state),
    )


def abstract_split(config: ExperimentConfig) -> ModelSplit:
    """Return the split model of a run as shapes, dtypes and shardings, without allocating arrays.

    The current mesh may be abstract.
    """
    is_trained, optimizer = trainable_filter(config.optim.trainable), make_optimizer(config.optim)
    graphdef, model = abstract_model(config.model)

    def split_state(state: nnx.State) -> tuple[nnx.State, TrainState]:
        model = nnx.merge(graphdef, state)
        split = split_model(model, is_trained, optimizer, config.model.compute_dtype)
        return split.frozen, split.state

    frozen, state = jax.eval_shape(split_state, model)
    if has_mesh():
        frozen, state = jax.tree.map(
            lambda leaf, where: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where),
            (frozen, state),
            (shardings(frozen), state_shardings(state)),
        )
    return ModelSplit(graphdef, frozen, state)


# ------------------------------------------------------------------------ batches


def process_slice() -> BatchSlice:
    """Return the slice of every step's batch that this process loads: that of its devices.

    Processes whose devices differ in `tensor` alone load the same slice.

    Raises:
        PlacementError: the devices of a process are not contiguous on the batch's axes.
    """
    mesh = current_mesh()
    if mesh is None:
        return BatchSlice(0, 1)
    rows = mesh.devices.reshape(-1, mesh.devices.shape[-1])
    rows_by_process: dict[int, list[int]] = {}
    for index, row in enumerate(rows):
        for process in sorted({device.process_index for device in row}):
            rows_by_process.setdefault(process, []).append(index)
    local = rows_by_process.get(jax.process_index(), [])
    size = len(local)
    for process, own in rows_by_process.items():
        if len(own) != size or own != list(range(own[0], own[0] + size)) or own[0] % size:
            raise PlacementError(
                f"process {process} has the positions {own} of {len(rows)} on the axes data x "
                f"fsdp, process {jax.process_index()} the positions {local}: every process must "
                "have one contiguous block of the same size; make the mesh with `make_mesh` from "
                "all devices"
            )
    return BatchSlice(local[0] // size, len(rows) // size)


def check_batch_slices(num_slices: int) -> None:
    """Check that the devices of the current mesh can divide a step's batch by its slices.

    A slice is closed, so that with complete slices no device needs features of another.

    Raises:
        PlacementError: they cannot.
    """
    shards = num_shards("batch")
    if num_slices % shards:
        raise PlacementError(
            f"data.batch_slices = {num_slices} cannot be divided among the {shards} devices of the "
            f"mesh's axes data x fsdp; make it a multiple of {shards}, or use fewer devices "
            "(mesh.devices)"
        )


def place_batch(batch: Batch, *, stacked: bool = False) -> Batch:
    """Put this process's slices of a step's batch on the mesh, as part of the complete batch.

    Without a mesh, return the batch as it is.

    Args:
        batch: arrays of this process.
        stacked: the batch is a stack of several, which a step runs one after another.

    Raises:
        PlacementError: the devices cannot divide the slices.
    """
    if current_mesh() is None:
        return batch
    count, axis = process_slice().count, int(stacked)
    check_batch_slices(batch.num_slices * count)

    def place(local: np.ndarray) -> jax.Array:
        shape = (*local.shape[:axis], local.shape[axis] * count, *local.shape[axis + 1 :])
        where = sharding((*(None,) * axis, "batch", *(None,) * (local.ndim - axis - 1)), shape)
        return jax.make_array_from_process_local_data(where, local, shape)

    return jax.tree.map(place, batch)


def abstract_batch(batch_slice: Batch, num_slices: int, num_stacked: int = 1) -> Batch:
    """Return the argument of a step as shapes, dtypes and shardings on the mesh.

    Args:
        batch_slice: a slice of a batch.
        num_slices: of a batch.
        num_stacked: batches of a step; with more than one they are stacked.

    Raises:
        PlacementError: the devices cannot divide the slices.
    """
    check_batch_slices(num_slices)

    def abstract(array: np.ndarray) -> jax.ShapeDtypeStruct:
        stack = () if num_stacked == 1 else (num_stacked,)
        shape = (*stack, num_slices * array.shape[0], *array.shape[1:])
        axes = (*(None,) * len(stack), "batch", *(None,) * (array.ndim - 1))
        where = sharding(axes, shape)
        return jax.ShapeDtypeStruct(shape, array.dtype, sharding=where)

    return jax.tree.map(abstract, join_slices({0: batch_slice}))
