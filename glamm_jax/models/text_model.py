"""A LLaMA by itself, as `glamm_jax.inference.generate.Generator` takes it."""

from __future__ import annotations

from dataclasses import dataclass

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from glamm_jax.config import DType, LlamaConfig, TokenConfig
from glamm_jax.models.llama import Llama
from glamm_jax.types import Batch


@dataclass(frozen=True)
class TextModelConfig:
    """Configuration of a `TextModel`; the fields are those of `GLaMMConfig`."""

    llama: LlamaConfig
    tokens: TokenConfig
    compute_dtype: DType = "float32"


class TextModel(nnx.Module):
    """A language model without images, regions and masks.

    Args:
        config: of the model.
        llama: its layers.
    """

    def __init__(self, config: TextModelConfig, llama: Llama):
        self.config = config
        self.llama = llama

    def embed(self, batch: Batch) -> Float[Array, "b t d"]:
        """Embed the tokens."""
        return self.llama.embed_tokens(batch.token_ids, self.dtype)

    @property
    def dtype(self) -> jnp.dtype:
        """The dtype of activations."""
        return jnp.dtype(self.config.compute_dtype)
