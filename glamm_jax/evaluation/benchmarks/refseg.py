"""The benchmark `refseg`: referring segmentation on refCOCO, refCOCO+, refCOCOg; table 4.

Every expression is evaluated in two ways. Teacher-forced, as in the original and the paper (cIoU,
gIoU): up to three expressions of an image form one conversation with given answers, and the masks
are those of its [SEG]s. Free-running (free cIoU, free gIoU): every expression is a question of its
own, and the model has to generate [SEG].
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from glamm_jax.data import rle
from glamm_jax.data.conversation_sampler import decode_union
from glamm_jax.data.record import Link, Record
from glamm_jax.evaluation.benchmarks.base import (
    Benchmark,
    Item,
    Predictions,
    PromptTemplate,
    RunLengths,
    TextScorers,
    annotations_of_task,
    union_mask,
)
from glamm_jax.evaluation.benchmarks.mask_items import (
    FORCED_SUFFIX,
    FREE_PREFIX,
    free_running,
    teacher_forced,
)
from glamm_jax.evaluation.published import PaperTable
from glamm_jax.metrics.refseg import score_refseg
from glamm_jax.metrics.result import MetricResult, Mode
from glamm_jax.text.questions import REFERRING_INSTRUCTION, SEGMENTATION_QUESTIONS

NUM_FORCED = 3  # expressions of an image in the original's evaluation (quirk 48)


def items_from_record(record: Record, index: int, prompt: PromptTemplate) -> Iterator[Item]:
    """Make a free-running item of every expression, and one teacher-forced item.

    Args:
        record: with annotations.
        index: of the record in its source.
        prompt: of the items; its seed selects the teacher-forced expressions.

    Source: dataset/segm_datasets/RefCOCO_Segm_ds.py (inference=True).
    Differs: there a global generator samples the three expressions anew in each run; here they
        follow from the seed and the image id.
    """
    annotations = [
        annotation
        for annotation in annotations_of_task(record, "referring")
        if all(record.regions[link.region].mask is not None for link in annotation.links)
    ]
    names = [annotation.text.strip().lower() for annotation in annotations]
    prompts = [prompt.format(name) for name in names]
    masks = [union_mask(record, annotation.links) for annotation in annotations]
    overlaps = [_overlap(record, annotation.links) for annotation in annotations]
    items = [
        Item(
            f"{record.image_id}/{k}",
            record.image_id,
            index,
            prompts[k],
            reference_phrases=(names[k],),
            reference_masks=(masks[k],),
            reference_overlaps=(overlap,) if overlap else (),
        )
        for k, overlap in enumerate(overlaps)
    ]
    yield from items
    if items:
        sample = _sample_expressions(len(items), prompt.seed, record.image_id)
        yield teacher_forced(
            f"{record.image_id}{FORCED_SUFFIX}",
            [items[k] for k in sample],
            [prompt.forced_answer] * len(sample),
        )


def _overlap(record: Record, links: Sequence[Link]) -> RunLengths | None:
    """Return the pixels that the masks of the linked regions cover at least twice."""
    if all(record.regions[link.region].overlap is None for link in links):
        return None
    counts = np.zeros((record.height, record.width), np.uint8)
    decode_union(record, links, counts)
    return rle.encode(counts > 1)


def _sample_expressions(num_expressions: int, seed: int, image_id: str) -> list[int]:
    """Return the indices of the teacher-forced expressions, in the order of the conversation."""
    if num_expressions < NUM_FORCED:
        return [*range(num_expressions)]
    rng = np.random.default_rng([seed, *image_id.encode("utf-8")])
    return rng.choice(num_expressions, NUM_FORCED, replace=False).tolist()


def score(
    items: Sequence[Item], predictions: Predictions, mode: Mode, scorers: TextScorers
) -> MetricResult:
    """Compute cIoU and gIoU of teacher-forced items, and of free-running items under "free".

    Args:
        items: an item with a history is teacher-forced.
        predictions: by item id.
        mode: of counting.
        scorers: unused.
    """
    forced = [item for item in items if item.history]
    free = [item for item in items if not item.history]
    result = _score_masks(forced, predictions, mode) if forced else MetricResult({})
    return result | free_running(_score_masks(free, predictions, mode)) if free else result


def _score_masks(items: Sequence[Item], predictions: Predictions, mode: Mode) -> MetricResult:
    masks = {}
    for item in items:
        if item.id in predictions:
            predicted = predictions[item.id].masks
            # Masks in the answer to the closing prompt do not count.
            masks[item.id] = predicted[: len(item.reference_masks)] if item.history else predicted
    references = {
        item.id: _without_overlaps(item) if mode == "compat" else item.reference_masks
        for item in items
    }
    return score_refseg(masks, references, mode)


def _without_overlaps(item: Item) -> tuple[RunLengths, ...]:
    """Return the reference masks as the original counts them."""
    # quirk 22: pixels that the polygons of a mask cover twice are background.
    if not item.reference_overlaps:
        return item.reference_masks
    return tuple(
        mask if overlap is None else rle.encode(rle.decode(mask) & ~rle.decode(overlap))
        for mask, overlap in zip(item.reference_masks, item.reference_overlaps, strict=True)
    )


# Appendix A.3: the GLaMM of this table is fine-tuned on the three.
TABLE = PaperTable(
    4,
    (
        *("refcoco/val", "refcoco/testA", "refcoco/testB"),
        *("refcoco+/val", "refcoco+/testA", "refcoco+/testB"),
        *("refcocog/val", "refcocog/test"),
    ),
    ("cIoU",),
    (
        ("GLaMM", "fine-tuned", "79.5 83.2 76.9  72.6 78.7 64.6  74.2 74.9"),
        ("LISA-7B", "unspecified", "74.9 79.1 72.3  65.1 70.8 58.1  67.9 70.6"),
        ("SEEM", "unspecified", "- - -  - - -  65.7 -"),
        ("X-Decoder", "unspecified", "- - -  - - -  64.6 -"),
        ("GRES", "unspecified", "73.8 76.5 70.2  66.0 71.0 57.7  65.0 66.0"),
        ("LAVT", "unspecified", "72.7 75.8 68.8  62.1 68.4 55.1  61.2 62.1"),
        ("CRIS", "unspecified", "70.5 73.2 66.1  65.3 68.1 53.7  59.9 60.4"),
    ),
)
_DIFFERENCES = {
    "cIoU": "compat leaves reference masks without a prediction out; strict counts their pixels",
    "gIoU": "compat adds 1e-5 to both denominators",
}

REFSEG = Benchmark(
    name="refseg",
    description="referring segmentation: a mask for every expression; cIoU, gIoU teacher-forced "
    "as in the paper; free cIoU, free gIoU free-running",
    splits=("val", "test", "testA", "testB"),
    original_prompt=REFERRING_INSTRUCTION,
    training_prompt=SEGMENTATION_QUESTIONS[0],
    items_from_record=items_from_record,
    score=score,
    in_validation=True,
    published=TABLE.rows(),
    mode_differences={
        **_DIFFERENCES,
        **{FREE_PREFIX + name: text for name, text in _DIFFERENCES.items()},
    },
)
