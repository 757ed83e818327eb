"""Memory of the model's attentions by kernel, compiled ahead of time; nothing is run.

examples:
  python -m bench.attention                                        # for the CPU of this machine
  PYTHONPATH=.libtpu python -m bench.attention --chip v5e v6e      # for TPUs, without a TPU
  PYTHONPATH=.libtpu python -m bench.attention --chip v5p --only llama_packed

One attention of the released model at a time, in bfloat16 (float32 on the CPU): its output and,
where the model is trained through it, its gradients. Each is compiled with the kernel of the table
(glamm_jax/nn/attention_kernels.py), with all scores at once, and in blocks. Printed are the
temporaries of the program, and the bytes that the compiler estimates to be moved; it counts the
body of a loop once, so that there is no estimate for blocks.

`make tpu` installs libtpu in .libtpu. No program can be compiled for a GPU without one.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from bench.measure import RESULTS, machine, table, write
from glamm_jax.aot.compile_step import topology_devices
from glamm_jax.nn.attention import Backend, attention
from glamm_jax.nn.attention_mask import Segments
from glamm_jax.parallel import make_mesh, platform, sharding, use_mesh

TOPOLOGIES = {"v5e": "v5e:2x4", "v5p": "v5p:2x2x2", "v6e": "v6e:2x4"}
KERNELS: tuple[Backend, ...] = ("auto", "dense", "blockwise")


class AttentionCase(NamedTuple):
    """An attention of the model.

    Attributes:
        rows: of the batch.
        tokens: queries and keys of a row.
        heads: of the queries.
        key_heads: of keys and values.
        width: of queries and keys.
        value_width: of values.
        causal: query i attends to keys 0..i.
        is_packed: the rows have segments.
        is_trained: gradients are computed.
    """

    rows: int
    tokens: int
    heads: int
    key_heads: int
    width: int
    value_width: int
    causal: bool = False
    is_packed: bool = False
    is_trained: bool = False


CASES = {
    "sam_global": AttentionCase(1, 4096, 16, 16, 208, 80),
    "clip": AttentionCase(4, 577, 16, 16, 64, 64),
    "llama": AttentionCase(4, 1536, 32, 32, 128, 128, causal=True, is_trained=True),
    "llama_packed": AttentionCase(4, 1536, 32, 32, 128, 128, True, True, True),
    "llama3_packed": AttentionCase(4, 1536, 32, 8, 128, 128, True, True, True),
}


def compile_case(case: AttentionCase, backend: Backend, dtype: Any) -> dict[str, float]:
    """Compile an attention on the current mesh, or on this machine.

    Args:
        case: the attention.
        backend: its kernel.
        dtype: of its operands.

    Returns:
        MiB of temporaries, and estimated GB that are moved, without loops.
    """
    row = (case.rows, case.tokens)
    shapes = [
        (*row, case.heads, case.width),
        (*row, case.key_heads, case.width),
        (*row, case.key_heads, case.value_width),
    ]
    arguments = [_abstract(shape, dtype) for shape in shapes]
    ids = [_abstract(row, jnp.int32)] * 2 if case.is_packed else []

    def attend(q: jax.Array, k: jax.Array, v: jax.Array, *ids: jax.Array) -> jax.Array:
        segments = Segments(*ids) if ids else None
        valid = ids[0] >= 0 if ids else None
        return attention(
            *(q, k, v), causal=case.causal, key_valid=valid, segments=segments, backend=backend
        )

    def gradients(q: jax.Array, k: jax.Array, v: jax.Array, *ids: jax.Array) -> Any:
        def loss(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
            return attend(q, k, v, *ids).astype(jnp.float32).sum()

        return jax.grad(loss, (0, 1, 2))(q, k, v)

    lowered = jax.jit(gradients if case.is_trained else attend).trace(*arguments, *ids)
    program = lowered.lower(lowering_platforms=(platform(),)).compile()
    memory, costs = program.memory_analysis(), program.cost_analysis()
    assert memory is not None
    chosen = "blockwise" if platform() == "cpu" and backend == "auto" else backend
    moved = dict(costs or {}).get("bytes accessed", 0.0)
    return {
        "temporaries_mib": round(memory.temp_size_in_bytes / 2**20, 1),
        **({} if "blockwise" in (backend, chosen) else {"moved_gb": round(moved / 1e9, 2)}),
    }


def _abstract(shape: tuple[int, ...], dtype: Any) -> jax.ShapeDtypeStruct:
    if platform() == "cpu":
        return jax.ShapeDtypeStruct(shape, dtype)
    return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding((None,) * len(shape), shape))


def main(arguments: Sequence[str] | None = None) -> int:
    """Compile all, print a table and write the result."""
    options = parse(arguments)
    rows, results = [], {}
    for chip in options.chip:
        with contextlib.ExitStack() as stack:
            if chip != "cpu":
                devices = topology_devices(TOPOLOGIES[chip])[:1]
                stack.enter_context(use_mesh(make_mesh(devices=devices)))
            for name in options.only:
                dtype = jnp.float32 if chip == "cpu" else jnp.bfloat16
                sizes = {x: compile_case(CASES[name], x, dtype) for x in KERNELS}
                results[f"{name}, {chip}"] = sizes
                rows.append([name, chip, *map(_text, sizes.values())])
                print(*rows[-1], flush=True)
    print("MiB of temporaries / GB moved")
    print(table(["attention", "chip", "of the table", "dense", "blockwise"], rows))
    write(options.json, {"compiled": results, "machine": machine()})
    return 0


def _text(sizes: dict[str, float]) -> str:
    moved = f" / {sizes['moved_gb']:.2f}" if "moved_gb" in sizes else ""
    return f"{sizes['temporaries_mib']:.0f}{moved}"


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.attention",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--chip",
        nargs="+",
        choices=("cpu", *TOPOLOGIES),
        default=["cpu"],
        help="to compile for (default: cpu)",
    )
    parser.add_argument(
        "--only", nargs="+", choices=tuple(CASES), default=tuple(CASES), help="default: all"
    )
    parser.add_argument("--json", type=Path, default=RESULTS / "attention.json", help="result file")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
