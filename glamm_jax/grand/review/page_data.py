"""What the review page shows of an image, and what it sends back.

The page sends all of its objects and captions. A mask that it was shown is the number of the object
that has it. `correction_of` finds what differs from the automatic record. Spans count characters
(code points) in both directions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from glamm_jax.data.rle import MaskError
from glamm_jax.grand.record import GrandCaption, GrandObject, GrandRecord, RunLengths
from glamm_jax.grand.record_cards import phrase_span
from glamm_jax.grand.review.correction import (
    MAX_ID,
    MAX_NAME,
    MAX_OBJECTS,
    CorrectedCaption,
    CorrectedObject,
    Correction,
    CorrectionError,
    attributes_from_json,
    box_from_json,
    caption_from_json,
    check_keys,
    checked_text,
    mask_from_json,
)
from glamm_jax.grand.review.reviewed_record import (
    label_of_object,
    next_object_id,
    short_captions_of,
)
from glamm_jax.json_files import JSONError, JSONObject
from glamm_jax.report.html_page import hex_colour
from glamm_jax.report.mask_outlines import outline_of_runs
from glamm_jax.report.mask_overlay import PALETTE, colour_of, text_colour_on

MAX_OUTLINE_SIDE = 1024  # longer side of the mask whose outline is drawn


def palette() -> list[dict[str, str]]:
    """Return the colours of objects, each with that of text on it."""
    inks = [text_colour_on(colour_of(i)) for i in range(len(PALETTE))]
    return [
        {"ground": hex_colour(i), "ink": "#{:02x}{:02x}{:02x}".format(*ink)}
        for i, ink in enumerate(inks)
    ]


def record_data(record: GrandRecord) -> dict[str, Any]:
    """Return objects and captions of a record as the page gets them."""
    objects = [object_data(item, floating=False) for item in record.objects]
    objects += [object_data(item, floating=True) for item in record.floating_objects]
    return {
        "objects": _unique(objects),
        "dense_caption": caption_data(record.dense_caption or GrandCaption("")),
        "dense_source": record.dense_source,
        "verified": record.verified,
        "short_captions": [caption_data(item) for item in short_captions_of(record)],
        "next_id": next_object_id(record),
    }


def _unique(objects: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Leave out what has the id of an earlier object, as in released files."""
    by_id: dict[int, dict[str, Any]] = {}
    for item in objects:
        by_id.setdefault(item["id"], item)
    return list(by_id.values())


def object_data(item: GrandObject, *, floating: bool) -> dict[str, Any]:
    """Return an object as the page gets it.

    Args:
        item: the object.
        floating: whether too few models found it.
    """
    return {
        "id": item.id,
        "box": list(item.box),
        "label": label_of_object(item),
        "attributes": list(item.attributes or ()),
        "floating": floating,
        "score": item.score,
        "votes": [f"{vote.source} {vote.score:.2f} {vote.text}" for vote in item.votes],
        "mask_source": item.mask_source,
        "reviewed": item.reviewed,
        "outline": None if item.mask is None else outline_data(item.mask),
    }


def outline_data(mask: RunLengths) -> dict[str, Any] | None:
    """Return the outline of a mask as an SVG path, and the size that it is drawn in.

    None for a damaged mask, which is not shown.
    """
    try:
        outline = outline_of_runs(mask, MAX_OUTLINE_SIDE)
    except (MaskError, TypeError):
        return None
    height, width = outline.size
    return {"path": outline.path, "height": height, "width": width}


def caption_data(caption: GrandCaption) -> dict[str, Any]:
    """Return a caption as the page gets it; phrases that it does not have are listed by name."""
    phrases, others = {}, []
    for item in caption.groundings:
        span = phrase_span(caption.caption, item)
        if span is None or not caption.caption[slice(*span)].strip():
            others.append(item.phrase)
        else:
            ids = phrases.setdefault(span, {})
            ids.update(dict.fromkeys(item.object_ids))
    return {
        "caption": caption.caption,
        "phrases": [
            {"start": start, "end": end, "ids": list(ids)}
            for (start, end), ids in sorted(phrases.items())
        ],
        "other_phrases": others,
    }


# ------------------------------------------------------------------ what the page sends back


def correction_of(automatic: GrandRecord, current: GrandRecord, value: JSONObject) -> Correction:
    """Return what differs between an automatic record and what the page sent.

    Args:
        automatic: the record as the models made it.
        current: the reviewed record that the page has shown.
        value: with "objects", "dense_caption" and "short_captions".

    Raises:
        JSONError: a field is missing, unknown, too long, or has a wrong type or value.
        CorrectionError: the number of a mask is that of no object.
    """
    check_keys(value, ("objects", "dense_caption", "short_captions"))
    items = value.objects("objects")
    if len(items) > MAX_OBJECTS:
        raise JSONError(f"{value.place('objects')}: more than {MAX_OBJECTS} objects")
    shown = {item.id: item for item in (*current.floating_objects, *current.objects)}
    originals = {item.id: item for item in (*automatic.floating_objects, *automatic.objects)}
    objects = [_sent_object(item, shown) for item in items]
    present = {item.id for item in objects}
    if len(present) < len(objects):
        raise JSONError(f"{value.place('objects')}: an id is repeated")
    dense = caption_from_json(value.object("dense_caption"))
    short = tuple(caption_from_json(item) for item in value.objects("short_captions"))
    before = tuple(_shown(item) for item in short_captions_of(automatic))
    is_same_dense = dense == _shown(automatic.dense_caption or GrandCaption(""))
    return Correction(
        tuple(item for item in objects if not _is_same(item, originals.get(item.id))),
        tuple(number for number in originals if number not in present),
        None if is_same_dense else dense,
        None if short == before else short,
    )


def _sent_object(fields: JSONObject, shown: Mapping[int, GrandObject]) -> CorrectedObject:
    check_keys(fields, ("id", "box", "label", "attributes", "mask", "mask_source"))
    number = fields.integer("id", minimum=0, maximum=MAX_ID)
    if isinstance(fields.value("mask", None), int):
        owner = fields.integer("mask")
        if owner not in shown:
            raise CorrectionError(f"object {number}: there is no object {owner} to have its mask")
        mask, source = shown[owner].mask, shown[owner].mask_source
    else:
        mask = mask_from_json(fields)
        source = fields.text("mask_source", None)
    return CorrectedObject(
        number,
        box_from_json(fields),
        checked_text(fields, "label", MAX_NAME) if "label" in fields else None,
        attributes_from_json(fields),
        mask,
        source,
    )


def _is_same(item: CorrectedObject, original: GrandObject | None) -> bool:
    return (
        original is not None
        and item.box == tuple(original.box)
        and item.label == label_of_object(original)
        and (item.attributes or ()) == (original.attributes or ())
        and item.mask == original.mask
        and item.mask_source == original.mask_source
    )


def _shown(caption: GrandCaption) -> CorrectedCaption:
    """Return a caption as it comes back from a page on which nothing was changed."""
    data = caption_data(caption)
    phrases: Sequence[Mapping[str, Any]] = [item for item in data["phrases"] if item["ids"]]
    fields = {"caption": data["caption"], "phrases": phrases}
    return caption_from_json(JSONObject(fields, "the record"))
