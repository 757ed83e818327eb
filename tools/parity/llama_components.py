"""Comparison of the decoder, LoRA and the two projections at full width."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from glamm_jax.config import LoRAConfig
from glamm_jax.models.kv_cache import KVCache
from glamm_jax.models.llama import Llama
from glamm_jax.nn.layer_stack import slice_blocks
from glamm_jax.nn.linear import Linear
from glamm_jax.nn.lora import LoRA
from glamm_jax.nn.mlp import MLP
from glamm_jax.testing.merged_model import merge_lora
from glamm_jax.text.special_tokens import IGNORE_ID
from glamm_jax.training.losses import cross_entropy
from glamm_jax.weights.glamm import two_layer_mlp
from glamm_jax.weights.llama import llama_table
from glamm_jax.weights.rules import WeightRule, WeightTable
from tools.parity.golden_model import golden_module, llama_config
from tools.parity.recipes import compared_inputs
from tools.parity.report import RecordedFile


def check_llama(recorded: RecordedFile, info: dict[str, Any]) -> None:
    """Compare hidden states with and without padding mask, logits, loss, and a cached step."""
    config = llama_config(info["config"])
    model = golden_module(
        lambda: Llama(config, rngs=nnx.Rngs(0)), llama_table(config), salt=info["salt"]
    )
    (x,) = compared_inputs(recorded, ["in/inputs_embeds"], info["input"], info["salt"])
    valid = recorded.input("in/attention_mask")
    labels = recorded.input("in/labels")
    _compare_states(recorded, "", model, x, valid)
    # Fewer rows were recorded without a mask.
    row_counts = [recorded.shape(name)[0] for name in recorded.names_under("nomask/")]
    num_rows = min(row_counts, default=0)
    _compare_states(recorded, "nomask/", model, x[:num_rows], np.ones_like(valid[:num_rows]))
    hidden = _run(model, x, valid, config.num_layers)
    logits = np.asarray(nnx.jit(lambda m, h: m.logits(h))(model, hidden))
    recorded.compare("logits", logits, "module")
    # The original's loss shifts the labels by one; ignored labels do not count in the mean.
    loss = cross_entropy(
        jnp.asarray(logits[:, :-1]), np.maximum(labels[:, 1:], 0), labels[:, 1:] != IGNORE_ID
    )
    recorded.compare("loss", loss, "loss")
    _compare_cache(recorded, info, model)


def _compare_states(
    recorded: RecordedFile, prefix: str, model: Llama, x: np.ndarray, valid: np.ndarray
) -> None:
    layers = model.config.num_layers
    for name in recorded.names_under(f"{prefix}hidden_states/"):
        depth = int(name.removeprefix(f"{prefix}hidden_states/"))
        hidden = x if depth == 0 else _run(model, x, valid, depth)
        recorded.compare(name, hidden, "module")
    if f"{prefix}last" in recorded:
        recorded.compare(f"{prefix}last", _run(model, x, valid, layers), "module")


def _run(model: Llama, x: np.ndarray, valid: np.ndarray, depth: int) -> np.ndarray:
    """Compute the residual stream after `depth` layers, with the final norm after the last."""
    positions = jnp.tile(jnp.arange(x.shape[1], dtype=jnp.int32), (x.shape[0], 1))
    graph, state = nnx.split(model)
    truncated = nnx.merge(graph, state)
    truncated.layers = slice_blocks(truncated.layers, 0, depth)
    truncated.config = replace(truncated.config, num_layers=depth)
    is_complete = depth == model.config.num_layers

    @nnx.jit
    def run(model: Llama, x: jax.Array) -> jax.Array:
        hidden = model.run_layers(x, positions, jnp.asarray(valid))
        return model.norm(hidden) if is_complete else hidden

    return np.asarray(run(truncated, jnp.asarray(x)))


def _compare_cache(recorded: RecordedFile, info: dict[str, Any], model: Llama) -> None:
    """Compare logits of prefilling a prompt and of one more token with the cache."""
    if "in/ids" not in recorded:
        return
    ids = jnp.asarray(recorded.input("in/ids"))
    rows, length = ids.shape
    positions = jnp.tile(jnp.arange(length), (rows, 1))

    @nnx.jit
    def run(model: Llama) -> tuple[jax.Array, jax.Array]:
        cache = KVCache.empty(model.config, rows, length + 1, jnp.float32)
        x = model.embed_tokens(ids, jnp.float32)
        hidden, cache = model.prefill(x, positions, jnp.ones(ids.shape, bool), cache)
        x = model.embed_tokens(jnp.full((rows, 1), info["next_id"]), jnp.float32)
        new, _ = model.decode_step(x, jnp.full((rows, 1), length), jnp.full(rows, length), cache)
        return model.logits(hidden[:, -1]), model.logits(new[:, -1])

    prefill_logits, next_logits = run(model)
    recorded.compare("cache/logits_prefill_last", prefill_logits, "module")
    recorded.compare("cache/logits_next", next_logits, "module")


def check_lora_linear(recorded: RecordedFile, info: dict[str, Any]) -> None:
    """Compare projections with an adapter, without it, and with the adapter merged."""
    (inputs,) = compared_inputs(recorded, ["in/x"], info["input"], info["salt"])
    x = jnp.asarray(inputs)
    lora = LoRAConfig(rank=info["r"], alpha=info["alpha"], dropout=0.0, targets=())
    kernels = [name for name in info["state_dict_names"] if name.endswith("_proj.weight")]
    for kernel in kernels:
        short = kernel.split(".")[-2].removesuffix("_proj")
        if short not in recorded:
            continue
        dims = x.shape[1], recorded.shape(short)[1]
        layer = golden_module(
            partial(_linear, *dims, lora), _adapted_linear_table(kernel), salt=info["salt"]
        )
        recorded.compare(short, layer(x), "module")
        merged = merge_lora(layer, lora, partial(_linear, *dims))
        layer.lora = None
        if f"{short}_base_only" in recorded:
            recorded.compare(f"{short}_base_only", layer(x), "module")
        if f"merged_{short}_weight" in recorded:
            recorded.compare(f"merged_{short}_weight", merged.kernel[...].T, "module")
        if f"{short}_after_merge" in recorded:
            recorded.compare(f"{short}_after_merge", merged(x), "module")


def _linear(in_dim: int, out_dim: int, lora: LoRAConfig | None = None) -> Linear:
    rngs = nnx.Rngs(0)
    layer = Linear(in_dim, out_dim, (None, None), rngs=rngs, use_bias=False)
    if lora is not None:
        layer.lora = LoRA(layer, lora, rngs=rngs)
    return layer


def _adapted_linear_table(kernel: str) -> WeightTable:
    """Return the table of a linear layer with an adapter from the torch name of its kernel."""
    prefix = kernel.removesuffix("weight")
    return WeightTable(
        (
            WeightRule(kernel, "kernel", "linear"),
            WeightRule(f"{prefix}lora_A.default.weight", "lora.a", "linear"),
            WeightRule(f"{prefix}lora_B.default.weight", "lora.b", "linear"),
        )
    )


def check_projections(recorded: RecordedFile, info: dict[str, Any]) -> None:
    """Compare V-L (linear, exact GELU, linear) and L-P (linear, ReLU, linear)."""
    (x,) = compared_inputs(recorded, ["in/x"], info["input"], info["salt"])
    dims = (x.shape[-1], recorded.shape("out")[-1], recorded.shape("out")[-1])
    projector = golden_module(
        lambda: MLP(dims, "gelu", rngs=nnx.Rngs(0)),
        two_layer_mlp("model.mm_projector"),
        salt=info["salt"],
    )
    recorded.compare("out", projector(jnp.asarray(x)), "module")
    (text,) = compared_inputs(recorded, ["in/text_x"], info["text_input"], info["salt"])
    dims = (text.shape[-1], text.shape[-1], recorded.shape("text_out")[-1])
    projection = golden_module(
        lambda: MLP(dims, "relu", rngs=nnx.Rngs(0)),
        two_layer_mlp("model.text_hidden_fcs.0"),
        salt=info["salt"],
    )
    recorded.compare("text_out", projection(jnp.asarray(text)), "module")
