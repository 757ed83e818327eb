"""GLaMM-JAX: pixel-grounded language models in JAX. Start at `glamm_jax.models.glamm`."""

from glamm_jax.config import GLaMMConfig, paper, released, tiny, with_lora

__all__ = ["GLaMMConfig", "paper", "released", "tiny", "with_lora"]
