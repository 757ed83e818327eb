"""Models without memory: the graph and the shapes that a configuration describes."""

from __future__ import annotations

from functools import cache

import jax
from flax import nnx

from glamm_jax.config import CLIPConfig, GLaMMConfig, LlamaConfig, SAMConfig
from glamm_jax.models.clip import CLIPVision
from glamm_jax.models.glamm import GLaMM
from glamm_jax.models.llama import Llama
from glamm_jax.models.sam.sam import SAM


def abstract_model(
    config: GLaMMConfig | CLIPConfig | LlamaConfig | SAMConfig,
) -> tuple[nnx.GraphDef, nnx.State]:
    """Return the graph and the abstract state of a model; no array is allocated."""
    graph, state = _traced(config)
    return graph, jax.tree.map(lambda leaf: leaf, state)  # a copy that the caller may change


@cache  # tracing a model takes a second
def _traced(
    config: GLaMMConfig | CLIPConfig | LlamaConfig | SAMConfig,
) -> tuple[nnx.GraphDef, nnx.State]:
    def build() -> nnx.Module:
        rngs = nnx.Rngs(0)
        if isinstance(config, GLaMMConfig):
            return GLaMM(config, rngs=rngs)
        if isinstance(config, CLIPConfig):
            return CLIPVision(config, rngs=rngs)
        if isinstance(config, LlamaConfig):
            return Llama(config, rngs=rngs)
        return SAM(config, rngs=rngs)

    return nnx.split(nnx.eval_shape(build))
