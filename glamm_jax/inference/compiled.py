"""`jax.jit` with compiler options for large models, applied at the first call."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from functools import cached_property
from typing import Any

import jax
from flax import nnx

from glamm_jax.parallel import current_mesh, num_processes, wait_for_processes

# On the CPU these passes would move the cast of a scanned bfloat16 weight stack to float32 out of
# the loop, which makes a second, twice as large copy of all weights. Without them one layer at a
# time is cast.
CPU_OPTIONS: dict[str, str | bool] = {
    "xla_disable_hlo_passes": "while-loop-expensive-invariant-code-motion,"
    "while-loop-invariant-code-motion"
}


class _Structure:
    """What a model is besides its arrays; the hash, which takes milliseconds, is computed once."""

    def __init__(self, graph: nnx.GraphDef, tree: Any):
        self.graph, self.tree = graph, tree
        self._hash = hash((graph, tree))

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        if self is other or not isinstance(other, _Structure):
            return self is other
        return self._hash == other._hash and (self.graph, self.tree) == (other.graph, other.tree)


@jax.tree_util.register_pytree_node_class
class ModelWeights:
    """A model as an argument of a compiled function: its arrays, found once instead of each call.

    Args:
        graph: of the model, as `nnx.split` returns it.
        state: all of its arrays.
    """

    def __init__(self, graph: nnx.GraphDef, state: nnx.State):
        self._leaves, tree = jax.tree.flatten(state)
        self._structure = _Structure(graph, tree)

    def merge(self) -> Any:
        """Return the model."""
        structure = self._structure
        return nnx.merge(structure.graph, jax.tree.unflatten(structure.tree, self._leaves))

    def tree_flatten(self) -> tuple[tuple[Any, ...], _Structure]:
        """Return the arrays, for jax."""
        return tuple(self._leaves), self._structure

    @classmethod
    def tree_unflatten(cls, structure: _Structure, leaves: tuple[Any, ...]) -> ModelWeights:
        """Return the same model with other arrays, for jax."""
        weights = cls.__new__(cls)
        weights._leaves, weights._structure = list(leaves), structure
        return weights


class CompiledFunction:
    """A pure function, jitted with the given options of `jax.jit`.

    jax is not used before the first call, so importing a module that has compiled functions
    initializes no backend.
    """

    def __init__(self, function: Callable[..., Any], **options: Any):
        self.function, self.options = function, options
        self._compiled: set[Hashable] = set()  # arguments, on meshes of several processes

    @cached_property
    def jitted(self) -> Any:
        """The jitted function, as `jax.jit` returns it."""
        on_cpu = jax.default_backend() == "cpu"
        return jax.jit(
            self.function, compiler_options=CPU_OPTIONS if on_cpu else None, **self.options
        )

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if num_processes(current_mesh()) > 1:
            self._compile_in_all_processes(args, kwargs)
        return self.jitted(*args, **kwargs)

    def _compile_in_all_processes(self, args: tuple, kwargs: dict[str, Any]) -> None:
        """Compile before any process runs the program: collective operations on CPU time out."""
        leaves, structure = jax.tree.flatten((args, kwargs))
        described = [(x.shape, x.dtype) if hasattr(x, "shape") else x for x in leaves]
        key = structure, tuple(described), current_mesh()
        if key not in self._compiled:
            self.jitted.lower(*args, **kwargs).compile()
            wait_for_processes()
            self._compiled.add(key)
