"""Filters of images, objects and captions before an export. Each counts what it drops.

An object that is dropped disappears from all texts that refer to it; a phrase, link or relation
whose objects are all dropped disappears with them. Only what the filters drop is changed: ids that
no object has, which released files contain, stay.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

from glamm_jax.errors import ConfigError
from glamm_jax.files import FileNameError, safe_name
from glamm_jax.grand.export.images import UNSAFE_NAME, ExportItem
from glamm_jax.grand.export.near_duplicates import MAX_DISTANCE, HashIndex
from glamm_jax.grand.export.summary import ExportSummary
from glamm_jax.grand.record import (
    GrandCaption,
    GrandObject,
    GrandRecord,
    PhraseGrounding,
    changed,
)

REJECTED, PARTIAL = "images: rejected", "images: partial"
DISCARDED, NOT_REVIEWED = "images: discarded in review", "images: not reviewed"
OUTDATED = "reviews: of other annotations of the image"
NEAR_DUPLICATE = "images: near-duplicate"
NOT_VERIFIED, TEMPLATE = "dense captions: not verified", "dense captions: template"


@dataclass(frozen=True)
class ExportFilters:
    """What an export leaves out.

    Attributes:
        min_score: smallest score of an object, floating objects included; one without score, which
            a phrase found, is dropped if this is above 0, unless a person drew or changed it.
        min_votes: smallest number of different models that found an object, unless a person drew
            or changed it.
        labels: only objects with these labels are exported; None: all.
        excluded_labels: objects with these labels are not. Labels are compared without case, and
            underscores are blanks.
        min_box_side: smallest length of the shorter side of a box, in pixels.
        partial_images: export images of which some stages failed.
        reviewed_only: export only images that a person approved or corrected.
        unverified_captions: export dense captions that were not verified, or failed, and that no
            person approved or corrected.
        template_captions: export dense captions that a template replaces, and that no person
            approved or corrected.
        duplicate_distance: drop images whose hash differs from that of an earlier exported image in
            at most this many bits; None: none. Images without a hash stay.
    """

    min_score: float = 0.0
    min_votes: int = 0
    labels: tuple[str, ...] | None = None
    excluded_labels: tuple[str, ...] = ()
    min_box_side: float = 0.0
    partial_images: bool = True
    reviewed_only: bool = False
    unverified_captions: bool = False
    template_captions: bool = False
    duplicate_distance: int | None = None

    def __post_init__(self) -> None:
        distance = self.duplicate_distance
        if distance is not None and not 0 <= distance <= MAX_DISTANCE:
            raise ConfigError(
                f"duplicate_distance = {distance}: must be between 0 and {MAX_DISTANCE}"
            )

    def to_json(self) -> dict[str, Any]:
        """Return the filters for export.json."""
        values = asdict(self)
        return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}


NO_FILTERS = ExportFilters()  # but for what every export leaves out


def no_callback() -> None:
    """Do nothing, as the callback of an export without progress."""


def filter_items(
    items: Iterable[ExportItem],
    filters: ExportFilters,
    summary: ExportSummary,
    on_image: Callable[[], None] = no_callback,
) -> Iterator[ExportItem]:
    """Yield the images that are exported, with the annotations that are exported.

    Args:
        items: all images of a run, in the order of their ids.
        filters: what to leave out.
        summary: receives the counts.
        on_image: called after every image, also after those that are dropped.
    """
    distance = filters.duplicate_distance
    index = None if distance is None else HashIndex(distance)
    select = _object_test(filters)
    dropped = summary.dropped
    for image, record in items:
        reason = _image_problem(image.file_name, image.status, filters)
        review = record.review
        is_accepted = review is not None and review.is_accepted
        if review is not None and review.state == "outdated":
            dropped[OUTDATED] += 1
            record = changed(record, review=None)
        if reason is None and filters.reviewed_only and not is_accepted:
            reason = NOT_REVIEWED
        if reason is None and index is not None and image.difference_hash is not None:
            if index.has_match(image.difference_hash):
                reason = NEAR_DUPLICATE
            else:
                index.add(image.difference_hash)
        if reason is not None:
            dropped[reason] += 1
        else:
            if review is not None and is_accepted:
                summary.counts[f"images {review.state} in review"] += 1
            yield (
                image,
                _filter_captions(_filter_objects(record, select, dropped), filters, dropped),
            )
        on_image()


def filter_record(
    record: GrandRecord, filters: ExportFilters, dropped: Counter[str]
) -> GrandRecord:
    """Return the annotations that are exported; the same record if nothing is dropped.

    Args:
        record: annotations of an image.
        filters: what to leave out.
        dropped: receives the counts.
    """
    record = _filter_objects(record, _object_test(filters), dropped)
    return _filter_captions(record, filters, dropped)


def object_name(item: GrandObject) -> str | None:
    """Return the label of an object, with blanks instead of underscores; None if it has none."""
    label = item.label or (item.labels[0] if item.labels else "")
    return " ".join(label.replace("_", " ").split()) or None


def _image_problem(file_name: str, status: str, filters: ExportFilters) -> str | None:
    if status == "rejected":
        return REJECTED
    if status == "discarded":
        return DISCARDED
    if status == "partial" and not filters.partial_images:
        return PARTIAL
    try:
        safe_name(file_name)
    except FileNameError:
        return UNSAFE_NAME
    return None


# Returns why an object is dropped.
ObjectTest = Callable[[GrandObject], str | None]


def _object_test(filters: ExportFilters) -> ObjectTest | None:
    """The test of an object; None if no filter is set."""
    min_score, min_votes, min_side = filters.min_score, filters.min_votes, filters.min_box_side
    allowed = None if filters.labels is None else _names(filters.labels)
    excluded = _names(filters.excluded_labels)
    if not (min_score > 0 or min_votes > 0 or min_side > 0 or excluded or allowed is not None):
        return None

    def problem(item: GrandObject) -> str | None:
        if min_score > 0 and not item.reviewed:
            if item.score is None:
                return "no score"
            if item.score < min_score:
                return f"score below {min_score:g}"
        if (
            min_votes > 0
            and not item.reviewed
            and len({vote.source for vote in item.votes}) < min_votes
        ):
            return f"fewer than {min_votes} votes"
        if min_side > 0:
            x0, y0, x1, y1 = item.box
            if min(x1 - x0, y1 - y0) < min_side:
                return f"box side below {min_side:g}"
        if allowed is not None or excluded:
            name = (object_name(item) or "").casefold()
            if allowed is not None and name not in allowed:
                return "label not in the list"
            if name in excluded:
                return "label excluded"
        return None

    return problem


def _names(labels: Iterable[str]) -> frozenset[str]:
    return frozenset(" ".join(label.replace("_", " ").split()).casefold() for label in labels)


def _filter_objects(
    record: GrandRecord, problem: ObjectTest | None, dropped: Counter[str]
) -> GrandRecord:
    if problem is None:
        return record
    remaining: dict[str, tuple[GrandObject, ...]] = {}
    removed: set[int] = set()
    for field, kind in (("objects", "objects"), ("floating_objects", "floating objects")):
        passed = []
        for item in getattr(record, field):
            reason = problem(item)
            if reason is None:
                passed.append(item)
            else:
                dropped[f"{kind}: {reason}"] += 1
                removed.add(item.id)
        remaining[field] = tuple(passed)
    if not removed:
        return record
    # Released files may have an object twice, in both lists.
    removed -= {item.id for items in remaining.values() for item in items}
    fields: dict[str, Any] = dict(remaining)
    if removed:
        fields |= fields_without_ids(record, removed, dropped)
    return changed(record, **fields)


def fields_without_ids(
    record: GrandRecord, removed: set[int], dropped: Counter[str]
) -> dict[str, Any]:
    """Return the fields of a record that refer to objects, without those that are removed.

    Args:
        record: annotations of an image.
        removed: ids of objects.
        dropped: receives the counts of what disappears with them.
    """

    def rest(ids: Iterable[int]) -> tuple[int, ...]:
        return tuple(i for i in ids if i not in removed)

    links = [replace(link, object_ids=rest(link.object_ids)) for link in record.links]
    relations = [
        replace(item, subject_ids=rest(item.subject_ids), object_ids=rest(item.object_ids))
        for item in record.relations
    ]
    affordances = {
        name: {**value, "object_ids": list(rest(value.get("object_ids", ())))}
        for name, value in record.affordances.items()
    }
    fields: dict[str, Any] = {
        "links": tuple(
            new
            for new, old in zip(links, record.links, strict=True)
            if new.object_ids or not old.object_ids
        ),
        "linked_ids": rest(record.linked_ids),
        "linked_floating_ids": rest(record.linked_floating_ids),
        "relations": tuple(
            new
            for new, old in zip(relations, record.relations, strict=True)
            if (new.subject_ids or not old.subject_ids) and (new.object_ids or not old.object_ids)
        ),
        "affordances": {name: value for name, value in affordances.items() if value["object_ids"]},
    }
    dropped["links: objects dropped"] += len(record.links) - len(fields["links"])
    dropped["relations: objects dropped"] += len(record.relations) - len(fields["relations"])
    if record.short_captions is not None:
        fields["short_captions"] = tuple(
            _caption_without_ids(caption, removed, dropped) for caption in record.short_captions
        )
    if record.dense_caption is not None:
        fields["dense_caption"] = _caption_without_ids(record.dense_caption, removed, dropped)
    return fields


def _caption_without_ids(
    caption: GrandCaption, removed: set[int], dropped: Counter[str]
) -> GrandCaption:
    groundings = []
    for item in caption.groundings:
        if removed.isdisjoint(item.object_ids):
            groundings.append(item)
            continue
        new = _grounding_without_ids(item, removed)
        if new.object_ids:
            groundings.append(new)
        else:
            dropped["groundings: objects dropped"] += 1
    return replace(caption, groundings=tuple(groundings))


def _grounding_without_ids(item: PhraseGrounding, removed: set[int]) -> PhraseGrounding:
    boxes = item.boxes
    if len(boxes) == len(item.object_ids):
        boxes = tuple(
            box for box, i in zip(boxes, item.object_ids, strict=True) if i not in removed
        )
    ids = tuple(i for i in item.object_ids if i not in removed)
    return replace(item, object_ids=ids, boxes=boxes)


def _filter_captions(
    record: GrandRecord, filters: ExportFilters, dropped: Counter[str]
) -> GrandRecord:
    if record.dense_caption is None:
        return record
    if record.review is not None and record.review.is_accepted:
        return record
    if record.dense_source == "template":
        # A template names what the graph has, so it needs no verification.
        reason = None if filters.template_captions else TEMPLATE
    else:
        reason = None if filters.unverified_captions or record.verified is True else NOT_VERIFIED
    if reason is None:
        return record
    dropped[reason] += 1
    return changed(record, dense_caption=None, dense_source=None, attempts=(), verified=None)
