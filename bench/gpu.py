"""Encoder and prefill speed on one GPU, as shares of what the chip could do.

    python -m bench.gpu                      SAM ViT-H, CLIP-L and LLaMA-7B prefill, bfloat16
    python -m bench.gpu --only sam --sam-batch 16
    python -m bench.gpu --peak-tflops 989    another yardstick than an H200's measured 790
    python -m bench.gpu --tiny               tiny models on any device: a dry run, no figures

Needs jax, flax and jaxtyping alone: no grain, no tensorflow-datasets, no torch. Weights are
random, made on the device in bfloat16. share = FLOPs (counted in bench/flops.py) per second over
the peak; bar = today's best practice: 44 % for SAM (58 images/s on an H200), 50 % for the LLM.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from bench import flops
from bench.measure import (
    RESULTS,
    compiled,
    interleaved,
    machine,
    median,
    noise,
    random_weights,
    table,
    write,
)
from glamm_jax.config import (
    CLIP_L14_336,
    LLAMA_7B,
    SAM_VIT_H,
    CLIPConfig,
    LlamaConfig,
    SAMConfig,
    tiny,
)
from glamm_jax.models.clip import CLIPVision
from glamm_jax.models.llama import Llama
from glamm_jax.models.sam.encoder import ImageEncoder

H200_TFLOPS = 790.0  # bfloat16, measured by a large matrix product
CASES = ("sam", "clip", "prefill")


@dataclass(frozen=True)
class Case:
    """One thing to measure: `items` (images, tokens) a call, their FLOPs, and how to make it."""

    name: str
    unit: str
    items: int
    flops: int
    make: Callable[[], Callable[[], Any]]


def sam_case(config: SAMConfig, batch: int) -> Case:
    """SAM's image encoder."""

    def make() -> Callable[[], Any]:
        graph, state = random_weights(lambda: ImageEncoder(config, rngs=nnx.Rngs(0)), jnp.bfloat16)
        run = compiled(graph, state, lambda model, x: model(x))
        pixels = noise((batch, config.image_size, config.image_size, 3), jnp.bfloat16)
        return lambda: run(pixels)

    total = batch * flops.sam_encoder(config)
    return Case(f"SAM encoder, {config.num_layers} blocks, b={batch}", "img", batch, total, make)


def clip_case(config: CLIPConfig, batch: int) -> Case:
    """CLIP's vision model up to the last hidden state that is read."""

    def make() -> Callable[[], Any]:
        graph, state = random_weights(lambda: CLIPVision(config, rngs=nnx.Rngs(0)), jnp.bfloat16)
        run = compiled(graph, state, lambda model, x: model(x))
        pixels = noise((batch, config.image_size, config.image_size, 3), jnp.bfloat16)
        return lambda: run(pixels)

    total = batch * flops.clip(config)
    return Case(f"CLIP, {config.depth} layers, b={batch}", "img", batch, total, make)


def prefill_case(config: LlamaConfig, batch: int, tokens: int) -> Case:
    """A prompt through the scanned layers, and the logits that choose the next token."""

    def make() -> Callable[[], Any]:
        graph, state = random_weights(lambda: Llama(config, rngs=nnx.Rngs(0)), jnp.bfloat16)

        def call(model: Llama, x: jax.Array, at: jax.Array, valid: jax.Array) -> jax.Array:
            return model.logits(model(x, at, valid)[:, -1])

        run = compiled(graph, state, call)
        x = noise((batch, tokens, config.hidden_dim), jnp.bfloat16)
        positions = jnp.broadcast_to(jnp.arange(tokens)[None], (batch, tokens))
        valid = jnp.ones((batch, tokens), bool)
        return lambda: run(x, positions, valid)

    total = batch * flops.llama_prefill(config, tokens)
    name = f"LLaMA prefill, {config.num_layers} layers, S={tokens}, b={batch}"
    return Case(name, "tok", batch * tokens, total, make)


def cases(options: argparse.Namespace) -> list[Case]:
    """What the options ask for, at true or tiny size."""
    clip, sam, llama, lengths = CLIP_L14_336, SAM_VIT_H, LLAMA_7B, (620, 775)
    if options.tiny:
        small = tiny()
        clip, sam, llama, lengths = small.clip, small.sam, small.llama, (12, 16)
    made: list[Case] = []
    if "sam" in options.only:
        made.append(sam_case(sam, options.sam_batch))
    if "clip" in options.only:
        made.append(clip_case(clip, options.clip_batch))
    if "prefill" in options.only:
        made += [prefill_case(llama, batch, tokens) for tokens in lengths for batch in (1, 8)]
    return made


def measure(case: Case, repeats: int, peak_tflops: float) -> dict[str, Any]:
    """Median time of a call, items and FLOPs a second, and the share of the peak."""
    seconds = median(interleaved({"run": case.make()}, repeats)["run"]) / 1e3
    statistics = jax.devices()[0].memory_stats() or {}
    rate = case.flops / seconds
    return {
        "case": case.name,
        "unit": case.unit,
        "ms": 1e3 * seconds,
        "per_second": case.items / seconds,
        "limit_per_second": case.items * peak_tflops * 1e12 / case.flops,
        "tflops": rate / 1e12,
        "share": rate / (peak_tflops * 1e12),
        # Since the process began: a later, smaller case cannot lower it.
        "peak_gib": statistics.get("peak_bytes_in_use", 0) / 2**30,
    }


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line, checked."""
    parser = argparse.ArgumentParser(
        "python -m bench.gpu", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--only", default=",".join(CASES), help="comma separated: %(default)s")
    parser.add_argument("--repeats", type=int, default=20, help="timed calls (default: 20)")
    parser.add_argument("--sam-batch", type=int, default=8, help="images a call (default: 8)")
    parser.add_argument("--clip-batch", type=int, default=32, help="images a call (default: 32)")
    parser.add_argument("--peak-tflops", type=float, default=H200_TFLOPS, help="default: 790")
    parser.add_argument("--tiny", action="store_true", help="tiny models on any device")
    parser.add_argument("--out", type=Path, default=RESULTS / "gpu.json", help="JSON to write")
    options = parser.parse_args(arguments)
    options.only = options.only.split(",")
    unknown = set(options.only) - set(CASES)
    if unknown:
        parser.error(f"no case {', '.join(sorted(unknown))}: choose from {', '.join(CASES)}")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print a table, write the JSON."""
    options = parse(arguments)
    if jax.default_backend() != "gpu" and not options.tiny:
        print(
            f"no GPU: jax sees {jax.devices()[0].device_kind!r}. Run this where `nvidia-smi` works,"
            " with pip install 'glamm-jax[cuda]'; --tiny is a dry run on any device."
        )
        return 2
    facts, rows = machine(), []
    for case in cases(options):
        rows.append(measure(case, options.repeats, options.peak_tflops))
        print(f"{case.name}: {rows[-1]['per_second']:.1f} {case.unit}/s", flush=True)
    printed = [
        [
            row["case"],
            f"{row['ms']:.2f}",
            f"{row['per_second']:.1f} {row['unit']}/s",
            f"{row['limit_per_second']:.0f}",
            f"{row['tflops']:.1f}",
            f"{100 * row['share']:.1f} %",
            f"{row['peak_gib']:.2f}",
        ]
        for row in rows
    ]
    header = ["case", "ms", "rate", "limit", "TFLOP/s", "share", "peak GiB"]
    kind = jax.devices()[0].device_kind
    print(f"\n{kind}, bfloat16, limit at {options.peak_tflops:.0f} TFLOP/s\n")
    print(table(header, printed))
    write(options.out, {"machine": facts, "peak_tflops": options.peak_tflops, "rows": rows})
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
