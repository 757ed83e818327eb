"""Selection of detections inside each model, and fusion of all models to objects by voting.

    detections = merge_detections({"co_detr": [...], "owl_vit": [...]}, MergeOptions())
    record = fuse(detections, Landmark("Indoor scene", "Work space"), FusionOptions())

Each unused detection, in the order of the models' priority, is the seed of an object; detections of
later models that overlap it join. Matching is against the seed only.

Source: GranD/utils/merge_json_level_1_with_nms.py, utils/prepare_level_1.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from glamm_jax.grand.affordances import find_affordances
from glamm_jax.grand.geometry import suppress
from glamm_jax.grand.options import FusionOptions, MergeOptions, SourceOptions
from glamm_jax.grand.record import Box, Detection, GrandObject, GrandRecord, Vote

PERSON = "person"
RENAMED = frozenset(("man", "woman", "men", "women"))  # to `PERSON`, in any case


def merge_detections(
    detections: Mapping[str, Sequence[Detection]], options: MergeOptions
) -> dict[str, list[Detection]]:
    """Drop low scores and duplicates inside each model.

    Args:
        detections: of each model.
        options: limits of scores and of overlap.

    Returns:
        The selected detections of each model, the highest score first.
    """
    return {source: suppress(items, options) for source, items in detections.items()}


def fuse(
    detections: Mapping[str, Sequence[Detection]],
    landmark: Mapping[str, str] | None,
    options: FusionOptions,
) -> GrandRecord:
    """Merge the detections of all models to objects, floating objects and floating attributes.

    Args:
        detections: of each model, after `merge_detections`.
        landmark: of the image; None: not classified.
        options: how they are merged.

    Returns:
        A record with these; ids are numbered from 0, objects before floating objects.
    """
    used: list[list[_Candidate]] = []
    sources = _sources(detections, options)
    for source in sources:
        used.append(_usable(detections[source.name], source, options))
    groups: list[list[_Candidate]] = []
    for rank, candidates in enumerate(used):
        later = used[rank + 1 :]
        for seed in candidates:
            if not seed.used:
                groups.append([seed, *_partners(seed.detection.box, later, options.iou)])
    return _record(groups, landmark, options)


class _Candidate:
    """A detection above the limits; `used` after it joined an object."""

    __slots__ = ("detection", "source", "text", "used")

    def __init__(self, detection: Detection, source: SourceOptions, text: str) -> None:
        self.detection, self.source, self.text, self.used = detection, source, text, False


def _sources(
    detections: Mapping[str, Sequence[Detection]], options: FusionOptions
) -> list[SourceOptions]:
    listed = [source for source in options.sources if source.name in detections]
    names = {source.name for source in listed}
    return listed + [SourceOptions(name) for name in detections if name not in names]


def _usable(
    detections: Sequence[Detection], source: SourceOptions, options: FusionOptions
) -> list[_Candidate]:
    usable: list[_Candidate] = []
    person_score = source.min_score if source.person_score is None else source.person_score
    for detection in detections:
        text = detection.label if detection.description is None else detection.description
        text = text or ""
        if detection.score > (person_score if text == PERSON else source.min_score):
            if options.rename_first and not source.descriptions and text.lower() in RENAMED:
                text = PERSON
            usable.append(_Candidate(detection, source, text))
    return usable


def _partners(box: Box, later: Sequence[Sequence[_Candidate]], limit: float) -> list[_Candidate]:
    """Return the unused candidates that overlap a box, and mark them as used."""
    partners: list[_Candidate] = []
    x0, y0, x1, y1 = box
    area = (x1 - x0 + 1) * (y1 - y0 + 1)
    for candidates in later:
        for candidate in candidates:
            if candidate.used:
                continue
            # As `inclusive_iou`; this is the innermost loop of the step.
            u0, v0, u1, v1 = candidate.detection.box
            width = (x1 if x1 < u1 else u1) - (x0 if x0 > u0 else u0) + 1
            if width <= 0:
                continue
            height = (y1 if y1 < v1 else v1) - (y0 if y0 > v0 else v0) + 1
            if height <= 0:
                continue
            inter = width * height
            union = area + (u1 - u0 + 1) * (v1 - v0 + 1) - inter
            if union and inter / union >= limit:
                candidate.used = True
                partners.append(candidate)
    return partners


def _record(
    groups: Sequence[Sequence[_Candidate]],
    landmark: Mapping[str, str] | None,
    options: FusionOptions,
) -> GrandRecord:
    selected: list[Sequence[_Candidate]] = []
    floating: list[Sequence[_Candidate]] = []
    attributes: list[GrandObject] = []
    for group in groups:
        seed = group[0]
        if len({candidate.source.name for candidate in group}) >= options.min_sources:
            selected.append(group)
        elif len(group) == 1 and seed.source.descriptions:
            texts, votes = (seed.text,), (_vote(seed),)
            detection = seed.detection
            attributes.append(GrandObject(-1, detection.box, (), detection.score, texts, votes))
        elif len(group) == 1 and options.lone_persons and seed.text == PERSON:
            source, score = seed.source, seed.detection.score
            if source.lone_person_object is not None and score > source.lone_person_object:
                selected.append(group)
            elif source.lone_person_float is not None and score > source.lone_person_float:
                floating.append(group)
        else:
            floating.append(group)
    objects = [_object(i, group, options) for i, group in enumerate(selected)]
    first = len(objects)
    floats = [_object(first + i, group, options) for i, group in enumerate(floating)]
    affordances = find_affordances(
        [*objects, *floats],
        normalize=options.normalize_affordances,
        complete=options.complete_affordances,
    )
    if not options.rename_first:
        objects = [_renamed(item) for item in objects]
    return GrandRecord(
        tuple(objects), tuple(floats), tuple(attributes), landmark, affordances
    )  # fmt: skip


def _object(number: int, group: Sequence[_Candidate], options: FusionOptions) -> GrandObject:
    seed = group[0].detection
    if len(group) == 1 and not group[0].source.descriptions:
        return GrandObject(number, seed.box, (group[0].text,), seed.score, None, (_vote(group[0]),))
    labels = [c for c in group if not c.source.descriptions]
    descriptions = [c for c in group if c.source.descriptions]
    return GrandObject(
        number,
        seed.box,
        _supported(_texts(labels, options), labels, options.min_label_sources),
        seed.score,
        _texts(descriptions, options) or None,
        tuple([_vote(candidate) for candidate in group]),
    )


def _texts(candidates: Sequence[_Candidate], options: FusionOptions) -> tuple[str, ...]:
    """Return the different texts of detections in the order of the options."""
    texts = {candidate.text for candidate in candidates}
    if len(texts) < 2 or options.order == "text":
        return tuple(sorted(texts))
    sources: dict[str, set[str]] = {text: set() for text in texts}
    scores = dict.fromkeys(texts, 0.0)
    for candidate in candidates:
        text = candidate.text
        sources[text].add(candidate.source.name)
        scores[text] = max(scores[text], candidate.detection.score)
    return tuple(sorted(texts, key=lambda text: (-len(sources[text]), -scores[text], text)))


def _supported(
    labels: tuple[str, ...], candidates: Sequence[_Candidate], limit: int
) -> tuple[str, ...]:
    """Return the labels that enough models report; the first one if there is none."""
    if limit < 2:
        return labels
    sources: dict[str, set[str]] = {}
    for candidate in candidates:
        sources.setdefault(candidate.text, set()).add(candidate.source.name)
    return tuple(label for label in labels if len(sources[label]) >= limit) or labels[:1]


def _vote(candidate: _Candidate) -> Vote:
    kind = "description" if candidate.source.descriptions else "label"
    return Vote(candidate.source.name, candidate.text, candidate.detection.score, kind)


def _renamed(item: GrandObject) -> GrandObject:
    if not any(label.lower() in RENAMED for label in item.labels):
        return item
    labels = tuple(PERSON if label.lower() in RENAMED else label for label in item.labels)
    return GrandObject(item.id, item.box, labels, item.score, item.attributes, item.votes)
