"""What any of the processes wants before a step, without waiting for the devices.

A vote is cast in front of a step and read when that step has been started: the exchange, an OR over
all processes, waits in the devices' queues behind the previous step, not on the host. All processes
read the same result, so all of them stop before the same step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

Flags = Callable[[], Sequence[bool]]  # what this process wants


class Votes:
    """Exchanges flags among the processes; a single process only reads its own."""

    def __init__(self) -> None:
        self._flags: Flags = tuple
        self._result: jax.Array | None = None
        if jax.process_count() > 1:
            mesh = Mesh(np.array(jax.devices()), ("device",))
            self._sharded = NamedSharding(mesh, PartitionSpec("device"))
            self._any: Any = jax.jit(
                lambda votes: jnp.any(votes, axis=0),
                out_shardings=NamedSharding(mesh, PartitionSpec()),
            )

    def cast(self, flags: Flags) -> None:
        """Start an exchange. All processes must cast in front of the same steps."""
        self._flags = flags
        if jax.process_count() > 1:
            own = np.tile(np.asarray(flags(), bool), (jax.local_device_count(), 1))
            votes = jax.make_array_from_process_local_data(self._sharded, own)
            self._result = self._any(votes)

    def result(self) -> tuple[bool, ...]:
        """Return, for each flag of the last vote, whether any process has set it.

        A single process's flags are those of now: it has nobody to wait for.
        """
        if self._result is None:
            return tuple(self._flags())
        return tuple(np.asarray(self._result.addressable_data(0)).tolist())
