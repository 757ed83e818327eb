"""The benchmark `grefcoco`: gRefCOCO, expressions of any number of objects, of GRES.

    grefcoco/grefs(unc).json, instances.json    the annotations; the former also as grefs(unc).p
    images/train2014, coco_2014/train2014       COCO's images

A reference has "ann_id", the ids of its objects, or [-1] if the image has none; "image_id",
"split" (val, testA, testB) and "sentences", which have the expression in "raw".

Protocol: every expression is a question, answered freely. An answer says "no target" if it has no
[SEG], or no pixel in any of its masks; otherwise the union of its masks counts. (The repository's
model has a classifier for that, which GLaMM has not.) Metrics: `metrics.generalized_referring`.

Source: grefer.py of henghuiding/gRefCOCO, gres_model/data/datasets/grefcoco.py and
gres_model/evaluation/refer_evaluation.py of henghuiding/ReLA.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from glamm_jax.data import rle
from glamm_jax.data.sources.coco_file import CocoFile, read_coco
from glamm_jax.data.sources.dataset_files import first_existing, require_split
from glamm_jax.data.sources.defects import (
    BROKEN_ENTRY,
    MASK_SIZE,
    UNKNOWN_ID,
    DefectLog,
    SourceError,
    quoted,
)
from glamm_jax.data.sources.json_files import (
    Fields,
    as_fields,
    as_id,
    as_list,
    as_text,
    as_whole_number,
    is_set,
    read_json,
)
from glamm_jax.data.sources.mask_annotations import read_mask
from glamm_jax.data.sources.safe_pickle import PickleError, load_plain
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
    collect_answers,
    expression_items,
    union_of_answer,
)
from glamm_jax.evaluation.benchmarks.original_annotations import find_images
from glamm_jax.metrics.generalized_referring import score_generalized
from glamm_jax.metrics.result import MetricResult, Mode
from glamm_jax.text.questions import REFERRING_INSTRUCTION, SEGMENTATION_QUESTIONS

FILES = ("grefs(unc).json", "grefs(unc).p")
PLACES = ("", "grefcoco/", "Refer_Segm/grefcoco/")
NO_OBJECT = "-1"  # in "ann_id"
NO_TARGET = "no_target"  # the name in `Item.metadata`; the value is "yes"


def items_from_annotations(
    path: Path, split: str, images: Path | None, prompt: PromptTemplate
) -> AnnotatedImages:
    """Read the expressions of a split.

    Args:
        path: folder of the annotations, or one of the folders above it.
        split: of the references.
        images: folder of COCO's images; None: searched for.
        prompt: of every item.

    Raises:
        SourceError: a file is missing or damaged, or there is no such split.
    """
    file = first_existing(path, [place + name for place in PLACES for name in FILES])
    references = _read_references(file)
    splits = [ref.get("split") for ref in references]
    require_split(str(file), split, sorted({name for name in splits if isinstance(name, str)}))
    coco = read_coco(file.parent / "instances.json")
    result = AnnotatedImages(find_images(coco, file.parent, images), "grefcoco")
    positions = {as_id(image.get("id")): i for i, image in enumerate(coco.images)}
    for i, ref in enumerate(references):
        if ref.get("split") == split:
            log = DefectLog(f"reference {i}")
            index = positions.get(as_id(ref.get("image_id")))
            if index is None:
                log.add(UNKNOWN_ID, f"image {quoted(ref.get('image_id'))} is not listed")
            else:
                result.items += _read_items(ref, coco, index, prompt, log)
            result.add_defects(log)
    return result


def _read_references(file: Path) -> list[Fields]:
    try:
        is_pickle = file.suffix == ".p"
        references: Any = load_plain(file.read_bytes()) if is_pickle else read_json(file)
    except PickleError as error:
        raise SourceError(f"{file}: {error}") from error
    if not isinstance(references, list) or not all(isinstance(ref, dict) for ref in references):
        raise SourceError(f"{file}: must hold a list of references, not {quoted(references)}")
    return references


def _read_items(
    ref: Fields, coco: CocoFile, index: int, prompt: PromptTemplate, log: DefectLog
) -> list[Item]:
    """Make an item of every sentence of a reference."""
    image = coco.images[index]
    image_id = as_id(image.get("id")) or ""
    height, width = (as_whole_number(image.get(name)) or 0 for name in ("height", "width"))
    if min(height, width) < 1:
        log.add(MASK_SIZE, f"image {image_id} has no height and width")
        return []
    mask = _read_target(ref, coco.annotations[image_id], (height, width), log)
    if mask is None:
        return []
    has_target = _object_ids(ref) != [NO_OBJECT]
    items = []
    for k, entry in enumerate(as_list(ref.get("sentences"), log, "sentences")):
        fields = as_fields(entry, log, f"sentence {k}")
        text = as_text(fields.get("raw") or fields.get("sent"), log, f"sentence {k}")
        name = text.strip().lower()
        if name:
            items.append(
                Item(
                    f"{as_id(ref.get('ref_id'))}/{k}",
                    image_id,
                    index,
                    prompt.format(name),
                    reference_phrases=(name,),
                    reference_masks=(mask,),
                    metadata={} if has_target else {NO_TARGET: "yes"},
                )
            )
    return items


def _object_ids(ref: Fields) -> list[str | None]:
    ids = ref.get("ann_id")
    return [as_id(x) for x in (ids if isinstance(ids, list) else [ids])]


def _read_target(
    ref: Fields, annotations: Sequence[Fields], size: tuple[int, int], log: DefectLog
) -> RunLengths | None:
    """Return the union of the objects, an empty mask without target; None and a defect if broken.

    Objects that are crowds are left out, as in the repository.
    """
    masks: list[RunLengths] = [rle.encode(np.zeros(size, bool))]
    by_id: Mapping[str | None, Fields] = {as_id(entry.get("id")): entry for entry in annotations}
    ids = _object_ids(ref)
    if None in ids or not ids:
        log.add(BROKEN_ENTRY, f"ann_id: {quoted(ref.get('ann_id'))}")
        return None
    for object_id in ids if ids != [NO_OBJECT] else []:
        entry = by_id.get(object_id)
        if entry is None:
            log.add(UNKNOWN_ID, f"object {object_id} of the image")
            return None
        if is_set(entry.get("iscrowd")):
            continue
        mask = read_mask(entry.get("segmentation"), *size, log, f"object {object_id}")
        if mask is None:
            return None
        masks.append({"size": [*size], "counts": mask.mask.decode("ascii")})
    return rle.union(masks)


def score(
    items: Sequence[Item], predictions: Predictions, mode: Mode, scorers: TextScorers
) -> MetricResult:
    """Compute gIoU, cIoU, N_acc, T_acc and precisions.

    Args:
        items: to be scored.
        predictions: by item id; one that failed is a missing one, not an answer.
        mode: of counting.
        scorers: unused.
    """
    masks = collect_answers(predictions, items, partial(union_of_answer, predictions))
    references = {
        item.id: None if NO_TARGET in item.metadata else item.reference_masks[0] for item in items
    }
    return score_generalized(masks, references, mode)


_MISSING = "compat leaves a missing prediction out; strict counts it as wrong"

GREFCOCO = Benchmark(
    name="grefcoco",
    description="generalized referring segmentation: expressions of several objects or of none; "
    "gIoU, cIoU, N_acc, T_acc",
    splits=("val", "testA", "testB"),
    original_prompt=REFERRING_INSTRUCTION,
    training_prompt=SEGMENTATION_QUESTIONS[0],
    items_from_record=expression_items,
    items_from_annotations=items_from_annotations,
    score=score,
    mode_differences=dict.fromkeys(
        ("gIoU", "cIoU", "N_acc", "T_acc", "Pr@0.7", "Pr@0.8", "Pr@0.9"), _MISSING
    ),
)
