"""The weight table of SAM covers every checkpoint and gives back the same bytes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
from flax import nnx

from glamm_jax.config import SAM_VIT_B, SAM_VIT_H, SAM_VIT_L, SAMConfig, tiny
from glamm_jax.models.sam.sam import SAM
from glamm_jax.weights.flat_state import state_shapes
from glamm_jax.weights.rules import find_problems, tensor_shapes
from glamm_jax.weights.sam import sam_table
from glamm_jax.weights.tensor_sinks import MemoryWriter
from glamm_jax.weights.tensor_sources import MemorySource
from glamm_jax.weights.transfer import export_tensors, import_tensors


def leaf_shapes(config: SAMConfig) -> dict[str, tuple[int, ...]]:
    return state_shapes(nnx.state(nnx.eval_shape(lambda: SAM(config, rngs=nnx.Rngs(0)))))


def imported(config: SAMConfig, tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    writer = MemoryWriter()
    import_tensors(sam_table(config), MemorySource(tensors), leaf_shapes(config), writer)
    return writer.arrays


@pytest.mark.parametrize(
    ("config", "num_tensors"),
    [(SAM_VIT_B, 314), (SAM_VIT_L, 482), (SAM_VIT_H, 594)],
    ids=["vit_b", "vit_l", "vit_h"],
)
def test_full_size_checkpoints_fill_every_leaf_once(config, num_tensors):
    table, shapes = sam_table(config), leaf_shapes(config)
    tensors = tensor_shapes(table, shapes)
    assert len(tensors) == num_tensors
    assert tensors["image_encoder.blocks.0.attn.rel_pos_h"] == (
        27,
        config.hidden_dim // config.num_heads,
    )
    assert tensors["image_encoder.blocks.2.attn.qkv.weight"] == (
        3 * config.hidden_dim,
        config.hidden_dim,
    )
    zeros = {name: np.broadcast_to(np.float16(0), shape) for name, shape in tensors.items()}
    leaves = imported(config, zeros)
    assert {name: leaf.shape for name, leaf in leaves.items()} == shapes


@pytest.mark.parametrize("global_blocks", [(1, 3), (), (0, 1, 2, 3), (2,)])
def test_tensors_come_back_byte_for_byte(global_blocks):
    config = replace(tiny().sam, global_blocks=global_blocks)
    table, shapes = sam_table(config), leaf_shapes(config)
    rng = np.random.default_rng(0)
    sizes = tensor_shapes(table, shapes)
    tensors = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in sizes.items()}
    stored_dtypes, writer = dict.fromkeys(tensors, "F32"), MemoryWriter()
    export_tensors(table, stored_dtypes, MemorySource(imported(config, tensors)), writer)
    assert writer.arrays.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert writer.arrays[name].tobytes() == tensor.tobytes(), name


def test_a_block_lands_in_the_stack_of_its_kind():
    config = tiny().sam
    table, shapes = sam_table(config), leaf_shapes(config)
    tensors = {
        name: np.full(shape, int(name.split(".")[2]) if ".blocks." in name else -1, np.float32)
        for name, shape in tensor_shapes(table, shapes).items()
    }
    leaves = imported(config, tensors)
    assert leaves["encoder.window_blocks.norm1.scale"][:, 0].tolist() == [0, 2]
    assert leaves["encoder.global_blocks.norm1.scale"][:, 0].tolist() == [1, 3]


def test_pixel_constants_are_accepted_and_not_required():
    config = tiny().sam
    table, shapes = sam_table(config), leaf_shapes(config)
    tensors = tensor_shapes(table, shapes)
    statistics = {"pixel_mean": (3, 1, 1), "pixel_std": (3, 1, 1)}
    assert not find_problems(table, tensors, shapes)
    assert not find_problems(table, tensors | statistics, shapes)


def test_a_missing_and_an_unknown_tensor_are_named_together():
    config = tiny().sam
    table, shapes = sam_table(config), leaf_shapes(config)
    tensors = tensor_shapes(table, shapes)
    tensors["image_encoder.blocks.9.norm1.weight"] = tensors.pop("mask_decoder.iou_token.weight")
    assert find_problems(table, tensors, shapes) == [
        "missing tensor mask_decoder.iou_token.weight",
        "unknown tensor image_encoder.blocks.9.norm1.weight",
    ]
