"""Examples of the mini-world become batches of one shape."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest

from glamm_jax.config import tiny
from glamm_jax.data.batches import Batches
from glamm_jax.data.miniworld import draw_example
from glamm_jax.data.pack import CapacityError
from glamm_jax.experiment import DataConfig
from glamm_jax.text.tokenizer import TokenizerError

SIZE = 64


@pytest.fixture(scope="module")
def data(goldens: Path) -> DataConfig:
    folder = str(goldens / "tokenizer")
    return DataConfig(tokenizer=folder, batch_size=3, image_size=SIZE, max_text_tokens=160)


def test_batches_have_one_shape_and_need_no_memory(data: DataConfig) -> None:
    batches = Batches(data, tiny(800))
    shapes = [jax.tree.map(lambda x: (x.shape, x.dtype), batches(n)) for n in range(4)]
    assert all(each == shapes[0] for each in shapes)
    np.testing.assert_array_equal(batches(3).token_ids, Batches(data, tiny(800))(3).token_ids)
    assert not np.array_equal(batches(3).token_ids, batches(2).token_ids)


def test_what_is_learned_is_the_answer_and_masks_stand_at_its_segs(data: DataConfig) -> None:
    config = tiny(800)
    batches = Batches(data, config)
    batch = batches(0)
    for row in range(data.batch_size):
        learned = batch.target_ids[row][batch.target_valid[row]]
        answer = draw_example(0, row, SIZE).turns[1]
        expected = batches.tokenizer.encode(answer, add_special=False)
        assert learned.tolist() == [*expected, config.tokens.eos]
    valid = batch.mask_valid
    emitted = batch.token_ids[batch.mask_rows[valid], batch.mask_positions[valid] + 1]
    assert (emitted == config.tokens.seg).all()
    np.testing.assert_array_equal(batch.mask_has_truth, valid)


def test_what_does_not_fit_is_said(data: DataConfig) -> None:
    with pytest.raises(CapacityError, match=r"tokens: \d+ needed, room for 635"):
        Batches(replace(data, max_text_tokens=60), tiny(800))(0)
    with pytest.raises(TokenizerError, match="does not belong to this model"):
        Batches(data, tiny(200))
