"""Positions and batch shapes, and the quirks of sequences in the original."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from glamm_jax.config import GLaMMConfig
from glamm_jax.data.collate import (
    BatchShapeError,
    bucket,
    bucketed,
    build_batch,
    collate,
)
from glamm_jax.data.encode import Sample, SampleError, TokenizedConversation
from glamm_jax.data.packing import expand
from glamm_jax.text.special_tokens import IGNORE_ID, IMAGE_ID
from glamm_jax.types import BatchShape


def row(*ids: int, learned: int = 0) -> TokenizedConversation:
    """Ids whose last `learned` are labels, too."""
    array = np.array(ids, np.int32)
    labels = np.full_like(array, IGNORE_ID)
    if learned:
        labels[-learned:] = array[-learned:]
    return TokenizedConversation(array, labels)


def sample(config: GLaMMConfig, *rows: TokenizedConversation, **fields) -> Sample:
    side, canvas = config.clip.image_size, config.sam.image_size
    defaults = {
        "image": np.zeros((side, side, 3), np.uint8),
        "grounding_image": np.zeros((canvas, canvas, 3), np.uint8),
        "resized_size": (canvas, canvas),
        "original_size": (5, 7),
    }
    return Sample(conversations=rows, **{**defaults, **fields})


def test_trap_1_an_image_takes_the_place_of_its_one_id(tiny_config: GLaMMConfig) -> None:
    patches = tiny_config.clip.num_patches
    batch = collate([sample(tiny_config, row(1, 5, IMAGE_ID, 6))], tiny_config)
    assert batch.token_ids.shape == (1, 3 + patches)
    assert batch.token_ids[0, [0, 1, 2, -1]].tolist() == [1, 5, -1, 6]
    assert batch.image_source[0, 2 : 2 + patches].tolist() == list(range(patches))
    assert (batch.image_source[0, [0, 1, -1]] == -1).all()


@pytest.mark.parametrize("place", [1, 3, 5])
def test_trap_2_a_mask_is_read_one_before_its_seg_wherever_the_image_stands(
    tiny_config: GLaMMConfig, place: int
) -> None:
    seg, patches = tiny_config.tokens.seg, tiny_config.clip.num_patches
    ids = [1, 8, seg, 9, seg]
    ids.insert(place, IMAGE_ID)
    batch = collate([sample(tiny_config, row(*ids))], tiny_config)
    for position in batch.mask_positions:
        assert batch.token_ids[0, position + 1] == seg
    assert len(batch.mask_positions) == 2
    assert batch.token_ids.shape[1] == len(ids) - 1 + patches


def test_a_seg_at_the_very_start_is_emitted_by_nothing(tiny_config: GLaMMConfig) -> None:
    assert len(expand(row(tiny_config.tokens.seg, IMAGE_ID), tiny_config).seg_positions) == 0


def test_trap_7_validity_grows_on_the_left(tiny_config: GLaMMConfig) -> None:
    patches, pad = tiny_config.clip.num_patches, tiny_config.tokens.pad
    valid = expand(row(1, pad, IMAGE_ID, 6, pad), tiny_config).valid
    # The unknown word in front of the image hides a patch instead of itself.
    assert np.flatnonzero(~valid).tolist() == [patches, patches + 3]


def test_trap_7_a_text_only_row_is_filled_up_with_zeros_nobody_sees(
    tiny_config: GLaMMConfig,
) -> None:
    batch = collate([sample(tiny_config, row(1, IMAGE_ID, 5), row(1, 4, 5))], tiny_config)
    assert (batch.token_ids[1, 3:] == -1).all()
    assert batch.token_valid[1].sum() == 3


def test_trap_16_one_box_serves_all_tokens_and_surplus_boxes_none(
    tiny_config: GLaMMConfig,
) -> None:
    region = tiny_config.tokens.region
    two = row(1, IMAGE_ID, region, 5, region)
    box = np.array([[0, 0, 1, 1]], np.float32)
    shared = collate([sample(tiny_config, two, boxes_xyxy_unit=box)], tiny_config)
    assert shared.region_source[0][shared.region_source[0] >= 0].tolist() == [0, 0]
    three = np.tile(box, (3, 1))
    surplus = collate([sample(tiny_config, two, boxes_xyxy_unit=three)], tiny_config)
    assert surplus.region_source[0][surplus.region_source[0] >= 0].tolist() == [0, 1]
    four = row(1, IMAGE_ID, region, region, region, region)
    with pytest.raises(SampleError, match=r"4 <bbox> in a conversation, but 3 boxes"):
        collate([sample(tiny_config, four, boxes_xyxy_unit=three)], tiny_config)


def test_trap_18_no_patch_is_taken_for_a_region(tiny_config: GLaMMConfig) -> None:
    """Also where the region token's id is the number of a patch."""
    config = replace(tiny_config, tokens=replace(tiny_config.tokens, region=3))
    assert config.clip.num_patches > 3
    boxes = np.array([[0, 0, 1, 1]], np.float32)
    batch = collate([sample(config, row(1, IMAGE_ID, 5, 3), boxes_xyxy_unit=boxes)], config)
    assert np.flatnonzero(batch.region_source[0] >= 0).tolist() == [config.clip.num_patches + 2]


def test_trap_21_surplus_truth_is_left_out_and_missing_truth_raises(
    tiny_config: GLaMMConfig,
) -> None:
    seg = tiny_config.tokens.seg
    asked = row(1, IMAGE_ID, 5, seg, 6, seg)
    masks = np.arange(3 * 35, dtype=np.uint8).reshape(3, 5, 7)
    batch = collate([sample(tiny_config, asked, masks=masks)], tiny_config)
    np.testing.assert_array_equal(batch.masks, masks[:2])
    with pytest.raises(SampleError, match=r"2 \[SEG\], but only 1 masks"):
        collate([sample(tiny_config, asked, masks=masks[:1])], tiny_config)


def test_what_is_learned_is_read_one_position_earlier(tiny_config: GLaMMConfig) -> None:
    batch = collate([sample(tiny_config, row(1, IMAGE_ID, 7, 8, 9, learned=2))], tiny_config)
    positions = batch.target_positions[0][batch.target_valid[0]]
    assert batch.target_ids[0].tolist() == [8, 9]
    assert batch.token_ids[0, positions + 1].tolist() == [8, 9]


def test_what_does_not_fit_is_named_with_need_and_room(tiny_config: GLaMMConfig) -> None:
    samples = [sample(tiny_config, row(1, IMAGE_ID, 5, tiny_config.tokens.seg))]
    needed = build_batch(samples, tiny_config).required_shape
    with pytest.raises(BatchShapeError, match="tokens: 579 needed, the limit is 100"):
        collate(samples, tiny_config, replace(needed, tokens=100))
    with pytest.raises(BatchShapeError, match="masks: 1 needed, the limit is 0"):
        collate(samples, tiny_config, replace(needed, masks=0))


def test_a_row_knows_the_grounding_image_of_its_own_sample(tiny_config: GLaMMConfig) -> None:
    seen = sample(tiny_config, row(1, IMAGE_ID), grounding_image=None)
    asked = sample(tiny_config, row(1, IMAGE_ID), row(1, 5))
    samples = [seen, asked, Sample(conversations=(row(1, 4),)), asked]
    batch = collate(
        samples, tiny_config, replace(build_batch(samples, tiny_config).required_shape, rows=7)
    )
    assert batch.row_grounding_image.tolist() == [-1, 0, 0, -1, 1, 1, -1]


def test_a_second_image_id_shows_the_same_picture_again(tiny_config: GLaMMConfig) -> None:
    batch = collate([sample(tiny_config, row(1, IMAGE_ID, 5, IMAGE_ID))], tiny_config)
    shown = batch.image_source[0][batch.image_source[0] >= 0]
    assert shown.tolist() == 2 * list(range(tiny_config.clip.num_patches))


def test_a_seg_whose_truth_is_unknown_is_said_so(tiny_config: GLaMMConfig) -> None:
    asked = row(1, IMAGE_ID, 5, tiny_config.tokens.seg)
    known = sample(tiny_config, asked, masks=np.ones((1, 5, 7), np.uint8))
    batch = collate([known, replace(known, masks=None)], tiny_config)
    assert batch.mask_valid.tolist() == [True, True]
    assert batch.mask_has_truth.tolist() == [True, False]


BAD_SAMPLES = [
    ({"image": np.zeros((9, 48, 3), np.uint8)}, r"image of shape \(9, 48, 3\).*\(48, 48, 3\)"),
    (
        {"grounding_image": np.zeros((64, 64, 3), np.uint8)},
        r"grounding_image of shape \(64, 64, 3\), but the model takes \(128, 128, 3\)",
    ),
    (
        {"grounding_image": np.zeros((128, 128, 3), np.float32)},
        "grounding_image of float32 in a batch whose images are uint8",
    ),
    (
        {"masks": np.zeros((1, 7, 5), np.uint8)},
        r"a mask of shape \(7, 5\), but the original size is \(5, 7\)",
    ),
    (
        {"masks": np.zeros((1, 5, 7), np.uint8), "grounding_image": None},
        "1 masks without a grounding_image",
    ),
    ({"boxes_xyxy_unit": np.zeros((2, 5))}, r"boxes of shape \(2, 5\)"),
    (
        {"conversations": (row(1, 5),), "image": None, "boxes_xyxy_unit": np.zeros((2, 4))},
        "2 boxes without an image",
    ),
    (
        {"conversations": (row(1, IMAGE_ID),), "image": None},
        "has an image token, but the sample has no image",
    ),
    ({"conversations": (row(1, 207),)}, "id 207 is outside the vocabulary of 207"),
    ({"conversations": (row(1, -7),)}, "id -7 is outside the vocabulary"),
    (
        {"conversations": (TokenizedConversation(np.array([1]), np.array([999])),)},
        "label 999 is outside the vocabulary",
    ),
    (
        {"conversations": (TokenizedConversation(np.array([1, 2]), np.array([1])),)},
        r"ids of shape \(2,\) with labels",
    ),
    ({"resized_size": (129, 128)}, r"resized_size \(129, 128\) is not inside"),
    ({"original_size": (0, 7)}, r"original_size \(0, 7\) is empty"),
]


@pytest.mark.parametrize(("fields", "message"), BAD_SAMPLES, ids=lambda x: str(x)[:40])
def test_a_sample_that_contradicts_itself_is_named(
    tiny_config: GLaMMConfig, fields: dict, message: str
) -> None:
    good = sample(tiny_config, row(1, IMAGE_ID))
    with pytest.raises(SampleError, match=f"^photo 7: .*{message}"):
        collate([good, replace(good, **{**fields, "name": "photo 7"})], tiny_config)


def test_an_empty_batch_has_the_shapes_of_its_capacity(tiny_config: GLaMMConfig) -> None:
    batch = collate([], tiny_config, BatchShape(rows=2, tokens=9, images=1, masks=3))
    assert batch.token_ids.shape == (2, 9)
    assert not batch.token_valid.any()
    assert not batch.mask_valid.any()


def test_sizes_are_rounded_up_to_four_a_doubling_and_counts_to_powers_of_two() -> None:
    assert [bucket(size) for size in (0, 1, 7, 9, 16, 17, 480, 512, 513, 640)] == [
        *(0, 1, 7, 10, 16, 20, 512, 512, 640, 640)
    ]
    assert [bucket(count, 1) for count in (0, 1, 2, 3, 5, 8, 9)] == [0, 1, 2, 4, 8, 8, 16]
    rounded = bucketed(BatchShape(rows=3, tokens=641, masks=5, mask_height=427, mask_width=640))
    assert rounded == BatchShape(rows=4, tokens=768, masks=8, mask_height=448, mask_width=640)


def test_what_fits_fits_its_bucket(tiny_config: GLaMMConfig) -> None:
    samples = [sample(tiny_config, row(1, IMAGE_ID, 5))] * 3
    batch = collate(
        samples, tiny_config, bucketed(build_batch(samples, tiny_config).required_shape)
    )
    assert batch.token_ids.shape[0] == 4
    assert not batch.token_valid[3].any()
