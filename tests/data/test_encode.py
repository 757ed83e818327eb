"""Examples become samples; what does not fit is cut or left out, and always said."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from glamm_jax.config import GLaMMConfig, tiny
from glamm_jax.data.collate import collate
from glamm_jax.data.encode import (
    NO_ANSWER_LEFT,
    NOT_ENCODED,
    RESERVED_TOKEN,
    SMALLER_MASKS,
    TRUNCATED,
    encode_examples,
)
from glamm_jax.text.special_tokens import IGNORE_ID, IMAGE_ID
from glamm_jax.text.tokenizer import Tokenizer, load_tokenizer
from glamm_jax.types import BatchShape, Example

ROOM = BatchShape(rows=4, tokens=900, targets=100, images=4, mask_height=40, mask_width=40)
IMAGE = np.zeros((20, 30, 3), np.uint8)


@pytest.fixture(scope="module")
def config() -> GLaMMConfig:
    return tiny(800)


@pytest.fixture(scope="module")
def tokenizer(goldens: Path) -> Tokenizer:
    return load_tokenizer(goldens / "tokenizer")


def example(*turns: str, masks: int = 0, boxes: int = 0, image: np.ndarray = IMAGE) -> Example:
    truth = np.zeros((masks, *image.shape[:2]), np.uint8)
    truth[:] = np.arange(masks)[:, None, None] % 2
    unit = np.linspace(0, 1, 4 * boxes, dtype=np.float32).reshape(boxes, 4)
    return Example(
        image, turns, unit if boxes else None, truth if masks else None, "task", "test", "7"
    )


SEGMENT = ("Where is it?", "It is [SEG].", "And that?", "Sure, [SEG].")
DESCRIBE = ("What is in region1 <bbox>?", "A dog.")


def test_trap_17_conversations_about_one_picture_share_it_and_keep_their_boxes(
    config: GLaMMConfig, tokenizer: Tokenizer
) -> None:
    described = example(*DESCRIBE, boxes=1)
    examples = [described, example(*SEGMENT, masks=2), described]
    sample, notes = encode_examples(examples, tokenizer, config, ROOM)
    assert notes == ()
    assert sample is not None
    assert sample.name == "test 7"
    assert [row.first_box for row in sample.conversations] == [0, 1, 1]
    batch = collate([sample], config)
    assert batch.images.shape[0] == batch.grounding_images.shape[0] == 1
    assert [int(source.max()) for source in batch.region_source] == [0, -1, 1]
    assert batch.mask_rows.tolist() == [1, 1]


@pytest.mark.parametrize(("turns", "encoder"), [(SEGMENT, True), (("Describe.", "Blue."), False)])
def test_sam_sees_a_picture_only_if_it_has_masks(
    config: GLaMMConfig, tokenizer: Tokenizer, turns: tuple[str, ...], encoder: bool
) -> None:
    made = example(*turns, masks=2 * encoder)
    sample = encode_examples([made], tokenizer, config, ROOM)[0]
    assert sample is not None
    assert (sample.grounding_image is not None) == encoder
    assert sample.boxes_xyxy_unit is None


def test_trap_32_a_long_conversation_is_cut_and_takes_its_masks_along(
    config: GLaMMConfig, tokenizer: Tokenizer
) -> None:
    made = example(*SEGMENT, masks=2)
    whole = encode_examples([made], tokenizer, config, ROOM)[0]
    assert whole is not None
    length = len(whole.conversations[0].token_ids) - 4  # right before the second [SEG]
    patches = config.clip.num_patches
    room = BatchShape(tokens=length - 1 + patches, targets=99, mask_height=40, mask_width=40)
    sample, notes = encode_examples([made], tokenizer, config, room)
    assert notes == (f"task: {TRUNCATED}",)
    assert sample is not None
    np.testing.assert_array_equal(
        sample.conversations[0].token_ids, whole.conversations[0].token_ids[:length]
    )
    assert sample.masks is not None
    assert len(sample.masks) == 1
    short = BatchShape(tokens=60 + patches, targets=99, mask_height=40, mask_width=40)
    assert encode_examples([made], tokenizer, config, short) == (None, (f"task: {NO_ANSWER_LEFT}",))


def test_more_targets_than_a_row_has_are_cut(config: GLaMMConfig, tokenizer: Tokenizer) -> None:
    room = BatchShape(tokens=900, targets=8, mask_height=40, mask_width=40)
    sample, notes = encode_examples([example(*SEGMENT, masks=2)], tokenizer, config, room)
    assert notes == (f"task: {TRUNCATED}",)
    assert sample is not None
    assert (sample.conversations[0].labels != IGNORE_ID).sum() == 8


@pytest.mark.parametrize(
    ("turns", "note"),
    [
        (("Where is [SEG]?", "It is [SEG]."), RESERVED_TOKEN),
        (("What is <image>?", "It is [SEG]."), RESERVED_TOKEN),
        (("What is <bbox>?", "It is [SEG]."), RESERVED_TOKEN),
        (("What?", "It </s> is [SEG]."), NOT_ENCODED),
    ],
)
def test_texts_with_tokens_of_the_model_are_left_out_and_counted(
    config: GLaMMConfig, tokenizer: Tokenizer, turns: tuple[str, ...], note: str
) -> None:
    fine = example("Colour?", "Blue.")
    sample, notes = encode_examples([example(*turns, masks=1), fine], tokenizer, config, ROOM)
    assert notes == (f"task: {note}",)
    assert sample is not None
    assert len(sample.conversations) == 1


def test_masks_below_the_size_of_the_picture_are_compared_at_their_own(
    config: GLaMMConfig, tokenizer: Tokenizer
) -> None:
    large = example(*SEGMENT, image=np.zeros((100, 60, 3), np.uint8))
    large = large._replace(masks=np.ones((2, 40, 24), np.uint8))
    sample, notes = encode_examples([large], tokenizer, config, ROOM)
    assert notes == (SMALLER_MASKS,)
    assert sample is not None
    assert sample.masks is large.masks
    assert sample.original_size == (40, 24)


def test_an_image_may_stand_without_a_sentence_about_it(
    config: GLaMMConfig, tokenizer: Tokenizer
) -> None:
    bare, told = (
        encode_examples([example("What?", "It.")], tokenizer, config, ROOM, bare_image=bare)[0]
        for bare in (True, False)
    )
    assert bare is not None
    assert told is not None
    assert len(bare.conversations[0].token_ids) < len(told.conversations[0].token_ids)
    for sample in (bare, told):
        assert (sample.conversations[0].token_ids == IMAGE_ID).sum() == 1
