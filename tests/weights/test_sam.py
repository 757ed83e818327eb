"""The weight table of SAM covers every checkpoint and gives back the same bytes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from flax import nnx

from glamm_jax.config import SAM_VIT_B, SAM_VIT_H, SAM_VIT_L, SAMConfig, tiny
from glamm_jax.models.sam.sam import SAM
from glamm_jax.weights import flat_state, rules
from glamm_jax.weights.sam import sam_table


def leaf_shapes(config: SAMConfig) -> dict[str, tuple[int, ...]]:
    return flat_state.state_shapes(nnx.state(nnx.eval_shape(lambda: SAM(config, rngs=nnx.Rngs(0)))))


def placeholder(shape: tuple[int, ...]) -> np.ndarray:
    return np.broadcast_to(np.int8(0), shape)


@pytest.mark.parametrize(
    ("config", "num_tensors"),
    [(SAM_VIT_B, 314), (SAM_VIT_L, 482), (SAM_VIT_H, 594)],
    ids=["vit_b", "vit_l", "vit_h"],
)
def test_full_size_checkpoints_fill_every_leaf_once(config, num_tensors):
    table, shapes = sam_table(config), leaf_shapes(config)
    tensors = rules.tensor_shapes(table, shapes)
    assert len(tensors) == num_tensors
    assert tensors["image_encoder.blocks.0.attn.rel_pos_h"] == (
        27,
        config.hidden_dim // config.num_heads,
    )
    assert tensors["image_encoder.blocks.2.attn.qkv.weight"] == (
        3 * config.hidden_dim,
        config.hidden_dim,
    )
    filled = rules.load(table, tensors, lambda name: placeholder(tensors[name]), shapes)
    assert {name: leaf.shape for name, leaf in filled.items()} == shapes


@pytest.mark.parametrize("global_blocks", [(1, 3), (), (0, 1, 2, 3), (2,)])
def test_tensors_come_back_byte_for_byte(global_blocks):
    config = replace(tiny().sam, global_blocks=global_blocks)
    table, shapes = sam_table(config), leaf_shapes(config)
    draw = np.random.default_rng(0)
    sizes = rules.tensor_shapes(table, shapes)
    tensors = {
        name: draw.standard_normal(shape).astype(np.float32) for name, shape in sizes.items()
    }
    back = rules.dump(table, rules.load(table, sizes, tensors.__getitem__, shapes))
    assert back.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert back[name].tobytes() == tensor.tobytes(), name


def test_a_block_lands_in_the_stack_of_its_kind():
    config = tiny().sam
    table, shapes = sam_table(config), leaf_shapes(config)
    tensors = {
        name: np.full(shape, int(name.split(".")[2]) if ".blocks." in name else -1, np.float32)
        for name, shape in rules.tensor_shapes(table, shapes).items()
    }
    sizes = {name: tensor.shape for name, tensor in tensors.items()}
    leaves = rules.load(table, sizes, tensors.__getitem__, shapes)
    assert leaves["encoder.window_blocks.norm1.scale"][:, 0].tolist() == [0, 2]
    assert leaves["encoder.global_blocks.norm1.scale"][:, 0].tolist() == [1, 3]


def test_pixel_constants_are_known_and_not_needed():
    config = tiny().sam
    table, shapes = sam_table(config), leaf_shapes(config)
    tensors = rules.tensor_shapes(table, shapes)
    statistics = {"pixel_mean": (3, 1, 1), "pixel_std": (3, 1, 1)}
    rules.check(table, tensors, shapes)
    rules.check(table, tensors | statistics, shapes)


def test_a_missing_and_a_strange_tensor_are_named_together():
    config = tiny().sam
    table, shapes = sam_table(config), leaf_shapes(config)
    tensors = rules.tensor_shapes(table, shapes)
    tensors["image_encoder.blocks.9.norm1.weight"] = tensors.pop("mask_decoder.iou_token.weight")
    with pytest.raises(rules.WeightsError) as error:
        rules.check(table, tensors, shapes)
    assert "missing tensor mask_decoder.iou_token.weight" in str(error.value)
    assert "unknown tensor image_encoder.blocks.9.norm1.weight" in str(error.value)
