"""One process of several that train together: python -m tests.training.one_process JSON.

Spawned by test_processes.py. All processes together have four devices, whatever their number.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from contextlib import closing
from typing import Any

DEVICES = 4


def main() -> None:
    """Join the others, do what is asked, and let the first process write the result."""
    asked = json.loads(sys.argv[1])
    number, count = asked["process"], asked["processes"]
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={DEVICES // count}"
    import jax
    import numpy as np

    if count > 1:
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.distributed.initialize(f"localhost:{asked['port']}", count, number)
    from glamm_jax.parallel import make_mesh, use_mesh

    if asked["do"] == "run":
        found = whole_run(asked["run"], asked["mesh"], asked["steps"])
    else:
        with use_mesh(make_mesh(**asked["mesh"])):
            found = {"batch": batches, "train": steps}[asked["do"]](asked["steps"])
    if number == 0:
        np.savez(asked["out"], **found)


def batches(num_steps: int) -> dict[str, Any]:
    """The batches of the first steps, put together from the pieces of all processes."""
    from glamm_jax.data.loader import open_batches
    from glamm_jax.training.placement import place_batch, process_slice
    from tests.training.sharded import small_config

    config, share = small_config(regions=True), process_slice()
    found: dict[str, Any] = {}
    with closing(open_batches(config.data, config.model, share.index, share.count)) as stream:
        for step in range(num_steps):
            placed = place_batch(next(stream).batch)
            found |= {
                f"{step}.{name}": whole(x) for name, x in placed._asdict().items() if x is not None
            }
    return found


def steps(num_steps: int) -> dict[str, Any]:
    """Losses of the first steps, and what was trained, behind them.

    AdamW makes a step of full size of the smallest gradient, even one that is nothing but rounding;
    with a large eps equal gradients give equal parameters.
    """
    from dataclasses import replace

    import jax

    from glamm_jax.data.loader import open_batches
    from glamm_jax.training.initialization import random_model
    from glamm_jax.training.placement import place_batch, place_split, process_slice
    from glamm_jax.training.step import make_step
    from glamm_jax.weights.flat_state import flatten_state
    from tests.training.sharded import first_split, small_config

    config, share = small_config(), process_slice()
    config = replace(config, optim=replace(config.optim, eps=1e-3))
    graphdef, frozen, state = place_split(
        first_split(config, random_model(config.model, config.seed))
    )
    step: Any = make_step(config.model, config.optim, config.losses, config.seed)
    found: dict[str, Any] = {}
    with closing(open_batches(config.data, config.model, share.index, share.count)) as stream:
        batch = place_batch(next(stream).batch)
        program = step.lower(graphdef, frozen, state, batch).compile()
        wait_for_the_others("compiled")
        for number in range(num_steps):
            state, metrics = program(frozen, state, batch)
            batch = place_batch(next(stream).batch)
            found[f"loss.{number}"] = float(jax.block_until_ready(metrics.loss))
    return found | {name: whole(value) for name, value in flatten_state(state.trainable).items()}


def whole_run(folder: str, mesh: dict[str, int], num_steps: int) -> dict[str, Any]:
    """Losses of a run of the loop, with its checkpoints, up to a step."""
    from dataclasses import replace
    from pathlib import Path

    from glamm_jax.config.experiment import CheckpointConfig, MeshConfig
    from glamm_jax.training.loop import train
    from tests.training.sharded import small_config

    config = small_config()
    config = replace(
        config,
        optim=replace(config.optim, eps=1e-3),
        mesh=MeshConfig(**mesh),
        checkpoint=CheckpointConfig(every=2),
    )
    records = train(config, Path(folder), num_steps)
    return {f"loss.{record['step']}": record["loss"] for record in records}


def wait_for_the_others(what: str) -> None:
    """Gloo gives up after half a minute, and on few cores compiling takes longer than that."""
    from jax._src.distributed import global_state

    if global_state.client is not None:
        global_state.client.wait_at_barrier(what, 1000 * 1200)


def whole(array: Any) -> Any:
    """All of an array that is spread over processes."""
    import jax
    from jax.sharding import NamedSharding, PartitionSpec

    everywhere = NamedSharding(array.sharding.mesh, PartitionSpec())
    return jax.jit(lambda x: x, out_shardings=everywhere)(array).addressable_data(0)


if __name__ == "__main__":
    try:
        main()
    except BaseException:
        traceback.print_exc()
        sys.stdout.flush()
        os._exit(1)  # without waiting for the others, who may never come
