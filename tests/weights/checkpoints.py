"""Tiny checkpoints in the original's format, for tests of conversion."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import ml_dtypes
import numpy as np

from glamm_jax.cli.convert.assemble import leaf_shapes
from glamm_jax.config import GLaMMConfig, LoRAConfig, tiny
from glamm_jax.testing.golden_checkpoints import GoldenSource, write_checkpoint
from glamm_jax.weights.glamm import CLIP_PREFIX
from glamm_jax.weights.hf_config import clip_hf_config, glamm_hf_config, with_glamm_jax_config
from glamm_jax.weights.rules import Shape, tensor_shapes
from glamm_jax.weights.tables import table_of

TOKENIZER = Path(__file__).parents[1] / "goldens" / "tokenizer"
CONFIG = tiny(base_vocab_size=800)
ADAPTED = replace(CONFIG, lora=LoRAConfig(rank=4, alpha=16.0, dropout=0.05))
BFLOAT16, FLOAT32 = np.dtype(ml_dtypes.bfloat16), np.dtype(np.float32)


def stored_dtype(name: str) -> np.dtype:
    """Mixed as in the released model, and mixed within one stack."""
    in_float32 = ("grounding_encoder", "text_hidden_fcs", ".layers.0.")
    return FLOAT32 if any(part in name for part in in_float32) else BFLOAT16


def all_shapes(config: GLaMMConfig) -> dict[str, Shape]:
    """Return the shapes of all tensors of a checkpoint, buffers and unused layers included."""
    table = table_of(config)
    shapes = dict(tensor_shapes(table, leaf_shapes(config)))
    for name, tensor in table.unmapped_by_name().items():
        if tensor.compute is not None and "pixel_" not in name:
            shapes[name] = tensor.compute().shape
        elif tensor.disposition == "carried":
            layer = f".layers.{config.clip.num_computed_layers}."
            shapes[name] = shapes.get(name.replace(layer, ".layers.0."), (config.clip.hidden_dim,))
    return shapes


def glamm_source(config: GLaMMConfig = CONFIG) -> GoldenSource:
    """Return the tensors of a GLaMM folder, without CLIP."""
    shapes = {n: s for n, s in all_shapes(config).items() if not n.startswith(CLIP_PREFIX)}
    return GoldenSource(shapes, table_of(config), dtype=stored_dtype)


def clip_source() -> GoldenSource:
    """Return the tensors of a CLIP folder."""
    shapes = {
        name.removeprefix(CLIP_PREFIX): shape
        for name, shape in all_shapes(CONFIG).items()
        if name.startswith(CLIP_PREFIX)
    }
    return GoldenSource(shapes, table_of(CONFIG.clip), prefix=CLIP_PREFIX)


def hf_config(config: GLaMMConfig = CONFIG) -> dict:
    """Return the config.json of the GLaMM folder."""
    clip = clip_hf_config(config.clip)
    return with_glamm_jax_config(
        glamm_hf_config(config, "bfloat16"), config, all_shapes(config), clip
    )


def write_glamm(folder: Path) -> Path:
    """Write the GLaMM folder, in several shards."""
    write_checkpoint(glamm_source(), folder, hf_config(), tokenizer=TOKENIZER, shard_bytes=1 << 20)
    return folder


def write_clip(folder: Path) -> Path:
    """Write the CLIP folder."""
    write_checkpoint(clip_source(), folder, clip_hf_config(CONFIG.clip))
    return folder


def read_all(source: GoldenSource) -> dict[str, np.ndarray]:
    """Read all tensors into memory."""
    return {name: source.read(name) for name in source.infos}
