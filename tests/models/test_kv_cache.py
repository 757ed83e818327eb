"""Writes to the key-value cache."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from glamm_jax.models.kv_cache import write_slice


def test_half_precision_is_written_bit_by_bit() -> None:
    x, part = (jax.random.normal(jax.random.key(n), (2, 3), jnp.bfloat16) for n in (0, 1))
    written = jax.jit(write_slice, static_argnums=2)(x, part[:, :1], (0, 2))
    expected = x.at[:, 2:].set(part[:, :1])
    assert written.dtype == jnp.bfloat16
    np.testing.assert_array_equal(written.astype(jnp.float32), expected.astype(jnp.float32))
