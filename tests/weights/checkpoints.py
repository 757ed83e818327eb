"""Tiny checkpoints in the original's format, for tests of conversion."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import ml_dtypes
import numpy as np

from glamm_jax.config import GLaMMConfig, LoRAConfig, tiny
from glamm_jax.models.abstract import abstract_model
from glamm_jax.testing.golden_checkpoints import GoldenSource, write_checkpoint
from glamm_jax.weights.flat_state import state_shapes
from glamm_jax.weights.glamm import CLIP_PREFIX
from glamm_jax.weights.hf_config import clip_hf_config, glamm_hf_config, with_own_key
from glamm_jax.weights.rules import Shape, tensor_shapes
from glamm_jax.weights.tables import table_of

TOKENIZER = Path(__file__).parents[1] / "goldens" / "tokenizer"
CONFIG = tiny(base_vocab_size=800)
ADAPTED = replace(CONFIG, lora=LoRAConfig(rank=4, alpha=16.0, dropout=0.05))
BFLOAT16, FLOAT32 = np.dtype(ml_dtypes.bfloat16), np.dtype(np.float32)


def stored(name: str) -> np.dtype:
    """Mixed as the released merge leaves it, and mixed within one stack."""
    in_float32 = ("grounding_encoder", "text_hidden_fcs", ".layers.0.")
    return FLOAT32 if any(part in name for part in in_float32) else BFLOAT16


def all_shapes(config: GLaMMConfig) -> dict[str, Shape]:
    """Every tensor that a checkpoint of this model holds, buffers and unread layers included."""
    table = table_of(config)
    out = dict(tensor_shapes(table, state_shapes(abstract_model(config)[1])))
    for name, unread in table.unmapped_by_name().items():
        if unread.value is not None and "pixel_" not in name:
            out[name] = unread.value().shape
        elif unread.kind == "carried":
            layer = f".layers.{config.clip.num_computed_layers}."
            out[name] = out.get(name.replace(layer, ".layers.0."), (config.clip.hidden_dim,))
    return out


def glamm_source(config: GLaMMConfig = CONFIG) -> GoldenSource:
    """The tensors of a GLaMM folder, without CLIP."""
    held = {n: s for n, s in all_shapes(config).items() if not n.startswith(CLIP_PREFIX)}
    return GoldenSource(held, table_of(config), dtype=stored)


def clip_source() -> GoldenSource:
    """The tensors of a CLIP folder."""
    names = all_shapes(CONFIG)
    held = {n.removeprefix(CLIP_PREFIX): s for n, s in names.items() if n.startswith(CLIP_PREFIX)}
    return GoldenSource(held, table_of(CONFIG.clip), prefix=CLIP_PREFIX)


def described(config: GLaMMConfig = CONFIG) -> dict:
    """config.json of the GLaMM folder."""
    clip = clip_hf_config(config.clip)
    return with_own_key(glamm_hf_config(config, "bfloat16"), config, all_shapes(config), clip)


def write_glamm(folder: Path) -> Path:
    """The GLaMM folder, in several shards."""
    write_checkpoint(glamm_source(), folder, described(), tokenizer=TOKENIZER, shard_bytes=1 << 20)
    return folder


def write_clip(folder: Path) -> Path:
    """The CLIP folder."""
    write_checkpoint(clip_source(), folder, clip_hf_config(CONFIG.clip))
    return folder


def arrays(source: GoldenSource) -> dict[str, np.ndarray]:
    """All tensors in memory."""
    return {name: source.read(name) for name in source.infos}
