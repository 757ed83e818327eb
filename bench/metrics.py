"""Speed of metrics: IoU of run lengths against dense masks, and scoring of grounded captions.

examples:
  python -m bench.metrics                # 5,000 images of 480 x 640; two minutes
  python -m bench.metrics --images 50    # a test of the benchmark in seconds

  pairs     IoU of all predicted with all reference masks of an image. runs: from COCO run lengths.
            dense: as the original does, which decodes the masks and needs two logical operations
            per pair. The masks are discs with wavy outlines, five to eight per image; predictions
            are shifted slightly and permuted.
  scoring   AP, mIoU and recall of all images with the word similarity, without the caption metrics

Processor time is measured, so other programs have little influence. 200 images are generated and
repeated.
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
MIN_RATIO, MAX_SECONDS = 20, 120  # targets
NUM_GENERATED, NUM_PAIRED, REPEATS = 200, 20, 5
COLOURS = ("red", "blue", "old", "small", "wooden", "parked")
NOUNS = ("bus", "dog", "table", "bird", "road", "lamp", "boat", "tree")
CaptionPair = tuple[GroundedCaption, GroundedCaption]  # prediction and reference


def wavy_disc(centre: Float[np.ndarray, "2"], radius: float, phase: float) -> dict[str, Any]:
    """Return run lengths of a disc with a wavy outline, about 200 to 500 runs.

    Args:
        centre: y and x in pixels.
        radius: mean radius in pixels.
        phase: phase of the waves in radians.
    """
    y, x = np.ogrid[: SIZE[0], : SIZE[1]]
    down, right = y - centre[0], x - centre[1]
    angle = np.arctan2(down, right)
    rim = 1 + 0.3 * np.sin(3 * angle + phase) + 0.1 * np.sin(11 * angle) + 0.03 * np.sin(37 * angle)
    return encode(np.hypot(down, right) < radius * rim)


def generate_image(seed: int) -> CaptionPair:
    """Return a random prediction and its reference."""
    rng = np.random.default_rng(seed)
    references, predictions, phrases = [], [], []
    for _ in range(rng.integers(5, 9)):
        centre, radius = rng.uniform(0.1, 0.9, 2) * SIZE, rng.uniform(20, 150)
        phase = rng.uniform(0, 6)
        references.append(wavy_disc(centre, radius, phase))
        predictions.append(wavy_disc(centre + rng.normal(0, radius / 5, 2), radius, phase))
        phrases.append(f"the {rng.choice(COLOURS)} {rng.choice(NOUNS)}")
    order = rng.permutation(len(references))
    phrase_of = tuple(range(len(references)))
    reference = GroundedCaption("", tuple(phrases), tuple(references), phrase_of)
    prediction = GroundedCaption(
        "",
        tuple(phrases[i] for i in order),
        tuple(predictions[i] for i in order),
        phrase_of,
        tuple(rng.uniform(0.5, 1, len(references)).tolist()),
    )
    return prediction, reference


def iou_of_runs(
    prediction: GroundedCaption, reference: GroundedCaption
) -> Float[np.ndarray, "predictions references"]:
    """Return the IoU of all pairs, from compressed run lengths."""
    runs = [[read_runs(mask) for mask in caption.masks] for caption in (prediction, reference)]
    return pairwise_iou(*runs)


def iou_of_pixels(
    prediction: GroundedCaption, reference: GroundedCaption
) -> Float[np.ndarray, "predictions references"]:
    """Return the IoU of all pairs, from decoded masks."""
    runs: list[list[Any]] = [
        [dict(mask) for mask in caption.masks] for caption in (prediction, reference)
    ]
    pixels = [[coco.decode(mask) for mask in masks] for masks in runs]
    ious = np.zeros((len(prediction.masks), len(reference.masks)))
    for i, mask in enumerate(pixels[0]):
        for j, other in enumerate(pixels[1]):
            intersection, union = np.logical_and(mask, other), np.logical_or(mask, other)
            ious[i, j] = np.sum(intersection) / np.sum(union)
    return ious


def measure_pairs(images: Sequence[CaptionPair]) -> dict[str, Any]:
    """Return milliseconds per image of both methods, and their ratio."""
    for pair in images:
        np.testing.assert_array_equal(iou_of_runs(*pair), iou_of_pixels(*pair))
    methods: dict[str, Callable[[], Any]] = {
        "runs": lambda: [iou_of_runs(*pair) for pair in images],
        "dense": lambda: [iou_of_pixels(*pair) for pair in images],
    }
    times = interleaved(methods, REPEATS, clock=time.process_time)
    per_image = {name: median(seconds) / len(images) for name, seconds in times.items()}
    return {"ms": per_image, "ratio": per_image["dense"] / per_image["runs"]}


def measure_scoring(images: Sequence[CaptionPair]) -> dict[str, float]:
    """Return the seconds to score all images, by mode."""
    predictions = {f"{i:05d}": prediction for i, (prediction, _) in enumerate(images)}
    references = {f"{i:05d}": reference for i, (_, reference) in enumerate(images)}
    seconds = {}
    for mode in MODES:
        start = time.process_time()
        score_gcg(predictions, references, CachedSimilarity(WordSimilarity()), mode)
        seconds[mode] = time.process_time() - start
    return seconds


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print a table and write the JSON; returns the exit status."""
    options = parse(arguments)
    facts = machine()
    generated = [generate_image(seed) for seed in range(min(options.images, NUM_GENERATED))]
    pairs = measure_pairs(generated[:NUM_PAIRED])
    print(
        f"IoU of all pairs: {pairs['ratio']:.1f} times as fast as dense (target: {MIN_RATIO})",
        flush=True,
    )
    images = list(islice(cycle(generated), options.images))
    scoring = measure_scoring(images)
    num_masks = sum(len(reference.masks) for _, reference in images)
    rows = [
        ["IoU of all pairs, runs", f"{pairs['ms']['runs']:.2f} ms per image"],
        ["IoU of all pairs, dense", f"{pairs['ms']['dense']:.2f} ms per image"],
        *([f"scoring {options.images} images, {mode}", f"{scoring[mode]:.1f} s"] for mode in MODES),
    ]
    print(table(["", "processor time"], rows))
    results = {
        "machine": facts,
        "images": options.images,
        "masks": num_masks,
        "pairs": pairs,
        "scoring_s": scoring,
        "bars": {"ratio": MIN_RATIO, "scoring_s": MAX_SECONDS},
    }
    write(options.out, results)
    return 0


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse and check the command line."""
    parser = argparse.ArgumentParser(
        "python -m bench.metrics",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument("--images", type=int, default=5000, help="images to score (default: 5000)")
    parser.add_argument("--out", type=Path, default=RESULTS / "metrics.json", help="JSON to write")
    options = parser.parse_args(arguments)
    if options.images < 1:
        parser.error("--images must be at least 1")
    return options


if __name__ == "__main__":
    raise SystemExit(main())
