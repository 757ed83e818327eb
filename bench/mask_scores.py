"""Calibration of the scores of masks: does a mask with the score 0.9 overlap its object by 0.9?

examples:
  python -m bench.mask_scores
  python -m bench.mask_scores --limit 10 --picture out/calibration.png

Describes held-out scenes, and compares the score of every predicted mask with its IoU with the best
reference mask of the image. Prints a table; the picture shows the mean IoU of each range of scores
as a bar, beside the mean score as a line, with the number of masks below.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

import glamm_jax.miniworld  # noqa: F401  # registers the data miniworld/NAME
from bench.measure import RESULTS, machine, table, write
from glamm_jax.evaluation.benchmarks.gcg import GCG
from glamm_jax.evaluation.items import EvaluationData, open_items
from glamm_jax.evaluation.predict import predict
from glamm_jax.inference.chat import load
from glamm_jax.metrics.iou import pairwise_iou, read_runs

EDGES = (0.0, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0)
ROOT = Path(__file__).resolve().parent.parent
WIDTH, HEIGHT, MARGIN = 560, 320, 44  # of the picture, in pixels
BAR, LINE, INK, GRID = "#4c78a8", "#d62728", "#222222", "#dddddd"


class ScoreRange(NamedTuple):
    """The masks whose score lies between two limits."""

    low: float
    high: float
    masks: int
    mean_score: float
    mean_iou: float
    share_correct: float  # with an IoU of at least 0.5


def measure(model: Path, data: str, limit: int) -> tuple[list[ScoreRange], dict[str, Any]]:
    """Return the ranges that have masks, and a summary.

    Args:
        model: folder.
        data: name of the data, split `test`.
        limit: number of images.
    """
    items = open_items(GCG, EvaluationData(data, "test", limit=limit), GCG.prompt_template("ours"))
    by_id = {item.id: item for item in items.items}
    pairs: list[tuple[float, float]] = []
    for prediction in predict(
        load(model), items.records, items.items, batch_size=16, max_tokens=64
    ):
        references = [read_runs(mask) for mask in by_id[prediction.id].reference_masks]
        masks = [read_runs(mask) for mask in prediction.masks]
        if masks and references:
            best = pairwise_iou(masks, references).max(axis=1)
            pairs += zip(prediction.scores, best.tolist(), strict=True)
    scores, ious = np.array(pairs).T
    ranges = []
    for low, high in pairwise(EDGES):
        inside = (scores >= low) & ((scores < high) | (high == EDGES[-1]))
        if inside.any():
            own = ious[inside]
            mean_score, share = float(scores[inside].mean()), float((own >= 0.5).mean())
            ranges.append(
                ScoreRange(low, high, int(inside.sum()), mean_score, float(own.mean()), share)
            )
    deviation = sum(x.masks * abs(x.mean_score - x.mean_iou) for x in ranges) / len(scores)
    correlation = float(np.corrcoef(scores, ious)[0, 1])
    return ranges, {"masks": len(scores), "correlation": correlation, "deviation": deviation}


def draw(ranges: Sequence[ScoreRange], summary: dict[str, Any]) -> Image.Image:
    """Draw bars of the mean IoU and a line of the mean score.

    Args:
        ranges: from left to right.
        summary: for the title.
    """
    picture = Image.new("RGB", (WIDTH, HEIGHT), "white")
    canvas, font = ImageDraw.Draw(picture), ImageFont.load_default(12)
    bottom, top = HEIGHT - MARGIN, MARGIN
    step = (WIDTH - 2 * MARGIN) / len(ranges)

    def y(value: float) -> float:
        return bottom - value * (bottom - top)

    title = f"{summary['masks']} masks; bars: mean IoU; line: mean score"
    canvas.text((MARGIN, 14), title, INK, font)
    for value in (0.0, 0.25, 0.5, 0.75, 1.0):
        canvas.line((MARGIN, y(value), WIDTH - MARGIN, y(value)), GRID)
        canvas.text((8, y(value) - 7), f"{value:.2f}", INK, font)
    for i, item in enumerate(ranges):
        left = MARGIN + i * step
        canvas.rectangle((left + step * 0.15, y(item.mean_iou), left + step * 0.85, bottom), BAR)
        label = f"{item.low:g}-{item.high:g}\n{item.masks}"
        canvas.multiline_text((left + step * 0.15, bottom + 6), label, INK, font)
    line = [(MARGIN + (i + 0.5) * step, y(item.mean_score)) for i, item in enumerate(ranges)]
    canvas.line(line, LINE, 2)
    for px, py in line:
        canvas.ellipse((px - 3, py - 3, px + 3, py + 3), LINE)
    return picture


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.mask_scores",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model", type=Path, default=ROOT / "checkpoints" / "miniworld-tiny")
    parser.add_argument("--data", default="miniworld/easy-seen@64", help="(%(default)s)")
    parser.add_argument("--limit", type=int, default=150, help="number of images (%(default)s)")
    parser.add_argument("--picture", type=Path, help="write the diagram as PNG")
    parser.add_argument("--out", type=Path, default=RESULTS / "mask_scores.json")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print the table, write JSON and picture; returns the exit status."""
    options = parse(arguments)
    ranges, summary = measure(options.model, options.data, options.limit)
    rows = [
        (
            f"{x.low:.2f} to {x.high:.2f}",
            str(x.masks),
            *(f"{value:.3f}" for value in (x.mean_score, x.mean_iou, x.share_correct)),
        )
        for x in ranges
    ]
    print(table(("score", "masks", "mean score", "mean IoU", "IoU at least 0.5"), rows))
    print(f"correlation {summary['correlation']:.2f}, mean deviation {summary['deviation']:.3f}")
    result = {"machine": machine(), **summary, "ranges": [x._asdict() for x in ranges]}
    write(options.out, result)
    if options.picture:
        options.picture.parent.mkdir(parents=True, exist_ok=True)
        draw(ranges, summary).save(options.picture)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
