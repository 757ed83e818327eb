"""Compile a training step for TPU topologies that are not attached, and read its memory.

    compile_for_topology(config, "v5e:2x4", MeshSizes(fsdp=8))

XLA compiles for a topology on a machine without TPU, in minutes and 7 GB. It refuses a program that
does not fit the memory, so a step that compiles fits. jax needs libtpu on the path; `make tpu`
installs it outside the virtual environment, because with libtpu inside, jax would look for a TPU at
every start.
"""

from __future__ import annotations

import importlib.util
import os
import resource
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import jax
from jax.experimental import topologies

from glamm_jax.aot.chips import CHIPS
from glamm_jax.aot.collectives import gathered_stacks
from glamm_jax.config import released, with_lora
from glamm_jax.config.experiment import DataConfig, ExperimentConfig, MixtureEntry
from glamm_jax.data.collate import collate
from glamm_jax.data.packing import Packing
from glamm_jax.errors import ConfigError
from glamm_jax.parallel import GIB, MeshSizes, make_mesh, use_mesh
from glamm_jax.training.placement import abstract_batch, abstract_split
from glamm_jax.training.step import make_step
from glamm_jax.types import BatchShape

# Without these, libtpu asks the metadata server of the machine.
_ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}


def compile_for_topology(
    config: ExperimentConfig, topology_name: str, mesh: MeshSizes
) -> dict[str, Any]:
    """Compile a configuration's training step for TPUs that are not attached.

    Args:
        config: of the training run. The step runs on an empty batch of its shape.
        topology_name: of libtpu, such as "v5e:2x4".
        mesh: sizes of its axes.

    Returns:
        {name: value}: the memory that each device needs, in GiB, or the compiler's "error"; and
        whether it "fits".

    Raises:
        ConfigError: libtpu is not installed, or the topology's chip is unknown.
    """
    devices = topology_devices(topology_name)
    with use_mesh(make_mesh(*mesh, devices=devices)):
        result = _compile(config)
    memory = CHIPS[_chip_name(topology_name)].memory_gib
    fits = "error" not in result and result["arguments + temporaries"] <= memory
    return {
        "topology": topology_name,
        "mesh": tuple(mesh),
        **result,
        "fits": fits,
        "jax": jax.__version__,
    }


def topology_devices(topology_name: str) -> Sequence[Any]:
    """Return the devices of a TPU topology that is not attached, to compile for.

    Raises:
        ConfigError: libtpu is not installed, or the topology's chip is unknown.
    """
    chip = _chip_name(topology_name)
    if chip not in CHIPS:
        raise ConfigError(
            f"topology {topology_name!r}: unknown chip; choose from {', '.join(CHIPS)}"
        )
    if importlib.util.find_spec("libtpu") is None:
        raise ConfigError("compiling for a TPU topology needs libtpu: use `make tpu`")
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    jax.config.update("jax_platforms", "cpu")
    return topologies.get_topology_desc(platform="tpu", topology_name=topology_name).devices


def _chip_name(topology_name: str) -> str:
    return topology_name.partition(":")[0]


def released_gcg_config(images: int, batch_slices: int) -> ExperimentConfig:
    """Return a configuration of GCG fine-tuning of the released model, in bfloat16 with adapters.

    Args:
        images: of each batch slice. One of them has boxes, so that every part of the model runs.
        batch_slices: of a step's batch.
    """
    base = released()
    region = replace(base.region, remat="full")
    model = replace(with_lora(base), compute_dtype="bfloat16", region=region)
    mixture = (MixtureEntry("none", ("gcg", "region")),)  # no record is read
    shape = BatchShape(
        rows=images,
        tokens=1024,
        targets=256,
        images=images,
        region_images=1,
        regions=4,
        grounding_images=images,
        masks=4 * images,
        mask_height=1024,
        mask_width=1024,
    )
    return ExperimentConfig(
        model, DataConfig(mixture, batch_shape=shape, batch_slices=batch_slices)
    )


def _compile(config: ExperimentConfig) -> dict[str, Any]:
    """Compile a step on the current mesh; return what a device needs, or the compiler's error."""
    graphdef, frozen, state = abstract_split(config)
    data = config.data
    packing = Packing(data.share_prefix, data.fill_rows)
    slice_batch = collate([], config.model, data.batch_shape, packing)
    batch = abstract_batch(slice_batch, config.data.batch_slices, config.optim.accumulation_steps)
    step: Any = make_step(config.model, config.optim, config.losses, config.seed)
    lowered = step.trace(graphdef, frozen, state, batch).lower(lowering_platforms=("tpu",))
    started = time.perf_counter()
    try:
        program = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        return {"error": str(error)}
    seconds = time.perf_counter() - started
    memory, text = program.memory_analysis(), program.as_text()
    arguments, temporaries = memory.argument_size_in_bytes, memory.temp_size_in_bytes
    sizes = {
        "arguments": arguments,
        "temporaries": temporaries,
        "arguments + temporaries": arguments + temporaries,
        "outputs": memory.output_size_in_bytes,
        "outputs in arguments": memory.alias_size_in_bytes,
        "memory of this process": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }
    return {
        **{name: round(size / GIB, 2) for name, size in sizes.items()},
        "seconds to compile": round(seconds),
        "kernels": text.count("tpu_custom_call"),
        "frozen stacks gathered": gathered_stacks(text, frozen),
    }
