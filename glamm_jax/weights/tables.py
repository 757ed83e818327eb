"""The weight table of a configuration."""

from __future__ import annotations

from glamm_jax.config import CLIPConfig, GLaMMConfig, LlamaConfig
from glamm_jax.weights.clip import clip_table
from glamm_jax.weights.config_file import AnyConfig
from glamm_jax.weights.glamm import glamm_table
from glamm_jax.weights.llama import llama_table
from glamm_jax.weights.rules import WeightTable
from glamm_jax.weights.sam import sam_table


def table_of(config: AnyConfig) -> WeightTable:
    """Return the table that maps torch names to the leaves of `abstract_model(config)`."""
    if isinstance(config, GLaMMConfig):
        return glamm_table(config)
    if isinstance(config, CLIPConfig):
        return clip_table(config)
    if isinstance(config, LlamaConfig):
        return llama_table(config)
    return sam_table(config)
