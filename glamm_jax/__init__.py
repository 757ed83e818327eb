"""GLaMM-JAX: pixel-grounded language models in JAX. Start at `glamm_jax.models.glamm`.

    answer = glamm_jax.load(path).chat("dog.jpg", "Where is <p> the dog </p> [SEG]?")

Names that need jax are imported on first use, so that data workers can import `glamm_jax.data`
without importing jax.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from glamm_jax.config import GLaMMConfig, paper, released, tiny, with_lora

if TYPE_CHECKING:
    from glamm_jax.inference.answer import Answer, Grounding
    from glamm_jax.inference.chat import Assistant, Question, load
    from glamm_jax.models.glamm import GLaMM

    __version__: str

__all__ = [
    "Answer",
    "Assistant",
    "GLaMM",
    "GLaMMConfig",
    "Grounding",
    "Question",
    "load",
    "paper",
    "released",
    "tiny",
    "with_lora",
]

_MODULES = {
    "Answer": "inference.answer",
    "Assistant": "inference.chat",
    "GLaMM": "models.glamm",
    "Grounding": "inference.answer",
    "Question": "inference.chat",
    "load": "inference.chat",
}
_UNKNOWN_VERSION = "0.0.0+unknown"


def __getattr__(name: str) -> Any:
    if name == "__version__":
        # Imported here: it would dominate the import time of this package.
        from importlib.metadata import PackageNotFoundError, version

        try:
            return version("glamm-jax")
        except PackageNotFoundError:  # a checkout that is not installed
            return _UNKNOWN_VERSION
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, "__version__"})
