"""CLIP's vision transformer against Hugging Face's, over random configurations."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from glamm_jax.config import CLIP_H14_224, CLIP_L14_336, CLIPConfig
from glamm_jax.models.clip import CLIPVision
from glamm_jax.parallel import make_mesh, shardings, use_mesh
from glamm_jax.weights.clip import clip_table

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from tests.models.torch_weights import assert_close, copied, randomise  # noqa: E402


@st.composite
def fields(draw: st.DrawFn) -> dict[str, Any]:
    """A configuration as a dictionary: the run-time checks draw random numbers of their own."""
    heads, patch = draw(st.sampled_from([1, 2, 4])), draw(st.sampled_from([2, 7, 14]))
    depth = draw(st.integers(1, 4))
    states = st.integers(-depth - 1, depth)
    return {
        "image_size": patch * draw(st.integers(1, 4)),
        "patch_size": patch,
        "hidden_dim": 8 * heads,
        "mlp_dim": draw(st.sampled_from([8, 24])),
        "num_layers": depth,
        "num_heads": heads,
        "activation": draw(st.sampled_from(["quick_gelu", "gelu"])),
        "projector_layer": draw(st.integers(1, depth) | st.integers(-depth, -1)),
        "region_layers": tuple(draw(st.lists(states, max_size=3))),
    }


def _theirs(config: CLIPConfig, seed: int = 0) -> torch.nn.Module:
    model = transformers.CLIPVisionModel(
        transformers.CLIPVisionConfig(
            image_size=config.image_size,
            patch_size=config.patch_size,
            hidden_size=config.hidden_dim,
            intermediate_size=config.mlp_dim,
            num_hidden_layers=config.num_layers,
            num_attention_heads=config.num_heads,
            hidden_act=config.activation,
        )
    )
    return randomise(model, seed)


def _pixels(config: CLIPConfig, batch: int = 2) -> np.ndarray:
    shape = (batch, config.image_size, config.image_size, 3)
    return np.random.default_rng(0).standard_normal(shape, dtype=np.float32)


def _ours(config: CLIPConfig, theirs: torch.nn.Module) -> CLIPVision:
    model = CLIPVision(config, rngs=nnx.Rngs(0))
    return copied(model, theirs, clip_table(config), prefix="vision_model.")


def _hidden_states(theirs: torch.nn.Module, pixels: np.ndarray) -> tuple[torch.Tensor, ...]:
    with torch.no_grad():
        nchw = torch.tensor(pixels).permute(0, 3, 1, 2)
        return theirs(nchw, output_hidden_states=True).hidden_states


@pytest.mark.slow
@settings(max_examples=6)
@given(fields=fields(), seed=st.integers(0, 9))
def test_every_hidden_state_that_is_read_is_hugging_faces(fields: dict, seed: int) -> None:
    config = CLIPConfig(**fields)
    theirs, pixels = _theirs(config, seed), _pixels(config)
    model = _ours(config, theirs)
    states, expected = model(jnp.asarray(pixels)), _hidden_states(theirs, pixels)
    assert len(states) == len(config.output_states)
    for layer in (config.projector_layer, *config.region_layers):
        assert_close(model.patch_features(states, layer), expected[layer][:, 1:], 2e-5)
    assert_close(states[-1][:, 0], expected[config.num_computed_layers][:, 0], 2e-5)


SMALL = CLIPConfig(
    image_size=28,
    patch_size=7,
    hidden_dim=32,
    mlp_dim=64,
    num_layers=3,
    num_heads=4,
    projector_layer=-2,
    region_layers=(0, 1),
)


def test_layers_above_the_last_state_that_is_read_do_not_exist() -> None:
    model = CLIPVision(SMALL, rngs=nnx.Rngs(0))
    assert model.layers.norm1.scale.shape[0] == SMALL.num_computed_layers == 2


def test_no_image_gives_states_of_no_image() -> None:
    model = CLIPVision(SMALL, rngs=nnx.Rngs(0))
    states = model(jnp.zeros((0, SMALL.image_size, SMALL.image_size, 3)))
    assert states.shape == (3, 0, SMALL.num_patches + 1, SMALL.hidden_dim)


def test_presets_have_the_shapes_of_the_checkpoints() -> None:
    for config, layers, width in ((CLIP_L14_336, 23, 1024), (CLIP_H14_224, 31, 1280)):
        make = lambda config=config: CLIPVision(config, rngs=nnx.Rngs(0))  # noqa: E731
        model = nnx.eval_shape(make)
        assert model.layers.q_proj.kernel.shape == (layers, width, width)
        assert model.position_embedding.shape == (config.num_patches + 1, width)


@pytest.mark.parametrize("mesh", [{"data": 2, "tensor": 4}, {"fsdp": 8}, {"tensor": 8}])
def test_any_mesh_gives_the_single_device_result(mesh: dict[str, int]) -> None:
    model, pixels = CLIPVision(SMALL, rngs=nnx.Rngs(0)), jnp.asarray(_pixels(SMALL))
    expected = model(pixels)
    graph, state = nnx.split(model)
    with use_mesh(make_mesh(**mesh)):
        placed = nnx.merge(graph, jax.device_put(state, shardings(state)))
        actual = nnx.jit(lambda model, x: model(x))(placed, pixels)
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4)
