"""Overhead of the training loop: what a step costs beyond the time that the devices compute.

examples:
  python -m bench.train                          # 30 steps of one second; a minute
  python -m bench.train --steps 10 --seconds 3   # longer steps
  python -m bench.train --tiny                   # small images, a test of the benchmark in seconds

The program's own loop trains on rendered scenes at the sizes of the released model (CLIP 336, SAM
1024), with the batch of one device of the recipe configs/finetune_gcg.py: five batches of four
images, stacked. The step is artificial: it stands for devices that work off what they are given,
one step after another, each for the same time, while the processors of this machine are free. Masks
are decoded, images resized, batches packed, stacked and placed, metrics written, and a checkpoint
is saved, as in any run.

  overhead   (time between the ends of two steps - time of a step) / time of a step, its mean over
             the steps without the first two; at most 2 % is required
  input      part of it in which the devices waited for a batch
  loop       processor seconds a step of the thread that runs the loop, which other programs on the
             machine do not change; the rest of the overhead is waiting for a processor
  prepared   seconds of the thread that loads, stacks and places a batch: what a loop that does
             this between two steps would add to each
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass, replace
from io import StringIO
from pathlib import Path
from statistics import mean
from typing import Any
from unittest.mock import patch

import jax.numpy as jnp
import numpy as np

import glamm_jax.miniworld  # noqa: F401  # registers the datasets miniworld/NAME
from bench.measure import RESULTS, machine, table, write
from glamm_jax.cli.train import show_progress
from glamm_jax.config import released, tiny
from glamm_jax.config.experiment import (
    CheckpointConfig,
    DataConfig,
    ExperimentConfig,
    MeshConfig,
    MixtureEntry,
    OptimConfig,
)
from glamm_jax.training import loop
from glamm_jax.training.loop import StepRecord
from glamm_jax.training.losses import LOSS_NAMES
from glamm_jax.training.run_folder import METRICS, read_lines
from glamm_jax.training.step import Metrics
from glamm_jax.types import BatchShape

TOKENIZER = Path(__file__).resolve().parents[1] / "tests" / "goldens" / "tokenizer"
MAX_OVERHEAD = 0.02  # required
NUM_WARM_UP = 2  # steps that are not counted
IMAGES, ACCUMULATION_STEPS = 4, 5  # of one device of the recipe


@dataclass
class DeviceScalar:
    """A value that devices have computed at a time; reading it waits until then.

    Attributes:
        ready: on the clock of time.perf_counter.
        value: of the scalar.
    """

    ready: float
    value: float

    def is_ready(self) -> bool:
        """Whether it is computed."""
        return time.perf_counter() >= self.ready

    def copy_to_host_async(self) -> None:
        """Do nothing: the value is on the host."""

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        time.sleep(max(0.0, self.ready - time.perf_counter()))
        return np.asarray(self.value, dtype)


class ArtificialDevices:
    """Devices that compute each step for the same time, in the order in which it was started.

    Args:
        seconds: of a step.
    """

    def __init__(self, seconds: float):
        self._seconds, self._ready = seconds, 0.0

    def __call__(self, frozen: Any, state: Any, batch: Any) -> tuple[Any, Metrics]:
        """Start a step, as a compiled one does."""
        self._ready = max(self._ready, time.perf_counter()) + self._seconds

        def scalar(value: float) -> Any:
            return DeviceScalar(self._ready, value)

        losses = {name: scalar(1.0) for name in LOSS_NAMES}
        metrics = Metrics(
            **losses,
            grad_norm=scalar(1.0),
            grad_norms={},
            learning_rate=scalar(1e-3),
            skipped=scalar(0.0),
        )
        return state._replace(step=jnp.asarray(state.step + 1)), metrics

    def memory_analysis(self) -> None:
        """Return nothing: there is no program."""


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.train",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--steps", type=int, default=30, metavar="N", help="number of steps")
    parser.add_argument("--seconds", type=float, default=1.0, help="of a step on the devices")
    parser.add_argument(
        "--batches", type=int, default=ACCUMULATION_STEPS, help=f"of {IMAGES} images a step"
    )
    parser.add_argument("--workers", type=int, default=0, help="processes that read samples")
    parser.add_argument("--tiny", action="store_true", help="small images, steps of 0.2 s")
    parser.add_argument("--json", type=Path, default=RESULTS / "train.json", help="result file")
    options = parser.parse_args(arguments)
    if options.tiny:
        options.steps, options.seconds = 6, 0.2
    if options.steps <= NUM_WARM_UP:
        parser.error(f"--steps: at least {NUM_WARM_UP + 1}, the first {NUM_WARM_UP} do not count")
    return options


def configuration(options: argparse.Namespace) -> ExperimentConfig:
    """Return a run of small layers on images of the released model's sizes."""
    model, size = tiny(base_vocab_size=800), 32
    if not options.tiny:
        clip, sam = released().clip, released().sam
        model = replace(
            model,
            clip=replace(model.clip, image_size=clip.image_size, patch_size=clip.patch_size),
            sam=replace(model.sam, image_size=sam.image_size, patch_size=sam.patch_size),
        )
        size = 640
    shape = BatchShape(
        rows=IMAGES // 2,
        tokens=1792,
        targets=1024,
        images=IMAGES,
        grounding_images=IMAGES,
        masks=8 * IMAGES,
        mask_height=size,
        mask_width=size,
    )
    return ExperimentConfig(
        model,
        DataConfig(
            (MixtureEntry("miniworld/easy@64", ("gcg",)),),
            str(TOKENIZER),
            batch_shape=shape,
            share_prefix=True,
            fill_rows=True,
            workers=options.workers,
        ),
        OptimConfig(
            warmup_steps=1,
            total_steps=options.steps,
            accumulation_steps=options.batches,
            trainable="all_but_encoders",
        ),
        mesh=MeshConfig(data=1),
        checkpoint=CheckpointConfig(every=max(options.steps // 2, 1), keep_last=1),
    )


def measure(options: argparse.Namespace) -> dict[str, float]:
    """Run the loop and return its times in seconds, and the overhead as a share of a step."""
    devices = ArtificialDevices(options.seconds)
    with (
        tempfile.TemporaryDirectory() as name,
        patch.object(loop, "compile_step", lambda *_: devices),
        redirect_stderr(StringIO()),
    ):
        records = loop.train(configuration(options), Path(name) / "run")
        show_progress(_timed(records, clock := []), options.steps)
        lines = [*read_lines(Path(name) / "run" / METRICS)][NUM_WARM_UP:]
    seconds = mean(record["seconds"] for record in lines)
    return {
        "step": options.seconds,
        "seconds": seconds,
        "overhead": seconds / options.seconds - 1,
        "input": mean(record["input_seconds"] for record in lines),
        "prepared": mean(record["prepare_seconds"] for record in lines),
        "images": mean(sum(record["images"].values()) for record in lines),
        "loop": (clock[-1] - clock[NUM_WARM_UP - 1]) / len(lines),
    }


def _timed(records: Iterator[StepRecord], clock: list[float]) -> Iterator[StepRecord]:
    """Yield records, and note the processor time of this thread at each."""
    for record in records:
        clock.append(time.thread_time())
        yield record


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print a table and write the result; 1 if the overhead is too large."""
    options = parse(arguments)
    result = measure(options)
    row = [
        f"{options.seconds:g} s, {result['images']:.0f} images",
        f"{result['seconds']:.4f} s",
        f"{result['overhead']:.2%}",
        f"{result['input']:.4f} s",
        f"{result['loop']:.4f} s",
        f"{result['prepared']:.2f} s",
    ]
    header = ["artificial step", "between ends", "overhead", "input", "loop", "prepared"]
    print(table(header, [row]))
    write(options.json, {**result, "machine": machine()})
    return int(result["overhead"] > MAX_OVERHEAD)


if __name__ == "__main__":
    sys.exit(main())
