"""The reviewed version of a record: the automatic one with a correction.

    corrected_record(record, correction, size=(height, width))

Consequences of a change are made as well: boxes of an object in all captions, links of the phrases
of a corrected short caption, relations that its text no longer states, affordances of another
label. A floating object becomes an object if a person changed it, or linked it to a phrase: a
person has confirmed that it exists.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from glamm_jax.data import rle
from glamm_jax.data.rle import MaskError
from glamm_jax.grand.affordances import find_affordances
from glamm_jax.grand.export.filters import fields_without_ids
from glamm_jax.grand.masks import with_new_boxes
from glamm_jax.grand.record import (
    GrandCaption,
    GrandObject,
    GrandRecord,
    PhraseGrounding,
    PhraseLink,
    Relation,
    changed,
)
from glamm_jax.grand.review.correction import (
    CorrectedCaption,
    CorrectedObject,
    Correction,
    CorrectionError,
)
from glamm_jax.grand.word_spans import word_spans


def corrected_record(
    record: GrandRecord, correction: Correction, size: tuple[int, int]
) -> GrandRecord:
    """Return a record with what a person changed.

    Args:
        record: the automatic one; it does not change.
        correction: of this record.
        size: height and width of the image.

    Raises:
        CorrectionError: the correction does not fit the record: an unknown object, a box outside of
            the image, a mask of another size, another number of short captions.
    """
    before = short_captions_of(record)
    _check(record, correction, size, len(before))
    record = _with_objects(record, correction)
    record = _with_dense_caption(record, correction.dense_caption)
    record = _with_short_captions(record, correction.short_captions, before)
    return with_new_boxes(record)


def short_captions_of(record: GrandRecord) -> tuple[GrandCaption, ...]:
    """Return the short captions, with groundings if the record has them."""
    if record.short_captions is not None:
        return record.short_captions
    return tuple(GrandCaption(text) for text in record.captions)


def next_object_id(record: GrandRecord) -> int:
    """Return the smallest id that no object has had."""
    items = (*record.objects, *record.floating_objects)
    return max(record.id_counter or 0, 0, *(item.id + 1 for item in items))


# ------------------------------------------------------------------ checks


def _check(
    record: GrandRecord, correction: Correction, size: tuple[int, int], num_short: int
) -> None:
    originals = {item.id: item for item in (*record.floating_objects, *record.objects)}
    ids = set(originals)
    first_new = next_object_id(record)
    for item in correction.objects:
        if item.id not in ids and item.id < first_new:
            raise CorrectionError(
                f"object {item.id}: the record has none, and new ones begin at {first_new}"
            )
        _check_region(item, originals.get(item.id), size)
    for number in correction.removed:
        if number not in ids:
            raise CorrectionError(f"removed object {number}: the record has none")
    corrected = {item.id for item in correction.objects}
    if both := corrected.intersection(correction.removed):
        raise CorrectionError(f"object {min(both)} is both corrected and removed")
    present = (ids | corrected).difference(correction.removed)
    captions = {"the dense caption": correction.dense_caption}
    if correction.short_captions is not None:
        if len(correction.short_captions) != num_short:
            raise CorrectionError(
                f"there are {len(correction.short_captions)} short captions in the correction, and "
                f"{num_short} in the record"
            )
        for i, caption in enumerate(correction.short_captions, 1):
            if not caption.caption.strip():
                raise CorrectionError(f"short caption {i} is empty")
            captions[f"short caption {i}"] = caption
    for name, caption in captions.items():
        for phrase in caption.phrases if caption is not None else ():
            for number in phrase.object_ids:
                if number not in present:
                    text = caption.caption[slice(*phrase.span)] if caption else ""
                    raise CorrectionError(
                        f"{name}: the phrase {text!r} names object {number}, which does not exist"
                    )


def _check_region(
    item: CorrectedObject, original: GrandObject | None, size: tuple[int, int]
) -> None:
    """Check what differs from the automatic record, whose boxes may exceed the image."""
    height, width = size
    x0, y0, x1, y1 = item.box
    is_same_box = original is not None and item.box == original.box
    if not is_same_box and not (0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height):
        box = " ".join(f"{edge:g}" for edge in item.box)
        raise CorrectionError(
            f"object {item.id}: the box {box} is not in the image of {width} x {height} pixels"
        )
    if item.label is not None and not item.label.strip():
        raise CorrectionError(f"object {item.id}: the label is empty")
    if item.mask is None or (original is not None and item.mask == original.mask):
        return
    try:
        (mask_height, mask_width), _ = rle.run_ends(item.mask)
    except MaskError as error:
        raise CorrectionError(f"object {item.id}: the mask is damaged: {error}") from error
    if (mask_height, mask_width) != size:
        raise CorrectionError(
            f"object {item.id}: a mask of {mask_width} x {mask_height} pixels, the image has "
            f"{width} x {height}"
        )
    if not rle.decode(item.mask).any():
        raise CorrectionError(f"object {item.id}: the mask is empty")


# ------------------------------------------------------------------ objects


def _with_objects(record: GrandRecord, correction: Correction) -> GrandRecord:
    removed = set(correction.removed)
    if removed:
        fields = fields_without_ids(record, removed, Counter())
        for name in ("objects", "floating_objects"):
            fields[name] = tuple(x for x in getattr(record, name) if x.id not in removed)
        record = changed(record, **fields)
    corrected = {item.id: item for item in correction.objects}
    confirmed = set(corrected) | _linked_by_correction(record, correction)
    objects = [_corrected(item, corrected.get(item.id)) for item in record.objects]
    floats: list[GrandObject] = []
    for item in record.floating_objects:
        target = objects if item.id in confirmed else floats
        target.append(_corrected(item, corrected.get(item.id)))
    present = {item.id for item in (*record.objects, *record.floating_objects)}
    for item in correction.objects:
        if item.id not in present:
            new = GrandObject(item.id, item.box, ())
            objects.append(_corrected(new, item))
    promoted = {item.id for item in record.floating_objects} & confirmed
    renamed = _renamed(record, corrected, present)
    fields = {
        "objects": tuple(objects),
        "floating_objects": tuple(floats),
        "affordances": _affordances(record, [x for x in objects if x.id in renamed]),
    }
    if promoted:
        moved = sorted(promoted.intersection(record.linked_floating_ids))
        fields["linked_ids"] = (*record.linked_ids, *moved)
        fields["linked_floating_ids"] = tuple(
            x for x in record.linked_floating_ids if x not in promoted
        )
    if record.id_counter is not None:
        fields["id_counter"] = max(record.id_counter, *(item.id + 1 for item in objects), 0)
    return changed(record, **fields)


def _linked_by_correction(record: GrandRecord, correction: Correction) -> set[int]:
    """Return the objects that a corrected caption names, and the automatic one did not."""
    pairs = [(record.dense_caption, correction.dense_caption)]
    if correction.short_captions is not None:
        pairs += zip(short_captions_of(record), correction.short_captions, strict=True)
    linked: set[int] = set()
    for old, new in pairs:
        if new is not None:
            now = {number for item in new.phrases for number in item.object_ids}
            groundings = () if old is None else old.groundings
            linked |= now.difference(x for item in groundings for x in item.object_ids)
    return linked


def _corrected(item: GrandObject, correction: CorrectedObject | None) -> GrandObject:
    if correction is None:
        return item
    fields: dict[str, Any] = {
        "box": correction.box,
        "attributes": correction.attributes,
        "mask": correction.mask,
        "mask_source": correction.mask_source,
        "reviewed": True,
    }
    if correction.label != label_of_object(item):
        # The candidates of the models were wrong; their votes stay.
        fields["label"] = correction.label
        fields["labels"] = () if correction.label is None else (correction.label,)
    return changed(item, **fields)


def label_of_object(item: GrandObject) -> str | None:
    """Return the label that was chosen, or the best candidate; None: there is none."""
    return item.label or (item.labels[0] if item.labels else None)


def _renamed(
    record: GrandRecord, corrected: Mapping[int, CorrectedObject], present: set[int]
) -> set[int]:
    labels = {x.id: label_of_object(x) for x in (*record.floating_objects, *record.objects)}
    return {
        number
        for number, item in corrected.items()
        if number not in present or item.label != labels[number]
    }


def _affordances(
    record: GrandRecord, renamed: Iterable[GrandObject]
) -> Mapping[str, Mapping[str, Any]]:
    """Return the affordances, with those of the new labels of objects that have another label."""
    renamed = list(renamed)
    if not renamed:
        return record.affordances
    ids = {item.id for item in renamed}
    result: dict[str, Mapping[str, Any]] = {}
    for name, value in record.affordances.items():
        rest = [number for number in value.get("object_ids", ()) if number not in ids]
        if rest:
            result[name] = {**value, "object_ids": rest}
    for name, value in find_affordances(renamed).items():
        old = result.get(name, {"object_ids": [], "labels": []})
        result[name] = {
            **value,
            "object_ids": [*old["object_ids"], *value["object_ids"]],
            "labels": list(dict.fromkeys([*old.get("labels", ()), *value["labels"]])),
        }
    return result


# ------------------------------------------------------------------ captions


def _with_dense_caption(record: GrandRecord, correction: CorrectedCaption | None) -> GrandRecord:
    if correction is None:
        return record
    if not correction.caption.strip():
        return changed(record, dense_caption=None, dense_source=None, verified=None)
    dense = record.dense_caption
    fields: dict[str, Any] = {"dense_caption": _grounded(correction)}
    if dense is None or dense.caption != correction.caption:
        fields |= {"dense_source": "reviewer", "verified": None}
    return changed(record, **fields)


def _with_short_captions(
    record: GrandRecord,
    corrections: tuple[CorrectedCaption, ...] | None,
    before: tuple[GrandCaption, ...],
) -> GrandRecord:
    """Correct the short captions, and what was derived from them: links and relations."""
    if corrections is None:
        return record
    captions = tuple(_grounded(item) for item in corrections)
    fields: dict[str, Any] = {"short_captions": captions}
    if record.captions:
        # Where both forms stand side by side, they stay equal.
        both = record.short_captions is not None
        fields["captions"] = tuple(item.caption for item in captions) if both else ()
    differing = {
        i for i, (old, new) in enumerate(zip(before, captions, strict=True)) if not _equal(old, new)
    }
    links: dict[str, dict[int, None]] = {}
    for caption in captions:
        for item in caption.groundings:
            ids = links.setdefault(" ".join(item.phrase.lower().split()), {})
            ids.update(dict.fromkeys(item.object_ids))
    linked = [number for ids in links.values() for number in ids]
    floating = {item.id for item in record.floating_objects}
    fields |= {
        "links": tuple(PhraseLink(phrase, tuple(ids)) for phrase, ids in links.items()),
        "linked_ids": tuple(dict.fromkeys(x for x in linked if x not in floating)),
        "linked_floating_ids": tuple(dict.fromkeys(x for x in linked if x in floating)),
        "relations": tuple(
            item
            for item in record.relations
            if item.caption not in differing or _is_stated(item, captions[item.caption])
        ),
    }
    return changed(record, **fields)


def _equal(old: GrandCaption, new: GrandCaption) -> bool:
    def content(caption: GrandCaption) -> tuple[object, ...]:
        pairs = sorted((item.span or (0, 0), item.object_ids) for item in caption.groundings)
        return caption.caption, pairs

    return content(old) == content(new)


def _is_stated(relation: Relation, caption: GrandCaption) -> bool:
    """Whether a corrected caption still has the predicate, and phrases of subject and object."""
    linked = {number for item in caption.groundings for number in item.object_ids}
    ids = {*relation.subject_ids, *relation.object_ids}
    return ids <= linked and bool(word_spans(caption.caption.lower(), relation.predicate))


def _grounded(correction: CorrectedCaption) -> GrandCaption:
    groundings = tuple(
        PhraseGrounding(
            correction.caption[slice(*item.span)],
            item.span,
            item.object_ids,
            (None,) * len(item.object_ids),  # `with_new_boxes` sets them
        )
        for item in correction.phrases
    )
    return GrandCaption(correction.caption, groundings)
