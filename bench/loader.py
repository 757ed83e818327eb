"""The loader: pictures a second on one core, from the bytes of records to a batch, stage by stage.

    python -m bench.loader                three kinds of pictures, two minutes
    python -m bench.loader --pictures 4   fewer of each
    python -m bench.loader --tiny         seconds: shows that it runs

whole: record bytes to `Batch`, at the sizes of the released model (CLIP 336, SAM 1024). plain: the
same as it is commonly written, and as the original does it: PIL decodes and resizes, float32 leaves
the host, masks are dense and of full size. bare: decoding, both resizes and the masks alone, by
fast common libraries: OpenCV, without antialiasing, and pycocotools. own bare: the same by the
means of the whole path, which antialias as the original does. Drawn photographs of COCO's and
SA-1B's sizes, three masks each; a batch is four of them. Processor time counts, so other programs
matter little. Ours runs in a process like the pipeline's workers, the plain path in an ordinary
one; "plain, memory kept" is the plain path in a process like ours.
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
from glamm_jax.data.batch_filling import Filler
from glamm_jax.data.collate import join, shaped
from glamm_jax.data.loader import WORKER_ENVIRONMENT, Reader, Ticket
from glamm_jax.data.packing import Packing
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
PICTURES_A_BATCH = 4
# What is asked for: the whole over the plain path, and over the bare cost.
OVER_PLAIN, OVER_BARE = {"COCO": 4.0, "SA-1B": 3.4}, 0.8
RATES = ("whole", "plain", "plain, memory kept", "bare", "own bare")
PARTS = ("read", "decode", "both resizes", "masks", "text", "pack")
ALONE = ("CLIP's resize alone", "SAM's resize alone")


class Kind(NamedTuple):
    """Pictures of one kind: size, detail (see `bench.photographs`), height and width of the masks of
    a batch, and whose bar it is."""

    name: str
    size: tuple[int, int]
    detail: float
    mask_room: tuple[int, int]
    bar: str


KINDS = (
    Kind("COCO, 480 x 640", (480, 640), -1.1, (640, 640), "COCO"),
    Kind("SA-1B, 1500 x 2250, masks within 1024", (1500, 2250), -1.28, (1024, 1024), "SA-1B"),
    Kind("SA-1B, 1500 x 2250, masks of full size", (1500, 2250), -1.28, (1500, 2250), "SA-1B"),
)
TINY = (Kind("tiny, 48 x 64", (48, 64), -1.1, (32, 64), "COCO"),)
# The released model's pictures, with the vocabulary of the tokenizer at hand.
MODEL = replace(tiny(800), clip=released().clip, sam=released().sam)
TINY_MODEL = tiny(800)


@dataclass
class Work:
    """What is done to the records of some shards; each method does it to all of them."""

    shards: RecordShards
    model: GLaMMConfig
    data: DataConfig

    def __post_init__(self) -> None:
        self.tokenizer = load_tokenizer(self.data.tokenizer, self.model.tokens)
        self.reader = Reader([self.shards], self.data, self.model)
        self.records = list(self.shards)
        self.images = [open_image(record.image) for record in self.records]
        self.reads = [self.reader(i, Ticket(0, i, 0)) for i in range(len(self.records))]
        cv2.setNumThreads(1)

    def whole(self) -> list[Batch]:
        """Every batch."""
        return self._batches(self.reader(i, Ticket(0, i, 0)) for i in range(len(self.shards)))

    def bare(self) -> None:
        """Decode, resize, masks, by common libraries."""
        clip, sam = self.model.clip.image_size, self.model.sam.image_size
        for record in self.records:
            data = np.frombuffer(record.image, np.uint8)
            image: Any = cv2.imdecode(data, cv2.IMREAD_COLOR_RGB)
            height, width = grounding_size(record.height, record.width, sam)
            padded = np.zeros((sam, sam, 3), np.uint8)
            padded[:height, :width] = cv2.resize(image, (width, height))
            height, width, top, left = _centre(record, clip)
            small = cv2.resize(image, (width, height), interpolation=cv2.INTER_CUBIC)
            small[top : top + clip, left : left + clip].copy()
            coco.decode(_runs(record))

    def own_bare(self) -> None:
        """Decode, resize, masks, by our own means."""
        for record in self.records:
            self._both(open_image(record.image))
            self._masks(record)

    def stages(self) -> dict[str, Callable[[], Any]]:
        """The parts of the whole, and the resizes one by one."""
        clip, sam = self.model.clip.image_size, self.model.sam.image_size
        each: dict[str, tuple[Callable[[Any], Any], Sequence[Any]]] = {
            "read": (self.shards.__getitem__, range(len(self.shards))),
            "decode": (lambda record: open_image(record.image), self.records),
            "both resizes": (self._both, self.images),
            "masks": (self._masks, self.records),
            "text": (self._ids, self.records),
            "CLIP's resize alone": (lambda image: clip_image(image, clip), self.images),
            "SAM's resize alone": (lambda image: grounding_image(image, sam), self.images),
        }

        def all_of(work: Callable[[Any], Any], items: Sequence[Any]) -> None:
            for item in items:
                work(item)

        runs = {name: partial(all_of, *both) for name, both in each.items()}
        return {**runs, "pack": lambda: self._batches(iter(self.reads))}

    def plain(self) -> list[dict[str, Any]]:
        """The same as it is commonly written."""
        batches = []
        for start in range(0, len(self.shards), PICTURES_A_BATCH):
            made = [self._plain(self.shards[start + i]) for i in range(PICTURES_A_BATCH)]
            stacked = {name: np.stack([one[name] for one in made]) for name in ("clip", "sam")}
            batches.append({**stacked, "masks": [one["masks"] for one in made]})
        return batches

    def _batches(self, reads: Any) -> list[Batch]:
        quotas, packing = self.data.batch_shape, Packing()
        filler = Filler(reads, self.model, quotas, packing, self.data.max_deferred)
        patches = self.model.clip.num_patches
        return [
            join({0: shaped(filler.fill(), self.model, quotas)}, quotas, patches)
            for _ in range(len(self.shards) // PICTURES_A_BATCH)
        ]

    def _both(self, image: np.ndarray) -> None:
        clip_and_grounding_images(image, self.model.clip.image_size, self.model.sam.image_size)

    def _masks(self, record: Record) -> None:
        size = (record.height, record.width)
        room = (self.data.batch_shape.mask_height, self.data.batch_shape.mask_width)
        links = record.annotations[0].links
        out = np.zeros((len(links), *rle.size_within(size, room)), np.uint8)
        for i, link in enumerate(links):
            runs = {"size": size, "counts": record.regions[link.region].mask}
            rle.decode_into(runs, out[i])

    def _ids(self, record: Record) -> np.ndarray:
        """Of a conversation as long as those that are drawn."""
        caption = record.annotations[0]
        phrases = [caption.text[link.start : link.end] for link in caption.links]
        answer = ", ".join(f"<p> {phrase} </p> [SEG]" for phrase in phrases)
        question = f"{caption.text} Please respond with interleaved segmentation masks."
        return encode_turns([with_preamble(question), answer], self.tokenizer).ids

    def _plain(self, record: Record) -> dict[str, np.ndarray]:
        picture = Image.open(io.BytesIO(record.image)).convert("RGB")
        clip, sam = self.model.clip, self.model.sam
        height, width, top, left = _centre(record, clip.image_size)
        small = picture.resize((width, height), Image.Resampling.BICUBIC).crop(
            (left, top, left + clip.image_size, top + clip.image_size)
        )
        height, width = grounding_size(record.height, record.width, sam.image_size)
        large = picture.resize((width, height), Image.Resampling.BILINEAR)
        padded = np.zeros((3, sam.image_size, sam.image_size), np.float32)
        padded[:, :height, :width] = _normalised(large, sam.pixel_mean, sam.pixel_std)
        return {
            "clip": _normalised(small, clip.pixel_mean, clip.pixel_std),
            "sam": padded,
            "masks": np.stack([coco.decode(one) for one in _runs(record)]),
            "ids": self._ids(record),
        }


def _centre(record: Record, size: int) -> tuple[int, int, int, int]:
    """Height and width for CLIP, and where the centre square begins: top and left."""
    height, width = clip_size(record.height, record.width, size)
    return height, width, (height - size) // 2, (width - size) // 2


def _runs(record: Record) -> Any:
    """The masks that a record speaks of, as pycocotools takes them."""
    size = [record.height, record.width]
    regions = (record.regions[link.region] for link in record.annotations[0].links)
    return [{"size": size, "counts": region.mask} for region in regions]


def _normalised(picture: Image.Image, mean: Sequence[float], std: Sequence[float]) -> np.ndarray:
    pixels = np.array(picture).transpose(2, 0, 1).astype(np.float32)
    shift, scale = (np.array(values, np.float32)[:, None, None] for values in (mean, std))
    return (pixels - shift) / scale


def work_on(kind: Kind, model: GLaMMConfig, folder: Path) -> Work:
    """The work on the shards in a folder."""
    quotas = BatchShape(
        rows=PICTURES_A_BATCH,
        tokens=1024,
        targets=256,
        images=PICTURES_A_BATCH,
        grounding_images=PICTURES_A_BATCH,
        masks=8 * PICTURES_A_BATCH,
        mask_height=kind.mask_room[0],
        mask_width=kind.mask_room[1],
    )
    data = DataConfig((MixtureEntry(str(folder), ("gcg",)),), str(TOKENIZER), batch_shape=quotas)
    return Work(RecordShards(folder, "train"), model, data)


def timed(
    kind: Kind, model: GLaMMConfig, folder: Path, turns: int, ours: bool
) -> tuple[dict[str, float], dict[str, Any]]:
    """Milliseconds a picture of the plain path, or of everything; and what was seen on the way."""
    work = work_on(kind, model, folder)
    runs: dict[str, Callable[[], Any]] = {"plain": work.plain}
    if ours:
        kept = {"plain, memory kept": work.plain}
        bare = {"bare": work.bare, "own bare": work.own_bare}
        runs = {"whole": work.whole, **bare, **kept, **work.stages()}
    batch = work.whole()[0]
    pixels = (batch.images, batch.grounding_images, batch.masks)
    seen = {
        "file_bytes": sum(len(record.image) for record in work.records) / len(work.records),
        "dtypes": [str(array.dtype) for array in pixels],
        "shapes": [list(array.shape) for array in pixels],
    }
    times = interleaved(runs, turns, clock=time.process_time)
    return {name: median(each) / len(work.records) for name, each in times.items()}, seen


def measure(kind: Kind, model: GLaMMConfig, num_pictures: int, turns: int) -> dict[str, Any]:
    """Milliseconds a picture, and the ratios; each side in a process of its own."""
    spent: dict[str, float] = {}
    seen: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(dir=".") as name:
        folder = write_shards(PhotographSource(kind.size, kind.detail, num_pictures), Path(name))
        for variables, ours in (({}, False), (WORKER_ENVIRONMENT, True)):
            pool = ProcessPoolExecutor(1, get_context("spawn"))
            with environment_variables(**variables), pool:
                found, seen = pool.submit(timed, kind, model, folder, turns, ours).result()
            spent |= found
    return {
        "kind": kind.name,
        **seen,
        "ms": spent,
        "rest_ms": spent["whole"] - sum(spent[name] for name in PARTS),
        "over_plain": spent["plain"] / spent["whole"],
        "over_plain_bar": OVER_PLAIN[kind.bar],
        "over_bare": spent["bare"] / spent["whole"],
        "over_bare_bar": OVER_BARE,
    }


def printed(rows: Sequence[dict[str, Any]]) -> str:
    """The rates and ratios, then where the time goes."""
    rates, shares = [], []
    for row in rows:
        spent = row["ms"]
        speeds = (f"{1e3 / spent[name]:.1f}" for name in RATES)
        ratios = (f"{row[name]:.2f} ({row[name + '_bar']})" for name in ("over_plain", "over_bare"))
        rates.append([row["kind"], *speeds, *ratios])
        parts = [*(spent[name] for name in PARTS), row["rest_ms"]]
        shown = [f"{part:.2f} ({100 * part / spent['whole']:.0f} %)" for part in parts]
        shares.append([row["kind"], *shown, *(f"{spent[name]:.2f}" for name in ALONE)])
    header = ["images/s/core", *RATES, "whole / plain (bar)", "whole / bare (bar)"]
    names = ["ms a picture", *PARTS, "rest", *ALONE]
    return table(header, rates) + "\n\n" + table(names, shares)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print two tables, write the JSON."""
    parser = argparse.ArgumentParser(
        "python -m bench.loader", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--pictures", type=int, default=8, help="of each kind (default: 8)")
    parser.add_argument("--turns", type=int, default=9, help="calls of each (default: 9)")
    parser.add_argument("--tiny", action="store_true", help="four tiny pictures, three turns")
    parser.add_argument("--out", type=Path, default=RESULTS / "loader.json", help="JSON to write")
    options = parser.parse_args(arguments)
    if options.pictures < 1 or options.pictures % PICTURES_A_BATCH:
        parser.error(f"--pictures must be a multiple of {PICTURES_A_BATCH}")
    kinds, pictures, turns, model = KINDS, options.pictures, options.turns, MODEL
    if options.tiny:
        kinds, pictures, turns, model = TINY, PICTURES_A_BATCH, 3, TINY_MODEL
    facts, rows = machine(), []
    for kind in kinds:
        rows.append(measure(kind, model, pictures, turns))
        print(f"{kind.name}: {1e3 / rows[-1]['ms']['whole']:.1f} images/s/core", flush=True)
    print("\n" + printed(rows))
    write(options.out, {"machine": facts, "pictures": pictures, "rows": rows})
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
