"""A new adapter has no effect, and merging adapters does not change the output."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from glamm_jax.config import LoRAConfig
from glamm_jax.nn.linear import Linear
from glamm_jax.nn.lora import LoRAParam, attach, dropout
from glamm_jax.testing.merged_model import merge_lora

CONFIG = LoRAConfig(rank=2, alpha=6.0, dropout=0.5, targets=("q_proj",))


def _noise(*shape: int, seed: int = 0) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape, dtype=np.float32))


class Projections(nnx.Module):
    """Two linear layers; with a configuration, `q` has an adapter."""

    def __init__(self, stack: tuple[int, ...] = (), config: LoRAConfig | None = CONFIG):
        rngs = nnx.Rngs(0)
        self.q = Linear(5, 4, ("embed", "heads"), rngs=rngs, stack=stack)
        self.v = Linear(5, 4, ("embed", "heads"), rngs=rngs, stack=stack)
        if config is not None:
            attach({"q_proj": self.q, "v_proj": self.v}, config, rngs=rngs)


def _merged(model: Projections, stack: tuple[int, ...] = ()) -> Projections:
    return merge_lora(model, CONFIG, lambda: Projections(stack, None))


def _trained(model: Projections) -> Projections:
    model.q.lora.b[...] = _noise(*model.q.lora.b.shape, seed=1)
    return model


def test_initial_values_are_those_of_one_program_for_the_model() -> None:
    alone, together = nnx.state(Projections()), jax.jit(lambda: nnx.state(Projections()))()
    jax.tree.map(np.testing.assert_array_equal, alone, together)


def test_only_the_target_layers_get_an_adapter_and_it_has_no_effect_at_first() -> None:
    model, x = Projections(), _noise(3, 5)
    assert model.v.lora is None
    with_adapter = model.q(x)
    model.q.lora = None
    np.testing.assert_array_equal(with_adapter, model.q(x))


def test_the_adapter_adds_alpha_over_rank_times_x_a_b() -> None:
    model, x = _trained(Projections()), _noise(3, 5)
    kernel, a, b = (np.asarray(w[...]) for w in (model.q.kernel, model.q.lora.a, model.q.lora.b))
    np.testing.assert_allclose(model.q(x), x @ kernel + 3.0 * (x @ a) @ b, rtol=1e-5, atol=1e-5)


def test_a_merged_layer_has_the_same_output_without_its_adapter() -> None:
    model, x = _trained(Projections()), _noise(3, 5)
    merged = _merged(model)
    assert merged.q.lora is None
    np.testing.assert_allclose(merged.q(x), model.q(x), rtol=1e-5, atol=1e-5)


def test_a_stack_of_adapters_is_merged_layer_by_layer() -> None:
    model = _trained(Projections(stack=(3,)))
    kernel, a, b = (np.asarray(w[...]) for w in (model.q.kernel, model.q.lora.a, model.q.lora.b))
    merged = _merged(model, (3,))
    for layer in range(3):
        expected = kernel[layer] + 3.0 * a[layer] @ b[layer]
        np.testing.assert_allclose(merged.q.kernel[...][layer], expected, rtol=1e-5, atol=1e-6)


def test_adapters_are_a_variable_type_of_their_own_and_carry_axes() -> None:
    state = nnx.state(Projections(stack=(3,)), LoRAParam)
    axes = {path[-1]: leaf.get_metadata()["axes"] for path, leaf in nnx.to_flat_state(state)}
    assert axes == {"a": ("layers", "embed", "rank"), "b": ("layers", "rank", "heads")}


def test_dropout_zeroes_a_fraction_and_keeps_the_mean() -> None:
    x = jnp.ones((100, 100))
    dropped = np.asarray(dropout(x, 0.25, jax.random.key(0)))
    assert set(np.unique(dropped)) == {np.float32(0), np.float32(1 / 0.75)}
    # 10,000 samples: the standard error of the mean is 0.006.
    assert dropped.mean() == pytest.approx(1.0, abs=0.03)


def test_without_a_key_dropout_does_nothing() -> None:
    x = _noise(4, 4)
    np.testing.assert_array_equal(dropout(x, 0.9, None), x)


def test_dropout_is_before_the_adapter_only() -> None:
    model, x = _trained(Projections()), _noise(3, 5)
    key = jax.random.key(1)
    base = x @ model.q.kernel[...]
    dropped = dropout(x, 0.5, key)
    expected = base + 3.0 * (dropped @ model.q.lora.a[...]) @ model.q.lora.b[...]
    np.testing.assert_allclose(model.q(x, key), expected, rtol=1e-5, atol=1e-5)
