"""Benchmark of the loader: images per second on one core, from record bytes to a batch, by stage.

examples:
  python -m bench.loader                # three kinds of images, two minutes
  python -m bench.loader --images 4     # fewer images of each kind
  python -m bench.loader --tiny         # tiny images, a test of the benchmark in seconds

Measured implementations:

  loader     encoded records to `Batch`, at the sizes of the released model (CLIP 336, SAM 1024)
  plain      the usual implementation, also that of the original: PIL decodes and resizes, the
             images are float32, the masks are dense and of full size
  plain, memory kept
             the same with the allocator settings of the loader's workers
  bare       only decoding, both resizes and the masks, with fast common libraries: OpenCV, without
             antialiasing, and pycocotools
  own bare   the same with this project's functions, which antialias as the original does

The images are synthetic photographs of the sizes of COCO and SA-1B, with three masks each; a batch
has four of them. Processor time is measured, so other programs have little influence. Everything
but `plain` runs in a process with the environment of the loader's workers.
"""

from __future__ import annotations

import argparse
import io
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from PIL import Image
from pycocotools import mask as coco

from bench.measure import RESULTS, interleaved, machine, median, table, write
from bench.photographs import PhotographSource, write_shards
from glamm_jax.config import GLaMMConfig, released, tiny
from glamm_jax.config.experiment import DataConfig, MixtureEntry
from glamm_jax.data import rle
from glamm_jax.data.collate import join_slices
from glamm_jax.data.loader import WORKER_ENVIRONMENT, RecordRequest, SampleReader, SliceLoader
from glamm_jax.data.preprocess import (
    clip_and_grounding_images,
    clip_image,
    clip_size,
    grounding_image,
    grounding_size,
    open_image,
)
from glamm_jax.data.record import Record
from glamm_jax.data.record_shards import RecordShards
from glamm_jax.environment import environment_variables
from glamm_jax.text.label_spans import encode_turns
from glamm_jax.text.questions import with_preamble
from glamm_jax.text.tokenizer import load_tokenizer
from glamm_jax.types import Batch, BatchShape

TOKENIZER = Path(__file__).resolve().parents[1] / "tests" / "goldens" / "tokenizer"
IMAGES_PER_BATCH = 4
# Required ratios: speed of the loader / speed of plain, and / speed of bare.
OVER_PLAIN, OVER_BARE = {"COCO": 4.0, "SA-1B": 3.4}, 0.8
RATES = ("loader", "plain", "plain, memory kept", "bare", "own bare")
PARTS = ("read", "decode", "both resizes", "masks", "text", "pack")
ALONE = ("CLIP resize alone", "SAM resize alone")


class ImageKind(NamedTuple):
    """A kind of images.

    Attributes:
        name: in the tables.
        size: height and width in pixels.
        detail: exponent of the spectrum (see `bench.photographs`).
        mask_size: height and width of the masks of a batch.
        bar: key of its required ratio in `OVER_PLAIN`.
    """

    name: str
    size: tuple[int, int]
    detail: float
    mask_size: tuple[int, int]
    bar: str


KINDS = (
    ImageKind("COCO, 480 x 640", (480, 640), -1.1, (640, 640), "COCO"),
    ImageKind("SA-1B, 1500 x 2250, masks within 1024", (1500, 2250), -1.28, (1024, 1024), "SA-1B"),
    ImageKind("SA-1B, 1500 x 2250, masks of full size", (1500, 2250), -1.28, (1500, 2250), "SA-1B"),
)
TINY = (ImageKind("tiny, 48 x 64", (48, 64), -1.1, (32, 64), "COCO"),)
# The image sizes of the released model, with the vocabulary of the test tokenizer.
MODEL = replace(tiny(800), clip=released().clip, sam=released().sam)
TINY_MODEL = tiny(800)


@dataclass
class LoaderBenchmark:
    """The implementations to measure; every method processes all records of the shards.

    Attributes:
        shards: the records.
        model: its image sizes and vocabulary are used.
        data: tokenizer and batch shape.
    """

    shards: RecordShards
    model: GLaMMConfig
    data: DataConfig

    def __post_init__(self) -> None:
        self.tokenizer = load_tokenizer(self.data.tokenizer, self.model.tokens)
        self.reader = SampleReader([self.shards], self.data, self.model)
        self.records = list(self.shards)
        self.images = [open_image(record.image) for record in self.records]
        self.reads = [self.reader(i, RecordRequest(0, i, 0)) for i in range(len(self.records))]
        cv2.setNumThreads(1)

    def loader(self) -> list[Batch]:
        """Return every batch."""
        return self._batches(
            self.reader(i, RecordRequest(0, i, 0)) for i in range(len(self.shards))
        )

    def bare(self) -> None:
        """Decode images, resize them and decode masks, with common libraries."""
        clip, sam = self.model.clip.image_size, self.model.sam.image_size
        for record in self.records:
            data = np.frombuffer(record.image, np.uint8)
            image: Any = cv2.imdecode(data, cv2.IMREAD_COLOR_RGB)
            height, width = grounding_size(record.height, record.width, sam)
            padded = np.zeros((sam, sam, 3), np.uint8)
            padded[:height, :width] = cv2.resize(image, (width, height))
            height, width, top, left = _centre_crop(record, clip)
            small = cv2.resize(image, (width, height), interpolation=cv2.INTER_CUBIC)
            small[top : top + clip, left : left + clip].copy()
            coco.decode(_runs(record))

    def own_bare(self) -> None:
        """Decode images, resize them and decode masks, with this project's functions."""
        for record in self.records:
            self._resize(open_image(record.image))
            self._masks(record)

    def stages(self) -> dict[str, Callable[[], Any]]:
        """Return the stages of the loader, and both resizes separately, by name."""
        clip, sam = self.model.clip.image_size, self.model.sam.image_size
        stages: dict[str, tuple[Callable[[Any], Any], Sequence[Any]]] = {
            "read": (self.shards.__getitem__, range(len(self.shards))),
            "decode": (lambda record: open_image(record.image), self.records),
            "both resizes": (self._resize, self.images),
            "masks": (self._masks, self.records),
            "text": (self._ids, self.records),
            "CLIP resize alone": (lambda image: clip_image(image, clip), self.images),
            "SAM resize alone": (lambda image: grounding_image(image, sam), self.images),
        }

        def run(function: Callable[[Any], Any], items: Sequence[Any]) -> None:
            for item in items:
                function(item)

        runs = {name: partial(run, *stage) for name, stage in stages.items()}
        return {**runs, "pack": lambda: self._batches(iter(self.reads))}

    def plain(self) -> list[dict[str, Any]]:
        """Return every batch of the usual implementation."""
        batches = []
        for start in range(0, len(self.shards), IMAGES_PER_BATCH):
            samples = [self._plain(self.shards[start + i]) for i in range(IMAGES_PER_BATCH)]
            stacked = {name: np.stack([x[name] for x in samples]) for name in ("clip", "sam")}
            batches.append({**stacked, "masks": [sample["masks"] for sample in samples]})
        return batches

    def _batches(self, reads: Any) -> list[Batch]:
        loader = SliceLoader(self.reads, self.data, self.model, reads)
        return [
            join_slices({0: loader.next_batch().batch})
            for _ in range(len(self.shards) // IMAGES_PER_BATCH)
        ]

    def _resize(self, image: np.ndarray) -> None:
        clip_and_grounding_images(image, self.model.clip.image_size, self.model.sam.image_size)

    def _masks(self, record: Record) -> None:
        size = (record.height, record.width)
        limit = (self.data.batch_shape.mask_height, self.data.batch_shape.mask_width)
        links = record.annotations[0].links
        out = np.zeros((len(links), *rle.size_within(size, limit)), np.uint8)
        for i, link in enumerate(links):
            runs = {"size": size, "counts": record.regions[link.region].mask}
            rle.decode_into(runs, out[i])

    def _ids(self, record: Record) -> np.ndarray:
        """Return the token ids of a conversation of usual length."""
        caption = record.annotations[0]
        phrases = [caption.text[link.start : link.end] for link in caption.links]
        answer = ", ".join(f"<p> {phrase} </p> [SEG]" for phrase in phrases)
        question = f"{caption.text} Please respond with interleaved segmentation masks."
        return encode_turns([with_preamble(question), answer], self.tokenizer).ids

    def _plain(self, record: Record) -> dict[str, np.ndarray]:
        image = Image.open(io.BytesIO(record.image)).convert("RGB")
        clip, sam = self.model.clip, self.model.sam
        height, width, top, left = _centre_crop(record, clip.image_size)
        small = image.resize((width, height), Image.Resampling.BICUBIC).crop(
            (left, top, left + clip.image_size, top + clip.image_size)
        )
        height, width = grounding_size(record.height, record.width, sam.image_size)
        large = image.resize((width, height), Image.Resampling.BILINEAR)
        padded = np.zeros((3, sam.image_size, sam.image_size), np.float32)
        padded[:, :height, :width] = _normalised(large, sam.pixel_mean, sam.pixel_std)
        return {
            "clip": _normalised(small, clip.pixel_mean, clip.pixel_std),
            "sam": padded,
            "masks": np.stack([coco.decode(runs) for runs in _runs(record)]),
            "ids": self._ids(record),
        }


def _centre_crop(record: Record, size: int) -> tuple[int, int, int, int]:
    """Return height and width of the image resized for CLIP; top and left of its centre crop."""
    height, width = clip_size(record.height, record.width, size)
    return height, width, (height - size) // 2, (width - size) // 2


def _runs(record: Record) -> Any:
    """Return the masks of the grounded caption, in the format of pycocotools."""
    size = [record.height, record.width]
    regions = (record.regions[link.region] for link in record.annotations[0].links)
    return [{"size": size, "counts": region.mask} for region in regions]


def _normalised(image: Image.Image, mean: Sequence[float], std: Sequence[float]) -> np.ndarray:
    pixels = np.array(image).transpose(2, 0, 1).astype(np.float32)
    shift, scale = (np.array(values, np.float32)[:, None, None] for values in (mean, std))
    return (pixels - shift) / scale


def open_benchmark(kind: ImageKind, model: GLaMMConfig, folder: Path) -> LoaderBenchmark:
    """Return the benchmark of the shards in a folder.

    Args:
        kind: of the images.
        model: its image sizes and vocabulary are used.
        folder: of the shards.
    """
    quotas = BatchShape(
        rows=IMAGES_PER_BATCH,
        tokens=1024,
        targets=256,
        images=IMAGES_PER_BATCH,
        grounding_images=IMAGES_PER_BATCH,
        masks=8 * IMAGES_PER_BATCH,
        mask_height=kind.mask_size[0],
        mask_width=kind.mask_size[1],
    )
    data = DataConfig((MixtureEntry(str(folder), ("gcg",)),), str(TOKENIZER), batch_shape=quotas)
    return LoaderBenchmark(RecordShards(folder, "train"), model, data)


def time_runs(
    kind: ImageKind, model: GLaMMConfig, folder: Path, repeats: int, plain_only: bool
) -> tuple[dict[str, float], dict[str, Any]]:
    """Measure implementations in this process.

    Args:
        kind: of the images.
        model: its image sizes and vocabulary are used.
        folder: of the shards.
        repeats: of every run.
        plain_only: measure `plain`; otherwise everything else.

    Returns:
        Milliseconds per image by run, and facts about the images and the batch.
    """
    benchmark = open_benchmark(kind, model, folder)
    runs: dict[str, Callable[[], Any]] = {"plain": benchmark.plain}
    if not plain_only:
        runs = {
            "loader": benchmark.loader,
            "bare": benchmark.bare,
            "own bare": benchmark.own_bare,
            "plain, memory kept": benchmark.plain,
            **benchmark.stages(),
        }
    batch = benchmark.loader()[0]
    pixels = (batch.images, batch.grounding_images, batch.masks)
    facts = {
        "file_bytes": sum(len(x.image) for x in benchmark.records) / len(benchmark.records),
        "dtypes": [str(array.dtype) for array in pixels],
        "shapes": [list(array.shape) for array in pixels],
    }
    times = interleaved(runs, repeats, clock=time.process_time)
    num_images = len(benchmark.records)
    return {name: median(values) / num_images for name, values in times.items()}, facts


def measure(kind: ImageKind, model: GLaMMConfig, num_images: int, repeats: int) -> dict[str, Any]:
    """Measure `plain` in one process and all other runs in another.

    Args:
        kind: of the images.
        model: its image sizes and vocabulary are used.
        num_images: number of images in the shards.
        repeats: of every run.

    Returns:
        A row of the results: milliseconds per image by run, and their ratios.
    """
    ms: dict[str, float] = {}
    facts: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(dir=".") as name:
        folder = write_shards(PhotographSource(kind.size, kind.detail, num_images), Path(name))
        for variables, plain_only in (({}, True), (WORKER_ENVIRONMENT, False)):
            pool = ProcessPoolExecutor(1, get_context("spawn"))
            with environment_variables(**variables), pool:
                future = pool.submit(time_runs, kind, model, folder, repeats, plain_only)
                times, facts = future.result()
            ms |= times
    return {
        "kind": kind.name,
        **facts,
        "ms": ms,
        "rest_ms": ms["loader"] - sum(ms[name] for name in PARTS),
        "over_plain": ms["plain"] / ms["loader"],
        "over_plain_bar": OVER_PLAIN[kind.bar],
        "over_bare": ms["bare"] / ms["loader"],
        "over_bare_bar": OVER_BARE,
    }


def format_tables(rows: Sequence[dict[str, Any]]) -> str:
    """Return two tables: rates and ratios; time of each stage."""
    rates, shares = [], []
    for row in rows:
        ms = row["ms"]
        speeds = (f"{1e3 / ms[name]:.1f}" for name in RATES)
        ratios = (f"{row[name]:.2f} ({row[name + '_bar']})" for name in ("over_plain", "over_bare"))
        rates.append([row["kind"], *speeds, *ratios])
        parts = [*(ms[name] for name in PARTS), row["rest_ms"]]
        cells = [f"{part:.2f} ({100 * part / ms['loader']:.0f} %)" for part in parts]
        shares.append([row["kind"], *cells, *(f"{ms[name]:.2f}" for name in ALONE)])
    header = ["images/s/core", *RATES, "loader / plain (bar)", "loader / bare (bar)"]
    names = ["ms per image", *PARTS, "rest", *ALONE]
    return table(header, rates) + "\n\n" + table(names, shares)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print two tables and write the JSON; returns the exit status."""
    options = parse(arguments)
    kinds, num_images, repeats, model = KINDS, options.images, options.repeats, MODEL
    if options.tiny:
        kinds, num_images, repeats, model = TINY, IMAGES_PER_BATCH, 3, TINY_MODEL
    facts, rows = machine(), []
    for kind in kinds:
        rows.append(measure(kind, model, num_images, repeats))
        print(f"{kind.name}: {1e3 / rows[-1]['ms']['loader']:.1f} images/s/core", flush=True)
    print("\n" + format_tables(rows))
    write(options.out, {"machine": facts, "images": num_images, "rows": rows})
    return 0


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse and check the command line."""
    parser = argparse.ArgumentParser(
        "python -m bench.loader", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--images", type=int, default=8, help="images of each kind (default: 8)")
    parser.add_argument(
        "--repeats", type=int, default=9, help="repetitions of each run (default: 9)"
    )
    parser.add_argument("--tiny", action="store_true", help="four tiny images, three repeats")
    parser.add_argument("--out", type=Path, default=RESULTS / "loader.json", help="JSON to write")
    options = parser.parse_args(arguments)
    if options.images < 1 or options.images % IMAGES_PER_BATCH:
        parser.error(f"--images must be a multiple of {IMAGES_PER_BATCH}")
    return options


if __name__ == "__main__":
    raise SystemExit(main())
