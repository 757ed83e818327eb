"""Operations that index one array of a batch with another, slice by slice.

A batch consists of closed slices (`glamm_jax.types.Batch`): the indices of a slice count from the
start of the slice's part of the array that they refer to. So an index never leaves its slice, and
devices that divide the slices among themselves exchange nothing: the slices become a batch axis of
the operation. Indexing the complete array would make XLA gather it on every device.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
from jaxtyping import Array, Shaped

from glamm_jax.parallel import constrain


def map_slices(
    function: Callable[..., Array], num_slices: int, *arrays: Shaped[Array, "..."]
) -> Array:
    """Apply a function to every slice of arrays and concatenate the results.

        map_slices(lambda x, index: x[index], 2, x, index)
        x = [a b c d], index = [1 0 0 1]  ->  [b a c d]

    Args:
        function: of one slice of each array, without collective operations.
        num_slices: equal parts of the first axis of every array.
        arrays: of the complete batch.
    """
    if num_slices == 1:
        return function(*arrays)
    slices = [x.reshape(num_slices, x.shape[0] // num_slices, *x.shape[1:]) for x in arrays]
    result = _shard_slices(jax.vmap(function)(*map(_shard_slices, slices)))
    return result.reshape(result.shape[0] * result.shape[1], *result.shape[2:])


def _shard_slices(x: Shaped[Array, "k ..."]) -> Array:
    # Else XLA may shard the channels, as the next kernel is, and exchange the batch.
    return constrain(x, "batch", *(None,) * (x.ndim - 1))


def take_in_slices(
    x: Shaped[Array, "n ..."], index: Shaped[Array, "m ..."], num_slices: int
) -> Array:
    """Return x[index], where the indices of a slice count from the start of its part of x.

    Args:
        x: array of the complete batch.
        index: not negative.
        num_slices: of the batch.
    """
    return map_slices(lambda x, index: x[index], num_slices, x, index)
