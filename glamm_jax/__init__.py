"""GLaMM-JAX: pixel-grounded language models in JAX. Start at `glamm_jax.models.glamm`.

    answer = glamm_jax.load(path).chat("dog.jpg", "Where is <p> the dog </p> [SEG]?")

The names below are imported when they are first used: data workers import `glamm_jax.data` and
never wake jax.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from glamm_jax.config import GLaMMConfig, paper, released, tiny, with_lora

if TYPE_CHECKING:
    from glamm_jax.inference.answer import Answer, Grounding
    from glamm_jax.inference.chat import Assistant, Question, load
    from glamm_jax.models.glamm import GLaMM

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

_HOMES = {
    "Answer": "inference.answer",
    "Assistant": "inference.chat",
    "GLaMM": "models.glamm",
    "Grounding": "inference.answer",
    "Question": "inference.chat",
    "load": "inference.chat",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
