"""Answers as annotations, for the exporters of `glamm_jax.grand.export`.

export_coco(grand_items(questions, predictions), Path("out"))

gcg       the dense caption; each mask is an object with its phrase as label
refer     an object with the expression as label; several masks of an answer are several objects
region    an object with the box and the description as attribute
caption   a caption
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

from glamm_jax.data.preprocess import ImageError, open_image
from glamm_jax.data.record import RecordError
from glamm_jax.evaluation.benchmarks.base import FAILED, Item, Prediction
from glamm_jax.grand.export.images import AnnotatedImage, ExportItem, flat_name
from glamm_jax.grand.record import GrandCaption, GrandObject, GrandRecord, PhraseGrounding
from glamm_jax.image_answers.lines import groundings
from glamm_jax.image_answers.questions import AnswerTask, FolderQuestions

MASK_SOURCE = "glamm"


def grand_items(
    questions: FolderQuestions, task: AnswerTask, predictions: Mapping[str, Prediction]
) -> Iterator[ExportItem]:
    """Yield each image with its annotations, in the order of the image ids.

    An image whose questions all failed has the status "rejected".

    Args:
        questions: that were asked.
        task: of the questions.
        predictions: the answers, by the id of the question.
    """
    items = sorted(questions.items, key=lambda item: (item.image_id, item.record))
    for name, group in groupby(items, key=lambda item: item.image_id):
        answered = [(x, predictions[x.id]) for x in group if predictions[x.id].finish != FAILED]
        yield (
            _image(questions, name, is_answered=bool(answered)),
            _record(answered, task, questions.subjects),
        )


def _image(questions: FolderQuestions, name: str, is_answered: bool) -> AnnotatedImage:
    """Describe the file; one that cannot be read is rejected."""
    digest, height, width = "", 0, 0
    try:
        content = questions.read(name).image
        digest = hashlib.sha256(content).hexdigest()
        height, width = open_image(content).shape[:2]
    except (RecordError, ImageError):
        is_answered = False
    return AnnotatedImage(
        name,
        flat_name(name),
        questions.folder / name,
        digest,
        height,
        width,
        status="ok" if is_answered else "rejected",
    )


def _record(
    answered: Sequence[tuple[Item, Prediction]], task: AnswerTask, subjects: Mapping[str, str]
) -> GrandRecord:
    objects: list[GrandObject] = []
    captions: list[str] = []
    dense: GrandCaption | None = None
    for item, prediction in answered:
        if task == "region":
            box = item.regions[0]
            objects.append(
                GrandObject(len(objects), box, ("region",), attributes=(prediction.text,))
            )
        elif task == "caption":
            captions.append(prediction.text)
        else:
            label = subjects.get(item.id, "")
            linked = _add_objects(objects, groundings(prediction), label)
            if task == "gcg":
                dense = GrandCaption(prediction.text, tuple(linked))
    return GrandRecord(
        objects=tuple(objects),
        captions=tuple(captions),
        short_captions=tuple(map(GrandCaption, captions)),
        dense_caption=dense,
        dense_source="llm" if dense else None,
    )


def _add_objects(
    objects: list[GrandObject], phrases: list[dict[str, Any]], label: str
) -> list[PhraseGrounding]:
    """Add an object for each mask; return the phrases with the ids of their objects."""
    linked = []
    spans = groupby(phrases, key=lambda x: (x["phrase"], x["start"], x["end"]))
    for (phrase, start, end), group in spans:
        ids = []
        for fields in group:
            if fields["area"]:
                name = label or phrase or "object"
                objects.append(
                    GrandObject(
                        len(objects),
                        fields["box_xyxy_pixel"],
                        (name,),
                        score=fields["score"],
                        label=name,
                        mask=fields["mask"],
                        mask_source=MASK_SOURCE,
                    )
                )
                ids.append(len(objects) - 1)
        if phrase and ids:
            boxes = tuple(objects[i].box for i in ids)
            linked.append(PhraseGrounding(phrase, (start, end), tuple(ids), boxes))
    return linked
