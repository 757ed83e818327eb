"""Referring segmentation: cIoU, all shared pixels over all pixels, and gIoU, the mean IoU.

compat, as the original counts (trap 48):

- An item is a conversation; its masks and the true ones pair up in their order. True masks without
  one count 0 in gIoU and are absent from cIoU; masks beyond the true ones are not looked at.
- IoU is shared / (all + 1e-5), and 1 where both masks are empty; gIoU divides by the number of true
  masks + 1e-5. So a perfect answer is a little less than 1.
- float32: IoUs are summed so, conversation by conversation; the sums of pixels, which are whole
  numbers, are rounded to it once.

strict: every true mask counts in both figures. One without an answer counts as answered by an
empty mask: its pixels are in the denominator of cIoU, and it is right only where the truth is
empty. IoU and mean are exact, in float64.

Pixels to be ignored (255 in the original's targets) count in neither mode. Where polygons of one
object overlap the original's targets hold 2, which it takes as background (trap 22): a truth that
reproduces its numbers has no such pixels.

Source: eval/referring_seg/infer_and_evaluate.py, tools/utils.py of the original.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from glamm_jax.metrics.iou import read_runs, shared_pixels, without
from glamm_jax.metrics.result import Irregularities, MetricError, MetricResult, Mode

RATIOS = {"cIoU": ("intersection", "union"), "gIoU": ("IoU_sum", "masks")}
RunLengths = Mapping[str, Any]
F = np.float32


def score_refseg(
    said: Mapping[str, Sequence[RunLengths | None]],
    true: Mapping[str, Sequence[RunLengths]],
    mode: Mode,
    ignored: Mapping[str, Sequence[RunLengths]] | None = None,
) -> MetricResult:
    """cIoU and gIoU of all items of `true`.

    Args:
        said: for each item its masks in the order of the expressions; None: none was given.
        true: for each item the mask of each expression.
        ignored: for items that have such, the pixels of each true mask that do not count.

    An item without a prediction has no masks; predictions of other items are left out. A mask of
    another size than the true one counts as None: as an empty mask, which keeps its place.

    Raises: MetricError naming item and mask when run lengths are broken.
    """
    notes = Irregularities()
    notes.add_unknown(said, true)
    each = {}
    for name, truths in true.items():
        masks = said.get(name, ())
        hidden = (ignored or {}).get(name) or [None] * len(truths)
        if len(hidden) != len(truths):
            raise MetricError(f"{name}: {len(truths)} true masks, {len(hidden)} of ignored pixels")
        _note(name, masks, truths, notes)
        # Of a true mask without an answer, an empty one says nothing.
        answers = [*masks[: len(truths)], *[None] * (len(truths) - len(masks))]
        counts = [
            _pixels(name, triple, notes) for triple in zip(answers, truths, hidden, strict=True)
        ]
        if truths and mode == "compat":
            each[name] = _compat(counts[: len(masks)], len(truths))
        elif truths:
            each[name] = _strict(counts)
    return MetricResult(_figures(list(each.values()), mode), each, RATIOS, notes.as_dict())


def _pixels(
    name: str, masks: tuple[RunLengths | None, RunLengths, RunLengths | None], notes: Irregularities
) -> tuple[int, int]:
    """Pixels of both, and of either: of an answer and a truth, without ignored ones."""
    try:
        true = read_runs(masks[1])
        said, hidden = (None if mask is None else read_runs(mask) for mask in masks[::2])
        if said is not None and said.size != true.size:
            notes.add("sizes disagree", (name,))
            said = None
        if hidden is not None:
            true = without(true, hidden)
            said = None if said is None else without(said, hidden)
    except ValueError as error:
        raise MetricError(f"{name}: {error}") from error
    if said is None:
        return 0, true.area
    shared = shared_pixels(said, true)
    return shared, said.area + true.area - shared


def _compat(counts: Sequence[tuple[int, int]], num_true: int) -> dict[str, float]:
    total = F(0)
    for shared, both in counts:
        total += F(shared) / (F(both) + F(1e-5)) + F(both == 0)
    return _columns(counts, float(total / F(num_true) * F(num_true)), num_true)


def _strict(counts: Sequence[tuple[int, int]]) -> dict[str, float]:
    total = sum(shared / both if both else 1.0 for shared, both in counts)
    return _columns(counts, total, len(counts))


def _columns(counts: Sequence[tuple[int, int]], iou: float, num_true: int) -> dict[str, float]:
    shared, both = (sum(each) for each in zip(*counts, strict=True)) if counts else (0, 0)
    return {"intersection": shared, "union": both, "IoU_sum": iou, "masks": num_true}


def _figures(each: Sequence[Mapping[str, float]], mode: Mode) -> dict[str, float]:
    shared, both, masks = (
        sum(columns[name] for columns in each) for name in ("intersection", "union", "masks")
    )
    if mode == "compat":
        total = F(0)
        for columns in each:
            total += F(columns["IoU_sum"])
        return {
            "cIoU": float(F(shared) / (F(both) + F(1e-10))),
            "gIoU": float(total / F(masks + 1e-5)),
        }
    if not masks:
        return {}
    # Where everything is empty, and rightly so, nothing is wrong.
    total = sum(columns["IoU_sum"] for columns in each)
    return {"cIoU": shared / both if both else 1.0, "gIoU": total / masks}


def _note(
    name: str,
    masks: Sequence[RunLengths | None],
    truths: Sequence[RunLengths],
    notes: Irregularities,
) -> None:
    notes.add_if(not truths, "no true mask", name)
    notes.add_if(len(masks) > len(truths), "more masks than expressions", name)
    notes.add_if(len(masks) < len(truths), "fewer masks than expressions", name)
    notes.add_if(any(mask is None for mask in masks), "no mask given", name)
