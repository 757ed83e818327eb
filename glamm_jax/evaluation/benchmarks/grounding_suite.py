"""The benchmark `grounding_suite`: GroundingSuite-Eval, descriptions of stuff, parts and objects.

    GroundingSuite-Eval.jsonl    one description a line, of COCO's unlabeled images

A line has "idx", "image_path", "class_id", "label" (a noun phrase), "caption" (a sentence that
identifies what is meant), "box" (x0 y0 x1 y1 in pixels) and "segmentation" (run lengths). The file
of the repository has 3,715 lines. Its classes are 1 to 4; their names here (stuff, part, multi,
single) are those of the paper's table in the order that the labels of the file suggest.

Protocol: the caption is the expression, a free answer, the union of its masks counts. The program
of the repository compares masks or boxes that are given to it; here the box is the one around the
mask. What is exported (`grounding_suite.jsonl`) can be given to that program in both modes.

Source: README.md, evaluate_grounding.py, GroundingSuite-Eval.jsonl of hustvl/GroundingSuite. That a
model is given the caption, not the label, is not stated there.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from glamm_jax.data import rle
from glamm_jax.data.sources.defects import BAD_MASK, BROKEN_ENTRY, DefectLog, SourceError, quoted
from glamm_jax.data.sources.json_files import Fields, as_id, as_numbers, as_text
from glamm_jax.evaluation.benchmarks.base import (
    AnnotatedImages,
    Benchmark,
    Item,
    Prediction,
    Predictions,
    PromptTemplate,
    TextScorers,
)
from glamm_jax.evaluation.benchmarks.mask_items import (
    collect_answers,
    expression_items,
    union_of_answer,
)
from glamm_jax.evaluation.benchmarks.original_annotations import (
    ImageFiles,
    find_image_folder,
    read_json_lines,
)
from glamm_jax.files import write_atomic
from glamm_jax.metrics.instance_grounding import (
    BOX_ACCURACY,
    GIOU,
    InstanceReference,
    score_instances,
)
from glamm_jax.metrics.result import MetricResult, Mode
from glamm_jax.storage import AnyPath
from glamm_jax.text.questions import REFERRING_INSTRUCTION, SEGMENTATION_QUESTIONS

FILE = "GroundingSuite-Eval.jsonl"
EXPORT_FILE = "grounding_suite.jsonl"
GROUPS = {"1": "stuff", "2": "part", "3": "multi", "4": "single"}
GROUP = "group"  # the name in `Item.metadata`
UNKNOWN_GROUP = "other"


def items_from_annotations(
    path: Path, split: str, images: Path | None, prompt: PromptTemplate
) -> AnnotatedImages:
    """Read the descriptions.

    Args:
        path: the file, or its folder.
        split: unused; there is one.
        images: folder that the paths of the images are relative to; None: searched for.
        prompt: of every item.

    Raises:
        SourceError: the file is missing or has another layout, or no image exists.
    """
    file = path / FILE if path.is_dir() else path
    entries = [*read_json_lines(file, f"GroundingSuite-Eval is {FILE}")]
    names = list(
        dict.fromkeys(x["image_path"] for x in entries if isinstance(x.get("image_path"), str))
    )
    if not names:
        raise SourceError(f"{file}: no line has an image_path; is it {FILE}?")
    folder = images or find_image_folder(names, file.parent)
    result = AnnotatedImages(ImageFiles(folder, names, names), "grounding_suite")
    positions = {name: i for i, name in enumerate(names)}
    for number, entry in enumerate(entries, start=1):
        log = DefectLog(f"line {number}")
        item = _read_item(entry, positions, prompt, log)
        result.items += [] if item is None else [item]
        result.add_defects(log)
    return result


def _read_item(
    entry: Fields, positions: dict[str, int], prompt: PromptTemplate, log: DefectLog
) -> Item | None:
    """Read one line; None and a defect where that is not possible."""
    name, number, box = entry.get("image_path"), as_id(entry.get("idx")), entry.get("box")
    caption, label = (as_text(entry.get(key), log, key).strip() for key in ("caption", "label"))
    corners = as_numbers(box, 4)
    if not isinstance(name, str) or number is None or corners is None or not caption:
        log.add(BROKEN_ENTRY, f"idx, image_path, caption or box: {quoted(entry)}")
        return None
    try:
        mask = rle.compress(entry.get("segmentation") or {})
    except rle.MaskError as error:
        log.add(BAD_MASK, str(error))
        return None
    x0, y0, x1, y1 = corners
    return Item(
        number,
        name,
        positions[name],
        prompt.format(caption.removesuffix(".")),
        reference_phrases=(label or caption,),
        reference_masks=(mask,),
        metadata={
            GROUP: GROUPS.get(as_id(entry.get("class_id")) or "", UNKNOWN_GROUP),
            "box": json.dumps((x0, y0, x1, y1)),
        },
    )


def score(
    items: Sequence[Item], predictions: Predictions, mode: Mode, scorers: TextScorers
) -> MetricResult:
    """Compute gIoU and box_accuracy, over all items and for each group.

    Args:
        items: of records without an annotated box; they have the box of their mask.
        predictions: by item id; one that failed is a missing one.
        mode: of counting.
        scorers: unused.
    """
    masks = collect_answers(predictions, items, partial(union_of_answer, predictions))
    references = {
        item.id: InstanceReference(
            item.reference_masks[0],
            _box(item),
            item.metadata.get(GROUP, UNKNOWN_GROUP),
        )
        for item in items
    }
    return score_instances(masks, references, mode)


def _box(item: Item) -> tuple[float, float, float, float]:
    if "box" in item.metadata:
        x0, y0, x1, y1 = json.loads(item.metadata["box"])
    else:
        x0, y0, x1, y1 = rle.box(item.reference_masks[0]) or (0, 0, 0, 0)
    return float(x0), float(y0), float(x1), float(y1)


def export(folder: AnyPath, predictions: Sequence[Prediction]) -> list[str]:
    """Write the file that the program of the repository reads, with boxes and run lengths.

    An answer without a mask has the line without both. What is no number is no "idx" of the file.
    """
    lines, left_out = [], []
    for prediction in predictions:
        if not (prediction.id.isascii() and prediction.id.isdecimal() and len(prediction.id) < 20):
            left_out.append(prediction.id)
            continue
        fields: dict[str, object] = {
            "idx": int(prediction.id),
            "image_path": prediction.image_id,
        }
        sizes = {tuple(mask["size"]) for mask in prediction.masks}
        if len(sizes) == 1:
            mask = rle.union(prediction.masks)
            fields |= {"box": rle.box(mask), "segmentation": mask}
        lines.append(json.dumps(fields) + "\n")
    write_atomic(folder / EXPORT_FILE, "".join(lines))
    return left_out


_MISSING = "compat leaves an answer without a mask out; strict counts it as 0"

GROUNDING_SUITE = Benchmark(
    name="grounding_suite",
    description="GroundingSuite-Eval: a mask for a sentence that identifies stuff, a part or "
    "objects; gIoU, box_accuracy",
    splits=("val",),
    original_prompt=REFERRING_INSTRUCTION,
    training_prompt=SEGMENTATION_QUESTIONS[0],
    items_from_record=expression_items,
    items_from_annotations=items_from_annotations,
    score=score,
    export=export,
    mode_differences={
        f"{metric}{suffix}": _MISSING
        for metric in (GIOU, BOX_ACCURACY)
        for suffix in ("", *(f", {group}" for group in GROUPS.values()))
    },
)
