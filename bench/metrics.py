"""Metrics: IoU by run lengths against dense masks, and scoring a whole split of grounded captions.

    python -m bench.metrics              5,000 images of 480 x 640; two minutes
    python -m bench.metrics --images 50  seconds: shows that it runs

pairs: IoU of every mask said with every true one of an image, from COCO run lengths. dense: the
same as the original has it, decoding and two logical operations a pair. The masks are wavy discs,
five to eight an image, those said moved a little and in another order. scoring: AP, mIoU and recall
of all images, with the similarity of words: everything but the text metrics. Processor time counts,
so other programs on the machine matter little. 200 images are drawn; the others repeat them.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from pycocotools import mask as coco

from bench.measure import RESULTS, interleaved, machine, median, table, write
from glamm_jax.data.rle import encode
from glamm_jax.metrics.gcg import GroundedCaption, score_gcg
from glamm_jax.metrics.iou import pairwise_iou, read_runs
from glamm_jax.metrics.result import MODES
from glamm_jax.metrics.similarity import CachedSimilarity, WordSimilarity

SIZE = (480, 640)
FACTOR, SECONDS = 20, 120  # what is asked for
NUM_DRAWN, NUM_PAIRED, TURNS = 200, 20, 5
COLOURS = ("red", "blue", "old", "small", "wooden", "parked")
THINGS = ("bus", "dog", "table", "bird", "road", "lamp", "boat", "tree")


def disc(centre: Float[np.ndarray, "2"], radius: float, phase: float) -> dict[str, Any]:
    """Run lengths of a disc with a wavy rim: some two hundred to five hundred columns of runs."""
    y, x = np.ogrid[: SIZE[0], : SIZE[1]]
    down, right = y - centre[0], x - centre[1]
    angle = np.arctan2(down, right)
    rim = 1 + 0.3 * np.sin(3 * angle + phase) + 0.1 * np.sin(11 * angle) + 0.03 * np.sin(37 * angle)
    return encode(np.hypot(down, right) < radius * rim)


def image(number: int) -> tuple[GroundedCaption, GroundedCaption]:
    """What is said of an image, and the truth."""
    draw = np.random.default_rng(number)
    true, said, phrases = [], [], []
    for _ in range(draw.integers(5, 9)):
        centre, radius = draw.uniform(0.1, 0.9, 2) * SIZE, draw.uniform(20, 150)
        phase = draw.uniform(0, 6)
        true.append(disc(centre, radius, phase))
        said.append(disc(centre + draw.normal(0, radius / 5, 2), radius, phase))
        phrases.append(f"the {draw.choice(COLOURS)} {draw.choice(THINGS)}")
    order = draw.permutation(len(true))
    numbers = tuple(range(len(true)))
    truth = GroundedCaption("", tuple(phrases), tuple(true), numbers)
    other = GroundedCaption(
        "",
        tuple(phrases[i] for i in order),
        tuple(said[i] for i in order),
        numbers,
        tuple(draw.uniform(0.5, 1, len(true)).tolist()),
    )
    return other, truth


def by_runs(said: GroundedCaption, true: GroundedCaption) -> Float[np.ndarray, "said true"]:
    """IoU of all pairs, from run lengths as they lie in a file."""
    return pairwise_iou(*([read_runs(mask) for mask in one.masks] for one in (said, true)))


def dense(said: GroundedCaption, true: GroundedCaption) -> Float[np.ndarray, "said true"]:
    """The same from pixels."""
    packed: list[list[Any]] = [[dict(mask) for mask in one.masks] for one in (said, true)]
    pixels = [[coco.decode(mask) for mask in masks] for masks in packed]
    ious = np.zeros((len(said.masks), len(true.masks)))
    for i, one in enumerate(pixels[0]):
        for j, other in enumerate(pixels[1]):
            shared, union = np.logical_and(one, other), np.logical_or(one, other)
            ious[i, j] = np.sum(shared) / np.sum(union)
    return ious


def measure_pairs(images: Sequence[tuple[GroundedCaption, GroundedCaption]]) -> dict[str, Any]:
    """Milliseconds an image of both ways, and their ratio."""
    for each in images:
        np.testing.assert_array_equal(by_runs(*each), dense(*each))
    ways: dict[str, Callable[[], Any]] = {
        "runs": lambda: [by_runs(*each) for each in images],
        "dense": lambda: [dense(*each) for each in images],
    }
    times = interleaved(ways, TURNS, clock=time.process_time)
    spent = {name: median(each) / len(images) for name, each in times.items()}
    return {"ms": spent, "ratio": spent["dense"] / spent["runs"]}


def measure_scoring(images: Sequence[tuple[GroundedCaption, GroundedCaption]]) -> dict[str, float]:
    """Seconds to score all images, by mode."""
    said, true = ({f"{i:05d}": each[k] for i, each in enumerate(images)} for k in (0, 1))
    spent = {}
    for mode in MODES:
        start = time.process_time()
        score_gcg(said, true, CachedSimilarity(WordSimilarity()), mode)
        spent[mode] = time.process_time() - start
    return spent


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print a table, write the JSON."""
    parser = argparse.ArgumentParser(
        "python -m bench.metrics",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument("--images", type=int, default=5000, help="to be scored (default: 5000)")
    parser.add_argument("--out", type=Path, default=RESULTS / "metrics.json", help="JSON to write")
    options = parser.parse_args(arguments)
    if options.images < 1:
        parser.error("--images must be 1 at least")
    facts = machine()
    drawn = [image(number) for number in range(min(options.images, NUM_DRAWN))]
    pairs = measure_pairs(drawn[:NUM_PAIRED])
    print(f"IoU of all pairs: {pairs['ratio']:.1f} times dense (bar: {FACTOR})", flush=True)
    images = list(islice(cycle(drawn), options.images))
    scoring = measure_scoring(images)
    num_masks = sum(len(true.masks) for _, true in images)
    rows = [
        ["IoU of all pairs, runs", f"{pairs['ms']['runs']:.2f} ms an image"],
        ["IoU of all pairs, dense", f"{pairs['ms']['dense']:.2f} ms an image"],
        *([f"scoring {options.images} images, {mode}", f"{scoring[mode]:.1f} s"] for mode in MODES),
    ]
    print(table(["", "processor time"], rows))
    found = {"images": options.images, "masks": num_masks, "pairs": pairs, "scoring_s": scoring}
    write(options.out, {"machine": facts, **found, "bars": {"ratio": FACTOR, "scoring_s": SECONDS}})
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
