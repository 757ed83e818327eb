"""GLaMM-JAX: pixel-grounded language models in JAX. Start at `glamm_jax.models.glamm`.

The names below are imported when they are first used: data workers import `glamm_jax.data` and
never wake jax.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from glamm_jax.config import GLaMMConfig, paper, released, tiny, with_lora

if TYPE_CHECKING:
    from glamm_jax.data.pack import pack
    from glamm_jax.data.preprocess import clip_image, grounding_image, open_image
    from glamm_jax.data.sample import Row, Sample
    from glamm_jax.inference.generate import Generator
    from glamm_jax.models.glamm import GLaMM

__all__ = [
    "GLaMM",
    "GLaMMConfig",
    "Generator",
    "Row",
    "Sample",
    "clip_image",
    "grounding_image",
    "open_image",
    "pack",
    "paper",
    "released",
    "tiny",
    "with_lora",
]

_HOMES = {
    "GLaMM": "models.glamm",
    "Generator": "inference.generate",
    "Row": "data.sample",
    "Sample": "data.sample",
    "clip_image": "data.preprocess",
    "grounding_image": "data.preprocess",
    "open_image": "data.preprocess",
    "pack": "data.pack",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
