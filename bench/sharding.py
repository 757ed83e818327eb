"""Memory of a TPU chip for a training step on 8 and on 256 chips, compiled ahead of time.

examples:
  PYTHONPATH=.libtpu python -m bench.sharding              # three recipes, 8 and 256 chips of v5e
  python -m bench.sharding --only gcg                      # one recipe, with libtpu installed

No TPU is needed, but libtpu (`make tpu` installs it). The load of a chip is fixed: one row of 1,024
tokens and one image, with four masks or four boxes where the recipe has any. Widths are those of
the released model, layers are fewer (LLaMA 2, SAM 4, CLIP 9): they are scanned, so that their
number hardly changes the temporaries, and the compilation takes less memory.

  gcg       configs/finetune_gcg.py: masks
  region    configs/finetune_region_refcocog.py: boxes
  mixed     configs/pretrain.py: masks and boxes
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from bench.measure import RESULTS, machine, table, write
from configs import finetune_gcg, finetune_region_refcocog, pretrain
from glamm_jax.aot.compile_step import compile_for_topology
from glamm_jax.config.experiment import ExperimentConfig
from glamm_jax.parallel import MeshSizes

RECIPES = {"gcg": finetune_gcg, "region": finetune_region_refcocog, "mixed": pretrain}
TOPOLOGIES = {"v5e:2x4": MeshSizes(fsdp=8), "v5e:16x16": MeshSizes(fsdp=256)}
MAX_GROWTH = 0.05  # target: of the temporaries, from the first topology to the last


def reduced(config: ExperimentConfig, num_chips: int) -> ExperimentConfig:
    """Return a recipe with a slice of one image for each chip, and with fewer layers."""
    model, shape = config.model, config.data.batch_shape
    model = replace(
        model,
        llama=replace(model.llama, num_layers=2),
        sam=replace(model.sam, num_layers=4, global_blocks=(3,)),
        clip=replace(model.clip, num_layers=9, region_layers=(-8, -6, -4, -2)),
    )
    shape = replace(
        shape,
        rows=1,
        tokens=1024,
        targets=256,
        images=1,
        region_images=min(shape.region_images, 1),
        regions=min(shape.regions, 4),
        grounding_images=min(shape.grounding_images, 1),
        masks=min(shape.masks, 4),
    )
    data = replace(config.data, batch_shape=shape, batch_slices=num_chips, step_images=0)
    return replace(
        config, model=model, data=data, optim=replace(config.optim, accumulation_steps=1)
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Compile all steps; returns 1 if the temporaries of one grow by more than the target."""
    options = parse(arguments)
    rows, results, growths = [], {}, []
    for name in options.only:
        temporaries = []
        for topology, mesh in TOPOLOGIES.items():
            num_chips = mesh.data * mesh.fsdp
            config = reduced(RECIPES[name].get_config(), num_chips)
            result = compile_for_topology(config, topology, mesh)
            results[f"{name}, {topology}"] = result
            temporaries.append(result.get("temporaries", float("inf")))
            rows.append([name, str(num_chips), f"{temporaries[-1]:.2f}", str(result["fits"])])
            print(*rows[-1], flush=True)
            write(options.out, {"machine": machine(), "target": MAX_GROWTH, "compiled": results})
        growths.append(temporaries[-1] / temporaries[0] - 1)
    print(table(["step", "chips", "temporaries, GiB a chip", "fits"], rows))
    return int(max(growths) > MAX_GROWTH)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse and check the command line."""
    parser = argparse.ArgumentParser(
        "python -m bench.sharding",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument(
        "--only",
        nargs="+",
        choices=tuple(RECIPES),
        default=tuple(RECIPES),
        help="recipes to compile (default: all)",
    )
    parser.add_argument("--out", type=Path, default=RESULTS / "sharding.json", help="JSON to write")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    raise SystemExit(main())
