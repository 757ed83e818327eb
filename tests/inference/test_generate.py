"""Generation with a cache: equal to recomputing everything, row by row, mask by mask."""

from __future__ import annotations

from dataclasses import replace

import jax
import numpy as np
import pytest
from flax import nnx

from glamm_jax.config import CLIPConfig, GLaMMConfig, RegionConfig, tiny
from glamm_jax.data.pack import Row, Sample, fit, pack
from glamm_jax.inference.generate import ContextError, Generator
from glamm_jax.models.glamm import GLaMM
from glamm_jax.text.special_tokens import IGNORE_ID, IMAGE_ID

STEPS = 6


@pytest.fixture(scope="module")
def config() -> GLaMMConfig:
    clip = CLIPConfig(
        image_size=8,
        patch_size=2,
        hidden_dim=32,
        mlp_dim=64,
        num_layers=4,
        num_heads=2,
        region_layers=(-5, -4, -3, -2),
    )
    region = RegionConfig(mid_dim=32, norm_groups=8, num_fusion_rounds=1, roi_size=2)
    return replace(tiny(), clip=clip, region=region)


@pytest.fixture(scope="module")
def model(config: GLaMMConfig) -> GLaMM:
    return GLaMM(config, rngs=nnx.Rngs(3))


def prompt(config: GLaMMConfig, seed: int, *ids: int) -> Sample:
    rng = np.random.default_rng(seed)
    row = np.array([1, 17, IMAGE_ID, *ids], np.int32)
    return Sample(
        rows=(Row(row, np.full_like(row, IGNORE_ID)),),
        image=rng.integers(0, 256, (config.clip.image_size,) * 2 + (3,), dtype=np.uint8),
        grounding_image=rng.integers(0, 256, (config.sam.image_size,) * 2 + (3,), dtype=np.uint8),
        resized_size=(96, 128),
        original_size=(18, 24),
    )


def prompts(config: GLaMMConfig) -> list[Sample]:
    """Different lengths; the second asks for a mask."""
    return [prompt(config, 1, 40, 41), prompt(config, 2, 50, config.tokens.seg, 51, 52, 53)]


def generate(generator: Generator, samples: list[Sample]) -> tuple[list[list[int]], list]:
    batch = pack(samples, generator.config)
    decoding = generator.decode(generator.prefill(batch, room=STEPS), max_steps=STEPS)
    masks = generator.finish(batch, decoding)
    per_row = [np.asarray(masks.logits)[masks.rows == row] for row in range(len(samples))]
    return generator.answers(decoding), per_row


def test_the_cache_gives_the_tokens_of_recomputing_the_whole_sequence(
    model: GLaMM, config: GLaMMConfig
) -> None:
    sample = prompts(config)[0]
    ids = sample.rows[0].token_ids.tolist()

    @nnx.jit
    def scores(model: GLaMM, batch):
        return model.llama.logits(model(batch).hidden)

    for _ in range(STEPS):
        row = np.array(ids, np.int32)
        whole = replace(sample, rows=(Row(row, np.full_like(row, IGNORE_ID)),))
        batch = jax.tree.map(np.asarray, pack([whole], config))
        ids.append(int(scores(model, batch)[0, -1].argmax()))
    answers, _ = generate(Generator(model), [sample])
    assert answers[0] == ids[len(sample.rows[0].token_ids) :]


def test_a_row_of_a_batch_equals_the_row_alone(model: GLaMM, config: GLaMMConfig) -> None:
    generator = Generator(model)
    answers, masks = generate(generator, prompts(config))
    for row, sample in enumerate(prompts(config)):
        alone, its_masks = generate(generator, [sample])
        assert answers[row] == alone[0]
        np.testing.assert_allclose(masks[row], its_masks[0], atol=1e-4)


def test_every_seg_of_prompt_and_answer_gives_a_mask(model: GLaMM, config: GLaMMConfig) -> None:
    answers, _ = generate(Generator(model), prompts(config)[:1])
    spoken = replace(config.tokens, seg=answers[0][2])
    again, masks = generate(Generator(model, spoken), prompts(config)[:1])
    assert again == answers
    assert len(masks[0]) == answers[0].count(spoken.seg) > 0
    assert masks[0].shape[1:] == (18, 24)


def test_a_row_stops_at_its_end_token(model: GLaMM, config: GLaMMConfig) -> None:
    answers, _ = generate(Generator(model), prompts(config)[:1])
    ended = replace(config.tokens, eos=answers[0][1])
    short, _ = generate(Generator(model, ended), prompts(config)[:1])
    assert short[0] == answers[0][: answers[0].index(ended.eos) + 1]


def test_decoding_in_two_calls_equals_one(model: GLaMM, config: GLaMMConfig) -> None:
    generator = Generator(model)
    batch = pack(prompts(config), config)
    once = generator.decode(generator.prefill(batch, room=STEPS), max_steps=STEPS)
    twice = generator.decode(generator.prefill(batch, room=STEPS), max_steps=2)
    twice = generator.decode(twice, max_steps=STEPS)
    assert generator.answers(once) == generator.answers(twice)


def test_a_mask_is_cut_from_the_picture_of_its_own_sample(
    model: GLaMM, config: GLaMMConfig
) -> None:
    """The first sample has no grounding image, so both kinds of images are numbered apart."""
    first, second = prompts(config)
    together = [replace(first, grounding_image=None), second, prompt(config, 5, 60, 61)]
    spoken = generate(Generator(model), together)[0]
    # Whatever a row chose first is called [SEG], so that it has said one.
    for row in (1, 2):
        tokens = replace(config.tokens, seg=spoken[row][0])
        generator = Generator(model, tokens)
        _, masks = generate(generator, together)
        _, alone = generate(generator, [together[row]])
        assert len(masks[row]) == len(alone[0]) > 0
        np.testing.assert_allclose(masks[row], alone[0], atol=1e-4)
    tokens = replace(config.tokens, seg=spoken[0][0])
    answers, masks = generate(Generator(model, tokens), together)
    assert tokens.seg in answers[0]
    assert len(masks[0]) == 0


def test_without_grounding_images_there_are_no_masks(model: GLaMM, config: GLaMMConfig) -> None:
    blind = [replace(sample, grounding_image=None) for sample in prompts(config)]
    answers, _ = generate(Generator(model), blind)
    tokens = replace(config.tokens, seg=answers[0][0])
    again, masks = generate(Generator(model, tokens), blind)
    assert again == answers
    assert [len(each) for each in masks] == [0, 0]


def test_a_spare_row_says_nothing(model: GLaMM, config: GLaMMConfig) -> None:
    samples = prompts(config)[:1]
    generator = Generator(model)
    answers, _ = generate(generator, samples)
    # All rows that speak end at their first token: the spare one must not keep the loop alive.
    generator = Generator(model, replace(config.tokens, eos=answers[0][0]))
    batch = pack(samples, config, replace(fit(samples, config), rows=3))
    decoding = generator.prefill(batch, room=STEPS)
    assert np.asarray(decoding.done).all()
    decoding = generator.decode(decoding, max_steps=STEPS)
    assert int(decoding.count) == 1
    assert generator.answers(decoding) == [answers[0][:1], [], []]
    assert len(generator.finish(batch, decoding).rows) == 0


def test_more_than_the_model_has_positions_for_is_refused(
    model: GLaMM, config: GLaMMConfig
) -> None:
    generator, batch = Generator(model), pack(prompts(config)[:1], config)
    slots, context = batch.token_ids.shape[1], config.llama.max_positions
    for room in (0, context - slots + 1):
        with pytest.raises(ContextError, match=f"room for {room} tokens behind prompts of {slots}"):
            generator.prefill(batch, room=room)
