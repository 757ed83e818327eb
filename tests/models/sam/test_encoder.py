"""The image encoder's own promises: any order of blocks, windows with padding, exact biases."""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from glamm_jax.config import SAMConfig
from glamm_jax.models.sam.encoder import (
    BlockPattern,
    ImageEncoder,
    SAMBlock,
    block_patterns,
    from_windows,
    relative_position_attention,
    to_windows,
)
from glamm_jax.weights.sam import image_encoder_table
from tools.parity.golden_model import golden_module


def draw(*shape: int, seed: int = 0) -> jax.Array:
    return jax.random.normal(jax.random.key(seed), shape)


def build(config: SAMConfig) -> ImageEncoder:
    """With weights by the golden rule, which takes no compilation."""
    return golden_module(
        lambda: ImageEncoder(config, rngs=nnx.Rngs(0)), image_encoder_table(config)
    )


@pytest.mark.parametrize(
    ("kinds", "expected"),
    [
        ("WGWG", [BlockPattern(2, 1, 1)]),
        ("WWGWWGW", [BlockPattern(2, 2, 1), BlockPattern(1, 1, 0)]),
        ("GG", [BlockPattern(2, 0, 1)]),
        ("WWW", [BlockPattern(1, 3, 0)]),
        ("GWGWWG", [BlockPattern(1, 0, 1), BlockPattern(1, 1, 1), BlockPattern(1, 2, 1)]),
        ("", []),
    ],
)
def test_blocks_in_any_order_become_repeating_stretches(kinds, expected):
    assert block_patterns([kind == "G" for kind in kinds]) == expected


@pytest.mark.parametrize("global_blocks", [(1, 3), (0, 3), ()], ids=str)
def test_scanned_groups_equal_blocks_run_one_by_one(small_config, global_blocks):
    config = replace(small_config, global_blocks=global_blocks)
    encoder = build(config)
    graph, state = nnx.split(encoder)
    x = draw(1, config.grid_size, config.grid_size, config.hidden_dim)
    whole = jax.jit(lambda state, x: nnx.merge(graph, state).run_blocks(x, 0, 4))(state, x)
    apply = jax.jit(lambda graph, state, x: nnx.merge(graph, state)(x), static_argnums=0)
    done = {"window_blocks": 0, "global_blocks": 0}
    for i in range(config.num_layers):
        name = "global_blocks" if i in global_blocks else "window_blocks"
        block, values = nnx.split(getattr(encoder, name))
        x = apply(block, jax.tree.map(lambda leaf, at=done[name]: leaf[at], values), x)
        done[name] += 1
    np.testing.assert_allclose(whole, x, rtol=0, atol=2e-5 * float(x.std()))


def test_blocks_may_be_run_in_parts(small_config):
    graph, state = nnx.split(build(small_config))
    run = jax.jit(
        lambda state, x, start, stop: nnx.merge(graph, state).run_blocks(x, start, stop),
        static_argnums=(2, 3),
    )
    x = draw(1, small_config.grid_size, small_config.grid_size, small_config.hidden_dim)
    whole = run(state, x, 0, 4)
    np.testing.assert_array_equal(x, run(state, x, 2, 2))
    np.testing.assert_allclose(run(state, run(state, x, 0, 3), 3, 4), whole, atol=1e-4)


def test_a_kind_of_block_that_does_not_occur_has_no_weights(small_config):
    assert build(replace(small_config, global_blocks=())).global_blocks is None
    assert build(replace(small_config, global_blocks=(0, 1, 2, 3))).window_blocks is None


@pytest.mark.parametrize(("height", "width", "size"), [(8, 8, 4), (8, 8, 3), (5, 7, 4), (3, 3, 14)])
def test_windows_come_back_as_they_were_cut(height, width, size):
    x = draw(2, height, width, 3)
    windows = to_windows(x, size)
    assert windows.shape == (2 * -(-height // size) * -(-width // size), size, size, 3)
    np.testing.assert_array_equal(from_windows(windows, height, width), x)
    np.testing.assert_array_equal(
        windows[0, : min(size, height), : min(size, width)], x[0, :size, :size]
    )


def test_a_window_is_not_influenced_by_another(small_config):
    graph, state = nnx.split(SAMBlock(small_config, 4, rngs=nnx.Rngs(0)))
    block = jax.jit(lambda x: nnx.merge(graph, state)(x))
    x = draw(1, 8, 8, small_config.hidden_dim)
    changed = x.at[:, 4:, 4:].add(1.0)
    before, after = block(x), block(changed)
    np.testing.assert_allclose(before[:, :4], after[:, :4], atol=1e-6)
    np.testing.assert_allclose(before[:, :, :4], after[:, :, :4], atol=1e-6)
    assert np.abs(before[:, 4:, 4:] - after[:, 4:, 4:]).max() > 0.1


def test_relative_bias_inside_the_dot_product_equals_a_map_of_biases():
    b, s, n, k = 2, 5, 3, 4
    q, key, v = (draw(b, s, s, n, k, seed=i) for i in range(3))
    table_h, table_w = draw(2 * s - 1, k, seed=3), draw(2 * s - 1, k, seed=4)
    out = relative_position_attention(q, key, v, table_h, table_w)
    distance = np.arange(s)[:, None] - np.arange(s)[None] + s - 1
    scores = np.einsum("bhwnk,bijnk->bnhwij", q, key) * k**-0.5
    scores += np.einsum("bhwnk,hik->bnhwi", q, np.asarray(table_h)[distance])[..., None]
    scores += np.einsum("bhwnk,wjk->bnhwj", q, np.asarray(table_w)[distance])[..., None, :]
    weights = np.exp(scores - scores.max((-1, -2), keepdims=True))
    weights /= weights.sum((-1, -2), keepdims=True)
    np.testing.assert_allclose(out, np.einsum("bnhwij,bijnk->bhwnk", weights, v), atol=2e-6)


def test_a_table_for_another_map_is_refused():
    q = draw(1, 4, 4, 2, 4)
    with pytest.raises(ValueError, match="needs tables of 7 relative positions, not 9"):
        relative_position_attention(q, q, q, draw(9, 4), draw(9, 4))


def test_bfloat16_stays_bfloat16_and_near(sam, jitted, small_config):
    pixels = draw(1, small_config.image_size, small_config.image_size, 3)
    exact, half = jitted("encode", pixels), jitted("encode", pixels.astype(jnp.bfloat16))
    assert half.dtype == jnp.bfloat16
    # 8 bits of mantissa: 0.4 % a rounding, some tens of them.
    assert (exact - half.astype(jnp.float32)).std() / exact.std() < 0.03


def test_no_image_gives_no_embedding(jitted, small_config):
    out = jitted("encode", jnp.zeros((0, small_config.image_size, small_config.image_size, 3)))
    assert out.shape == (0, small_config.grid_size, small_config.grid_size, small_config.out_dim)
