"""Benchmark: converting a checkpoint compared with copying its files.

examples:
  python -m bench.conversion              # 2 LLaMA-7B layers and the embeddings, 1.3 GB, bfloat16
  python -m bench.conversion --layers 8   # more layers
  python -m bench.conversion --tiny       # a tiny LLaMA, a test of the benchmark in seconds

Both read and write the complete checkpoint and end with fsync. Repetitions alternate; the median is
reported. ratio = time of the copy / time of the conversion; a conversion with ratio 1 is as fast as
a copy. The conversion transposes every kernel.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from bench.measure import RESULTS, interleaved, machine, median, table, write
from glamm_jax.config import LLAMA_7B, LlamaConfig, tiny
from glamm_jax.models.abstract import abstract_model
from glamm_jax.weights.flat_state import state_shapes
from glamm_jax.weights.rules import tensor_shapes
from glamm_jax.weights.safetensors import SINGLE, TensorInfo, TensorWriter
from glamm_jax.weights.tables import table_of
from glamm_jax.weights.tensor_sources import SafetensorsSource
from glamm_jax.weights.transfer import BFLOAT16, import_tensors


def write_random_checkpoint(folder: Path, config: LlamaConfig) -> int:
    """Write a LLaMA of random bits and return its size in bytes."""
    leaves = state_shapes(abstract_model(config)[1])
    shapes = tensor_shapes(table_of(config), leaves)
    infos = {name: TensorInfo(BFLOAT16, shape) for name, shape in shapes.items()}
    rng = np.random.default_rng(0)
    folder.mkdir()
    with TensorWriter(folder, shard_bytes=1 << 40).open(infos) as writer:
        for name, info in infos.items():
            bits = rng.integers(0, 0x7F00, info.shape, np.uint16)  # finite numbers
            writer.write(name, bits.view(BFLOAT16))
    return sum(info.nbytes for info in infos.values())


def contenders(work: Path, config: LlamaConfig) -> dict[str, Callable[[], None]]:
    """Return functions that copy and that convert the checkpoint in `work`."""
    leaves, table = state_shapes(abstract_model(config)[1]), table_of(config)

    def copy() -> None:
        shutil.copyfile(work / "checkpoint" / SINGLE, work / "copy")
        file = os.open(work / "copy", os.O_RDWR)
        os.fsync(file)
        os.close(file)
        (work / "copy").unlink()

    def convert() -> None:
        (work / "model").mkdir()
        source = SafetensorsSource(work / "checkpoint")
        import_tensors(table, source, leaves, TensorWriter(work / "model"))
        shutil.rmtree(work / "model")

    return {"copy": copy, "convert": convert}


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        "python -m bench.conversion",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument("--layers", type=int, default=2, help="layers of LLaMA-7B (default: 2)")
    parser.add_argument("--repeats", type=int, default=5, help="repetitions (default: 5)")
    parser.add_argument("--tiny", action="store_true", help="a tiny LLaMA")
    parser.add_argument(
        "--out", type=Path, default=RESULTS / "conversion.json", help="JSON to write"
    )
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print a table and write the JSON; returns the exit status."""
    options = parse(arguments)
    config = tiny().llama if options.tiny else replace(LLAMA_7B, num_layers=options.layers)
    facts, start = machine(), time.perf_counter()
    with tempfile.TemporaryDirectory(dir=".") as folder:
        nbytes = write_random_checkpoint(Path(folder) / "checkpoint", config)
        print(f"{nbytes / 1e9:.2f} GB written in {time.perf_counter() - start:.0f} s", flush=True)
        times = interleaved(contenders(Path(folder), config), options.repeats)
    copy, convert = median(times["copy"]), median(times["convert"])
    rows = [[f"{nbytes / 1e9:.2f} GB", f"{copy:.0f}", f"{convert:.0f}", f"{copy / convert:.2f}"]]
    print("\n" + table(["checkpoint", "copy, ms", "convert, ms", "ratio (copy / convert)"], rows))
    write(
        options.out, {"machine": facts, "bytes": nbytes, "all_ms": times, "ratio": copy / convert}
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
