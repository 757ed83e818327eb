"""Training steps with packed and with unpacked rows: samples per second, memory, and losses.

examples:
  python -m bench.packing                   # four conversations for each image; five minutes
  python -m bench.packing --conversations 1 # one: rows are shared by images only
  python -m bench.packing --tiny            # short rows, a test of the benchmark in seconds

The program's own training step runs on the same samples in three layouts, on the device that jax
chooses (on a GPU in bfloat16):

  fixed      one conversation a row, rows of 1,536 tokens, as the recipes had them before packing
  shortest   one conversation a row, rows as long as the longest conversation
  packed     conversations behind their image and images in a row while they fit, rows of 1,792
             tokens, as the recipes have them

A sample is an image of 576 patches with its conversations, of 775 tokens on average with the image
(lengths are random, from a seed). The language model is a small LLaMA (`--width`, `--layers`); both
image encoders are tiny and run once for an image in all three layouts, so that the ratio is that of
the language model, whose share of the FLOPs of the released model is the largest. Calls alternate,
and the median is reported. Required: at least twice the samples per second of `fixed` with four
conversations for each image, and equal losses. Memory: temporaries of the compiled step.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx

from bench.measure import RESULTS, interleaved, machine, median, table, write
from glamm_jax.config import GLaMMConfig, LlamaConfig, LossWeights, tiny, with_lora
from glamm_jax.config.experiment import OptimConfig
from glamm_jax.data.collate import build_batch
from glamm_jax.data.encode import Sample, TokenizedConversation
from glamm_jax.data.packing import UNPACKED, Packing
from glamm_jax.models.glamm import GLaMM
from glamm_jax.parallel import platform
from glamm_jax.text.special_tokens import IGNORE_ID, IMAGE_ID
from glamm_jax.training.optimizer import make_optimizer
from glamm_jax.training.parameter_groups import trainable_filter
from glamm_jax.training.state import split_model
from glamm_jax.training.step import compile_step, make_step
from glamm_jax.types import Batch, BatchShape

PACKED = Packing(share_prefix=True, fill_rows=True)
LAYOUTS = {"fixed": (UNPACKED, 1536), "shortest": (UNPACKED, None), "packed": (PACKED, 1792)}
MIN_SPEED_UP = 2.0  # required, with four conversations for each image
MAX_DIFFERENCE = 1e-6  # of the losses, relative, in float32
IMAGE_SIDE, PATCH = 48, 2  # 24 x 24 patches, as many as the released model has
PREFIX_WORDS, MEAN_TEXT = 40, 199  # tokens; 575 more than the ids stand for: 775 with the image


@dataclass
class CompiledLayout:
    """A compiled step and its batch.

    Attributes:
        run: runs one step, and returns the loss.
        batch: of the step.
        row_fill: share of the positions that hold a token.
        temporaries: bytes of the compiled step.
    """

    run: Callable[[], Any]
    batch: Batch
    row_fill: float
    temporaries: int


def model_config(options: argparse.Namespace) -> GLaMMConfig:
    """Return a model with as many patches as the released one, and a small language model."""
    base = with_lora(tiny(base_vocab_size=800))
    side = 8 if options.tiny else IMAGE_SIDE
    llama = LlamaConfig(
        num_layers=options.layers,
        hidden_dim=options.width,
        mlp_dim=11 * options.width // 4,
        num_heads=max(options.width // 64, 1),
        vocab_size=base.llama.vocab_size,
    )
    return replace(
        base,
        clip=replace(base.clip, image_size=side, patch_size=PATCH),
        sam=replace(base.sam, image_size=64),
        llama=llama,
        compute_dtype="float32" if platform() == "cpu" else "bfloat16",
    )


def make_samples(config: GLaMMConfig, options: argparse.Namespace) -> list[Sample]:
    """Return samples with conversations of random words and lengths."""
    rng = np.random.default_rng(0)
    side, mean = config.clip.image_size, 12 if options.tiny else MEAN_TEXT - PREFIX_WORDS

    def conversation() -> TokenizedConversation:
        length = int(rng.integers(mean // 2, mean * 3 // 2))
        words = rng.integers(10, 700, length).astype(np.int32)
        prefix = np.arange(10, 10 + PREFIX_WORDS, dtype=np.int32)
        ids = np.concatenate([[1], prefix, [IMAGE_ID], words]).astype(np.int32)
        labels = np.where(np.arange(len(ids)) < len(ids) - length // 2, IGNORE_ID, ids)
        return TokenizedConversation(ids, labels.astype(np.int32), 0)

    return [
        Sample(
            tuple(conversation() for _ in range(options.conversations)),
            rng.integers(0, 256, (side, side, 3), dtype=np.uint8),
        )
        for _ in range(options.images)
    ]


def compile_layout(
    config: GLaMMConfig, samples: Sequence[Sample], packing: Packing, tokens: int | None
) -> CompiledLayout:
    """Compile the training step for the samples packed in one layout.

    Args:
        config: of the model.
        samples: of the batch.
        packing: how conversations share rows.
        tokens: of a row; None: as many as the longest needs.
    """
    limit = BatchShape(tokens=tokens, targets=tokens) if tokens else None
    builder = build_batch(samples, config, packing, limit)
    shape = builder.required_shape
    shape = replace(shape, tokens=tokens or shape.tokens)
    batch = jax.device_put(builder.build(shape))
    optim = OptimConfig(warmup_steps=1, total_steps=1000)
    split = split_model(
        GLaMM(config, rngs=nnx.Rngs(0)),
        trainable_filter(optim.trainable),
        make_optimizer(optim),
        config.compute_dtype,
    )
    program = compile_step(make_step(config, optim, LossWeights()), split, batch)
    state = split.state

    def run() -> Any:
        nonlocal state
        state, metrics = program(split.frozen, state, batch)
        return jax.block_until_ready(metrics.loss)

    temporaries = program.memory_analysis().temp_size_in_bytes
    return CompiledLayout(run, batch, builder.fill(shape)["tokens"].share, temporaries)


def measure(options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Return the figures of each layout."""
    config = model_config(options)
    samples = make_samples(config, options)
    lengths = {"fixed": 160, "packed": 160} if options.tiny else {}
    layouts = {
        name: compile_layout(config, samples, packing, lengths.get(name, tokens))
        for name, (packing, tokens) in LAYOUTS.items()
    }
    first = {name: float(layout.run()) for name, layout in layouts.items()}
    times = interleaved({name: layout.run for name, layout in layouts.items()}, options.repeats)
    results = {}
    for name, layout in layouts.items():
        seconds = median(times[name]) / 1e3
        rows, tokens = layout.batch.token_ids.shape
        results[name] = {
            "rows": rows,
            "tokens": tokens,
            "row_fill": round(layout.row_fill, 4),
            "seconds": round(seconds, 4),
            "samples_per_second": round(options.images / seconds, 4),
            "temporaries_mib": round(layout.temporaries / 2**20, 1),
            "loss": first[name],
        }
    for result in results.values():
        result["speed_up"] = round(results["fixed"]["seconds"] / result["seconds"], 2)
    return results


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print a table and write the result; 1 if a requirement is not met."""
    options = parse(arguments)
    results = measure(options)
    header = ["rows", "row fill", "s/step", "samples/s", "x fixed", "temporaries", "loss"]
    rows = [
        [
            f"{name}: {result['rows']} x {result['tokens']}",
            f"{result['row_fill']:.1%}",
            f"{result['seconds']:.3f}",
            f"{result['samples_per_second']:.3f}",
            f"{result['speed_up']:.2f}",
            f"{result['temporaries_mib']:.0f} MiB",
            f"{result['loss']:.7f}",
        ]
        for name, result in results.items()
    ]
    print(table(header, rows))
    sizes = {name: value for name, value in vars(options).items() if name != "json"}
    write(options.json, {"ways": results, "machine": machine(), "options": sizes})
    losses = [result["loss"] for result in results.values()]
    is_exact = platform() == "cpu"  # elsewhere in bfloat16
    differs = is_exact and max(losses) - min(losses) > MAX_DIFFERENCE * max(losses)
    is_slow = options.conversations >= 4 and results["packed"]["speed_up"] < MIN_SPEED_UP
    return int(differs or (is_slow and not options.tiny))


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.packing",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--conversations", type=int, default=4, metavar="N", help="of an image")
    parser.add_argument("--images", type=int, default=2, metavar="N", help="of the batch")
    parser.add_argument("--width", type=int, default=512, help="of the language model")
    parser.add_argument("--layers", type=int, default=4, help="of the language model")
    parser.add_argument("--repeats", type=int, default=5, metavar="N", help="timed steps of each")
    parser.add_argument("--tiny", action="store_true", help="short rows, a narrow model")
    parser.add_argument("--json", type=Path, default=RESULTS / "packing.json", help="result file")
    options = parser.parse_args(arguments)
    if options.tiny:
        options.width, options.layers, options.repeats = 64, 1, 1
    return options


if __name__ == "__main__":
    sys.exit(main())
