"""Where a model is placed for inference: on one device if it fits, else spread over several.

    mesh = choose_mesh(ModelFolder(path), sizes=parse_mesh("fsdp=4,tensor=2"))
    assistant = load(path, mesh=mesh)

A device must hold its part of the weights and of the key-value cache, and have `FREE_SHARE` of its
memory left for what is computed. CPUs have one memory, so that nothing is spread over them unless
the sizes are given.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax
from flax import nnx
from jax.sharding import AbstractMesh, Mesh

from glamm_jax.config import DType, GLaMMConfig, LlamaConfig
from glamm_jax.errors import FolderError
from glamm_jax.models.abstract import abstract_model
from glamm_jax.parallel import (
    GIB,
    MESH_AXES,
    ONE_DEVICE,
    MeshError,
    MeshSizes,
    make_mesh,
    memory_limit,
    num_shards,
    sharding,
    use_mesh,
)
from glamm_jax.weights.folder import ModelFolder

FREE_SHARE = 0.2  # of a device's memory, for activations and for one layer that is gathered


def choose_mesh(
    folder: ModelFolder,
    dtype: DType | None = None,
    sizes: MeshSizes | None = None,
    devices: Sequence[Any] | None = None,
    *,
    rows: int = 1,
    copies: bool = False,
) -> Mesh | None:
    """Choose the devices for a model.

    With several processes, a mesh that fits the devices of one process is a mesh of its own in each
    of them. A larger one consists of all devices of all processes.

    Args:
        folder: of the model.
        dtype: of all weights; None: as stored.
        sizes: of the mesh; None: one device if the model fits it, else all devices, or as many as
            divide the model.
        devices: to choose from; None: those of this process, or of all if there are too few.
        rows: that are answered together, each with a cache of the model's longest sequence.
        copies: without sizes, put a copy of a model that fits one device on each of them. The
            copies divide the rows.

    Returns:
        The mesh; None: jax's default device.

    Raises:
        FolderError: the folder has a part of a model only.
        MeshError: the sizes do not fit the devices or the model, or the model does not fit the
            memory; the message says what does.
    """
    need = _Need(folder, dtype, rows)
    local = list(jax.local_devices() if devices is None else devices)
    everywhere = jax.devices() if devices is None else local
    if sizes is not None:
        available = local if math.prod(sizes) <= len(local) else everywhere
        need.check(sizes, available)
        return make_mesh(*sizes, devices=available)
    limit = memory_limit()
    if limit is None or need.fits(ONE_DEVICE, limit):
        count = len(local) if copies and limit is not None else 1
        return None if count == 1 and devices is None else make_mesh(count, devices=local)
    for available in (local, everywhere):
        spread = _spread_sizes(need.config.llama, len(available), all_of_them=available != local)
        if spread is not None and need.fits(spread, limit):
            return make_mesh(*spread, devices=available)
    raise MeshError(
        f"{folder.path}: {need.of_device(ONE_DEVICE) / GIB:.1f} GiB of weights and cache do not "
        f"fit {len(everywhere)} x {everywhere[0].device_kind} with {limit / GIB:.1f} GiB each, of "
        f"which {FREE_SHARE:.0%} stay free: use more devices, bfloat16, or fewer rows together"
    )


def complete_config(folder: ModelFolder) -> GLaMMConfig:
    """Return the configuration of a folder's model.

    Raises:
        FolderError: the folder has a part of a model only.
    """
    if not isinstance(folder.config, GLaMMConfig):
        raise FolderError(f"{folder.path}: holds a part of a model, not a complete GLaMM")
    return folder.config


class _Need:
    """What a model needs on each device of a mesh.

    Args:
        folder: of the model.
        dtype: of all weights; None: as stored.
        rows: that are answered together.
    """

    def __init__(self, folder: ModelFolder, dtype: DType | None, rows: int):
        self.config, self.dtype, self.rows = complete_config(folder), dtype, rows
        self._folder = folder
        self._variables = [
            (".".join(map(str, path)), variable)
            for path, variable in nnx.to_flat_state(abstract_model(self.config)[1])
        ]

    def weights(self, sizes: MeshSizes) -> int:
        """Return the bytes of the weights on a device."""
        total = 0
        with use_mesh(AbstractMesh(tuple(sizes), MESH_AXES)):
            for name, variable in self._variables:
                shape = variable.get_value().shape
                part = sharding(variable.get_metadata()["axes"], shape).shard_shape(shape)
                total += math.prod(part) * self._itemsize(name)
        return total

    def _itemsize(self, name: str) -> int:
        if self.dtype is not None:
            return jax.numpy.dtype(self.dtype).itemsize
        info = self._folder.infos.get(name)
        return 4 if info is None else info.dtype.itemsize  # of one that is missing, `load` says so

    def of_device(self, sizes: MeshSizes) -> int:
        """Return the bytes of weights and cache on a device."""
        llama = self.config.llama
        with use_mesh(AbstractMesh(tuple(sizes), MESH_AXES)):
            rows = math.ceil(self.rows / num_shards("batch"))
            heads = math.ceil(llama.kv_heads / num_shards("heads"))
        slots = llama.num_layers * rows * heads * llama.max_positions
        itemsize = jax.numpy.dtype(self.dtype or self.config.compute_dtype).itemsize
        return self.weights(sizes) + 2 * slots * llama.head_dim * itemsize

    def fits(self, sizes: MeshSizes, limit: int) -> bool:
        """Return whether a device has enough memory."""
        return self.of_device(sizes) <= (1 - FREE_SHARE) * limit

    def check(self, sizes: MeshSizes, available: Sequence[Any]) -> None:
        """Check that a mesh suits the devices and the model.

        Raises:
            MeshError: it does not.
        """
        count, num_local = math.prod(sizes), len(jax.local_devices())
        if count > len(available):
            raise MeshError(
                f"a mesh of {sizes} has {count} devices, but there are {len(available)}: make the "
                f"product of its sizes at most {len(available)}"
            )
        if count > num_local and count != len(available):
            raise MeshError(
                f"a mesh of {sizes} has {count} devices: with several processes, use at most the "
                f"{num_local} of each, or all {len(available)}"
            )
        llama = self.config.llama
        for axis, name, number in (
            ("tensor", "llama.num_heads", llama.num_heads),
            ("tensor", "llama.num_kv_heads", llama.kv_heads),
            ("tensor", "llama.mlp_dim", llama.mlp_dim),
            ("fsdp", "llama.hidden_dim", llama.hidden_dim),
        ):
            size = getattr(sizes, axis)
            if number % size:
                fitting = [n for n in range(1, len(available) + 1) if number % n == 0]
                raise MeshError(
                    f"{axis}={size} does not divide {name} = {number} of this model; use "
                    f"{axis}={' or '.join(map(str, fitting))}"
                )
        limit, weights = memory_limit(), self.weights(sizes)
        if limit is not None and weights > limit:
            raise MeshError(
                f"a mesh of {sizes} needs {weights / GIB:.1f} GiB of weights on each device, which "
                f"has {limit / GIB:.1f} GiB: give fsdp or tensor more devices, or use bfloat16"
            )


def _spread_sizes(llama: LlamaConfig, num_devices: int, all_of_them: bool) -> MeshSizes | None:
    """Return the sizes of a mesh over as many devices as divide a model.

    `tensor` is as large as possible: all its devices work on one row, while each of `fsdp` needs a
    row of its own.

    Args:
        llama: the model.
        num_devices: that there are.
        all_of_them: whether none may be left out.

    Returns:
        The sizes; None: no mesh of more than one device divides it.
    """
    for count in range(num_devices, num_devices - 1 if all_of_them else 1, -1):
        for tensor in range(count, 0, -1):
            divides = count % tensor == llama.kv_heads % tensor == llama.mlp_dim % tensor == 0
            if divides and llama.hidden_dim % (count // tensor) == 0:
                return MeshSizes(1, count // tensor, tensor)
    return None
