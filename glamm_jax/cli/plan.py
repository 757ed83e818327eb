"""Compute what a training run needs: parameters, memory, FLOPs, and time on several chips.

examples:
  glamm-jax plan --config configs/finetune_gcg.py
  glamm-jax plan --config configs/finetune_gcg.py --mesh fsdp=16
  glamm-jax plan --topology v5e:2x4 --mesh fsdp=8    # also compile the step for eight TPU v5e

Counting takes seconds and needs no accelerator. --topology compiles the training step ahead of time
for TPUs that are not attached; this takes minutes, 7 GB of memory, and libtpu on the Python path
(`make tpu` installs it). XLA refuses a program that does not fit into the memory of a chip, so a
step that compiles fits.

Without --config, the run is GCG fine-tuning of the released model, with --images images per batch
slice.

Exit status: 0 success; 1 the compiled step does not fit; 2 unusable input.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence

from glamm_jax.aot.compile_step import compile_for_topology, released_gcg_config
from glamm_jax.aot.plan import configured_mesh, plan
from glamm_jax.cli.program import (
    any_path,
    make_parser,
    mesh_sizes,
    positive_int,
    run_program,
    this_machine,
)
from glamm_jax.cli.train import add_overrides, configuration, load_config
from glamm_jax.files import write_atomic
from glamm_jax.parallel import MeshSizes
from glamm_jax.training.step_layout import laid_out


def main(arguments: Sequence[str] | None = None, prog: str = "glamm-jax plan") -> int:
    """Print the plan, and compile for a topology if requested; returns the exit status."""
    options = parse(arguments, prog)
    return run_program("plan", lambda: run(options))


def parse(arguments: Sequence[str] | None, prog: str = "glamm-jax plan") -> argparse.Namespace:
    """Parse the command line."""
    parser = make_parser(prog, __doc__)
    parser.add_argument(
        "--config", type=this_machine, metavar="FILE", help="configuration of a training run"
    )
    parser.add_argument(
        "--mesh",
        type=mesh_sizes,
        metavar="AXIS=SIZE,...",
        help="sizes of the axes data, fsdp and tensor of the mesh; 1 for one that is not named "
        "(default: those of the configuration)",
    )
    parser.add_argument(
        "--topology", metavar="NAME", help="also compile for this TPU topology, for example v5e:2x4"
    )
    parser.add_argument(
        "--images",
        type=positive_int,
        default=1,
        metavar="N",
        help="rows and images per batch slice, without --config (default: %(default)s)",
    )
    parser.add_argument(
        "--json", type=any_path, metavar="FILE", help="write the result of the compilation"
    )
    add_overrides(parser)
    return parser.parse_args(arguments)


def run(options: argparse.Namespace) -> int:
    """Print the plan; return 1 if the step was compiled and does not fit."""
    if options.config is None:
        mesh = options.mesh or MeshSizes(fsdp=8)
        config = released_gcg_config(options.images, batch_slices=mesh.data * mesh.fsdp)
    else:
        config = load_config(options.config)
        mesh = options.mesh or configured_mesh(config)
    config = laid_out(configuration(config, options), mesh.data * mesh.fsdp)
    print(plan(config, mesh).text(), flush=True)
    if options.topology is None:
        return 0
    result = compile_for_topology(config, options.topology, mesh)
    print("\n" + "\n".join(f"{name:26} {value}" for name, value in result.items()))
    if options.json is not None:
        write_atomic(options.json, json.dumps(result, indent=1) + "\n")
    return int(not result["fits"])


if __name__ == "__main__":
    sys.exit(main(prog="python -m glamm_jax.cli.plan"))
