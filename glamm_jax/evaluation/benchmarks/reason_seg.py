"""The benchmark `reason_seg`: ReasonSeg, queries that need reasoning, of LISA.

    ReasonSeg/{val,test}/NAME.jpg, NAME.json    folders of the repository, or one of them

A file of annotations has "text", a list of queries about one target; "is_sentence", whether they
are complete sentences ("long query") or noun phrases ("short query"); and "shapes", polygons with a
label. Shapes are drawn from the largest to the smallest: "target" is the target, a label with
"ignore" marks pixels that do not count, "flag" is skipped.

Protocol: the first query of each image, and its prompt depends on its kind. LISA's evaluation gives
the model the answer "[SEG]." (teacher forcing): gIoU, cIoU. Free-running (free gIoU, free cIoU),
the model has to generate [SEG], and the union of its masks counts. All metrics also for short and
for long queries, as in LISA's tables.

Source: utils/data_processing.py, utils/dataset.py, train_ds.py (validate) of dvlab-research/LISA.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from glamm_jax.data import rle
from glamm_jax.data.preprocess import ImageError, open_image
from glamm_jax.data.record import RecordError
from glamm_jax.data.sources.defects import BAD_MASK, BROKEN_ENTRY, DefectLog, SourceError, quoted
from glamm_jax.data.sources.drawn_polygon import polygon_pixels
from glamm_jax.data.sources.json_files import as_fields, as_list, as_numbers, as_text
from glamm_jax.evaluation.benchmarks.base import (
    AnnotatedImages,
    Benchmark,
    Item,
    Predictions,
    PromptTemplate,
    RunLengths,
    TextScorers,
)
from glamm_jax.evaluation.benchmarks.mask_items import (
    FORCED_SUFFIX,
    FREE_PREFIX,
    expression_items,
    free_running,
    has_answer,
    of_group,
    teacher_forced,
    union_of_answer,
)
from glamm_jax.evaluation.benchmarks.original_annotations import ImageFiles
from glamm_jax.json_files import MAX_BYTES, JSONError, parse_json
from glamm_jax.metrics.refseg import score_refseg
from glamm_jax.metrics.result import MetricResult, Mode
from glamm_jax.text.questions import SEGMENTATION_QUESTIONS
from glamm_jax.text.special_tokens import SEG

FOLDERS = ("", "ReasonSeg", "reason_seg/ReasonSeg")
SHORT_PROMPT = "What is {name} in this image? Please output segmentation mask."
LONG_PROMPT = "{} Please output segmentation mask."
FORCED_ANSWER = f"{SEG}."
SHORT, LONG = "short", "long"
KIND = "query"  # the name in `Item.metadata`
MAX_CORNERS = 100_000  # of one polygon


class _Target(NamedTuple):
    """The drawn shapes of an image."""

    mask: RunLengths
    ignored: RunLengths | None


def items_from_annotations(
    path: Path, split: str, images: Path | None, prompt: PromptTemplate
) -> AnnotatedImages:
    """Read the images and annotations of a split.

    Args:
        path: folder of the splits, or one of the folders above it.
        split: name of the split's folder.
        images: folder of the images; None: that of the annotations.
        prompt: of short queries; with the original prompt, long ones have LISA's for sentences,
            and with another prompt that.

    Raises:
        SourceError: there is no such folder, or no annotation in it.
    """
    folders = [path / folder / split for folder in FOLDERS if (path / folder / split).is_dir()]
    folder = folders[0] if folders else path
    files = sorted(folder.glob("*.json"))
    if not files:
        raise SourceError(f"{path}: no folder {split} with NAME.jpg and NAME.json in it")
    names = [f"{file.stem}.jpg" for file in files]
    records = ImageFiles(images or folder, names, [file.stem for file in files])
    result = AnnotatedImages(records, "reason_seg")
    for index, file in enumerate(files):
        log = DefectLog(f"{split}/{file.name}")
        item = _read_item(file, index, records, prompt, log)
        if item is not None:
            forced = teacher_forced(f"{item.id}{FORCED_SUFFIX}", [item], [FORCED_ANSWER])
            result.items += [item, forced]
        result.add_defects(log)
    return result


def _read_item(
    file: Path, index: int, records: ImageFiles, prompt: PromptTemplate, log: DefectLog
) -> Item | None:
    """Read the annotations of one image; None and a defect where that is not possible."""
    try:
        fields = as_fields(_read_annotations(file), log, "content")
        # The size is that of the image: the files do not have it.
        height, width = open_image(records[index].image).shape[:2]
    except (JSONError, RecordError, ImageError) as error:
        log.add(BROKEN_ENTRY, str(error))
        return None
    texts, is_sentence = fields.get("text"), fields.get("is_sentence")
    if not isinstance(is_sentence, bool):
        log.add(BROKEN_ENTRY, f"is_sentence: {quoted(is_sentence)} is not true or false")
        return None
    texts = texts if isinstance(texts, list) else [texts]
    query = as_text(texts[0] if texts else None, log, "text").strip()
    target = _draw(as_list(fields.get("shapes"), log, "shapes"), height, width, log)
    if not query or target is None:
        return None
    is_original = is_sentence and prompt.text == SHORT_PROMPT
    return Item(
        file.stem,
        file.stem,
        index,
        LONG_PROMPT.format(query) if is_original else prompt.format(query),
        reference_phrases=(query,),
        reference_masks=(target.mask,),
        ignored_masks=() if target.ignored is None else (target.ignored,),
        metadata={KIND: LONG if is_sentence else SHORT},
    )


def _read_annotations(file: Path) -> Any:
    """Parse a file; some of the published ones are in Windows' western encoding."""
    if file.stat().st_size > MAX_BYTES:
        raise JSONError(f"{file}: larger than {MAX_BYTES} bytes")
    data = file.read_bytes()
    try:
        return parse_json(data, file.name)
    except JSONError as error:
        if "is not UTF-8" not in str(error):
            raise
        return parse_json(data.decode("cp1252", errors="replace"), file.name)


def _draw(shapes: Sequence[Any], height: int, width: int, log: DefectLog) -> _Target | None:
    """Draw the shapes from the largest to the smallest; None and a defect if one is unusable."""
    regions: list[tuple[int, bool, np.ndarray]] = []
    for i, shape in enumerate(shapes):
        fields = shape if isinstance(shape, Mapping) else {}
        label, points = fields.get("label"), fields.get("points")
        if isinstance(label, str) and label.lower() == "flag":
            continue
        corners = [as_numbers(point, 2) for point in points] if isinstance(points, list) else []
        limit = 4 * max(height, width)
        is_usable = isinstance(label, str) and 0 < len(corners) <= MAX_CORNERS
        numbers = [corner for corner in corners if corner and max(map(abs, corner)) <= limit]
        if not is_usable or len(numbers) < len(corners):
            log.add(BAD_MASK, f"shape {i}: {quoted(shape)}")
            return None
        pixels = polygon_pixels(np.array(numbers).astype(np.int64), height, width)
        regions.append((int(pixels.sum()), "ignore" in str(label).lower(), pixels))
    target, ignored = np.zeros((2, height, width), bool)
    for _, is_ignored, pixels in sorted(regions, key=lambda shape: -shape[0]):
        target[pixels], ignored[pixels] = not is_ignored, is_ignored
    return _Target(rle.encode(target), rle.encode(ignored) if ignored.any() else None)


def score(
    items: Sequence[Item], predictions: Predictions, mode: Mode, scorers: TextScorers
) -> MetricResult:
    """Compute gIoU and cIoU of all queries and of each kind, teacher-forced and free-running.

    Args:
        items: an item with a history is teacher-forced.
        predictions: by item id.
        mode: of counting.
        scorers: unused.
    """
    result = MetricResult({})
    for is_forced in (True, False):
        own = [item for item in items if bool(item.history) == is_forced]
        if not own:
            continue
        scores = _score_masks(own, predictions, mode)
        for kind in (SHORT, LONG):
            group = [item for item in own if item.metadata.get(KIND) == kind]
            if group:
                scores |= of_group(_score_masks(group, predictions, mode), kind)
        result |= scores if is_forced else free_running(scores)
    return result


def _score_masks(items: Sequence[Item], predictions: Predictions, mode: Mode) -> MetricResult:
    masks: dict[str, list[RunLengths]] = {}
    for item in items:
        if item.history and item.id in predictions:
            masks[item.id] = [*predictions[item.id].masks[:1]]
        elif has_answer(predictions, item):
            union = union_of_answer(predictions, item)
            masks[item.id] = [] if union is None else [union]
    references = {item.id: item.reference_masks for item in items}
    ignored = {item.id: [mask for mask in item.ignored_masks if mask is not None] for item in items}
    return score_refseg(masks, references, mode, ignored)


_DIFFERENCES = {
    "cIoU": "compat leaves reference masks without a prediction out; strict counts their pixels",
    "gIoU": "compat adds 1e-5 to both denominators",
}

REASON_SEG = Benchmark(
    name="reason_seg",
    description="reasoning segmentation (ReasonSeg): a mask for a query that implies its target; "
    "gIoU, cIoU of all, short and long queries, teacher-forced and free-running",
    splits=("val", "test"),
    original_prompt=SHORT_PROMPT,
    training_prompt=SEGMENTATION_QUESTIONS[0],
    items_from_record=expression_items,
    items_from_annotations=items_from_annotations,
    score=score,
    mode_differences={
        f"{prefix}{metric}{suffix}": text
        for metric, text in _DIFFERENCES.items()
        for prefix in ("", FREE_PREFIX)
        for suffix in ("", f", {SHORT}", f", {LONG}")
    },
)
