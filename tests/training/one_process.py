"""One of several processes that train together: python -m tests.training.one_process JSON.

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
    """Join the other processes, run the requested function; the first process writes the result."""
    request = json.loads(sys.argv[1])
    number, count = request["process"], request["processes"]
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={DEVICES // count}"
    import jax
    import numpy as np

    if count > 1:
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.distributed.initialize(f"localhost:{request['port']}", count, number)
    from glamm_jax.parallel import make_mesh, use_mesh

    if request["do"] == "run":
        result = run_loop(request["run"], request["mesh"], request["steps"])
    else:
        with use_mesh(make_mesh(**request["mesh"])):
            functions = {"batch": batches, "train": steps, "votes": votes}
            result = functions[request["do"]](request["steps"])
    if number == 0:
        np.savez(request["out"], **result)


def batches(num_steps: int) -> dict[str, Any]:
    """Return the batches of the first steps, assembled from the slices of all processes."""
    from glamm_jax.data.loader import open_batches
    from glamm_jax.training.placement import place_batch, process_slice
    from tests.training.sharded import small_config

    config, part = small_config(regions=True), process_slice()
    arrays: dict[str, Any] = {}
    with closing(open_batches(config.data, config.model, part.index, part.count)) as stream:
        for step in range(num_steps):
            placed = place_batch(next(stream).batch)
            arrays |= {
                f"{step}.{name}": gather(x) for name, x in placed._asdict().items() if x is not None
            }
    return arrays


def steps(num_steps: int) -> dict[str, Any]:
    """Return the losses of the first steps, and the trained parameters after them.

    AdamW turns even a gradient of nothing but rounding errors into a step of full size; with a
    large eps, equal gradients give equal parameters.
    """
    from dataclasses import replace

    import jax

    from glamm_jax.data.loader import open_batches
    from glamm_jax.training.initialization import random_model
    from glamm_jax.training.placement import place_batch, place_split, process_slice
    from glamm_jax.training.step import make_step
    from glamm_jax.weights.flat_state import flatten_state
    from tests.training.sharded import first_split, small_config

    config, part = small_config(), process_slice()
    config = replace(config, optim=replace(config.optim, eps=1e-3))
    graphdef, frozen, state = place_split(
        first_split(config, random_model(config.model, config.seed))
    )
    step: Any = make_step(config.model, config.optim, config.losses, config.seed)
    results: dict[str, Any] = {}
    with closing(open_batches(config.data, config.model, part.index, part.count)) as stream:
        batch = place_batch(next(stream).batch)
        program = step.lower(graphdef, frozen, state, batch).compile()
        wait_for_other_processes("compiled")
        for number in range(num_steps):
            state, metrics = program(frozen, state, batch)
            batch = place_batch(next(stream).batch)
            results[f"loss.{number}"] = float(jax.block_until_ready(metrics.loss))
    return results | {name: gather(value) for name, value in flatten_state(state.trainable).items()}


def votes(num_steps: int) -> dict[str, Any]:
    """Return the results of votes in front of steps; process 1 sets the first flag at step 1."""
    import jax

    from glamm_jax.training.votes import Votes

    exchange, results = Votes(), []
    for step in range(num_steps):
        flags = jax.process_index() == 1 and step == 1, False
        exchange.cast(lambda flags=flags: flags)
        results.append(exchange.result())
    return {"results": results}


def run_loop(folder: str, mesh: dict[str, int], num_steps: int) -> dict[str, Any]:
    """Return the losses of a run of the loop, with checkpoints, up to a step."""
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


def wait_for_other_processes(barrier: str) -> None:
    """Wait at a barrier: gloo times out after half a minute, and compiling may take longer."""
    from jax._src.distributed import global_state

    if global_state.client is not None:
        global_state.client.wait_at_barrier(barrier, 1000 * 1200)


def gather(array: Any) -> Any:
    """Return the complete array of one that is sharded over processes."""
    import jax
    from jax.sharding import NamedSharding, PartitionSpec

    replicated = NamedSharding(array.sharding.mesh, PartitionSpec())
    return jax.jit(lambda x: x, out_shardings=replicated)(array).addressable_data(0)


if __name__ == "__main__":
    try:
        main()
    except BaseException:
        traceback.print_exc()
        sys.stdout.flush()
        os._exit(1)  # without waiting for the other processes, which may never finish
