"""Prompts and masks: text alone, no mask at all, choices of masks, refusals, bfloat16."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from glamm_jax.parallel import make_mesh, shardings, use_mesh


def images(config, count: int) -> jax.Array:
    return jax.random.normal(jax.random.key(1), (count, config.grid_size, config.grid_size, 16))


def texts(count: int, each: int = 1) -> jax.Array:
    return jax.random.normal(jax.random.key(2), (count, each, 16))


def test_text_is_a_prompt_as_it_is_and_takes_no_padding_point(sam):
    text = texts(3, each=2)
    sparse, dense = sam.prompt_encoder(text=text)
    np.testing.assert_array_equal(sparse, text)
    np.testing.assert_array_equal(dense[1, 2, 3], sam.prompt_encoder.no_mask[...])


def test_points_take_a_padding_point_only_without_a_box(sam):
    points, labels = jnp.ones((2, 3, 2)), jnp.ones((2, 3), jnp.int32)
    alone, _ = sam.prompt_encoder(points=points, labels=labels)
    boxed, _ = sam.prompt_encoder(points=points, labels=labels, boxes=jnp.ones((2, 4)))
    assert alone.shape == (2, 4, 16)
    assert boxed.shape == (2, 5, 16)
    np.testing.assert_array_equal(alone[0, 3], sam.prompt_encoder.not_a_point[...])


def test_no_prompt_is_one_mask_without_sparse_embeddings(sam):
    sparse, dense = sam.prompt_encoder()
    assert sparse.shape == (1, 0, 16)
    assert dense.shape == (1, 8, 8, 16)


@pytest.mark.parametrize(
    "prompts",
    [
        {"points": jnp.ones((1, 1, 2))},
        {"labels": jnp.ones((1, 1), jnp.int32)},
        {"boxes": jnp.ones((2, 4)), "text": jnp.ones((3, 1, 16))},
    ],
    ids=["points alone", "labels alone", "different numbers"],
)
def test_prompts_that_do_not_belong_together_are_refused(sam, prompts, unchecked):
    with pytest.raises(ValueError, match=r"must be given together|different numbers of masks"):
        sam.prompt_encoder(**prompts)


def test_chosen_masks_are_the_same_among_all(sam, jitted, small_config):
    image, (sparse, dense) = images(small_config, 2), sam.prompt_encoder(text=texts(2))
    positions = sam.prompt_encoder.dense_positions()
    graph, state = nnx.split(sam.mask_decoder)
    every = jax.jit(lambda state, *args: nnx.merge(graph, state)(*args))
    masks, iou = every(state, image, positions, sparse, dense)
    assert masks.shape == (2, 4, small_config.mask_size, small_config.mask_size)
    for multimask, chosen in ((False, slice(0, 1)), (True, slice(1, None))):
        some, some_iou = jitted("decode", image, sparse, dense, multimask=multimask)
        np.testing.assert_allclose(some, masks[:, chosen], atol=1e-5)
        np.testing.assert_allclose(some_iou, iou[:, chosen], atol=1e-5)


def test_an_unknown_choice_of_masks_is_refused(sam, small_config, unchecked):
    image, (sparse, dense) = images(small_config, 1), sam.prompt_encoder(text=texts(1))
    with pytest.raises(ValueError, match="unknown choice of masks 'best'"):
        sam.mask_decoder(image, sam.prompt_encoder.dense_positions(), sparse, dense, "best")


def test_no_mask_gives_no_mask(sam, jitted, small_config):
    masks, iou = jitted("decode", images(small_config, 0), *sam.prompt_encoder(text=texts(0)))
    assert masks.shape == (0, 1, small_config.mask_size, small_config.mask_size)
    assert iou.shape == (0, 1)


def test_a_mask_does_not_depend_on_the_others(sam, jitted, small_config):
    image, text = images(small_config, 2), texts(2)
    before, _ = jitted("decode", image, *sam.prompt_encoder(text=text))
    changed = sam.prompt_encoder(text=text.at[1].add(1.0))
    after, _ = jitted("decode", image.at[1].add(1.0), *changed)
    np.testing.assert_allclose(before[0], after[0], atol=1e-6)
    assert np.abs(before[1] - after[1]).max() > 0.1


def test_bfloat16_stays_bfloat16_and_near(sam, jitted, small_config):
    image, text = images(small_config, 2), texts(2)
    exact, _ = jitted("decode", image, *sam.prompt_encoder(text=text))
    image, text = image.astype(jnp.bfloat16), text.astype(jnp.bfloat16)
    half, iou = jitted("decode", image, *sam.prompt_encoder(text=text))
    assert half.dtype == iou.dtype == jnp.bfloat16
    # 8 bits of mantissa: 0.4 % a rounding, some tens of them.
    assert (exact - half.astype(jnp.float32)).std() / exact.std() < 0.03


def test_boxes_work_from_pixels_to_masks(sam, jitted, small_config):
    size = small_config.image_size
    embedding = jitted("encode", jax.random.normal(jax.random.key(0), (1, size, size, 3)))
    boxes = jnp.asarray([[3.0, 4, 30, 40], [0.0, 0, 63, 63]])
    image = jnp.broadcast_to(embedding, (2, *embedding.shape[1:]))
    graph, state = nnx.split(sam)
    predict = jax.jit(
        lambda state, image, boxes: nnx.merge(graph, state).predict_masks(image, boxes=boxes)
    )
    masks, _ = predict(state, image, boxes)
    assert masks.shape == (2, 1, small_config.mask_size, small_config.mask_size)
    assert np.abs(masks[0] - masks[1]).max() > 1e-3


def test_a_mesh_changes_where_it_is_computed_not_what(sam, jitted, small_config):
    size = small_config.image_size
    pixels = jax.random.normal(jax.random.key(0), (2, size, size, 3))
    sparse, dense = sam.prompt_encoder(text=texts(2))
    expected, _ = jitted("decode", jitted("encode", pixels), sparse, dense)
    graph, state = nnx.split(sam)

    def run(state, pixels, sparse, dense):
        sam = nnx.merge(graph, state)
        return sam.decode(sam.encode(pixels), sparse, dense)

    with use_mesh(make_mesh(2, 2, 2)):
        placed = jax.device_put(state, shardings(state))
        masks, _ = jax.jit(run)(placed, pixels, sparse, dense)
    assert len(masks.sharding.device_set) == 8
    np.testing.assert_allclose(masks, expected, atol=1e-4)
