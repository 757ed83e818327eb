"""`jax.jit` for large models: what is compiled, and how, is settled at the first call."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

import jax

# On the CPU these passes take the cast of a scanned bfloat16 weight stack to float32 out of the
# loop: a second, twice as large copy of all weights. Without them one layer at a time is cast.
CPU_OPTIONS: dict[str, str | bool] = {
    "xla_disable_hlo_passes": "while-loop-expensive-invariant-code-motion,"
    "while-loop-invariant-code-motion"
}


class CompiledFunction:
    """A pure function, jitted with these options of `jax.jit`.

    Nothing happens before the first call, so importing a module of programs wakes no device.
    """

    def __init__(self, function: Callable[..., Any], **options: Any):
        self.function, self.options = function, options

    @cached_property
    def jitted(self) -> Any:
        """The jitted function, as `jax.jit` returns it."""
        on_cpu = jax.default_backend() == "cpu"
        return jax.jit(
            self.function, compiler_options=CPU_OPTIONS if on_cpu else None, **self.options
        )

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.jitted(*args, **kwargs)
