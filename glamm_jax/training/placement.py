"""Where the arrays of a training live on the mesh.

    with use_mesh(make_mesh(fsdp=8)):
        graphdef, frozen, state = place(split_model(model, trained, optimizer, dtype))
        share = batch_share()
        batches = open_batches(config.data, config.model, share.index, share.count)
        state, metrics = step(graphdef, frozen, state, place_batch(next(batches)))

Parameters lie where their logical axes say, the optimizer's moments beside their parameters, and
the first axis of everything in a batch is spread over `data` and `fsdp`. The step leaves the state
where it found it, so its memory is used again and nothing moves between steps.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx

from glamm_jax.config.experiment import ExperimentConfig
from glamm_jax.errors import GLaMMError
from glamm_jax.models.abstract import abstract_model
from glamm_jax.parallel import current_mesh, has_mesh, sharding, shardings
from glamm_jax.training.optimizer import make_optimizer, trainable_filter
from glamm_jax.training.state import ModelSplit, TrainState, split_model
from glamm_jax.types import Batch
from glamm_jax.weights.flat_state import flatten_state

# The quota behind the first axis of an array of the batch; rows behind all others.
_QUOTAS = {
    "images": "images",
    "region_images": "region_images",
    "boxes_xyxy_unit": "regions",
    "box_image": "regions",
    **dict.fromkeys(("grounding_images", "resized_sizes", "original_sizes"), "grounding_images"),
    **dict.fromkeys(("mask_rows", "mask_positions", "mask_image", "mask_valid"), "masks"),
    **dict.fromkeys(("mask_has_truth", "masks"), "masks"),
}


# What an all-gather of a compiled program returns: an array, or a tuple of its input and output.
_GATHER = re.compile(r"= (.*?) all-gather(?:-start)?\(")
_SHAPE = re.compile(r"\w+\[([\d,]+)\]")


class PlacementError(GLaMMError):
    """A batch, or the processes, do not fit the mesh. Says what to change."""


class BatchSlice(NamedTuple):
    """Number `index` of `count` equal pieces of every step's batch."""

    index: int
    count: int


# ------------------------------------------------------------------------ the model's state


def state_shardings(state: TrainState) -> TrainState:
    """Where each leaf of a state, real or abstract, lives on the current mesh.

    The optimizer names its moments by the parameter, or keeps the parameter's variable; everything
    else it has is a number, which is everywhere.
    """
    parameters = flatten_state(shardings(state.trainable))
    everywhere: Any = sharding((), ())

    def place(path: tuple, leaf: Any) -> Any:
        if isinstance(leaf, nnx.Variable):
            return leaf.replace(sharding(leaf.get_metadata()["axes"], leaf.get_value().shape))
        name = path[-1].key if isinstance(path[-1], jax.tree_util.DictKey) else ""
        return parameters.get(name, everywhere)

    opt_state = jax.tree_util.tree_map_with_path(
        place, state.opt_state, is_leaf=lambda x: isinstance(x, nnx.Variable)
    )
    return TrainState(everywhere, shardings(state.trainable), opt_state)


def keep_sharding(state: TrainState) -> TrainState:
    """Inside a step: the new state where the old one was, so that its memory can be reused."""
    if current_mesh() is None:
        return state
    return jax.lax.with_sharding_constraint(state, state_shardings(state))


def place_split(split: ModelSplit) -> ModelSplit:
    """Every array of a start in its place; what is there already stays. Without a mesh, as it is.

    Several processes must hold the same values.
    """
    if current_mesh() is None:
        return split
    places = ModelSplit(split.graphdef, shardings(split.frozen), state_shardings(split.state))
    return split._replace(
        frozen=jax.device_put(split.frozen, places.frozen),
        state=jax.device_put(split.state, places.state),
    )


def abstract_split(config: ExperimentConfig) -> ModelSplit:
    """A training's start as shapes and dtypes, and where each lives on the mesh. Nothing is made.

    The mesh may be abstract, too.
    """
    trained, optimizer = trainable_filter(config.optim.trainable), make_optimizer(config.optim)
    graphdef, model = abstract_model(config.model)

    def take_apart(state: nnx.State) -> tuple[nnx.State, TrainState]:
        model = nnx.merge(graphdef, state)
        split = split_model(model, trained, optimizer, config.model.compute_dtype)
        return split.frozen, split.state

    frozen, state = jax.eval_shape(take_apart, model)
    if has_mesh():
        places = shardings(frozen), state_shardings(state)
        frozen, state = jax.tree.map(_at, (frozen, state), places)
    return ModelSplit(graphdef, frozen, state)


def _at(leaf: jax.ShapeDtypeStruct, where: jax.sharding.Sharding) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where)


def gathered_shapes(program: str) -> set[tuple[int, ...]]:
    """Shapes that a compiled program, as its text, gathers from the devices."""
    returned = " ".join(_GATHER.findall(program))
    return {tuple(map(int, shape.split(","))) for shape in _SHAPE.findall(returned)}


def gathered_stacks(program: str, frozen: nnx.State) -> list[str]:
    """Frozen kernels of several layers that a compiled program gathers whole; none, it is hoped."""
    shapes = gathered_shapes(program)
    return [
        ".".join(map(str, path))
        for path, variable in nnx.to_flat_state(frozen)
        for axes, shape in [(variable.get_metadata()["axes"], variable.get_value().shape)]
        if axes[:1] == ("layers",) and len(shape) > 2 and shape[0] > 1 and shape in shapes
    ]


# ------------------------------------------------------------------------ batches


def process_slice() -> BatchSlice:
    """The piece of every step's batch that this process makes: that of its devices.

    Processes whose devices differ in `tensor` alone make the same piece.

    Raises: PlacementError when the devices of a process are not neighbours on the batch's axes.
    """
    mesh = current_mesh()
    if mesh is None:
        return BatchSlice(0, 1)
    rows = mesh.devices.reshape(-1, mesh.devices.shape[-1])
    places: dict[int, list[int]] = {}
    for place, row in enumerate(rows):
        for process in sorted({device.process_index for device in row}):
            places.setdefault(process, []).append(place)
    mine = places.get(jax.process_index(), [])
    size = len(mine)
    for process, own in places.items():
        if len(own) != size or own != list(range(own[0], own[0] + size)) or own[0] % size:
            raise PlacementError(
                f"process {process} holds the places {own} of {len(rows)} on the axes data x fsdp, "
                f"process {jax.process_index()} the places {mine}: each must hold one block of the "
                "same size; make the mesh with `make_mesh`, of all devices"
            )
    return BatchSlice(mine[0] // size, len(rows) // size)


def place_batch(batch: Batch, *, stacked: bool = False) -> Batch:
    """This process's piece of a step's batch as part of the whole one, spread over the mesh.

    Without a mesh, the batch as it is.

    Args:
        stacked: the batch is a stack of several, which a step takes one after another.

    Raises: PlacementError naming the quota that the devices of several processes cannot divide.
    """
    if current_mesh() is None:
        return batch
    count = process_slice().count
    named = batch._asdict().items()
    return Batch(*(None if x is None else _place(name, x, count, stacked) for name, x in named))


def abstract_batch(batch: Batch) -> Batch:
    """The whole batch of a step as shapes, dtypes and where each lives on the mesh."""

    def settle(array: np.ndarray) -> jax.ShapeDtypeStruct:
        where = sharding(("batch", *(None,) * (array.ndim - 1)), array.shape)
        return jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=where)

    return jax.tree.map(settle, batch)


def _place(name: str, local: np.ndarray, count: int, stacked: bool) -> jax.Array:
    axis = int(stacked)
    shape = (*local.shape[:axis], local.shape[axis] * count, *local.shape[axis + 1 :])
    where = sharding((*(None,) * axis, "batch", *(None,) * (local.ndim - axis - 1)), shape)
    indices = where.addressable_devices_indices_map(shape).values()
    own = {index[axis].indices(shape[axis])[:2] for index in indices if index is not None}
    if sum(stop - start for start, stop in own) != local.shape[axis]:
        sizes = where.mesh.shape
        data, fsdp = sizes["data"], sizes["fsdp"]
        raise PlacementError(
            f"{name}: the {shape[axis]} of a step's batch cannot be divided among {data} x {fsdp} "
            f"devices (data x fsdp), which several processes need: make data.batch_slices times "
            f"data.batch_shape.{_QUOTAS.get(name, 'rows')} a multiple of {data * fsdp}"
        )
    return jax.make_array_from_process_local_data(where, local, shape)
