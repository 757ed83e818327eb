"""Compile the full-size training step for TPUs that are not here, and print what it needs.

  make tpu                                                eight chips v5e, 16 GiB each
  python -m train.tpu --topology v5p:2x2x2 --mesh 1 8 1   eight chips v5p

It is the step that trains (`released()` with adapters, frozen weights and activations in bfloat16,
AdamW), on GCG batches with some boxes: every part runs. XLA compiles for the topology on a machine
without TPU, in minutes and 7 GB, and refuses a program that does not fit, so that what
compiles fits. jax must find libtpu, which `make tpu` keeps apart from the virtual environment: with
it there, jax would look for a TPU whenever it starts.

Exit status: 0 it fits, 1 it does not, 2 libtpu is missing.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import resource
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
from jax.experimental import topologies

from glamm_jax.aot.plan import CHIPS, plan
from glamm_jax.config import released, with_lora
from glamm_jax.config.experiment import DataConfig, ExperimentConfig
from glamm_jax.data.collate import join, pack
from glamm_jax.files import write_whole
from glamm_jax.parallel import make_mesh, use_mesh
from glamm_jax.training.placement import abstract_batch, abstract_split, gathered_stacks
from glamm_jax.training.step import make_step
from glamm_jax.types import Batch, Capacity

GIB = 2**30
# libtpu asks the machine's metadata server for all that these say.
ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Compile, print, write the JSON."""
    options = parse(arguments)
    if importlib.util.find_spec("libtpu") is None:
        print("libtpu is not installed: use `make tpu`", file=sys.stderr)
        return 2
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    jax.config.update("jax_platforms", "cpu")
    data, fsdp, tensor = options.mesh
    config = full_size(options.pictures, shards=data * fsdp)
    print(plan(config, (data, fsdp, tensor)).text(), flush=True)
    topology = topologies.get_topology_desc(platform="tpu", topology_name=options.topology)
    found: dict[str, Any] = {"topology": options.topology, "mesh": options.mesh}
    with use_mesh(make_mesh(data, fsdp, tensor, devices=topology.devices)):
        found |= compiled(config)
    found |= {"pictures_a_chip": options.pictures, "jax": jax.__version__}
    print("\n" + "\n".join(f"{name:26} {value}" for name, value in found.items()))
    write_whole(options.out, json.dumps(found, indent=1) + "\n")
    memory = CHIPS[options.topology.partition(":")[0]].memory_gib
    return int("error" in found or found["arguments + temporaries"] > memory)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line, checked."""
    parser = argparse.ArgumentParser(
        prog="python -m train.tpu",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--topology", default="v5e:2x4", help="of libtpu (default: %(default)s)")
    names = ("DATA", "FSDP", "TENSOR")
    parser.add_argument("--mesh", type=int, nargs=3, default=[1, 8, 1], metavar=names)
    parser.add_argument(
        "--pictures", type=int, default=1, metavar="N", help="rows, pictures a chip"
    )
    out = Path("bench/results/tpu.json")
    parser.add_argument(
        "--out", type=Path, default=out, help="JSON to write (default: %(default)s)"
    )
    options = parser.parse_args(arguments)
    chip = options.topology.partition(":")[0]
    if chip not in CHIPS:
        parser.error(f"no memory is known of {chip!r}: choose a topology of {', '.join(CHIPS)}")
    return options


def full_size(pictures: int, shards: int) -> ExperimentConfig:
    """GCG training of the released model: a shard has so many pictures, one with boxes."""
    base = released()
    region = replace(base.region, remat="full")
    model = replace(with_lora(base), compute_dtype="bfloat16", region=region)
    quotas = Capacity(
        rows=pictures,
        tokens=1024,
        targets=256,
        images=pictures,
        region_images=1,
        regions=4,
        grounding_images=pictures,
        masks=4 * pictures,
        mask_height=1024,
        mask_width=1024,
    )
    return ExperimentConfig(model, DataConfig(quotas=quotas, shards=shards))


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
    quotas, model = config.data.quotas, config.model
    pieces = {number: pack([], model, quotas) for number in range(config.data.shards)}
    return join(pieces, quotas, model.clip.num_patches)


if __name__ == "__main__":
    sys.exit(main())
