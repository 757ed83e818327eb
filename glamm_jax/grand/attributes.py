"""Descriptions of objects by a region captioner, and promotion of large floating objects.

    jobs = objects_to_describe(record, (640, 480), AttributeOptions())
    record = describe_objects(record, {0: "Assistant: a red cup"}, (640, 480), AttributeOptions())

Source: GranD/level_2_inference/4_gpt4roi/infer.py, inference_utils.py.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from glamm_jax.grand.geometry import box_area
from glamm_jax.grand.options import AttributeOptions
from glamm_jax.grand.record import GrandObject, GrandRecord, changed

STOP = "###"  # the region captioner's end of text
# What a conversation model writes before its answer, complete or cut.
PREFIX = re.compile(r"^\s*(?:assistant|istant)\b\s*:?\s*", re.IGNORECASE)


def remove_prefix(text: str) -> str:
    """Return a model's answer without the name of the speaker before it."""
    return PREFIX.sub("", text).strip()


def objects_to_describe(
    record: GrandRecord, size: tuple[int, int], options: AttributeOptions
) -> tuple[GrandObject, ...]:
    """Return the objects that are large enough for a description.

    Args:
        record: after the links.
        size: width and height of the image.
        options: smallest share of the image.
    """
    area = size[0] * size[1]
    return tuple(x for x in record.objects if box_area(x.box) / area >= options.min_area)


def describe_objects(
    record: GrandRecord,
    replies: Mapping[int, str],
    size: tuple[int, int],
    options: AttributeOptions,
) -> GrandRecord:
    """Put the descriptions of objects before their attributes, and promote floating objects.

    An empty description changes nothing. A text without the ": " that the released code expects is
    a description as a whole.

    Args:
        record: after the links.
        replies: the region captioner's text for each id of `objects_to_describe`.
        size: width and height of the image.
        options: how texts are cleaned, and what is promoted.
    """
    described = {item.id for item in objects_to_describe(record, size, options)}
    objects = [
        _described(item, replies[item.id], options)
        if item.id in described and item.id in replies
        else item
        for item in record.objects
    ]
    objects, floats = _promote(objects, list(record.floating_objects), size, options)
    record = changed(record, objects=tuple(objects), floating_objects=tuple(floats))
    if not options.update_links or not record.linked_floating_ids:
        return record
    promoted = {item.id for item in objects}.intersection(record.linked_floating_ids)
    return changed(
        record,
        linked_ids=tuple(sorted({*record.linked_ids, *promoted})),
        linked_floating_ids=tuple(x for x in record.linked_floating_ids if x not in promoted),
    )


def _described(item: GrandObject, reply: str, options: AttributeOptions) -> GrandObject:
    text = reply.strip().removesuffix(STOP).strip()
    pieces = text.split(": ")
    if options.prefix_only or len(pieces) < 2:
        text = remove_prefix(text)
        if not text:
            return item
    else:
        text = pieces[1]  # may be empty, or begin or end with a blank
    old = item.attributes or ()
    if options.split_text and any(key == "attributes" for key, _ in item.irregular):
        old = tuple("".join(old))
    if options.unique_texts:
        old = tuple(x for x in old if remove_prefix(x) != text)
    return changed(item, attributes=(text, *old[: options.max_old]))


def _promote(
    objects: list[GrandObject],
    floats: list[GrandObject],
    size: tuple[int, int],
    options: AttributeOptions,
) -> tuple[list[GrandObject], list[GrandObject]]:
    """Return objects and floating objects after large floating objects were promoted."""
    minimum = options.promote_area * size[0] * size[1]
    minimum = max([minimum, *(box_area(item.box) for item in objects)])
    large = [item for item in floats if box_area(item.box) > minimum]
    if not large:
        return objects, floats
    best: dict[str, GrandObject] = {}
    promoted: list[GrandObject] = []
    losers: list[GrandObject] = []
    try:
        for item in large:
            for label in item.labels:
                other = best.get(label)
                if other is None or _score(item, options) > _score(other, options):
                    best[label] = item
        for label, item in best.items():
            rivals = [_score(x, options) for x in objects if label in x.labels]
            if rivals and max(rivals) >= _score(item, options):
                losers.append(item)
            elif not (options.promote_once and any(item is x for x in promoted)):
                promoted.append(item)
    except _NoScoreError:
        return objects + promoted, floats
    removed = promoted if options.keep_losers else promoted + losers
    return objects + promoted, [x for x in floats if not any(x is y for y in removed)]


class _NoScoreError(Exception):
    """A score that is needed is missing."""


def _score(item: GrandObject, options: AttributeOptions) -> float:
    score = options.missing_score if item.score is None else item.score
    if score is None:
        raise _NoScoreError
    return score
