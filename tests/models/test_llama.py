"""The decoder against Hugging Face's LLaMA, over random configurations."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from glamm_jax.config import PROJECTIONS, LlamaConfig, LoRAConfig
from glamm_jax.models.kv_cache import KVCache
from glamm_jax.models.llama import Llama
from glamm_jax.nn.lora import LoRAParam
from glamm_jax.parallel import make_mesh, shardings, use_mesh
from glamm_jax.testing.merged_model import merge_lora
from glamm_jax.weights.llama import llama_table

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from tests.models.torch_weights import assert_close, copied, randomise  # noqa: E402


@st.composite
def fields(draw: st.DrawFn) -> dict[str, Any]:
    """A configuration as a dictionary: the run-time checks draw random numbers of their own."""
    heads = draw(st.sampled_from([1, 2, 4]))
    return {
        "vocab_size": draw(st.integers(5, 40)),
        "hidden_dim": heads * draw(st.sampled_from([8, 16])),
        "mlp_dim": draw(st.sampled_from([16, 40])),
        "num_layers": draw(st.integers(1, 3)),
        "num_heads": heads,
        "rope_theta": draw(st.sampled_from([100.0, 10000.0])),
        "norm_eps": draw(st.sampled_from([1e-6, 1e-5])),
        "remat": draw(st.sampled_from(["none", "full", "dots"])),
    }


def _theirs(config: LlamaConfig, seed: int = 0) -> torch.nn.Module:
    model = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=config.vocab_size,
            hidden_size=config.hidden_dim,
            intermediate_size=config.mlp_dim,
            num_hidden_layers=config.num_layers,
            num_attention_heads=config.num_heads,
            rms_norm_eps=config.norm_eps,
            rope_parameters={"rope_type": "default", "rope_theta": config.rope_theta},
            pad_token_id=0,
        )
    )
    return randomise(model, seed)


def _ours(config: LlamaConfig, theirs: torch.nn.Module) -> Llama:
    return copied(Llama(config, rngs=nnx.Rngs(0)), theirs, llama_table(config))


def _ids(config: LlamaConfig, rows: int, tokens: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, config.vocab_size, (rows, tokens))


def _logits(model: Llama, ids: np.ndarray, valid: np.ndarray) -> jax.Array:
    x = model.embed_tokens(jnp.asarray(ids), jnp.float32)
    positions = jnp.broadcast_to(jnp.arange(ids.shape[1])[None], ids.shape)
    return model.logits(model(x, positions, jnp.asarray(valid)))


def _their_logits(theirs: torch.nn.Module, ids: np.ndarray, valid: np.ndarray) -> torch.Tensor:
    with torch.no_grad():
        positions = torch.arange(ids.shape[1])[None].expand(*ids.shape)
        mask = torch.tensor(valid.astype(np.int64))
        return theirs(torch.tensor(ids), attention_mask=mask, position_ids=positions).logits


@pytest.mark.slow
@settings(max_examples=6)
@given(fields=fields(), lengths=st.lists(st.integers(1, 9), min_size=2, max_size=2))
def test_logits_are_hugging_faces_with_padding_on_the_right(
    fields: dict, lengths: list[int]
) -> None:
    config = LlamaConfig(**fields)
    theirs, ids = _theirs(config), _ids(config, 2, 9)
    valid = np.arange(9)[None] < np.array(lengths)[:, None]
    actual = _logits(_ours(config, theirs), ids, valid)
    expected = _their_logits(theirs, ids, valid)
    # What stands at a padded position is read by nobody.
    assert_close(np.asarray(actual)[valid], expected[torch.tensor(valid)], 2e-5)


@pytest.mark.slow
@settings(max_examples=4)
@given(fields=fields(), lengths=st.lists(st.integers(1, 5), min_size=2, max_size=2))
def test_decoding_against_the_cache_is_running_the_whole_sequence(
    fields: dict, lengths: list[int]
) -> None:
    """Rows of different lengths: each token's position follows its own row, slots are shared."""
    config = LlamaConfig(**fields)
    theirs, prompt, steps = _theirs(config), 5, 3
    model, ids = _ours(config, theirs), _ids(config, 2, prompt + steps)
    filled = np.array(lengths)
    valid = jnp.asarray(np.arange(prompt)[None] < filled[:, None])
    positions = jnp.broadcast_to(jnp.arange(prompt)[None], (2, prompt))
    x = model.embed_tokens(jnp.asarray(ids[:, :prompt]), jnp.float32)
    cache = KVCache.empty(config, 2, prompt + steps, x.dtype)
    hidden, cache = model.prefill(x, positions, valid, cache)
    chosen = [np.asarray(model.logits(hidden))[np.arange(2), filled - 1]]
    for step in range(steps):
        x = model.embed_tokens(jnp.asarray(ids[:, prompt + step, None]), jnp.float32)
        at, slots = jnp.asarray(filled[:, None] + step), jnp.full(2, prompt + step)
        hidden, cache = model.decode_step(x, at, slots, cache)
        chosen.append(np.asarray(model.logits(hidden))[:, 0])
    for row, length in enumerate(lengths):
        whole = np.concatenate([ids[row, :length], ids[row, prompt:]])[None]
        expected = _their_logits(theirs, whole, np.ones_like(whole, bool))[0, length - 1 :]
        assert_close(np.stack(chosen)[:, row], expected, 3e-5)


SMALL = LlamaConfig(
    vocab_size=24, hidden_dim=32, mlp_dim=64, num_layers=2, num_heads=4, remat="none"
)


def test_no_row_gives_states_of_no_row() -> None:
    model = Llama(SMALL, rngs=nnx.Rngs(0))
    x = jnp.zeros((0, 5, SMALL.hidden_dim))
    assert model(x, jnp.zeros((0, 5), int), jnp.ones((0, 5), bool)).shape == x.shape


@pytest.mark.parametrize("targets", [("q_proj", "v_proj"), PROJECTIONS, ("down_proj",)])
def test_adapters_sit_on_any_subset_of_projections_and_merge_away(
    targets: tuple[str, ...],
) -> None:
    config = LoRAConfig(rank=2, targets=targets)
    model = Llama(SMALL, config, rngs=nnx.Rngs(0))
    ids = _ids(SMALL, 2, 6)
    valid = np.ones_like(ids, bool)
    without = _logits(model, ids, valid)
    adapters = nnx.to_flat_state(nnx.state(model, LoRAParam))
    assert {path[-3] for path, _ in adapters} == set(targets)
    for name in targets:
        layer = getattr(model.layers, name).lora
        layer.b[...] = jax.random.normal(jax.random.key(1), layer.b.shape) * 0.1
    adapted = _logits(model, ids, valid)
    assert float(jnp.abs(adapted - without).max()) > 1e-2
    merged = merge_lora(model, config, lambda: Llama(SMALL, rngs=nnx.Rngs(0)))
    np.testing.assert_allclose(_logits(merged, ids, valid), adapted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("remat", ["full", "dots"])
def test_what_is_recomputed_does_not_change_gradients(remat: str) -> None:
    model = Llama(SMALL, rngs=nnx.Rngs(0))
    x = jax.random.normal(jax.random.key(0), (1, 5, SMALL.hidden_dim))
    positions, valid = jnp.arange(5)[None], jnp.ones((1, 5), bool)

    def gradient() -> jax.Array:
        return jax.grad(lambda x: jnp.square(model(x, positions, valid)).sum())(x)

    expected = gradient()
    model.config = replace(SMALL, remat=remat)
    np.testing.assert_allclose(gradient(), expected, rtol=1e-5, atol=1e-5)


def test_dropout_follows_its_key_and_differs_between_layers_and_keys() -> None:
    model = Llama(SMALL, LoRAConfig(rank=2, dropout=0.5), rngs=nnx.Rngs(0))
    for name in ("q_proj", "v_proj"):
        layer = getattr(model.layers, name).lora
        layer.b[...] = jnp.ones(layer.b.shape)
    x = jax.random.normal(jax.random.key(0), (1, 5, SMALL.hidden_dim))
    positions, valid = jnp.arange(5)[None], jnp.ones((1, 5), bool)
    runs = [model(x, positions, valid, jax.random.key(seed)) for seed in (1, 1, 2)]
    np.testing.assert_array_equal(runs[0], runs[1])
    assert float(jnp.abs(runs[0] - runs[2]).max()) > 1e-3


GROUPED = replace(SMALL, num_kv_heads=2, tie_embeddings=True, head_width=16)


@pytest.mark.parametrize(
    ("config", "mesh"),
    [
        (SMALL, {"data": 2, "tensor": 4}),
        (SMALL, {"fsdp": 8}),
        (SMALL, {"fsdp": 2, "tensor": 2}),
        (GROUPED, {"data": 2, "tensor": 4}),
    ],
)
def test_any_mesh_gives_the_single_device_result(config: LlamaConfig, mesh: dict[str, int]) -> None:
    model = Llama(config, rngs=nnx.Rngs(0))
    x = jax.random.normal(jax.random.key(0), (4, 6, SMALL.hidden_dim))
    positions = jnp.broadcast_to(jnp.arange(6)[None], (4, 6))
    valid = jnp.asarray(np.arange(6)[None] < np.array([[6], [3], [1], [6]]))
    expected = np.asarray(model(x, positions, valid))
    graph, state = nnx.split(model)
    with use_mesh(make_mesh(**mesh)):
        placed = nnx.merge(graph, jax.device_put(state, shardings(state)))
        run = nnx.jit(lambda model, *inputs: model(*inputs))
        actual = np.asarray(run(placed, x, positions, valid))
    np.testing.assert_allclose(actual[valid], expected[valid], rtol=1e-4, atol=1e-4)


@nnx.jit
def _prefilled_step(model: Llama, x: jax.Array, valid: jax.Array) -> tuple[jax.Array, KVCache]:
    """The last token of each row by `step`, the others by `prefill`."""
    rows, tokens = valid.shape
    positions = jnp.broadcast_to(jnp.arange(tokens)[None], valid.shape)
    cache = KVCache.empty(SMALL, rows, tokens, x.dtype)
    _, cache = model.prefill(x[:, :-1], positions[:, :-1], valid[:, :-1], cache)
    return model.decode_step(x[:, -1:], positions[:, -1:], jnp.full(len(x), tokens - 1), cache)


def test_a_step_on_a_mesh_is_the_step_on_one_device() -> None:
    """On one CPU kernels are read in pieces, on a mesh the layers are scanned."""
    model = Llama(SMALL, LoRAConfig(rank=2), rngs=nnx.Rngs(0))
    for name in ("q_proj", "v_proj"):
        lora = getattr(model.layers, name).lora
        lora.b[...] = jax.random.normal(jax.random.key(1), lora.b.shape) * 0.1
    x = jax.random.normal(jax.random.key(0), (4, 6, SMALL.hidden_dim))
    valid = jnp.asarray(np.arange(6)[None] < np.array([[6], [6], [4], [6]]))
    expected, cache = _prefilled_step(model, x, valid)
    graph, state = nnx.split(model)
    with use_mesh(make_mesh(data=2, tensor=4)):
        placed = nnx.merge(graph, jax.device_put(state, shardings(state)))
        actual, sharded = _prefilled_step(placed, x, valid)
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(sharded.keys, cache.keys, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("tied", [False, True])
def test_devices_divide_an_odd_vocabulary(tied: bool) -> None:
    config = LlamaConfig(
        vocab_size=13, hidden_dim=8, mlp_dim=8, num_layers=1, num_heads=1, tie_embeddings=tied
    )
    llama = Llama(config, rngs=nnx.Rngs(0))
    hidden = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3, 8)).astype(np.float32))
    ids = jnp.asarray([[0, 5, 12], [1, 2, 3]])

    def total(llama: Llama) -> tuple[jax.Array, jax.Array]:
        logits = llama.logits(hidden, pad_vocab=True)
        chosen = jnp.take_along_axis(logits, ids[..., None], axis=-1)[..., 0]
        return (jax.nn.logsumexp(logits, axis=-1) - chosen).sum(), logits

    compute = nnx.jit(nnx.value_and_grad(total, has_aux=True))
    (alone, logits), gradients = compute(llama)
    assert logits.shape == (2, 3, 13)
    with use_mesh(make_mesh(data=2, tensor=4)):
        graph, state = nnx.split(llama)
        placed = nnx.merge(graph, jax.device_put(state, shardings(state)))
        (loss, padded), sharded_gradients = compute(placed)
    assert padded.shape == (2, 3, 16)
    assert padded.addressable_shards[0].data.shape == (1, 3, 4)
    assert (padded[..., 13:] <= -1e30).all()
    np.testing.assert_allclose(padded[..., :13], logits, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(loss, alone, rtol=1e-6)
    for one, other in zip(
        jax.tree.leaves(gradients), jax.tree.leaves(sharded_gradients), strict=True
    ):
        assert one.shape == other.shape
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
