"""The whole model: capacities, mixed tasks, any mesh, presets."""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from glamm_jax.config import (
    GLaMMConfig,
    LossWeights,
    Preset,
    paper,
    released,
    tiny,
    with_lora,
)
from glamm_jax.data.collate import BatchShape, build_batch, collate
from glamm_jax.data.encode import Sample, TokenizedConversation
from glamm_jax.models.glamm import GLaMM
from glamm_jax.parallel import make_mesh, shardings, use_mesh
from glamm_jax.text.special_tokens import IGNORE_ID, IMAGE_ID
from glamm_jax.training.losses import losses
from glamm_jax.types import Batch
from glamm_jax.weights.flat_state import state_shapes

MIXED_MESH = (2, 2, 2)
OTHER_MESHES = [(8, 1, 1), (1, 8, 1), (1, 1, 8), (1, 2, 4)]


def small_config(preset: Preset = "released") -> GLaMMConfig:
    """Tiny, and smaller where compiling and running take longest: CLIP's grid, the pyramid."""
    config = tiny(preset=preset)
    clip = replace(config.clip, image_size=16, num_layers=4, region_layers=(-5, -4, -3, -2))
    region = replace(config.region, num_fusion_rounds=2, roi_size=4)
    return with_lora(replace(config, clip=clip, region=region), preset)


def samples(config: GLaMMConfig) -> list[Sample]:
    """Segmentation, region and text-only rows in one batch, which the original cannot mix."""
    rng = np.random.default_rng(0)
    tokens = config.tokens

    def pixels(side: int) -> np.ndarray:
        return rng.integers(0, 256, (side, side, 3), dtype=np.uint8)

    def row(*ids: int) -> TokenizedConversation:
        array = np.array([1, *ids, 7, 9, 2], np.int32)
        labels = np.where(np.arange(len(array)) < 3, IGNORE_ID, array)
        return TokenizedConversation(
            array, np.where(array == IMAGE_ID, IGNORE_ID, labels).astype(np.int32)
        )

    segmentation = Sample(
        conversations=(
            row(5, IMAGE_ID, 11, tokens.seg, 12, tokens.seg),
            row(IMAGE_ID, 8, tokens.seg),
        ),
        image=pixels(config.clip.image_size),
        grounding_image=pixels(config.sam.image_size),
        resized_size=(96, 128),
        original_size=(30, 40),
        masks=rng.integers(0, 2, (3, 30, 40), dtype=np.uint8),
    )
    region = Sample(
        conversations=(row(IMAGE_ID, tokens.region, 4, tokens.region),),
        image=pixels(config.clip.image_size),
        boxes_xyxy_unit=np.array([[0.1, 0.2, 0.6, 0.9], [0, 0, 1, 1]], np.float32),
    )
    return [segmentation, region, Sample(conversations=(row(3, 4),))]


@pytest.fixture(scope="module")
def config() -> GLaMMConfig:
    return small_config()


@pytest.fixture(scope="module")
def model(config: GLaMMConfig) -> GLaMM:
    model = GLaMM(config, rngs=nnx.Rngs(0))
    # A fresh adapter changes nothing, so it is made to matter here.
    model.llama.layers.q_proj.lora.b[...] += 0.1
    return model


def total_loss(graph: nnx.GraphDef, state: nnx.State, batch: Batch) -> jax.Array:
    model = nnx.merge(graph, state, copy=True)
    return losses(model, batch, model(batch), LossWeights()).total


@pytest.mark.slow
def test_a_larger_capacity_changes_nothing(model: GLaMM, config: GLaMMConfig) -> None:
    tight = build_batch(samples(config), config).required_shape
    roomy = BatchShape(**{name: size + 2 for name, size in vars(tight).items()})
    graph, state = nnx.split(model)
    run = jax.jit(total_loss, static_argnums=0)
    one = run(graph, state, collate(samples(config), config, tight))
    two = run(graph, state, collate(samples(config), config, roomy))
    np.testing.assert_allclose(one, two, rtol=1e-6)


def test_one_batch_holds_all_tasks_and_equals_its_rows_alone(
    model: GLaMM, config: GLaMMConfig
) -> None:
    together = samples(config)
    room = build_batch(together, config).required_shape  # one program for all
    run = nnx.jit(lambda model, batch: model(batch))
    whole = run(model, collate(together, config, room))
    row = 0
    for sample in together:
        batch = collate([sample], config, room)
        alone = run(model, batch)
        count = len(sample.conversations)
        valid = np.asarray(batch.token_valid)[:count]
        assert valid.any(1).all()
        ours, theirs = (np.asarray(x) for x in (whole.hidden[row : row + count], alone.hidden))
        np.testing.assert_allclose(ours[valid], theirs[:count][valid], atol=2e-5)
        row += count
        if sample.masks is not None:
            np.testing.assert_allclose(whole.mask_logits, alone.mask_logits, atol=1e-4)


def test_a_seg_without_truth_costs_nothing(model: GLaMM, config: GLaMMConfig) -> None:
    known = samples(config)[0]
    asked = [known, replace(known, masks=None)]
    run = nnx.jit(lambda model, batch: losses(model, batch, model(batch), LossWeights()))
    room = build_batch(asked, config).required_shape  # one program for all
    both, alone = (run(model, collate(asked[:n], config, room)) for n in (2, 1))
    np.testing.assert_allclose([both.bce, both.dice], [alone.bce, alone.dice], rtol=1e-5)
    unknown = run(model, collate(asked[1:], config, room))
    assert float(unknown.bce) == float(unknown.dice) == 0.0
    assert float(unknown.ce) > 0


@pytest.mark.slow
@pytest.mark.parametrize("shape", OTHER_MESHES, ids=str)
def test_any_mesh_gives_the_single_device_result(
    model: GLaMM, config: GLaMMConfig, shape: tuple[int, int, int]
) -> None:
    graph, state = nnx.split(model)
    batch = jax.tree.map(jnp.asarray, collate(samples(config), config))
    expected = jax.jit(total_loss, static_argnums=0)(graph, state, batch)
    with use_mesh(make_mesh(*shape)) as mesh:
        placed = jax.device_put(state, shardings(state))
        spread = {
            x.sharding.num_devices for x in jax.tree.leaves(placed) if not x.is_fully_replicated
        }
        result = jax.jit(total_loss, static_argnums=0)(graph, placed, batch)
    assert mesh.size == 8
    # Parameters are really spread, unless the mesh is all data.
    assert bool(spread) == (shape != (8, 1, 1))
    np.testing.assert_allclose(result, expected, rtol=2e-6)


def test_loss_and_gradients_on_a_mesh_equal_those_of_one_device(
    model: GLaMM, config: GLaMMConfig
) -> None:
    graph, state = nnx.split(model)
    batch = jax.tree.map(jnp.asarray, collate(samples(config), config))
    differentiate = jax.value_and_grad(total_loss, argnums=1)
    expected_loss, expected = jax.jit(differentiate, static_argnums=0)(graph, state, batch)
    with use_mesh(make_mesh(*MIXED_MESH)) as mesh:
        placed = jax.device_put(state, shardings(state))
        assert any(not leaf.is_fully_replicated for leaf in jax.tree.leaves(placed))
        loss, result = jax.jit(differentiate, static_argnums=0)(graph, placed, batch)
    assert mesh.size == 8
    np.testing.assert_allclose(loss, expected_loss, rtol=2e-6)
    largest = max(float(jnp.abs(x).max()) for x in jax.tree.leaves(expected))
    for ours, theirs in zip(jax.tree.leaves(result), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-5 * largest)


def test_every_parameter_of_the_full_presets_carries_logical_axes() -> None:
    for preset in (released(), paper(), with_lora(released()), with_lora(paper(), "paper")):
        abstract = nnx.eval_shape(lambda preset=preset: GLaMM(preset, rngs=nnx.Rngs(0)))
        state = nnx.state(abstract)
        with use_mesh(make_mesh(2, 2, 2)):
            assert len(state_shapes(shardings_shapes(state))) == len(state_shapes(state))


def shardings_shapes(state: nnx.State) -> nnx.State:
    """`shardings` raises where axes are missing; the result is shaped like the state."""
    places = shardings(state)
    return nnx.map_state(lambda _, v: v, state) if places is not None else state


def test_the_released_model_has_the_parameters_of_the_released_checkpoint() -> None:
    """8.02 billion, CLIP's layers and norms that nobody reads left out."""
    abstract = nnx.eval_shape(lambda: GLaMM(released(), rngs=nnx.Rngs(0)))
    total = sum(int(np.prod(shape)) for shape in state_shapes(nnx.state(abstract)).values())
    assert 7.99e9 < total < 8.04e9


@pytest.mark.slow
def test_the_paper_preset_sends_regions_through_the_shared_projection() -> None:
    shared = small_config("paper")
    model = GLaMM(shared, rngs=nnx.Rngs(0))
    assert model.region_encoder.output_proj is None
    batch = collate(samples(shared), shared)
    states = model.encode_images(jnp.asarray(batch.images))
    regions = model.encode_regions(states, jax.tree.map(jnp.asarray, batch))
    assert regions.shape == (2, shared.llama.hidden_dim)
