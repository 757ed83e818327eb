"""Quality of annotations: records compared with the truth about mini-world scenes.

    totals = ScoreTotals()
    for image_id, record in records:
        row = score_record(record, truth[image_id])     # metric -> (sum, number of items)
        totals.add(row)
    totals.values()["object_precision"]                 # None if there was no item

Every metric is a mean over items, 1.0 is best; `METRICS` says what the items are. Objects are
matched one to one by boxes with an IoU of at least `MATCH_IOU`, the largest first; floating objects
are matched with what remains, so that links to them can be judged, but they do not count as
objects. An object that matches stuff or a part instead is neither correct nor wrong, and so is a
phrase that names it. Texts are judged by the objects that they mention (`miniworld.mentions`): a
mention is correct if the scene has as many objects with the stated properties. A phrase equals a
mention if both have the same characters apart from an article.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise

from glamm_jax.data.rle import MaskError
from glamm_jax.grand.geometry import plain_iou
from glamm_jax.grand.record import (
    Box,
    GrandCaption,
    GrandObject,
    GrandRecord,
    PhraseGrounding,
    PhraseLink,
    Span,
)
from glamm_jax.grand.scene_graph import depth_layers
from glamm_jax.metrics.iou import pairwise_iou, read_runs
from glamm_jax.miniworld.expressions import RELATIONS
from glamm_jax.miniworld.mentions import Mention, find_mentions, head_mention
from glamm_jax.miniworld.truth_folder import ObjectTruth, SceneTruth

MATCH_IOU = 0.5

METRICS: dict[str, str] = {
    "annotated_images": "images: has a record",
    "object_precision": "objects of the record but stuff and parts: matched",
    "object_recall": "objects of the scene: matched by an object of the record",
    "box_iou": "matched objects: IoU with the true box",
    "label_accuracy": "matched objects: the label, or else the first of the labels, is the shape",
    "attribute_accuracy": "matched objects whose first attribute states colour, texture, size or "
    "position: all of these are true",
    "depth_layer_accuracy": "matched objects with a depth: their layer of depth among these is that"
    " of the true depths",
    "mask_iou": "matched objects with a mask: IoU with the true mask",
    "mask_share": "matched objects: have a mask",
    "landmark_accuracy": "images with a landmark: category and fine category are true",
    "short_entity_precision": "mentions in the short captions: correct",
    "short_entity_recall": "objects of the scene: mentioned in the short captions",
    "phrase_link_precision": "linked phrases: begin with a mention, and are linked to exactly the "
    "objects that it means",
    "phrase_link_recall": "correct mentions in the short captions whose objects are matched: there "
    "is a correct link of this phrase",
    "relation_precision": "relations: subject and object are matched and possibly have it",
    "relation_recall": "relations that the short captions state between matched objects: the record"
    " has them",
    "short_grounding_precision": "groundings in the short captions: the phrase is a mention, and "
    "has exactly the objects that it means; if the mention is not correct, which the entities "
    "count, objects that the record itself describes so",
    "short_grounding_recall": "correct mentions in the short captions whose objects are matched: "
    "have a correct grounding",
    "dense_grounding_precision": "groundings in the dense caption: as in short captions",
    "dense_grounding_recall": "mentions in the dense caption: as in short captions",
    "first_entity_precision": "mentions in the first complete attempt at the dense caption: "
    "correct; the rate of wrong entities before verification is 1 minus this",
    "final_entity_precision": "mentions in the dense caption: correct; the rate of wrong entities "
    "after verification is 1 minus this",
    "dense_captions": "images with a record: have a dense caption",
    "verified_captions": "dense captions that were verified: name nothing that the graph lacks",
    "written_captions": "dense captions of known source: by the language model, not the template",
}
Counts = dict[str, tuple[float, float]]
_COPULA = re.compile(r"^(?:is|are|was|were|be)\s+")


class ScoreTotals:
    """Sums of the scores of many images; their number does not matter for memory."""

    def __init__(self) -> None:
        self.counts: Counts = dict.fromkeys(METRICS, (0.0, 0.0))

    def add(self, row: Mapping[str, tuple[float, float]]) -> None:
        """Add the scores of an image, or the counts of other totals."""
        for name, (total, number) in row.items():
            old_total, old_number = self.counts[name]
            self.counts[name] = (old_total + total, old_number + number)

    def values(self) -> dict[str, float | None]:
        """Return every metric; None for one without items."""
        return metric_values(self.counts)


def metric_values(row: Mapping[str, tuple[float, float]]) -> dict[str, float | None]:
    """Return the mean of each metric; None without items."""
    return {name: total / number if number else None for name, (total, number) in row.items()}


def score_record(record: GrandRecord | None, truth: SceneTruth) -> Counts:
    """Compare the annotations of an image with the truth.

    Args:
        record: the annotations; None: the image was rejected, and only that counts.
        truth: about the scene.

    Returns:
        For each of METRICS the sum over its items and their number.
    """
    counts: Counts = dict.fromkeys(METRICS, (0.0, 0.0))
    counts["annotated_images"] = (float(record is not None), 1.0)
    if record is not None:
        _Comparison(record, truth, counts).compare()
    return counts


class _Comparison:
    """Comparison of one record; fills `counts`."""

    def __init__(self, record: GrandRecord, truth: SceneTruth, counts: Counts):
        self._record, self._truth, self._counts = record, truth, counts
        # Grounding replaces the short captions by the same with groundings.
        grounded = tuple(caption.caption for caption in record.short_captions or ())
        self._captions = record.captions or grounded
        self._fitting: dict[tuple[object, ...], list[int]] = {}
        boxes = [item.box for item in truth.objects]
        # Index in the record -> index of the true object.
        self._objects = match_boxes([item.box for item in record.objects], boxes, MATCH_IOU)
        used = set(self._objects.values())
        free = [i for i in range(len(boxes)) if i not in used]
        floats = match_boxes(
            [item.box for item in record.floating_objects], [boxes[i] for i in free], MATCH_IOU
        )
        # Id in the record -> index of the true object; objects before floating objects.
        self._true_index: dict[int, int | None] = {}
        for k, item in enumerate(record.objects):
            self._true_index.setdefault(item.id, self._objects.get(k))
        for k, item in enumerate(record.floating_objects):
            self._true_index.setdefault(item.id, free[floats[k]] if k in floats else None)
        self._items = {x.id: x for x in (*record.floating_objects, *record.objects)}
        regions = (*truth.stuff, *truth.parts)
        # Id in the record -> names of the stuff and parts that it can be.
        self._regions: dict[int, list[str]] = {}
        for item in (*record.objects, *record.floating_objects):
            if self._true_index[item.id] is None:
                names = [x.name for x in regions if plain_iou(item.box, x.box) >= MATCH_IOU]
                self._regions.setdefault(item.id, []).extend(names)
        self._matched = {i for i in self._true_index.values() if i is not None}

    def compare(self) -> None:
        self._compare_objects()
        self._compare_landmark()
        self._compare_short_captions()
        self._compare_links()
        self._compare_relations()
        self._compare_dense_caption()

    def _set(self, name: str, values: Sequence[float]) -> None:
        self._counts[name] = (float(sum(values)), float(len(values)))

    # ------------------------------------------------------------ objects

    def _compare_objects(self) -> None:
        record, truth = self._record, self._truth
        pairs = [(record.objects[k], truth.objects[i]) for k, i in self._objects.items()]
        others = [item for item in record.objects if self._regions.get(item.id)]
        number = len(record.objects) - len(others)
        self._counts["object_precision"] = (float(len(pairs)), float(number))
        self._counts["object_recall"] = (float(len(pairs)), float(len(truth.objects)))
        self._set("box_iou", [plain_iou(item.box, true.box) for item, true in pairs])
        self._set("label_accuracy", [_label(item) == true.shape for item, true in pairs])
        judged = [_states_truth(item, true) for item, true in pairs]
        self._set("attribute_accuracy", [value for value in judged if value is not None])
        deep = [(item.depth, true.box_depth) for item, true in pairs if item.depth is not None]
        layers = depth_layers([depth for depth, _ in deep])
        true_layers = depth_layers([depth for _, depth in deep])
        self._set(
            "depth_layer_accuracy", [a == b for a, b in zip(layers, true_layers, strict=True)]
        )
        masked = [(item, true) for item, true in pairs if item.mask is not None]
        self._set("mask_iou", [_mask_iou(item, true, truth) for item, true in masked])
        self._set("mask_share", [item.mask is not None for item, _ in pairs])

    def _compare_landmark(self) -> None:
        landmark = self._record.landmark
        if landmark is not None:
            values = (landmark.get("category"), landmark.get("fine_category"))
            self._set("landmark_accuracy", [values == self._truth.landmark])

    # ------------------------------------------------------------ texts

    def _candidates(self, mention: Mention) -> list[int]:
        """Return the objects of the scene that a mention can mean."""
        stated = mention[3:]  # without the positions in the text
        if stated not in self._fitting:
            objects = enumerate(self._truth.objects)
            self._fitting[stated] = [i for i, item in objects if mention.fits(item)]
        return self._fitting[stated]

    def _is_correct(self, mention: Mention) -> bool:
        return len(self._candidates(mention)) >= max(mention.number or 1, 1)

    def _is_matched(self, mention: Mention) -> bool:
        """Whether enough of the objects that a mention can mean are matched."""
        candidates = self._candidates(mention)
        number = len(candidates) if mention.number is None else mention.number
        return len(self._matched.intersection(candidates)) >= max(number, 1)

    def _means(self, mention: Mention, ids: Iterable[int]) -> bool:
        """Whether ids of the record are exactly as many objects as a mention means."""
        indices = {self._true_index.get(i) for i in ids}
        candidates = self._candidates(mention)
        number = len(candidates) if mention.number is None else mention.number
        return len(indices) == number > 0 and indices <= set(candidates)

    def _is_repeated(self, mention: Mention, ids: Sequence[int]) -> bool:
        """Whether the record describes exactly these objects as a mention does."""
        items = [self._items[i] for i in ids if i in self._items]
        if len(items) != len(ids) or len(items) != (mention.number or len(items)):
            return False
        only_shape = not any(mention[5:])
        return bool(items) and all(
            (only_shape and mention.shape in (item.label, *item.labels))
            or any(m[4:] == mention[4:] for a in item.attributes or () for m in find_mentions(a))
            for item in items
        )

    def _compare_short_captions(self) -> None:
        captions = self._captions
        mentions = [mention for text in captions for mention in find_mentions(text)]
        self._set("short_entity_precision", [self._is_correct(mention) for mention in mentions])
        if captions:
            named = {i for mention in mentions for i in self._candidates(mention)}
            self._set("short_entity_recall", [i in named for i in range(len(self._truth.objects))])
        self._compare_groundings("short", self._record.short_captions or ())

    def _compare_groundings(self, kind: str, captions: Sequence[GrandCaption]) -> None:
        precise: list[float] = []
        recalled: list[float] = []
        for caption in captions:
            mentions = find_mentions(caption.caption)
            correct = set()
            for grounding in caption.groundings:
                if self._names_regions(grounding):
                    continue
                span = grounding.span or _find(caption.caption, grounding.phrase)
                mention = _mention_at(mentions, span)
                is_correct = mention is not None and (
                    self._means(mention, grounding.object_ids)
                    if self._is_correct(mention)
                    else self._is_repeated(mention, grounding.object_ids)
                )
                precise.append(is_correct)
                if is_correct:
                    correct.add(mention)
            recalled += [
                mention in correct
                for mention in mentions
                if self._is_correct(mention) and self._is_matched(mention)
            ]
        self._set(f"{kind}_grounding_precision", precise)
        self._set(f"{kind}_grounding_recall", recalled)

    def _names_regions(self, named: PhraseGrounding | PhraseLink) -> bool:
        """Whether a phrase names stuff or parts, and is linked to them."""
        words = named.phrase.lower().split()
        return bool(named.object_ids) and all(
            not set(words).isdisjoint(self._regions.get(i, ())) for i in named.object_ids
        )

    def _compare_links(self) -> None:
        precise: list[float] = []
        linked: set[str] = set()
        for link in self._record.links:
            if self._names_regions(link):
                continue
            mention = head_mention(link.phrase.strip())
            is_correct = mention is not None and self._means(mention, link.object_ids)
            precise.append(is_correct)
            if mention is not None and is_correct:
                linked.add(link.phrase.strip()[mention.content : mention.end].lower())
        self._set("phrase_link_precision", precise)
        mentions = [(text, mention) for text in self._captions for mention in find_mentions(text)]
        self._set(
            "phrase_link_recall",
            [
                text[mention.content : mention.end].lower() in linked
                for text, mention in mentions
                if self._is_correct(mention) and self._is_matched(mention)
            ],
        )

    def _compare_relations(self) -> None:
        holding = self._truth.relations
        correct: set[tuple[int | None, str, int | None]] = set()
        precise: list[float] = []
        for relation in self._record.relations:
            predicate = _COPULA.sub("", relation.predicate.strip().lower())
            triples = {
                (self._true_index.get(a), predicate, self._true_index.get(b))
                for a in relation.subject_ids
                for b in relation.object_ids
            }
            is_correct = bool(triples) and triples <= holding
            precise.append(is_correct)
            correct |= triples if is_correct else set()
        self._set("relation_precision", precise)
        stated = [s for text in self._captions for s in self._stated_relations(text)]
        self._set("relation_recall", [triple in correct for triple in stated])

    def _stated_relations(self, text: str) -> list[tuple[int, str, int]]:
        """Return the relations that a text states between single, matched objects."""
        result = []
        mentions = find_mentions(text)
        for first, second in pairwise(mentions):
            between = " ".join(text[first.end : second.start].lower().split())
            name = _COPULA.sub("", between)
            if name == between or name not in RELATIONS:
                continue
            a, b = self._candidates(first), self._candidates(second)
            if len(a) == len(b) == 1 and self._matched.issuperset(a + b):
                result.append((a[0], name, b[0]))
        return result

    def _compare_dense_caption(self) -> None:
        record = self._record
        dense = record.dense_caption
        complete = [attempt.text for attempt in record.attempts if attempt.problem is None]
        first = complete[0] if complete else None
        if dense is not None and not record.attempts:
            first = dense.caption
        for name, text in (("first", first), ("final", dense and dense.caption)):
            mentions = find_mentions(text) if text else []
            self._set(f"{name}_entity_precision", [self._is_correct(m) for m in mentions])
        self._compare_groundings("dense", (dense,) if dense is not None else ())
        self._set("dense_captions", [dense is not None])
        if dense is not None and record.verified is not None:
            self._set("verified_captions", [record.verified])
        if dense is not None and record.dense_source is not None:
            self._set("written_captions", [record.dense_source == "llm"])


def match_boxes(
    boxes: Sequence[Box], others: Sequence[Box], min_iou: float = MATCH_IOU
) -> dict[int, int]:
    """Match boxes one to one, the largest IoU first; of equal ones the first.

    Args:
        boxes: x0 y0 x1 y1.
        others: to match them with.
        min_iou: of a match, at least.

    Returns:
        Index of a box -> index of its match, in the order of `boxes`.
    """
    pairs = []
    for k, box in enumerate(boxes):
        for i, other in enumerate(others):
            iou = plain_iou(box, other)
            if iou >= min_iou:
                pairs.append((-iou, k, i))
    matches: dict[int, int] = {}
    used: set[int] = set()
    for _, k, i in sorted(pairs):
        if k not in matches and i not in used:
            matches[k] = i
            used.add(i)
    return dict(sorted(matches.items()))


def _label(item: GrandObject) -> str | None:
    return item.label or (item.labels[0] if item.labels else None)


def _states_truth(item: GrandObject, true: ObjectTruth) -> bool | None:
    """Whether all stated properties are true; None if the first attribute states none."""
    if not item.attributes:
        return None
    mentions = find_mentions(item.attributes[0])
    if not mentions:
        return False
    stated = mentions[0]
    if not (stated.colour or stated.texture or stated.size or stated.position):
        return None
    return stated._replace(shape=true.shape).fits(true)


def _mask_iou(item: GrandObject, true: ObjectTruth, truth: SceneTruth) -> float:
    """Return the IoU with the true mask; 0 for a mask that is damaged or of another size."""
    if item.mask is None:
        return 0.0
    try:
        mask = read_runs(item.mask)
    except MaskError:
        return 0.0
    correct = read_runs(truth.run_lengths(true.counts))
    return float(pairwise_iou([mask], [correct], size_mismatch=0.0)[0, 0])


def _find(text: str, phrase: str) -> Span | None:
    start = text.lower().find(phrase.lower()) if phrase else -1
    return (start, start + len(phrase)) if start >= 0 else None


def _mention_at(mentions: Sequence[Mention], span: Span | None) -> Mention | None:
    """Return the mention that a span is, with or without its determiner."""
    if span is None:
        return None
    for mention in mentions:
        if span[1] == mention.end and span[0] in (mention.start, mention.content):
            return mention
    return None
