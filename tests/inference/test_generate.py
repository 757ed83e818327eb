"""Generation with a cache: equal to recomputing everything, row by row, mask by mask."""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from glamm_jax.config import CLIPConfig, GLaMMConfig, RegionConfig, tiny
from glamm_jax.data.collate import bucketed, build_batch, collate
from glamm_jax.data.encode import Sample, TokenizedConversation
from glamm_jax.inference import generate as module
from glamm_jax.inference.compiled import CompiledFunction, ModelWeights
from glamm_jax.inference.generate import ContextError, Generator, SegMasks
from glamm_jax.inference.sampling import Sampling, SamplingError
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
        conversations=(TokenizedConversation(row, np.full_like(row, IGNORE_ID)),),
        image=rng.integers(0, 256, (config.clip.image_size,) * 2 + (3,), dtype=np.uint8),
        grounding_image=rng.integers(0, 256, (config.sam.image_size,) * 2 + (3,), dtype=np.uint8),
        resized_size=(96, 128),
        original_size=(18, 24),
    )


def prompts(config: GLaMMConfig) -> list[Sample]:
    """Different lengths; the second asks for a mask."""
    return [prompt(config, 1, 40, 41), prompt(config, 2, 50, config.tokens.seg, 51, 52, 53)]


def generate(
    generator: Generator, samples: list[Sample], sampling: Sampling | None = None
) -> tuple[list[list[int]], list]:
    """Answers and mask logits of each row; one sample or several, so that two programs serve."""
    rows = 1 if len(samples) == 1 else 4
    capacity = replace(
        build_batch(samples, generator.config).required_shape,
        rows=rows,
        images=rows,
        tokens=28,
        masks=1,
    )
    capacity = replace(capacity, region_images=0, grounding_images=rows)
    batch = collate(samples, generator.config, capacity)
    state = generator.prefill(batch, STEPS, sampling)
    state = generator.decode(state, max_steps=STEPS)
    masks = generator.finish(batch, state, with_logits=True)
    per_row = [np.asarray(masks.logits)[masks.rows == row] for row in range(len(samples))]
    return generator.answer_token_ids(state)[: len(samples)], per_row


def test_the_cache_gives_the_tokens_of_recomputing_the_whole_sequence(
    model: GLaMM, config: GLaMMConfig
) -> None:
    sample = prompts(config)[0]
    ids = sample.conversations[0].token_ids.tolist()

    @nnx.jit
    def scores(model: GLaMM, batch):
        return model.llama.logits(model(batch).hidden)

    for _ in range(STEPS):
        row = np.array(ids, np.int32)
        whole = replace(
            sample, conversations=(TokenizedConversation(row, np.full_like(row, IGNORE_ID)),)
        )
        batch = jax.tree.map(np.asarray, collate([whole], config))
        ids.append(int(scores(model, batch)[0, -1].argmax()))
    answers, _ = generate(Generator(model), [sample])
    assert answers[0] == ids[len(sample.conversations[0].token_ids) :]


def three(config: GLaMMConfig) -> list[Sample]:
    """Different lengths and picture sizes; the second and the third ask for masks."""
    seg = config.tokens.seg
    last = prompt(config, 3, 60, seg, 61, seg, 62, 63, 64)
    first, second = prompts(config)
    return [
        first,
        replace(second, resized_size=(128, 64), original_size=(40, 20)),
        replace(last, resized_size=(100, 128), original_size=(25, 33)),
    ]


SETTINGS = {"temperature": (0.0, 0.8, 1.5), "top_p": (1.0, 0.9, 1.0), "seed": (0, 7, 8)}


@pytest.mark.parametrize("is_sampled", [False, True])
def test_a_row_of_any_batch_is_the_row_alone(
    model: GLaMM, config: GLaMMConfig, is_sampled: bool
) -> None:
    """Padding, spare rows, longer prompts, larger pictures, earlier ends: none is noticed."""
    samples = three(config)

    def run(chosen: list[int], tokens, spare: bool) -> tuple[list[list[int]], SegMasks]:
        picked = [samples[row] for row in chosen]
        capacity = bucketed(replace(build_batch(picked, config).required_shape, tokens=29, masks=3))
        batch = collate(picked, config, capacity if spare else replace(capacity, tokens=26))
        rows = [*chosen, 0][: capacity.rows]
        settings = {name: [values[row] for row in rows] for name, values in SETTINGS.items()}
        sampling = Sampling.create(len(rows), **settings) if is_sampled else None
        generator = Generator(model, tokens)
        state = generator.decode(generator.prefill(batch, STEPS, sampling), max_steps=STEPS)
        return generator.answer_token_ids(state), generator.finish(batch, state)

    free, _ = run([0, 1, 2], config.tokens, True)
    # What a row chose second ends it, and what another chose third is a [SEG].
    tokens = replace(config.tokens, eos=free[0][1], seg=free[2][2])
    answers, masks = run([0, 1, 2], tokens, True)
    assert len(answers[0]) <= 2 < len(answers[2])
    assert answers[3] == []
    assert tokens.seg in answers[2]
    for row, sample in enumerate(samples):
        alone, alone_masks = run([row], tokens, False)
        assert alone[0] == answers[row]
        height, width = sample.original_size
        own_masks = np.asarray(masks.masks)[masks.rows == row]
        assert len(own_masks) == row + answers[row].count(tokens.seg)
        np.testing.assert_array_equal(
            own_masks[:, :height, :width], np.asarray(alone_masks.masks)[:, :height, :width]
        )
        assert not len(own_masks) or alone_masks.sizes[0].tolist() == [height, width]
        assert not own_masks[:, height:].any()
        assert not own_masks[:, :, width:].any()


def test_every_seg_of_prompt_and_answer_gives_a_mask(model: GLaMM, config: GLaMMConfig) -> None:
    answers, _ = generate(Generator(model), prompts(config)[:1])
    changed = replace(config.tokens, seg=answers[0][2])
    again, masks = generate(Generator(model, changed), prompts(config)[:1])
    assert again == answers
    assert len(masks[0]) == answers[0].count(changed.seg) > 0
    assert masks[0].shape[1:] == (20, 24)  # 18 x 24, rounded up to a bucket


def test_a_row_stops_at_its_end_token(model: GLaMM, config: GLaMMConfig) -> None:
    answers, _ = generate(Generator(model), prompts(config)[:1])
    ended = replace(config.tokens, eos=answers[0][1])
    short, _ = generate(Generator(model, ended), prompts(config)[:1])
    assert short[0] == answers[0][: answers[0].index(ended.eos) + 1]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_decoding_token_by_token_gives_the_tokens_of_one_call(
    model: GLaMM, config: GLaMMConfig, temperature: float
) -> None:
    generator, batch = Generator(model), collate(prompts(config), config)
    sampling = Sampling.create(2, temperature, seed=(3, 4))
    once = generator.decode(generator.prefill(batch, STEPS, sampling), max_steps=STEPS)
    slices = generator.prefill(batch, STEPS, sampling)  # decoding left the settings alone
    for step in range(STEPS + 2):  # calls beyond the limit choose nothing
        assert [len(answer) for answer in generator.answer_token_ids(slices)] == [
            min(1 + step, STEPS)
        ] * 2
        slices = generator.decode(slices, max_steps=1)
    assert generator.answer_token_ids(once) == generator.answer_token_ids(slices)
    np.testing.assert_array_equal(once.token_hidden, slices.token_hidden)
    with pytest.raises(ValueError, match="max_steps = -1"):
        generator.decode(once, max_steps=-1)


def test_an_answer_follows_its_seed(model: GLaMM, config: GLaMMConfig) -> None:
    generator, same = Generator(model), [prompts(config)[0]] * 4
    sampling = Sampling.create(4, (2.0, 2.0, 2.0, 0.0), seed=(5, 6, 5, 5))
    answers, _ = generate(generator, same, sampling)
    assert answers[0] == answers[2]
    assert answers[0] != answers[1]
    assert answers[3] == generate(generator, same[:1])[0][0]
    certain, _ = generate(generator, same, Sampling.create(4, 2.0, top_p=1e-6, seed=9))
    assert certain == [answers[3]] * 4


def test_settings_for_another_number_of_rows_are_refused(model: GLaMM, config: GLaMMConfig) -> None:
    batch = collate(prompts(config), config)
    with pytest.raises(SamplingError, match="settings for 3 rows, but the batch has 2 rows"):
        Generator(model).prefill(batch, STEPS, Sampling.create(3))


def test_prompts_answers_and_pictures_of_one_bucket_share_their_programs(
    model: GLaMM, config: GLaMMConfig
) -> None:
    """Prompts, limits, settings, end tokens and sizes differ: nothing is compiled for them."""

    def run(words: int, max_tokens: int, size: tuple[int, int], temperature: float) -> None:
        sample = prompt(config, 1, *range(40, 40 + words), config.tokens.seg)
        samples = [replace(sample, original_size=size)] * (words - 4)
        batch = collate(samples, config, bucketed(build_batch(samples, config).required_shape))
        tokens = replace(config.tokens, eos=words)
        generator, sampling = Generator(model, tokens), Sampling.create(4, temperature)
        state = generator.decode(
            generator.prefill(batch, max_tokens, sampling), max_steps=max_tokens
        )
        assert generator.finish(batch, state).masks.shape[1:] == (40, 28)

    run(7, 9, (33, 25), 0.0)
    masks = (module.encode_images, module.decode_masks, module.resize_masks)
    programs = (module._prefill, module._decode, *masks)
    before = [program.jitted._cache_size() for program in programs]
    run(8, 10, (40, 28), 0.7)
    assert [program.jitted._cache_size() for program in programs] == before


def _program_memory(program: CompiledFunction, *shapes, **options) -> int:
    compiled = program.jitted.lower(*shapes, **options).compile()
    return compiled.memory_analysis().temp_size_in_bytes


def test_half_precision_weights_are_never_copied_as_a_whole(config: GLaMMConfig) -> None:
    """XLA on the CPU would take all layers to float32 in front of the loops (ecosystem notes)."""
    llama = replace(config.llama, num_layers=40, hidden_dim=128, mlp_dim=256)
    config = replace(config, llama=llama, compute_dtype="bfloat16")
    graph, weights = nnx.split(nnx.eval_shape(lambda: GLaMM(config, rngs=nnx.Rngs(0))))
    weights = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, jnp.bfloat16), weights)
    layers = sum(2 * x.size for x in jax.tree.leaves(weights["llama"]["layers"]))
    batch = collate(prompts(config)[:1], config)
    read = {name: getattr(batch, name) for name in module._PREFILL_FIELDS}
    ones = jnp.ones(1, jnp.int32)
    inputs = (module._EMPTY_BATCH._replace(**read), ones, ones, Sampling.create(1), jnp.asarray(2))
    split = ModelWeights(graph, weights)
    prefill = (split, *inputs)
    assert _program_memory(module._prefill, *prefill) < layers / 4

    state = module._prefill.jitted.eval_shape(*prefill)
    decode = (split, state, jnp.asarray(2), jnp.asarray(STEPS))
    assert _program_memory(module._decode, *decode) < layers / 4


def test_the_length_of_answers_compiles_no_prompts_again(model: GLaMM, config: GLaMMConfig) -> None:
    generator, batch = Generator(model), collate(prompts(config)[:2], config)
    first = generator.prefill(batch, max_tokens=3)
    programs = module._prefill.jitted._cache_size()
    for limit in (9, 40):
        state = generator.prefill(batch, max_tokens=limit)
        assert state.tokens.shape[1] >= limit
        np.testing.assert_array_equal(state.tokens[:, :1], first.tokens[:, :1])
    assert module._prefill.jitted._cache_size() == programs


def test_a_mask_is_cut_from_the_picture_of_its_own_sample(
    model: GLaMM, config: GLaMMConfig
) -> None:
    """The first sample has no grounding image, so both kinds of images are numbered apart."""
    first, second = prompts(config)
    together = [replace(first, grounding_image=None), second, prompt(config, 5, 60, 61)]
    greedy = generate(Generator(model), together)[0]
    # The first token of a row counts as [SEG], so that its answer has one.
    for row in (1, 2):
        tokens = replace(config.tokens, seg=greedy[row][0])
        generator = Generator(model, tokens)
        _, masks = generate(generator, together)
        _, alone = generate(generator, [together[row]])
        assert len(masks[row]) == len(alone[0]) > 0
        np.testing.assert_allclose(masks[row], alone[0], atol=1e-4)
    tokens = replace(config.tokens, seg=greedy[0][0])
    answers, masks = generate(Generator(model, tokens), together)
    assert tokens.seg in answers[0]
    assert len(masks[0]) == 0


def test_without_grounding_images_there_are_no_masks(model: GLaMM, config: GLaMMConfig) -> None:
    blind = [replace(sample, grounding_image=None) for sample in prompts(config)]
    answers, _ = generate(Generator(model), blind)
    tokens = replace(config.tokens, seg=answers[0][0])
    again, masks = generate(Generator(model, tokens), blind)
    assert again == answers
    assert [len(row_masks) for row_masks in masks] == [0, 0]


def test_a_spare_row_says_nothing(model: GLaMM, config: GLaMMConfig) -> None:
    samples = prompts(config)[:1]
    generator = Generator(model)
    answers, _ = generate(generator, samples)
    # All rows that speak end at their first token: the spare one must not keep the loop alive.
    generator = Generator(model, replace(config.tokens, eos=answers[0][0]))
    batch = collate(samples, config, replace(build_batch(samples, config).required_shape, rows=3))
    decoding = generator.prefill(batch, max_tokens=STEPS)
    assert np.asarray(decoding.finished).all()
    decoding = generator.decode(decoding, max_steps=STEPS)
    assert np.asarray(decoding.num_tokens).tolist() == [1, 0, 0]
    assert generator.answer_token_ids(decoding) == [answers[0][:1], [], []]
    assert len(generator.finish(batch, decoding).rows) == 0


def test_more_than_the_model_has_positions_for_is_refused(
    model: GLaMM, config: GLaMMConfig
) -> None:
    generator, batch = Generator(model), collate(prompts(config)[:1], config)
    slots, context = batch.token_ids.shape[1], config.llama.max_positions
    for max_tokens in (0, context - slots + 1):
        with pytest.raises(
            ContextError, match=f"max_tokens = {max_tokens} after a prompt of {slots} tokens"
        ):
            generator.prefill(batch, max_tokens=max_tokens)
