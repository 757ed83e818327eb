"""Timing, random weights, a description of the machine, and tables for the benchmarks."""

from __future__ import annotations

import json
import math
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from glamm_jax.config import GLaMMConfig
from glamm_jax.data.collate import collate
from glamm_jax.data.encode import Sample, TokenizedConversation
from glamm_jax.text.special_tokens import IGNORE_ID
from glamm_jax.types import Batch

RESULTS = Path(__file__).resolve().parent / "results"
Model = TypeVar("Model", bound=nnx.Module)


def random_weights(make: Callable[[], Model], dtype: Any) -> tuple[nnx.GraphDef, nnx.State]:
    """Return a model's graph and a state of small random values, created on the device.

    Nothing is initialized on the host, and there is no float32 copy: 7B parameters in bfloat16 need
    13.5 GB. All leaves have the same values, because sampling every leaf takes a minute to compile.
    """
    graph, abstract = nnx.split(nnx.eval_shape(make))

    @jax.jit
    def sample(key: jax.Array) -> nnx.State:
        values = jax.random.normal(key, (2**16 + 1,), dtype) * 0.02
        return jax.tree.map(lambda leaf: jnp.resize(values, leaf.shape), abstract)

    return graph, sample(jax.random.key(0))


def compiled(
    graph: nnx.GraphDef, state: nnx.State, call: Callable[..., Any]
) -> Callable[..., jax.Array]:
    """Return a jitted function of the inputs that waits for its result.

    Args:
        graph: of the model.
        state: weights; they are an argument of the compiled program, not constants in it.
        call: a function of the model and the inputs.
    """
    run = jax.jit(lambda state, *inputs: call(nnx.merge(graph, state), *inputs))
    return lambda *inputs: jax.block_until_ready(run(state, *inputs))


def interleaved(
    runs: Mapping[str, Callable[[], Any]],
    repeats: int,
    seconds: float = math.inf,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Time several functions in alternation, after one warm-up call of each.

    Alternating spreads the noise of the machine evenly over them.

    Args:
        runs: {name: function}.
        repeats: timed calls of each function.
        seconds: after which no new round starts, but at least three rounds run.
        clock: `time.process_time` measures processor time instead of wall time.

    Returns:
        {name: milliseconds of each call}.
    """
    for run in runs.values():
        run()
    times: dict[str, list[float]] = {name: [] for name in runs}
    started = time.perf_counter()
    for round_index in range(repeats):
        if round_index >= 3 and time.perf_counter() - started > seconds:
            break
        for name, run in runs.items():
            start = clock()
            run()
            times[name].append(1e3 * (clock() - start))
    return times


def median(times: Sequence[float]) -> float:
    """Return the median."""
    return float(statistics.median(times))


def machine() -> dict[str, Any]:
    """Describe the machine: processor, memory, load, device, versions of the packages."""
    versions = {}
    for name in ("jax", "jaxlib", "flax", "torch", "transformers", "numpy"):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = None
    return {
        "cpu": _cpu_name(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "load_average": [round(load, 2) for load in os.getloadavg()],
        "device": jax.devices()[0].device_kind,
        "python": platform.python_version(),
        "system": platform.platform(),
        "versions": versions,
        "date": time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime()),
    }


def _cpu_name() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or "unknown"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table; all columns but the first are right-aligned."""
    columns = [list(column) for column in zip(header, *rows, strict=True)]
    widths = [max(len(cell) for cell in column) for column in columns]

    def line(cells: Sequence[str]) -> str:
        padded = [cells[0].ljust(widths[0])]
        padded += [cell.rjust(w) for cell, w in zip(cells[1:], widths[1:], strict=True)]
        return "| " + " | ".join(padded) + " |"

    rule = "|" + "|".join("-" * (w + 1) + (":" if i else "-") for i, w in enumerate(widths)) + "|"
    return "\n".join([line(header), rule, *map(line, rows)])


def write(path: Path, result: Mapping[str, Any]) -> None:
    """Write a result as JSON and print the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(f"written to {path}")


def noise(shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    """Return a random input of unit variance."""
    return jax.random.normal(jax.random.key(1), shape, dtype)


def prompts(config: GLaMMConfig, rows: int, tokens: int) -> Batch:
    """Return a batch of text prompts of random tokens.

    Args:
        config: of the model.
        rows: number of prompts.
        tokens: length of every prompt.
    """
    first, last = config.tokens.eos + 1, config.tokens.image_start
    ids = np.random.default_rng(0).integers(first, last, (rows, tokens))
    nothing = np.full(tokens, IGNORE_ID)
    return collate(
        [Sample(conversations=(TokenizedConversation(row, nothing),)) for row in ids], config
    )


if __name__ == "__main__":
    from glamm_jax.cli.program import print_module_help

    print_module_help(__doc__, "python -m bench")
