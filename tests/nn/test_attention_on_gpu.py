"""The GPU path lowers on a machine that has no GPU, with memory linear in the number of tokens.

cuDNN's kernels cannot be lowered without cuDNN; that a GPU chooses them is tested with the table.
"""

from __future__ import annotations

import math
import re

import jax
import jax.numpy as jnp
import pytest

from glamm_jax.nn import attention as attention_module
from glamm_jax.nn import attention_kernels
from glamm_jax.nn.attention import attention
from glamm_jax.nn.attention_kernels import Family
from glamm_jax.nn.attention_mask import Segments


def use_chip(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compile for a GPU of a family."""
    for module in (attention_module, attention_kernels):
        monkeypatch.setattr(module, "platform", lambda: "gpu")
    monkeypatch.setattr(attention_module, "chip_family", lambda: family)


def largest_array(function, *arguments: jax.ShapeDtypeStruct) -> int:
    """Return the number of elements of the largest array of the program for a GPU."""
    exported = jax.export.export(jax.jit(function), platforms=["cuda"])(*arguments)
    shapes = re.findall(r"tensor<((?:\d+x)+)[a-z]", exported.mlir_module())
    return max(math.prod(map(int, shape.rstrip("x").split("x"))) for shape in shapes)


def test_sams_global_attention_on_an_a100_has_no_map_of_all_scores(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    use_chip("ampere", monkeypatch)
    tokens, heads = 4096, 16
    shapes = [(1, tokens, heads, width) for width in (208, 208, 80)]
    arguments = [jax.ShapeDtypeStruct(shape, jnp.bfloat16) for shape in shapes]

    def loss(q, k, v):
        return attention(q, k, v, scale=1.0).astype(jnp.float32).sum()

    operand = tokens * heads * 208
    assert largest_array(loss, *arguments) <= operand < tokens**2 * heads / 16
    assert largest_array(jax.grad(loss, (0, 1, 2)), *arguments) <= operand


def test_packed_rows_in_float32_have_no_map_of_all_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    use_chip("hopper", monkeypatch)
    tokens, heads, width = 8192, 4, 32
    q = jax.ShapeDtypeStruct((1, tokens, heads, width), jnp.float32)
    ids = jax.ShapeDtypeStruct((1, tokens), jnp.int32)

    def loss(q, ids):
        return attention(q, q, q, causal=True, segments=Segments(ids, ids - 1)).sum()

    # The visible pairs of one block of queries are the largest.
    assert largest_array(jax.grad(loss), q, ids) <= tokens * 512 < tokens**2 / 8
