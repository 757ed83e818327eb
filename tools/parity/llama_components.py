"""The decoder, LoRA and the two projections at full width."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from glamm_jax.config import LoRAConfig
from glamm_jax.models.llama import KVCache, Llama
from glamm_jax.nn.layer_stack import take_blocks
from glamm_jax.nn.linear import Linear
from glamm_jax.nn.lora import LoRA, merge
from glamm_jax.nn.mlp import MLP
from glamm_jax.text.special_tokens import IGNORE_ID
from glamm_jax.training.losses import cross_entropy
from glamm_jax.weights.glamm import two_layer_mlp
from glamm_jax.weights.llama import llama_table
from glamm_jax.weights.rules import WeightRule, WeightTable
from tools.parity.golden_model import golden_module, llama_config
from tools.parity.recipes import compared_inputs
from tools.parity.report import RecordedFile


def check_llama(recorded: RecordedFile, info: dict[str, Any]) -> None:
    """Hidden states with and without a padding mask, logits, loss, and a step with the cache."""
    config = llama_config(info["config"])
    model = golden_module(
        lambda: Llama(config, rngs=nnx.Rngs(0)), llama_table(config), salt=info["salt"]
    )
    (x,) = compared_inputs(recorded, ["in/inputs_embeds"], info["input"], info["salt"])
    valid = recorded.input("in/attention_mask")
    labels = recorded.input("in/labels")
    _compare_states(recorded, "", model, x, valid)
    # Without a mask fewer rows were recorded.
    unmasked = [recorded.shape(name)[0] for name in recorded.names_under("nomask/")]
    rows = min(unmasked, default=0)
    _compare_states(recorded, "nomask/", model, x[:rows], np.ones_like(valid[:rows]))
    hidden = _run(model, x, valid, config.num_layers)
    logits = np.asarray(nnx.jit(lambda m, h: m.logits(h))(model, hidden))
    recorded.compare("logits", logits, "module")
    # The original's loss shifts by one; ignored labels are taken out of the mean.
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
        ours = x if depth == 0 else _run(model, x, valid, depth)
        recorded.compare(name, ours, "module")
    if f"{prefix}last" in recorded:
        recorded.compare(f"{prefix}last", _run(model, x, valid, layers), "module")


def _run(model: Llama, x: np.ndarray, valid: np.ndarray, depth: int) -> np.ndarray:
    """The residual stream after `depth` layers; behind the last, the final norm's output."""
    positions = jnp.tile(jnp.arange(x.shape[1], dtype=jnp.int32), (x.shape[0], 1))
    graph, state = nnx.split(model)
    part = nnx.merge(graph, state)
    part.layers = take_blocks(part.layers, 0, depth)
    part.config = replace(part.config, num_layers=depth)
    whole = depth == model.config.num_layers

    @nnx.jit
    def run(part: Llama, x: jax.Array) -> jax.Array:
        hidden = part.run_layers(x, positions, jnp.asarray(valid))
        return part.norm(hidden) if whole else hidden

    return np.asarray(run(part, jnp.asarray(x)))


def _compare_cache(recorded: RecordedFile, info: dict[str, Any], model: Llama) -> None:
    """Prefill a prompt, feed one more token against the cache."""
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
        new, _ = model.step(x, jnp.full((rows, 1), length), jnp.asarray(length), cache)
        return model.logits(hidden[:, -1]), model.logits(new[:, -1])

    last, following = run(model)
    recorded.compare("cache/logits_prefill_last", last, "module")
    recorded.compare("cache/logits_next", following, "module")


def check_lora_linear(recorded: RecordedFile, info: dict[str, Any]) -> None:
    """Projections with an adapter beside them, without it, and with it folded in."""
    (drawn,) = compared_inputs(recorded, ["in/x"], info["input"], info["salt"])
    x = jnp.asarray(drawn)
    lora = LoRAConfig(rank=info["r"], alpha=info["alpha"], dropout=0.0, targets=())
    bases = [n for n in info["state_dict_names"] if n.endswith("_proj.weight")]
    for base in bases:
        short = base.split(".")[-2].removesuffix("_proj")
        if short not in recorded:
            continue
        layer = _adapted_linear(base, recorded.shape(short)[1], x.shape[1], lora, info["salt"])
        recorded.compare(short, layer(x), "module")
        if f"{short}_base_only" in recorded:
            adapter, layer.lora = layer.lora, None
            recorded.compare(f"{short}_base_only", layer(x), "module")
            layer.lora = adapter
        merge(layer)
        if f"merged_{short}_weight" in recorded:
            recorded.compare(f"merged_{short}_weight", layer.kernel[...].T, "module")
        if f"{short}_after_merge" in recorded:
            recorded.compare(f"{short}_after_merge", layer(x), "module")


def _adapted_linear(base: str, out_dim: int, in_dim: int, lora: LoRAConfig, salt: str) -> Linear:
    """One linear layer under its torch name, with golden kernel and adapter."""
    stem = base.removesuffix("weight")

    def make() -> Linear:
        rngs = nnx.Rngs(0)
        layer = Linear(in_dim, out_dim, (None, None), rngs=rngs, use_bias=False)
        layer.lora = LoRA(layer, lora, rngs=rngs)
        return layer

    rules = [WeightRule(base, "kernel", "linear")]
    for matrix in ("A", "B"):
        rules.append(
            WeightRule(f"{stem}lora_{matrix}.default.weight", f"lora.{matrix.lower()}", "linear")
        )
    return golden_module(make, WeightTable(tuple(rules)), salt=salt)


def check_projections(recorded: RecordedFile, info: dict[str, Any]) -> None:
    """V-L: linear, exact GELU, linear. L-P: linear, ReLU, linear."""
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
