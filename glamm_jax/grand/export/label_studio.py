"""Tasks for Label Studio, to correct annotations by hand.

    OUT/label_config.xml            the labelling interface, with all labels
    OUT/tasks-00000.json            at most 1000 tasks
    OUT/images/NAME                 where images are placed
    OUT/export.json

A task is an image and its dense caption, or its first short caption. It has a rectangle for each
object, a polygon or a brush mask where the object has a mask, a text span for each phrase of the
caption, and a relation from the phrase to the rectangle of each of its objects. Coordinates are
percent of the width and height; spans count UTF-16 units, as browsers do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

import numpy as np
from jaxtyping import Bool

from glamm_jax.data import rle
from glamm_jax.grand.export.coco import BAD_MASK, NO_BOX, NO_LABEL, clipped_box, valid_mask
from glamm_jax.grand.export.filters import (
    NO_FILTERS,
    ExportFilters,
    filter_items,
    no_callback,
    object_name,
)
from glamm_jax.grand.export.images import (
    AnnotatedImage,
    ExportItem,
    ImagePlacement,
    place_image,
)
from glamm_jax.grand.export.output import export_folder, json_text
from glamm_jax.grand.export.polygons import object_polygon
from glamm_jax.grand.export.record_texts import short_texts
from glamm_jax.grand.export.spill import ClassNames
from glamm_jax.grand.export.summary import ExportSummary
from glamm_jax.grand.record import GrandCaption, GrandObject, GrandRecord, PhraseGrounding

FORMAT = "label-studio"
MaskForm = Literal["none", "polygon", "brush"]
TASKS_PER_FILE = 1000
PHRASE_LABEL, RELATION_LABEL = "phrase", "refers to"
NO_SPAN = "phrases: not in the caption"
# Label Studio's run lengths: bits of a pixel's value, and of the four sizes of a run.
VALUE_BITS, RUN_BITS = 8, (3, 4, 8, 16)


def export_label_studio(
    items: Iterable[ExportItem],
    out: Path,
    *,
    filters: ExportFilters = NO_FILTERS,
    masks: MaskForm = "polygon",
    tolerance: float = 1.0,
    image_url: str = "/data/local-files/?d=images/",
    as_annotations: bool = False,
    images: ImagePlacement = "none",
    overwrite: bool = False,
    on_image: Callable[[], None] = no_callback,
) -> ExportSummary:
    """Write tasks with pre-annotations.

    Args:
        items: images and annotations, in the order of the image ids.
        out: the folder to create.
        filters: what to leave out.
        masks: how to write masks.
        tolerance: of the polygons, in pixels.
        image_url: where Label Studio finds the images; the quoted file name follows.
        as_annotations: as if a person had made them, instead of as predictions.
        images: whether to copy or link the image files.
        overwrite: replace an earlier export.
        on_image: called after every image.

    Raises:
        FolderError: the folder exists or cannot be written.
    """
    options = {
        "masks": masks,
        "tolerance": tolerance,
        "image_url": image_url,
        "as_annotations": as_annotations,
        "images": images,
    }
    summary = ExportSummary(FORMAT, options, filters.to_json())
    with export_folder(out, summary, overwrite) as folder:
        labels, file = ClassNames(), _TaskFiles(folder)
        with file:
            for image, record in filter_items(items, filters, summary, on_image):
                path = folder / "images" / image.file_name
                if not place_image(image, path, images, summary.dropped):
                    continue
                results = _task_results(image, record, masks, tolerance, summary)
                for result in results:
                    for name in result.get("value", {}).get("rectanglelabels", ()):
                        labels.number(name)
                data = {
                    "image": image_url + quote(image.file_name),
                    "caption": _caption(record).caption,
                    "image_id": image.image_id,
                }
                if as_annotations:
                    task = {"data": data, "annotations": [{"result": results}]}
                else:
                    prediction = {"model_version": "glamm-jax annotate", "result": results}
                    task = {"data": data, "predictions": [prediction]}
                file.add(json_text(task))
                summary.num_images += 1
        config = label_config(labels.names(), masks)
        (folder / "label_config.xml").write_text(config, "utf-8", "replace")
    return summary


class _TaskFiles:
    """Files with JSON lists of a limited number of tasks."""

    def __init__(self, folder: Path):
        self._folder, self._file, self._num_tasks = folder, None, 0

    def __enter__(self) -> _TaskFiles:
        return self

    def __exit__(self, *_: object) -> None:
        if self._num_tasks == 0:
            (self._folder / "tasks-00000.json").write_text("[]\n", encoding="ascii")
        self._end()

    def _end(self) -> None:
        if self._file is not None:
            self._file.write("\n]\n")
            self._file.close()

    def add(self, task: str) -> None:
        """Write a task, in a new file if the last one is full."""
        index, place = divmod(self._num_tasks, TASKS_PER_FILE)
        if place == 0:
            self._end()
            path = self._folder / f"tasks-{index:05d}.json"
            self._file = path.open("x", encoding="ascii", newline="\n")
        assert self._file is not None
        self._file.write(("[\n" if place == 0 else ",\n") + task)
        self._num_tasks += 1


def label_config(labels: Sequence[str], masks: MaskForm) -> str:
    """Return the labelling interface.

    Args:
        labels: of objects.
        masks: how masks are written.
    """
    values = "\n".join(f"    <Label value={quoteattr(name)}/>" for name in labels)
    tags = {"none": (), "polygon": ("PolygonLabels",), "brush": ("BrushLabels",)}[masks]
    regions = [("RectangleLabels", "box"), *((tag, "mask") for tag in tags)]
    parts = ['<View>\n  <Image name="image" value="$image" zoom="true"/>']
    parts += [
        f'  <{tag} name="{name}" toName="image">\n{values}\n  </{tag}>' for tag, name in regions
    ]
    parts += [
        '  <Text name="caption" value="$caption"/>',
        '  <Labels name="phrase" toName="caption">',
        f'    <Label value="{PHRASE_LABEL}"/>\n  </Labels>',
        f'  <Relations>\n    <Relation value="{RELATION_LABEL}"/>\n  </Relations>\n</View>\n',
    ]
    return "\n".join(parts)


def _caption(record: GrandRecord) -> GrandCaption:
    """The caption of the task: dense, else the first short one."""
    if record.dense_caption is not None:
        return record.dense_caption
    if record.short_captions:
        return record.short_captions[0]
    return GrandCaption(next(iter(short_texts(record)), ""))


def _task_results(
    image: AnnotatedImage,
    record: GrandRecord,
    masks: MaskForm,
    tolerance: float,
    summary: ExportSummary,
) -> list[dict[str, Any]]:
    """Regions of the image, spans of the caption, and the relations between them."""
    results: list[dict[str, Any]] = []
    written: set[int] = set()
    for item in (*record.objects, *record.floating_objects):
        if item.id in written:  # released files may have an object twice
            continue
        regions = _object_results(image, item, masks, tolerance, summary)
        if regions:
            written.add(item.id)
            summary.counts["objects"] += 1
        results += regions
    caption = _caption(record)
    for i, grounding in enumerate(caption.groundings):
        span = _span(caption.caption, grounding)
        if span is None:
            summary.dropped[NO_SPAN] += 1
            continue
        start, end = span
        value = {
            "start": _utf16_length(caption.caption[:start]),
            "end": _utf16_length(caption.caption[:end]),
            "text": caption.caption[start:end],
            "labels": [PHRASE_LABEL],
        }
        names = {"from_name": "phrase", "to_name": "caption", "type": "labels"}
        results.append({"id": f"phrase-{i}", **names, "value": value})
        summary.counts["phrases"] += 1
        for object_id in dict.fromkeys(grounding.object_ids):
            if object_id in written:
                results.append(
                    {
                        "type": "relation",
                        "from_id": f"phrase-{i}",
                        "to_id": f"object-{object_id}",
                        "direction": "right",
                        "labels": [RELATION_LABEL],
                    }
                )
                summary.counts["relations"] += 1
    return results


def _object_results(
    image: AnnotatedImage,
    item: GrandObject,
    masks: MaskForm,
    tolerance: float,
    summary: ExportSummary,
) -> list[dict[str, Any]]:
    """The rectangle of an object, and its mask."""
    label = object_name(item)
    box = clipped_box(item.box, image.height, image.width)
    if label is None or box is None:
        summary.dropped[NO_LABEL if label is None else NO_BOX] += 1
        return []
    x0, y0, x1, y1 = box
    common = {
        "to_name": "image",
        "original_width": image.width,
        "original_height": image.height,
        "image_rotation": 0,
    }
    value = {
        "x": _percent(x0, image.width),
        "y": _percent(y0, image.height),
        "width": _percent(x1 - x0, image.width),
        "height": _percent(y1 - y0, image.height),
        "rotation": 0,
        "rectanglelabels": [label],
    }
    rectangle = {"id": f"object-{item.id}", "from_name": "box", "type": "rectanglelabels"}
    rectangle |= {**common, "value": value}
    if item.score is not None:
        rectangle["score"] = item.score
    results = [rectangle]
    runs = None if masks == "none" else valid_mask(item, image.height, image.width)
    if runs is None:
        summary.dropped[BAD_MASK] += masks != "none" and item.mask is not None
        return results
    mask = rle.decode(runs)
    if masks == "brush":
        kind, value = "brushlabels", {"format": "rle", "rle": list(brush_runs(mask))}
    else:
        points = object_polygon(mask, tolerance)
        if points is None:
            return results
        percent = [
            [_percent(x, image.width), _percent(y, image.height)] for x, y in points.tolist()
        ]
        kind, value = "polygonlabels", {"points": percent, "closed": True}
    summary.counts["masks"] += 1
    region = {"id": f"mask-{item.id}", "from_name": "mask", "type": kind, **common}
    return [*results, {**region, "value": {**value, kind: [label]}}]


def _percent(value: float, size: int) -> float:
    return round(100 * value / size, 6)


def _span(text: str, grounding: PhraseGrounding) -> tuple[int, int] | None:
    """The span of a phrase; where the record has none or a stale one, its first occurrence."""
    if grounding.span is not None:
        start, end = grounding.span
        if 0 <= start < end <= len(text) and text[start:end].lower() == grounding.phrase.lower():
            return start, end
    phrase = grounding.phrase.strip()
    start = text.lower().find(phrase.lower()) if phrase else -1
    # Lower case can be longer than the text.
    if start < 0 or text[start : start + len(phrase)].lower() != phrase.lower():
        return None
    return start, start + len(phrase)


def _utf16_length(text: str) -> int:
    return len(text.encode("utf-16-le", "surrogatepass")) // 2


def brush_runs(mask: Bool[np.ndarray, "h w"]) -> bytes:
    """Return Label Studio's run lengths of a mask, whose pixels are 255 in all four channels.

    They begin with the number of values in 32 bits, the bits of a value less one in 5, and the bits
    of the four sizes of runs less one in 4 each. A run is a bit that is 1, the size in 2 bits, the
    length less one, and the value. Zeros fill the last byte.
    """
    flat = mask.reshape(-1)
    edges = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    ends = [0, *edges.tolist(), flat.size]
    value = bool(flat[0]) if flat.size else False
    bits = [f"{4 * flat.size:032b}", f"{VALUE_BITS - 1:05b}", *(f"{n - 1:04b}" for n in RUN_BITS)]
    longest = 1 << RUN_BITS[-1]
    for start, end in pairwise(ends):
        rest = 4 * (end - start)
        while rest:
            length = min(rest, longest)
            size = next(i for i, n in enumerate(RUN_BITS) if length <= 1 << n)
            bits.append(f"1{size:02b}{length - 1:0{RUN_BITS[size]}b}{255 * value:08b}")
            rest -= length
        value = not value
    text = "".join(bits)
    text += "0" * (-len(text) % 8)
    return int(text, 2).to_bytes(len(text) // 8, "big")
