"""A web page about one image of a run: all that the models said, and what became of it.

    page = inspection_page(run, find_image(run, "dog.jpg"))
    page.save(Path("dog.html"))

The page answers why an object is missing or wrong: it lists every detection with the object that it
became a vote of, or why it was not used; every answer of the language model with what was wrong
with it; and every error.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from glamm_jax.grand.geometry import inclusive_iou, plain_iou
from glamm_jax.grand.levels.level1 import VOTING
from glamm_jax.grand.levels.sections import read_depth, read_detections, read_record
from glamm_jax.grand.record import Detection, GrandObject, GrandRecord
from glamm_jax.grand.record_cards import (
    decoded_mask,
    grounded_line,
    numbers_line,
    object_colours,
    record_card,
)
from glamm_jax.grand.review.run_reviews import RunReviews, open_reviews
from glamm_jax.grand.roles import Pixels
from glamm_jax.grand.run_folder import AnnotationRun, SceneSections
from glamm_jax.grand.run_records import (
    ImagePlace,
    chunk_seconds,
    read_pixels,
    read_scene,
    reviewed_annotations,
)
from glamm_jax.report.html_page import Box, Card, Page, TextLine, TextMark

# The stages that write records, the most complete first.
RECORD_STAGES = (
    *("annotations", "masks", "caption_grounding", "objects"),
    *("region_attributes", "links", "fusion"),
)
BLANK = 160  # width and height of what is shown for an image that cannot be opened
NEAR_COLOUR, FAR_COLOUR = (255, 214, 102), (28, 30, 84)  # of depth
MAX_UNUSED_SHOWN = 60  # boxes of one model that became no object, in its picture
UNUSED = 11  # colour of boxes that became no object: grey
MAX_SHORT_TEXT = 60
LACKING = TextLine("does not have it", [TextMark(0, 16, 4)])  # marked in red


def inspection_page(run: AnnotationRun, place: ImagePlace, *, ignore_reviews: bool = False) -> Page:
    """Return the page about an image.

    Args:
        run: the folder.
        place: of the image, by `find_image`.
        ignore_reviews: show the automatic annotations, not as persons have reviewed them.

    Raises:
        RunFolderError: a file is damaged, or the folder has no run.
        DecisionError: the file of decisions is damaged.
    """
    return _Inspection(run, place, None if ignore_reviews else open_reviews(run)).page()


class _Inspection:
    """Makes the page; attributes are what its sections share."""

    def __init__(self, run: AnnotationRun, place: ImagePlace, reviews: RunReviews | None):
        self._run, self._place, self._reviews = run, place, reviews
        self._stages = run.graph_description()
        self._scene: SceneSections = read_scene(run, place)
        pixels = read_pixels(run, place.entry.file)
        self._has_pixels = pixels is not None
        blank = np.full((BLANK, BLANK, 3), 128, np.uint8)
        self._pixels: Pixels = blank if pixels is None else pixels
        result = next((name for name in RECORD_STAGES if name in self._scene.sections), None)
        self._record_stage = result
        self._record = self._read(result) if result else GrandRecord()
        if result == RECORD_STAGES[0]:
            self._record = reviewed_annotations(self._scene, reviews) or self._record
        self._colours = object_colours(self._record)
        self._graph = self._scene.sections.get("scene_graph") or {}
        self._layers = {
            number: (layer["name"], group)
            for layer in self._graph.get("layers", ())
            for group, members in layer["groups"]
            for number in members
        }

    def _read(self, stage: str) -> GrandRecord:
        return read_record(self._scene.sections[stage])

    def page(self) -> Page:
        """Return the page, from top to bottom."""
        record, scene = self._record, self._scene
        height, width = self._pixels.shape[:2]
        size = f"{width} x {height}" if self._has_pixels else "cannot be opened"
        page = Page(scene.image_id, f"{self._run.path}: {scene.status}; {size}")
        page.facts(
            {
                "objects": len(record.objects),
                "floating objects": len(record.floating_objects),
                "with mask": sum(item.mask is not None for item in record.objects),
                "phrases with objects": len(record.links),
                "answers for the dense caption": len(record.attempts),
                "errors": len(scene.errors),
            }
        )
        self._add_state(page)
        if self._record_stage:
            self._add_objects(page)
        self._add_detections(page)
        self._add_regions_and_depth(page)
        self._add_graph(page)
        self._add_captions(page)
        self._add_attempts(page)
        self._add_context(page)
        self._add_provenance(page)
        return page

    # ------------------------------------------------------------ errors

    def _add_state(self, page: Page) -> None:
        if self._record_stage not in (None, RECORD_STAGES[0]):
            page.paragraph(
                f"The annotations are those of stage {self._record_stage}: no later stage has a "
                "result."
            )
        self._add_decisions(page)
        if not self._scene.errors:
            return
        page.section("Errors")
        own = [(n, e) for n, e in self._scene.errors.items() if e.stage in (None, n)]
        page.table(("stage", "kind", "message"), [(name, e.kind, e.message) for name, e in own])
        skipped = [
            f"{name}: {e.kind} because of {e.stage}"
            for name, e in self._scene.errors.items()
            if e.stage not in (None, name)
        ]
        if skipped:
            page.collapsed(f"{len(skipped)} stages were skipped because of them", skipped)

    def _add_decisions(self, page: Page) -> None:
        review = self._record.review
        if review is None or self._reviews is None:
            return
        page.section("Review")
        text = f"These annotations were {review.state} by {', '.join(review.authors)}."
        if review.state == "outdated":
            text = "The decisions are about other annotations of this image, and not applied."
        page.paragraph(text)
        decisions = self._reviews.log.decisions(self._scene.image_id)
        rows = [(x.sequence, x.time, x.author, x.action) for x in decisions]
        page.table(("line", "time", "author", "action"), rows)

    # ------------------------------------------------------------ objects

    def _add_objects(self, page: Page) -> None:
        record = self._record
        page.section("Objects")
        first = len(record.objects)
        floats = record.floating_objects
        cards = [record_card(self._pixels, record, "objects and dense caption")]
        if floats:
            cards.append(
                Card(
                    self._pixels,
                    [TextLine("Too few models agree on these.")],
                    boxes_xyxy_pixel=[None] * first + [item.box for item in floats],
                    title="floating objects",
                    box_labels=[""] * first + [str(item.id) for item in floats],
                )
            )
        page.cards(cards, large=True)
        for title, items in (("Objects", record.objects), ("Floating objects", floats)):
            if items:
                page.section(title, level=3)
                page.table(
                    (
                        *("", "label", "candidates", "attributes", "models that agree"),
                        *("score", "depth", "layer", "mask", "box"),
                    ),
                    [self._object_row(item) for item in items],
                )
        if record.landmark:
            page.paragraph(f"Place: {', '.join(record.landmark.values())}")
        if record.affordances:
            page.collapsed(
                "Affordances",
                [
                    f"{name}: objects {', '.join(map(str, value.get('object_ids', ())))}"
                    for name, value in record.affordances.items()
                ],
            )

    def _object_row(self, item: GrandObject) -> tuple[object, ...]:
        sources = dict.fromkeys(vote.source for vote in item.votes)
        votes = "; ".join(f"{v.source} {v.score:.2f} {v.text}" for v in item.votes)
        layer, group = self._layers.get(item.id, ("", None))
        return (
            numbers_line([item.id], self._colours),
            item.label or "",
            ", ".join(item.labels),
            "; ".join(item.attributes or ()),
            TextLine(f"{len(sources)}: " if sources else "", note=votes),
            "" if item.score is None else item.score,
            "" if item.depth is None else item.depth,
            layer if group is None else f"{layer}, group {group}",
            item.mask_source or "",
            _box_text(item.box),
        )

    # ------------------------------------------------------------ detections

    def _sources(self) -> Iterator[tuple[str, list[Detection]]]:
        """Yield each model whose detections are merged, with its detections."""
        for stage in self._stages:
            name = stage["name"]
            if name.startswith(VOTING) and name in self._scene.sections:
                yield name.partition("/")[2], read_detections(self._scene.sections[name])

    def _add_detections(self, page: Page) -> None:
        sources = list(self._sources())
        if not sources:
            return
        page.section("What each model found")
        page.paragraph(
            "A box has the colour of the object that it is a vote of; grey boxes became no object. "
            "Numbers are those of the objects after fusion."
        )
        fused = self._read("fusion") if "fusion" in self._scene.sections else GrandRecord()
        fates = _Fates(fused, self._settings("fusion"))
        cards, rows = [], []
        for source, detections in sources:
            outcomes = [fates.of(source, detection, detections) for detection in detections]
            cards.append(self._source_card(source, detections, outcomes))
            rows += [
                (
                    source,
                    numbers_line([] if number is None else [number], self._colours, text),
                    detection.label or detection.description or "",
                    detection.score,
                    _box_text(detection.box),
                )
                for detection, (number, text) in zip(detections, outcomes, strict=True)
            ]
        page.cards(cards)
        page.section("All detections", level=3)
        page.table(("model", "became", "label or description", "score", "box"), rows)

    def _source_card(
        self,
        source: str,
        detections: Sequence[Detection],
        outcomes: Sequence[tuple[int | None, str]],
    ) -> Card:
        boxes: list[Box | None] = []
        labels: list[str] = []

        def put(colour: int, box: Box, label: str) -> None:
            while colour < len(boxes) and boxes[colour] is not None:
                colour += 12  # the same colour again
            missing = colour + 1 - len(boxes)
            boxes.extend([None] * missing)
            labels.extend([""] * missing)
            boxes[colour], labels[colour] = box, label

        unused = 0
        for detection, (number, _) in zip(detections, outcomes, strict=True):
            if number is not None:
                put(self._colours.get(number, UNUSED), detection.box, str(number))
            elif unused < MAX_UNUSED_SHOWN:
                unused += 1
                put(UNUSED, detection.box, "")
        used = sum(number is not None for number, _ in outcomes)
        text = f"{len(detections)} boxes, {used} in objects or floating objects"
        return Card(
            self._pixels, [TextLine(text)], title=source, boxes_xyxy_pixel=boxes, box_labels=labels
        )

    def _settings(self, name: str) -> Mapping[str, Any]:
        for stage in self._stages:
            if stage["name"] == name:
                return stage["settings"] or {}
        return {}

    def _add_regions_and_depth(self, page: Page) -> None:
        cards, size = [], self._pixels.shape[:2]
        proposals = self._scene.sections.get("proposals")
        if proposals is not None:
            result = read_detections(proposals)
            masks = [decoded_mask(item.mask, size) for item in result]
            text = f"{len(result)} regions without labels"
            cards.append(Card(self._pixels, [TextLine(text)], masks=masks, title="proposals"))
        depth = self._scene.sections.get("depth")
        if depth is not None:
            values = read_depth(depth)
            share = (values - values.min()) / max(float(np.ptp(values)), 1e-9)
            near, far = (np.array(colour, np.float32) for colour in (NEAR_COLOUR, FAR_COLOUR))
            picture = (share[..., None] * near + (1 - share[..., None]) * far).astype(np.uint8)
            text = f"inverse depth {depth['min']:.4g} (dark, far) to {depth['max']:.4g} (near)"
            cards.append(Card(picture, [TextLine(text)], title="depth"))
        if cards:
            page.section("Regions and depth")
            page.cards(cards)
        tags = {
            name: section["tags"]
            for name, section in self._scene.sections.items()
            if name.startswith("tags/")
        }
        for name, words in tags.items():
            page.paragraph(f"{name}: {', '.join(words)}")

    # ------------------------------------------------------------ texts

    def _add_graph(self, page: Page) -> None:
        if not self._graph:
            return
        page.section("Scene graph")
        if self._graph["text"] is None:
            page.paragraph("There is no object with a depth, so there is no scene graph.")
            return
        names = {item.id: item for item in self._everything()}
        rows = []
        for layer in self._graph["layers"]:
            for group, members in layer["groups"]:
                text = ", ".join(_object_name(names.get(number)) for number in members)
                rows.append((layer["name"], group, numbers_line(members, self._colours, text)))
        page.table(("layer", "group", "objects"), rows)
        page.section("Text for the language model", level=3)
        page.text_block(self._graph["text"])

    def _everything(self) -> tuple[GrandObject, ...]:
        return (*self._record.floating_objects, *self._record.objects)

    def _add_captions(self, page: Page) -> None:
        record = self._record
        captions = record.short_captions or ()
        models = [x["name"].partition("/")[2] for x in self._stages if _is_caption(x["name"])]
        models = [name for name in models if f"captions/{name}" in self._scene.sections]
        texts = [self._scene.sections[f"captions/{name}"]["caption"] for name in models]
        if not texts and not captions:
            return
        page.section("Short captions")
        if captions:
            named = len(models) == len(captions)
            for i, caption in enumerate(captions):
                speaker = f"{models[i]}: " if named else ""
                line = grounded_line(caption, self._colours)
                page.paragraph(speaker + line.text, _shifted(line.marks, len(speaker)))
                if line.note:
                    page.paragraph(line.note)
        else:
            for name, text in zip(models, texts, strict=True):
                page.paragraph(f"{name}: {text}")
        self._add_phrases(page)
        if record.relations:
            page.section("Relations", level=3)
            page.table(
                ("subject", "predicate", "object", "caption"),
                [
                    (
                        numbers_line(item.subject_ids, self._colours),
                        item.predicate,
                        numbers_line(item.object_ids, self._colours),
                        item.caption,
                    )
                    for item in record.relations
                ],
            )

    def _add_phrases(self, page: Page) -> None:
        section = self._scene.sections.get("phrases")
        if section is None:
            return
        boxes = self._scene.sections.get("phrase_boxes") or {"boxes": []}
        scores: dict[str, list[float]] = {}
        for box in boxes["boxes"]:
            scores.setdefault(box["phrase"].lower(), []).append(box["score"])
        links = {link.phrase: link.object_ids for link in self._record.links}
        rows = []
        for item in section["phrases"]:
            key = " ".join(item["phrase"].lower().split())
            result = ", ".join(f"{score:.2f}" for score in scores.get(item["phrase"].lower(), ()))
            ids = links.get(key, ())
            rows.append(
                (
                    *(item["caption"], item["phrase"], result or "no box"),
                    numbers_line(ids, self._colours, "" if ids else "no object"),
                )
            )
        page.section("Phrases", level=3)
        page.table(("caption", "phrase", "box scores", "objects"), rows)

    def _add_attempts(self, page: Page) -> None:
        section = self._scene.sections.get("dense_caption")
        if section is None:
            return
        record, attempts = self._record, section["attempts"]
        page.section("Dense caption")
        if record.dense_caption is not None:
            line = grounded_line(record.dense_caption, self._colours)
            page.paragraph(line.text, line.marks)
            if line.note:
                page.paragraph(line.note)
        if record.dense_source == "reviewer":
            page.paragraph("Written by a reviewer; the answers below are those of the model.")
        else:
            page.paragraph(_verdict(section))
        for number, attempt in enumerate(attempts, 1):
            page.section(f"Answer {number} of {len(attempts)}", level=3)
            problem = attempt["problem"]
            end = attempt["finish_reason"]
            if problem:
                page.paragraph(f"not usable: {problem} (finish reason {end})")
            page.text_block(attempt["text"])
            if attempt["checklist"] or attempt["missing"]:
                missing = {text.lower() for text in attempt["missing"]}
                listed = [*attempt["checklist"]]
                listed += [x for x in attempt["missing"] if x not in listed]
                page.table(
                    ("the caption implies", "the scene graph"),
                    [(x, LACKING if x.lower() in missing else "has it") for x in listed],
                )

    def _add_context(self, page: Page) -> None:
        text = self._record.additional_context
        if text is None:
            text = (self._scene.sections.get("context") or {}).get("text")
        if text:
            page.section("Additional context")
            page.paragraph(text)

    def _add_provenance(self, page: Page) -> None:
        page.section("Provenance")
        rows = []
        number = len(self._run.images(self._place.chunk))
        for stage in self._stages:
            name = stage["name"]
            error = self._scene.errors.get(name)
            if error is not None:
                outcome = error.kind
            else:
                outcome = "done" if name in self._scene.sections else "missing"
            seconds = chunk_seconds(self._run, stage, self._place.chunk)
            milliseconds = "" if seconds is None else 1000 * seconds / number
            models = ", ".join(role["name"] for role in stage["roles"])
            attempt = self._scene.attempts.get(name)
            rows.append(
                (
                    *(name, outcome, models, stage["fingerprint"][:12]),
                    *("" if attempt is None else attempt + 1, milliseconds),
                )
            )
        page.table(
            ("stage", "outcome", "models", "fingerprint", "attempt", "ms, mean of the chunk"), rows
        )


class _Fates:
    """What became of detections in the fusion."""

    def __init__(self, fused: GrandRecord, settings: Mapping[str, Any]):
        self._numbers: dict[tuple[str, float], list[tuple[int | None, str, GrandObject]]] = {}
        groups = (
            ("object", fused.objects),
            ("floating object", fused.floating_objects),
            ("floating attribute", fused.floating_attributes),
        )
        for kind, items in groups:
            for item in items:
                for vote in item.votes:
                    number = item.id if item.id >= 0 else None
                    entry = (number, kind, item)
                    self._numbers.setdefault((vote.source, vote.score), []).append(entry)
        merge, fusion = settings.get("merge", {}), settings.get("fusion", {})
        self._min_score, self._nms_iou = merge.get("min_score", 0.0), merge.get("nms_iou", 1.0)
        self._needed = fusion.get("min_sources")
        self._limits = {x["name"]: x["min_score"] for x in fusion.get("sources", ())}

    def of(
        self, source: str, detection: Detection, all_detections: Sequence[Detection]
    ) -> tuple[int | None, str]:
        """Return the id of the object that a detection is a vote of, and what that is, or why not.

        Args:
            source: name of the model.
            detection: of the model.
            all_detections: of the model.
        """
        entries = self._numbers.get((source, detection.score), [])
        best = max(entries, key=lambda x: inclusive_iou(x[2].box, detection.box), default=None)
        if best is not None:
            number, kind, item = best
            voters = len({vote.source for vote in item.votes})
            if kind == "floating object" and self._needed:
                return number, f"floating object: {voters} of {self._needed} models"
            return number, kind
        limit = self._limits.get(source, 0.3)
        if detection.score < self._min_score:
            return None, f"not used: score below {self._min_score:g} (merge.min_score)"
        if detection.score <= limit:
            return None, f"not used: score not above {limit:g} (fusion.sources)"
        for other in all_detections:
            is_better = other.score >= detection.score and other is not detection
            if is_better and plain_iou(other.box, detection.box) > self._nms_iou:
                return None, "not used: overlaps a better box of this model (merge.nms_iou)"
        return None, "not used"


def _verdict(section: Mapping[str, Any]) -> str:
    source, verified = section["source"], section["verified"]
    if section["caption"] is None:
        return "There is no dense caption."
    author = {"llm": "the language model", "template": "the template"}.get(source, str(source))
    if verified is None:
        return f"Written by {author}; not verified."
    if verified:
        return f"Written by {author}; verified: it names nothing that the scene graph lacks."
    return f"Written by {author}; not verified: it names what the scene graph does not have."


def _shifted(marks: Sequence[TextMark], by: int) -> list[TextMark]:
    return [TextMark(m.start + by, m.end + by, m.colour, m.is_token) for m in marks]


def _object_name(item: GrandObject | None) -> str:
    if item is None:
        return "?"
    name = item.label or (item.labels[0] if item.labels else "object")
    text = f"{name} ({item.attributes[0]})" if item.attributes else name
    return text if len(text) <= MAX_SHORT_TEXT else text[: MAX_SHORT_TEXT - 3] + "..."


def _is_caption(name: str) -> bool:
    return name.startswith("captions/")


def _box_text(box: Box) -> str:
    return " ".join(f"{edge:.0f}" for edge in box)
