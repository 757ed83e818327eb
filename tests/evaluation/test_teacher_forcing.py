"""A conversation with known answers gets the very masks that training computes its losses from."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from glamm_jax.data import rle
from glamm_jax.data.collate import collate
from glamm_jax.data.encode import encode_examples
from glamm_jax.data.preprocess import open_image
from glamm_jax.evaluation.benchmarks.base import Item
from glamm_jax.evaluation.predict import predict
from glamm_jax.inference.chat import Assistant, Question
from glamm_jax.models.sam.postprocess import postprocess_masks
from glamm_jax.types import BatchShape, Example
from tests.evaluation.conftest import miniworld

ITEM_SET = miniworld("refseg", 2)
FORCED = [item for item in ITEM_SET.items if item.history]


FORWARD = jax.jit(lambda graph, state, batch: nnx.merge(graph, state)(batch), static_argnums=0)


def in_training(assistant: Assistant, item: Item) -> np.ndarray:
    """Mask logits at the picture's size, by the forward that the losses take."""
    truth = np.stack([rle.decode(mask) for mask in item.reference_masks]).astype(np.uint8)
    turns = tuple(turn for pair in item.history for turn in pair)
    image = open_image(ITEM_SET.records[item.record].image)
    example = Example(image, turns, None, truth, "referring", "", item.id)
    config = assistant.config
    room = BatchShape(tokens=config.llama.max_positions, targets=config.llama.max_positions)
    sample = encode_examples([example], assistant.tokenizer, config, room)[0]
    assert sample is not None
    batch = collate([sample], config)

    low = FORWARD(assistant.generator.graph, assistant.generator.state, batch).mask_logits
    resized, original = (
        jnp.asarray(x)[batch.mask_image] for x in (batch.resized_sizes, batch.original_sizes)
    )
    size = (image.shape[0], image.shape[1])
    return np.asarray(postprocess_masks(low, resized, original, config.sam.image_size, size))


def in_evaluation(assistant: Assistant, item: Item) -> np.ndarray:
    """The same by a history and an answer of one token."""
    picture = ITEM_SET.records[item.record].image
    question = Question(picture, item.prompt, (), item.history, max_tokens=1)
    [(batch, _)] = assistant.prepare([question])
    state = assistant.generator.prefill(batch, 1)
    found = assistant.generator.finish(batch, state, with_logits=True)
    assert found.logits is not None
    return np.asarray(found.logits)[found.steps < 0]


def test_history_and_one_token_give_the_mask_logits_of_training(tiny_assistant: Assistant) -> None:
    for item in FORCED:
        ours, trained = in_evaluation(tiny_assistant, item), in_training(tiny_assistant, item)
        assert ours.shape == trained.shape == (len(item.reference_masks), 64, 64)
        np.testing.assert_allclose(ours, trained, atol=2e-4 * trained.std(), rtol=0)
        assert len(ours) > 1
        assert np.abs(trained[0] - trained[1]).max() > trained.std()  # not one mask for all


@pytest.mark.slow
def test_the_predictions_of_forced_items_are_these_masks(tiny_assistant: Assistant) -> None:
    said = {each.id: each for each in predict(tiny_assistant, ITEM_SET.records, FORCED, 2)}
    for item in FORCED:
        logits = in_training(tiny_assistant, item)
        told = said[item.id].masks[: len(item.reference_masks)]
        for mask, trained in zip(told, logits, strict=True):
            assert (rle.decode(mask) != (trained > 0)).mean() < 1e-3
