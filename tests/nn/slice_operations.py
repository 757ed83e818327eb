"""Compile the operations that index a batch by slices, on all CPU devices of this process.

    XLA_FLAGS=--xla_force_host_platform_device_count=256 python -m tests.nn.slice_operations

prints {operation: [bytes of temporaries on each device, collectives]} as JSON. Every device has one
slice: an image, four boxes, four masks and a row, at the sizes of the released model.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from glamm_jax.aot.collectives import exchanged_shapes
from glamm_jax.config import released, tiny
from glamm_jax.models.fuse import place_features
from glamm_jax.models.region import RegionEncoder
from glamm_jax.nn.batch_slices import take_in_slices
from glamm_jax.parallel import make_mesh, sharding, use_mesh

BOXES = MASKS = 4
TOKENS = 1024


class Sizes(NamedTuple):
    """Lengths of the arrays of a slice."""

    tokens: int = TOKENS
    patches: int = 576
    width: int = 4096
    map_size: int = 192
    map_width: int = 1024
    grid: int = 64
    grid_width: int = 256


def operations(sizes: Sizes, slices: int) -> Iterator[tuple[str, Callable, tuple]]:
    """Yield the name, the function and the arguments of every operation; the first is a map."""
    config = replace(tiny(base_vocab_size=800).region, roi_size=released().region.roi_size)
    widths = {"input_dim": 32, "output_dim": 32, "num_levels": 4}
    encoder = RegionEncoder(config, **widths, rngs=nnx.Rngs(0))

    def array(*shape: int, dtype: Any = jnp.bfloat16) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((slices * shape[0], *shape[1:]), dtype)

    def index(*shape: int) -> jax.ShapeDtypeStruct:
        return array(*shape, dtype=jnp.int32)

    def pool(maps: Any, boxes: Any, box_image: Any) -> Any:
        return encoder.pool([maps], boxes, box_image, 24, slices)[0]

    maps = array(1, sizes.map_size, sizes.map_size, sizes.map_width)
    yield "RoIAlign", pool, (maps, array(BOXES, 4, dtype=jnp.float32), index(BOXES))

    def place(features: Any, embeddings: Any, source: Any) -> Any:
        return place_features(embeddings, features, source, slices)

    features, rows = array(sizes.patches, sizes.width), array(1, sizes.tokens, sizes.width)
    yield "feature placement", place, (features, rows, index(1, sizes.tokens))
    embeddings = array(1, sizes.grid, sizes.grid, sizes.grid_width)
    take = lambda x, index: take_in_slices(x, index, slices)  # noqa: E731
    yield "mask images", take, (embeddings, index(MASKS))


def compile_operations(sizes: Sizes) -> dict[str, tuple[int, list[tuple[int, ...]]]]:
    """Return {operation: (bytes of temporaries on each device, shapes that are exchanged)}.

    With the gradient with respect to the array that is indexed.
    """
    compiled = {}
    with use_mesh(make_mesh(data=jax.device_count() // 4, fsdp=4)):
        for name, function, arguments in operations(sizes, jax.device_count()):
            placed = [
                jax.ShapeDtypeStruct(
                    x.shape, x.dtype, sharding=sharding(("batch", *(None,) * (x.ndim - 1)), x.shape)
                )
                for x in arguments
            ]
            total = lambda *x, function=function: jnp.square(function(*x)).sum(dtype=jnp.float32)  # noqa: E731
            program = jax.jit(jax.value_and_grad(total)).lower(*placed).compile()
            analysis: Any = program.memory_analysis()
            shapes = sorted(exchanged_shapes(program.as_text()))
            compiled[name] = analysis.temp_size_in_bytes, shapes
    return compiled


if __name__ == "__main__":
    print(json.dumps(compile_operations(Sizes())))
