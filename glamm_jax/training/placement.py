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

from glamm_jax.config.experiment import ExperimentConfig
from glamm_jax.errors import GLaMMError
from glamm_jax.models.abstract import abstract_model
from glamm_jax.parallel import current_mesh, has_mesh, sharding, shardings
from glamm_jax.training.optimizer import make_optimizer
from glamm_jax.training.parameter_groups import trainable_filter
from glamm_jax.training.state import ModelSplit, TrainState, split_model
from glamm_jax.types import Batch
from glamm_jax.weights.flat_state import flatten_state

# The field of `BatchShape` that sizes the first axis of an array of the batch; the others: `rows`.
_SIZE_FIELDS = {
    "images": "images",
    "region_images": "region_images",
    "boxes_xyxy_unit": "regions",
    "box_image": "regions",
    **dict.fromkeys(("grounding_images", "resized_sizes", "original_sizes"), "grounding_images"),
    **dict.fromkeys(("mask_rows", "mask_positions", "mask_image", "mask_valid"), "masks"),
    **dict.fromkeys(("mask_has_truth", "masks"), "masks"),
}


class PlacementError(GLaMMError):
    """A batch, or the processes, do not fit the mesh."""


class BatchSlice(NamedTuple):
    """Slice `index` of `count` equal slices of every step's batch."""

    index: int
    count: int


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


def place_batch(batch: Batch, *, stacked: bool = False) -> Batch:
    """Put this process's slice of a step's batch on the mesh, as part of the complete batch.

    Without a mesh, return the batch as it is.

    Args:
        batch: arrays of this process.
        stacked: the batch is a stack of several, which a step runs one after another.

    Raises:
        PlacementError: the devices of several processes cannot divide an array of the batch.
    """
    if current_mesh() is None:
        return batch
    count = process_slice().count
    named = batch._asdict().items()
    return Batch(
        *(None if x is None else _place_array(name, x, count, stacked) for name, x in named)
    )


def abstract_batch(batch: Batch) -> Batch:
    """Return the complete batch of a step as shapes, dtypes and shardings on the mesh."""

    def abstract(array: np.ndarray) -> jax.ShapeDtypeStruct:
        where = sharding(("batch", *(None,) * (array.ndim - 1)), array.shape)
        return jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=where)

    return jax.tree.map(abstract, batch)


def _place_array(name: str, local: np.ndarray, count: int, stacked: bool) -> jax.Array:
    axis = int(stacked)
    shape = (*local.shape[:axis], local.shape[axis] * count, *local.shape[axis + 1 :])
    where = sharding((*(None,) * axis, "batch", *(None,) * (local.ndim - axis - 1)), shape)
    indices = where.addressable_devices_indices_map(shape).values()
    own = {index[axis].indices(shape[axis])[:2] for index in indices if index is not None}
    if sum(stop - start for start, stop in own) != local.shape[axis]:
        sizes = where.mesh.shape
        data, fsdp = sizes["data"], sizes["fsdp"]
        raise PlacementError(
            f"{name}: {shape[axis]} in a step's batch cannot be divided among {data} x {fsdp} "
            "devices (data x fsdp), as several processes require; make data.batch_slices times "
            f"data.batch_shape.{_SIZE_FIELDS.get(name, 'rows')} a multiple of {data * fsdp}"
        )
    return jax.make_array_from_process_local_data(where, local, shape)
