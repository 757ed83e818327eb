"""Rows that join and leave a running state are decoded as if they were alone."""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from glamm_jax.config import GLaMMConfig
from glamm_jax.data.collate import collate
from glamm_jax.data.encode import Sample, TokenizedConversation
from glamm_jax.inference.chat import on_mesh
from glamm_jax.inference.decode_state import DecodeState, StateShape, allocate, insert_rows
from glamm_jax.inference.generate import ContextError, Generator
from glamm_jax.inference.sampling import Sampling
from glamm_jax.models.glamm import GLaMM
from glamm_jax.models.kv_cache import write_rows
from glamm_jax.parallel import make_mesh
from glamm_jax.text.special_tokens import IGNORE_ID
from glamm_jax.types import Batch, BatchShape

SHAPE = StateShape(rows=4, prompt_slots=16, answer_slots=12, cache_slots=24)
LIMITS = (9, 4, 12)
LENGTHS = (5, 9, 3)
SETTINGS = {"temperature": (0.0, 0.9, 1.5), "top_p": (1.0, 0.9, 1.0), "seed": (0, 7, 8)}


@pytest.fixture(scope="module")
def model(tiny_config: GLaMMConfig) -> GLaMM:
    return GLaMM(tiny_config, rngs=nnx.Rngs(3))


def prompts(config: GLaMMConfig, rows: tuple[int, ...], tokens: int, spare: int = 0) -> Batch:
    """Text prompts of different lengths."""
    rng = np.random.default_rng(0)
    ids = [rng.integers(40, 190, length) for length in LENGTHS]
    samples = [
        Sample((TokenizedConversation(ids[row], np.full(LENGTHS[row], IGNORE_ID)),)) for row in rows
    ]
    return collate(samples, config, BatchShape(rows=len(rows) + spare, tokens=tokens))


def prefill(
    generator: Generator, rows: tuple[int, ...], tokens: int, spare: int = 0
) -> DecodeState:
    chosen = [*rows, *[rows[0]] * spare]
    settings = {name: [values[row] for row in chosen] for name, values in SETTINGS.items()}
    return generator.prefill(
        prompts(generator.config, rows, tokens, spare),
        [LIMITS[row] for row in chosen],
        Sampling.create(len(chosen), **settings),
        answer_slots=1,
    )


def answers_alone(generator: Generator) -> list[list[int]]:
    found = []
    for row in range(3):
        settings = {name: values[row] for name, values in SETTINGS.items()}
        batch = prompts(generator.config, (row,), 10)
        state = generator.prefill(batch, LIMITS[row], Sampling.create(1, **settings))
        found += generator.answer_token_ids(generator.decode(state, max_steps=20))
    return found


def check_joining(generator: Generator, devices: int = 1) -> None:
    """Row 1 joins after two steps, together with padding; row 2 takes its slot when it is over."""
    endless = replace(generator.tokens, eos=generator.config.llama.vocab_size)
    generator.tokens = endless
    alone = answers_alone(generator)
    assert [len(ids) for ids in alone] == list(LIMITS)
    spare = devices - 1
    state = generator.empty(SHAPE._replace(rows=max(4, devices)))
    state = generator.insert(state, [3], prefill(generator, (0,), 8, spare))
    state = generator.decode(state, max_steps=2)
    state = generator.insert(state, [1], prefill(generator, (1,), 12, spare))
    state = generator.decode(state, max_steps=3)
    assert np.asarray(state.num_tokens)[[3, 1]].tolist() == [6, 4]
    assert generator.answer_token_ids(state)[1] == alone[1]
    state = generator.insert(state, [1], prefill(generator, (2,), 8, spare))
    state = generator.decode(state, max_steps=20)
    assert generator.answer_token_ids(state)[3] == alone[0]
    assert generator.answer_token_ids(state)[1] == alone[2]
    assert np.asarray(state.finished).all()


def test_rows_join_and_leave_without_a_trace(model: GLaMM) -> None:
    check_joining(Generator(model))


def test_rows_join_on_a_mesh(model: GLaMM) -> None:
    with on_mesh(make_mesh(data=2, fsdp=2, tensor=2)):
        check_joining(Generator(model), devices=4)


def test_a_row_has_a_limit_of_its_own(model: GLaMM) -> None:
    generator = Generator(model, replace(model.config.tokens, eos=model.config.llama.vocab_size))
    batch = prompts(model.config, (0, 1, 2), 10)
    state = generator.decode(generator.prefill(batch, LIMITS), max_steps=20)
    assert [len(ids) for ids in generator.answer_token_ids(state)] == list(LIMITS)
    context = model.config.llama.max_positions
    with pytest.raises(ContextError, match=f"max_tokens = {context} after a prompt of 9 tokens"):
        generator.prefill(batch, [4, context, 4])


def test_prompts_that_do_not_fit_are_refused(model: GLaMM) -> None:
    generator = Generator(model)
    state = generator.empty(SHAPE)
    prefilled = prefill(generator, (0,), 17)
    with pytest.raises(ValueError, match="prompts of 17 slots do not fit a state with 16"):
        generator.insert(state, [0], prefilled)
    with pytest.raises(ValueError, match="2 rows from a state of 1"):
        generator.insert(state, [0, 1], prefilled)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_each_row_is_written_at_its_own_slot(dtype: jnp.dtype) -> None:
    x, new = jnp.zeros((2, 3, 1, 4, 2), dtype), jnp.ones((2, 3, 1, 1, 2), dtype)
    written = np.asarray(jax.jit(write_rows)(x, new, jnp.array([2, 4, 0])), np.float32)
    expected = np.zeros(x.shape)
    expected[:, 0, :, 2] = expected[:, 2, :, 0] = 1  # slot 4 does not exist
    np.testing.assert_array_equal(written, expected)


def test_rows_are_inserted_in_place(tiny_config: GLaMMConfig) -> None:
    """The temporary memory is that of the rows that are inserted, not that of the state."""
    shapes = [
        jax.eval_shape(lambda shape=shape: allocate(tiny_config, shape, jnp.float32))
        for shape in (StateShape(32, 64, 64, 128), StateShape(1, 16, 1, 17))
    ]
    compiled = insert_rows.jitted.lower(*shapes, jnp.zeros(1, jnp.int32)).compile()
    cache = 8 * shapes[0].cache.keys.size
    assert compiled.memory_analysis().temp_size_in_bytes < cache / 20
