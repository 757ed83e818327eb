"""Compile a training step for TPUs that are not attached, and measure what it needs.

It is the step that trains (`released()` with adapters, frozen weights and activations in bfloat16,
AdamW), on GCG batches with some boxes: every part runs. XLA compiles for the topology on a machine
without TPU, in minutes and 7 GB, and refuses a program that does not fit, so that what
compiles fits. jax must find libtpu, which `make tpu` keeps apart from the virtual environment: with
it there, jax would look for a TPU whenever it starts.

"""

from __future__ import annotations

import importlib.util
import os
import resource
import time
from dataclasses import replace
from typing import Any

import jax
from jax.experimental import topologies

from glamm_jax.aot.plan import CHIPS
from glamm_jax.config import released, with_lora
from glamm_jax.config.experiment import DataConfig, ExperimentConfig, MixtureEntry
from glamm_jax.data.collate import collate, join_slices
from glamm_jax.errors import ConfigError
from glamm_jax.parallel import make_mesh, use_mesh
from glamm_jax.training.placement import abstract_batch, abstract_split, gathered_stacks
from glamm_jax.training.step import make_step
from glamm_jax.types import Batch, BatchShape

GIB = 2**30
# libtpu asks the machine's metadata server for all that these say.
ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}


def compile_for_topology(
    config: ExperimentConfig, topology_name: str, mesh: tuple[int, int, int]
) -> dict[str, Any]:
    """Compile a configuration's training step for TPUs that are not attached.

    Args:
        config: of the training run.
        topology_name: of libtpu, such as "v5e:2x4".
        mesh: sizes of the axes (data, fsdp, tensor).

    Returns:
        Names and values of what a device needs, in GiB, or the compiler's error.

    Raises:
        ConfigError: libtpu is not installed, or the topology's chip is unknown.
    """
    chip = topology_name.partition(":")[0]
    if chip not in CHIPS:
        raise ConfigError(f"topology {topology_name!r}: choose one of {', '.join(CHIPS)}")
    if importlib.util.find_spec("libtpu") is None:
        raise ConfigError("compiling for a TPU topology needs libtpu: use `make tpu`")
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    jax.config.update("jax_platforms", "cpu")
    topology = topologies.get_topology_desc(platform="tpu", topology_name=topology_name)
    with use_mesh(make_mesh(*mesh, devices=topology.devices)):
        found = compiled(config)
    memory = CHIPS[chip].memory_gib
    fits = "error" not in found and found["arguments + temporaries"] <= memory
    return {"topology": topology_name, "mesh": mesh, **found, "fits": fits, "jax": jax.__version__}


def released_gcg_config(images: int, batch_slices: int) -> ExperimentConfig:
    """GCG training of the released model: a shard has so many pictures, one with boxes."""
    base = released()
    region = replace(base.region, remat="full")
    model = replace(with_lora(base), compute_dtype="bfloat16", region=region)
    mixture = (MixtureEntry("unread", ("gcg", "region")),)  # its batches stay empty
    quotas = BatchShape(
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
        model, DataConfig(mixture, batch_shape=quotas, batch_slices=batch_slices)
    )


def compiled(config: ExperimentConfig) -> dict[str, Any]:
    """What a device needs for one step, in GiB, or the compiler's refusal."""
    graphdef, frozen, state = abstract_split(config)
    batch = abstract_batch(empty_batch(config))
    step: Any = make_step(config.model, config.optim, config.losses, config.seed)
    lowered = step.trace(graphdef, frozen, state, batch).lower(lowering_platforms=("tpu",))
    began = time.perf_counter()
    try:
        program = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        return {"error": str(error)}
    seconds = time.perf_counter() - began
    memory, text = program.memory_analysis(), program.as_text()
    arguments, temporaries = memory.argument_size_in_bytes, memory.temp_size_in_bytes
    host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    sizes = {
        "arguments": arguments,
        "temporaries": temporaries,
        "arguments + temporaries": arguments + temporaries,
        "outputs": memory.output_size_in_bytes,
        "outputs in arguments": memory.alias_size_in_bytes,
        "memory of this process": host,
    }
    return {
        **{name: round(size / GIB, 2) for name, size in sizes.items()},
        "seconds to compile": round(seconds),
        "kernels": text.count("tpu_custom_call"),
        "frozen stacks gathered": gathered_stacks(text, frozen),
    }


def empty_batch(config: ExperimentConfig) -> Batch:
    """The whole batch of a step with nothing in it."""
    quotas, model = config.data.batch_shape, config.model
    pieces = {number: collate([], model, quotas) for number in range(config.data.batch_slices)}
    return join_slices(pieces, quotas, model.clip.num_patches)
