"""Measure encoders, prefill, decoding and GCG on one GPU, as shares of the hardware's limits.

examples:
  python -m bench.gpu                      # SAM ViT-H, CLIP-L, LLaMA-7B, GCG end to end; bfloat16
  python -m bench.gpu --only decode        # 64 tokens per row, mean context 900
  python -m bench.gpu --only sam --sam-batch 16
  python -m bench.gpu --peak-tflops 800 --bandwidth 2.9   # another GPU than an H200
  python -m bench.gpu --tiny               # tiny models on any device, a test of the benchmark

It needs neither grain nor tensorflow-datasets nor torch. Weights are random, created on the device
in bfloat16. The limit is the time that the FLOPs (counted in glamm_jax/aot/flops.py) take at the
GPU's peak or the bytes at its bandwidth, whichever is larger; share = limit / measured time. Shares
reached by the best implementations: 44 % for SAM (58 images/s on an H200), 50 % for prefill, 68 %
for decoding at batch 1 and 55 % at batch 32, 50 % for GCG end to end.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from bench.measure import (
    RESULTS,
    compiled,
    interleaved,
    machine,
    median,
    noise,
    prompts,
    random_weights,
    table,
    write,
)
from glamm_jax.aot import flops
from glamm_jax.config import CLIPConfig, GLaMMConfig, LlamaConfig, SAMConfig, released, tiny
from glamm_jax.data.collate import collate
from glamm_jax.data.encode import Sample, TokenizedConversation
from glamm_jax.inference.generate import Generator
from glamm_jax.models.clip import CLIPVision
from glamm_jax.models.glamm import GLaMM
from glamm_jax.models.llama import Llama
from glamm_jax.models.sam.encoder import ImageEncoder
from glamm_jax.text.special_tokens import IGNORE_ID, IMAGE_ID

TEXT_FIELDS = ("llama", "tokens", "compute_dtype")  # fields of a model that decoding uses
H200_TFLOPS = 790.0  # bfloat16, measured with a large matrix product
H200_BANDWIDTH = 4.3  # TB/s, measured with a copy
CASES = ("sam", "clip", "prefill", "decode", "gcg")


class Work(NamedTuple):
    """Work of one phase of a call.

    Attributes:
        flops: of the phase.
        bytes: that it reads; 0 where the FLOPs are the limit.
    """

    flops: int
    bytes: int = 0

    def seconds(self, options: argparse.Namespace) -> float:
        """Return the minimum time on the hardware."""
        compute = self.flops / (options.peak_tflops * 1e12)
        return max(compute, self.bytes / (options.bandwidth * 1e12))


@dataclass(frozen=True)
class Case:
    """A measurement.

    Attributes:
        name: title in the table.
        unit: of the items.
        items: images or tokens of one call.
        work: phases of one call.
        make: prepares the model and its inputs, and returns the call.
    """

    name: str
    unit: str
    items: int
    work: tuple[Work, ...]
    make: Callable[[], Callable[[], Any]]


def sam_case(config: SAMConfig, batch: int) -> Case:
    """Return the case of SAM's image encoder."""

    def make() -> Callable[[], Any]:
        graph, state = random_weights(lambda: ImageEncoder(config, rngs=nnx.Rngs(0)), jnp.bfloat16)
        run = compiled(graph, state, lambda model, x: model(x))
        pixels = noise((batch, config.image_size, config.image_size, 3), jnp.bfloat16)
        return lambda: run(pixels)

    total = batch * flops.sam_encoder(config)
    return Case(
        f"SAM encoder, {config.num_layers} blocks, b={batch}", "img", batch, (Work(total),), make
    )


def clip_case(config: CLIPConfig, batch: int) -> Case:
    """Return the case of CLIP's vision encoder, up to the last hidden state that is used."""

    def make() -> Callable[[], Any]:
        graph, state = random_weights(lambda: CLIPVision(config, rngs=nnx.Rngs(0)), jnp.bfloat16)
        run = compiled(graph, state, lambda model, x: model(x))
        pixels = noise((batch, config.image_size, config.image_size, 3), jnp.bfloat16)
        return lambda: run(pixels)

    total = batch * flops.clip(config)
    return Case(
        f"CLIP, {config.num_computed_layers} layers, b={batch}", "img", batch, (Work(total),), make
    )


def prefill_case(config: LlamaConfig, batch: int, tokens: int) -> Case:
    """Return the case of a prompt through all layers, and the logits of the next token.

    Args:
        config: of the language model.
        batch: number of prompts.
        tokens: length of a prompt.
    """

    def make() -> Callable[[], Any]:
        graph, state = random_weights(lambda: Llama(config, rngs=nnx.Rngs(0)), jnp.bfloat16)

        def call(model: Llama, x: jax.Array, positions: jax.Array, valid: jax.Array) -> jax.Array:
            return model.logits(model(x, positions, valid)[:, -1])

        run = compiled(graph, state, call)
        x = noise((batch, tokens, config.hidden_dim), jnp.bfloat16)
        positions = jnp.broadcast_to(jnp.arange(tokens)[None], (batch, tokens))
        valid = jnp.ones((batch, tokens), bool)
        return lambda: run(x, positions, valid)

    total = batch * flops.llama_prefill(config, tokens)
    name = f"LLaMA prefill, {config.num_layers} layers, S={tokens}, b={batch}"
    return Case(name, "tok", batch * tokens, (Work(total),), make)


def decode_case(config: GLaMMConfig, batch: int, context: int, steps: int) -> Case:
    """Return the case of decoding after a text prompt.

    Args:
        config: of the model; only its language model is used.
        batch: number of rows.
        context: mean position of the decoded tokens.
        steps: tokens to decode in each row.
    """

    def make() -> Callable[[], Any]:
        generator = endless_generator(config)
        prompt = context - steps // 2
        states = [generator.prefill(prompts(config, batch, prompt), max_tokens=steps + 1)]

        def call() -> Any:
            # Every call runs the same steps: reset to the first token and overwrite the cache.
            state = states.pop()
            again = {
                "num_tokens": jnp.ones_like(state.num_tokens),
                "finished": jnp.zeros_like(state.finished),
            }
            state = state._replace(**again)
            states.append(generator.decode(state, max_steps=steps))
            return jax.block_until_ready(states[0].tokens)

        return call

    llama = config.llama
    step = Work(
        batch * flops.llama_step(llama, context), flops.llama_step_bytes(llama, batch, context)
    )
    name = f"LLaMA decode, {llama.num_layers} layers, context {context}, b={batch}"
    return Case(name, "tok", batch * steps, (step,) * steps, make)


def gcg_case(config: GLaMMConfig, batch: int, words: int, steps: int) -> Case:
    """Return the case of answers with four masks per image: CLIP, prefill, decoding, SAM.

    The mask decoder is not counted: its FLOPs are one percent of the encoder's.

    Args:
        config: of the model.
        batch: number of images.
        words: text tokens of the prompt.
        steps: tokens to decode in each row.
    """
    size = (480, 640)
    ids = [*range(3, 3 + words), IMAGE_ID, *[config.tokens.seg] * 4]

    def make() -> Callable[[], Any]:
        generator = endless_generator(config)
        batch_of_images = collate([_sample(config, ids, size)] * batch, config)

        def call() -> Any:
            state = generator.prefill(batch_of_images, max_tokens=steps)
            state = generator.decode(state, max_steps=steps)
            return jax.block_until_ready(generator.finish(batch_of_images, state).masks)

        return call

    tokens = len(ids) - 1 + config.clip.num_patches
    encoded = flops.clip(config.clip) + flops.sam_encoder(config.sam)
    first = Work(batch * (encoded + flops.llama_prefill(config.llama, tokens)))
    context = tokens + steps // 2
    step = Work(
        batch * flops.llama_step(config.llama, context),
        flops.llama_step_bytes(config.llama, batch, context),
    )
    name = f"GCG, {tokens} + {steps} tokens, {4 * batch} masks, b={batch}"
    return Case(name, "img", batch, (first, *(step,) * (steps - 1)), make)


def endless_generator(config: GLaMMConfig) -> Generator:
    """Return a generator with random bfloat16 weights and an end token that it never generates."""
    graph, state = random_weights(lambda: GLaMM(config, rngs=nnx.Rngs(0)), jnp.bfloat16)
    tokens = replace(config.tokens, eos=config.llama.vocab_size)
    return Generator(nnx.merge(graph, state), tokens)


def _sample(config: GLaMMConfig, ids: list[int], size: tuple[int, int]) -> Sample:
    rng = np.random.default_rng(0)
    clip, sam = config.clip.image_size, config.sam.image_size
    return Sample(
        conversations=(TokenizedConversation(np.array(ids), np.full(len(ids), IGNORE_ID)),),
        image=rng.integers(0, 256, (clip, clip, 3), np.uint8),
        grounding_image=rng.integers(0, 256, (sam, sam, 3), np.uint8),
        resized_size=(sam * size[0] // size[1], sam),
        original_size=size,
    )


def cases(options: argparse.Namespace) -> list[Case]:
    """Return the requested cases, at full or tiny size."""
    config, lengths, decoding, gcg = released(), (620, 775), (900, 64), (56, 80)
    if options.tiny:
        config, lengths, decoding, gcg = tiny(), (12, 16), (12, 4), (4, 4)
    config = replace(config, compute_dtype="bfloat16")
    text_only = replace(tiny(), **{name: getattr(config, name) for name in TEXT_FIELDS})
    selected: list[Case] = []
    if "sam" in options.only:
        selected.append(sam_case(config.sam, options.sam_batch))
    if "clip" in options.only:
        selected.append(clip_case(config.clip, options.clip_batch))
    if "prefill" in options.only:
        selected += [prefill_case(config.llama, b, tokens) for tokens in lengths for b in (1, 8)]
    if "decode" in options.only:
        selected += [decode_case(text_only, batch, *decoding) for batch in (1, 32)]
    if "gcg" in options.only:
        selected.append(gcg_case(config, options.gcg_batch, *gcg))
    return selected


def measure(case: Case, options: argparse.Namespace) -> dict[str, Any]:
    """Measure the median time of a call, its throughput, and its share of the limit."""
    seconds = median(interleaved({"run": case.make()}, options.repeats)["run"]) / 1e3
    limit = sum(work.seconds(options) for work in case.work)
    statistics = jax.devices()[0].memory_stats() or {}
    return {
        "case": case.name,
        "unit": case.unit,
        "ms": 1e3 * seconds,
        "per_second": case.items / seconds,
        "limit_per_second": case.items / limit,
        "tflops": sum(work.flops for work in case.work) / seconds / 1e12,
        "share": limit / seconds,
        # Of the process so far: a later, smaller case does not lower it.
        "peak_gib": statistics.get("peak_bytes_in_use", 0) / 2**30,
    }


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse and check the command line."""
    parser = argparse.ArgumentParser(
        "python -m bench.gpu", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--only", default=",".join(CASES), help="comma-separated: %(default)s")
    parser.add_argument("--repeats", type=int, default=20, help="timed calls (default: 20)")
    parser.add_argument("--sam-batch", type=int, default=8, help="images per call (default: 8)")
    parser.add_argument("--clip-batch", type=int, default=32, help="images per call (default: 32)")
    parser.add_argument("--gcg-batch", type=int, default=32, help="images per call (default: 32)")
    parser.add_argument("--peak-tflops", type=float, default=H200_TFLOPS, help="default: 790")
    parser.add_argument("--bandwidth", type=float, default=H200_BANDWIDTH, help="TB/s (4.3)")
    parser.add_argument(
        "--tiny", action="store_true", help="tiny models on any device, to test the benchmark"
    )
    parser.add_argument("--out", type=Path, default=RESULTS / "gpu.json", help="JSON to write")
    options = parser.parse_args(arguments)
    options.only = options.only.split(",")
    unknown = set(options.only) - set(CASES)
    if unknown:
        names = ", ".join(sorted(unknown))
        parser.error(f"unknown case {names}: choose from {', '.join(CASES)}")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print a table and write the JSON; returns the exit status."""
    options = parse(arguments)
    if jax.default_backend() != "gpu" and not options.tiny:
        print(
            f"no GPU: jax finds {jax.devices()[0].device_kind!r}. Run this where `nvidia-smi` "
            "works, after pip install 'glamm-jax[cuda]'; --tiny tests the benchmark on any device"
        )
        return 2
    facts, rows = machine(), []
    for case in cases(options):
        rows.append(measure(case, options))
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
    limits = {"peak_tflops": options.peak_tflops, "bandwidth_tb_per_s": options.bandwidth}
    print(
        f"\n{kind}, bfloat16, limits {options.peak_tflops:.0f} TFLOP/s, {options.bandwidth} TB/s\n"
    )
    print(table(header, printed))
    write(options.out, {"machine": facts, **limits, "rows": rows})
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
