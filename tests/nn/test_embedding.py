"""The gradient of an embedding table is summed over its copies, from the rows of each."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from glamm_jax.aot.collectives import exchanged_shapes
from glamm_jax.nn.linear import Embedding
from glamm_jax.parallel import constrain, make_mesh, shard_batch_axis, shardings, use_mesh

ROWS = 24


def test_no_device_gathers_the_rows_of_the_whole_batch() -> None:
    graph, state = nnx.split(Embedding(807, 64, ("vocab", "embed"), rngs=nnx.Rngs(0)))
    ids = np.random.default_rng(0).integers(-1, 807, (ROWS, 200), dtype=np.int32)

    @jax.jit
    @jax.value_and_grad
    def compute(state: nnx.State, ids: jax.Array) -> jax.Array:
        rows = constrain(nnx.merge(graph, state)(ids, jnp.float32), "batch", None, None)
        return jnp.sin(rows).sum()

    expected, expected_gradient = compute(state, ids)
    with use_mesh(make_mesh(data=2, fsdp=4)):
        arguments = jax.device_put(state, shardings(state)), shard_batch_axis(jnp.asarray(ids))
        program = compute.lower(*arguments).compile()
        value, gradient = program(*arguments)
    shapes = exchanged_shapes(program.as_text())
    assert not [shape for shape in shapes if ROWS in shape]
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    for one, other in zip(
        jax.tree.leaves(gradient), jax.tree.leaves(expected_gradient), strict=True
    ):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
