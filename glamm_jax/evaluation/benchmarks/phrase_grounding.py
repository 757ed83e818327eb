"""The benchmark `phrase_grounding`: masks of the phrases of a given caption, appendix B.1.

The paper shows images and publishes no metrics.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from glamm_jax.data.conversation_sampler import mark_phrases, phrase_spans
from glamm_jax.data.record import Record
from glamm_jax.evaluation.benchmarks.base import (
    Benchmark,
    Item,
    Predictions,
    PromptTemplate,
    TextScorers,
    annotations_of_task,
    union_mask,
)
from glamm_jax.metrics.phrase_grounding import score_grounding
from glamm_jax.metrics.result import MetricResult, Mode
from glamm_jax.text.questions import GROUNDING_QUESTIONS


def items_from_record(record: Record, index: int, prompt: PromptTemplate) -> Iterator[Item]:
    """Make an item of the record's first grounded caption; the prompt has it, phrases marked.

    Args:
        record: with annotations.
        index: of the record in its source.
        prompt: of the item.
    """
    for caption in annotations_of_task(record, "gcg")[:1]:
        spans = phrase_spans(caption, [])
        if spans:
            yield Item(
                record.image_id,
                record.image_id,
                index,
                prompt.format(mark_phrases(caption.text, spans)),
                reference_phrases=tuple(caption.text[start:end] for start, end in spans),
                reference_masks=tuple(union_mask(record, links) for links in spans.values()),
            )


def score(
    items: Sequence[Item], predictions: Predictions, mode: Mode, scorers: TextScorers
) -> MetricResult:
    """Compute mIoU, and recall at an IoU of 0.5.

    Args:
        items: to be scored.
        predictions: by item id.
        mode: of counting.
        scorers: unused.
    """
    captions = {name: x.grounded_caption() for name, x in predictions.items()}
    references = {item.id: item.reference_caption() for item in items}
    return score_grounding(captions, references, mode)


PHRASE_GROUNDING = Benchmark(
    name="phrase_grounding",
    description="phrase grounding: masks of the phrases of a given caption",
    splits=("val", "test"),
    original_prompt=GROUNDING_QUESTIONS[0],
    training_prompt=GROUNDING_QUESTIONS[0],
    items_from_record=items_from_record,
    score=score,
    mode_differences={
        "mIoU": "compat: masks match references by their order, missing ones are left out; "
        "strict: by their phrases, missing ones count 0",
        "recall": "compat: masks match references by their order; strict: by their phrases",
    },
)
