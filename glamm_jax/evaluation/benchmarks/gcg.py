"""The benchmark `gcg`: grounded conversation generation, table 3 of the paper."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from glamm_jax.data import rle
from glamm_jax.data.conversation_sampler import phrase_spans
from glamm_jax.data.record import Record
from glamm_jax.data.sources.coco_file import read_coco
from glamm_jax.data.sources.dataset_files import require_split
from glamm_jax.data.sources.defects import BAD_MASK, DefectLog, SourceError, quoted
from glamm_jax.data.sources.json_files import as_id, as_list
from glamm_jax.data.sources.mask_annotations import read_mask
from glamm_jax.evaluation.benchmarks.base import (
    AnnotatedImages,
    Benchmark,
    Item,
    Prediction,
    Predictions,
    PromptTemplate,
    RunLengths,
    TextScorers,
    annotations_of_task,
    union_mask,
)
from glamm_jax.evaluation.benchmarks.generated_text import (
    CAPTION_MODE_DIFFERENCES,
    clean_as_original,
    score_item_captions,
)
from glamm_jax.evaluation.benchmarks.original_annotations import find_images
from glamm_jax.evaluation.published import PaperTable
from glamm_jax.files import FileNameError, safe_name, write_atomic
from glamm_jax.metrics.gcg import score_gcg
from glamm_jax.metrics.phrase_matching import score_phrases, sum_scores
from glamm_jax.metrics.result import MetricResult, Mode
from glamm_jax.storage import AnyPath
from glamm_jax.text.questions import GCG_INSTRUCTION, GCG_QUESTIONS

CAPTIONS_FILE, MASKS_FILE = "{}_gcg_coco_caption_gt.json", "{}_gcg_coco_mask_gt.json"
ANNOTATION_FOLDERS = ("", "GranDf/annotations/val_test", "annotations/val_test", "val_test")
_AP_DIFFERENCE = (
    "compat: every mask has score 1, ties are ranked by image id and order; strict: ranked by the "
    "scores of the masks"
)


def items_from_record(record: Record, index: int, prompt: PromptTemplate) -> Iterator[Item]:
    """Make an item of the record's first grounded caption, its phrases from left to right.

    Args:
        record: with annotations.
        index: of the record in its source.
        prompt: of the item.
    """
    for caption in annotations_of_task(record, "gcg")[:1]:
        spans = phrase_spans(caption, [])
        yield Item(
            record.image_id,
            record.image_id,
            index,
            prompt.format(),
            reference_texts=(caption.text,),
            reference_phrases=tuple(caption.text[start:end] for start, end in spans),
            reference_masks=tuple(union_mask(record, links) for links in spans.values()),
        )


def items_from_annotations(
    path: Path, split: str, images: Path | None, prompt: PromptTemplate
) -> AnnotatedImages:
    """Read {split}_gcg_coco_caption_gt.json and {split}_gcg_coco_mask_gt.json.

    Phrases and masks of an image match by their order, as in the original's evaluation. A mask
    that cannot be read is noted and replaced by an empty one, which keeps its position.

    Args:
        path: folder of the files, or one of the folders above it.
        split: of the data.
        images: folder of the images; None: searched for.
        prompt: of every item.

    Raises:
        SourceError: a file is missing or not in COCO's layout.
    """
    name = CAPTIONS_FILE.format(split)
    folders = [path / folder for folder in ANNOTATION_FOLDERS if (path / folder / name).is_file()]
    if not folders:
        start, end = CAPTIONS_FILE.split("{}")
        files = [x for folder in ANNOTATION_FOLDERS for x in (path / folder).glob(f"*{end}")]
        if files:
            splits = sorted({x.name.removeprefix(start).removesuffix(end) for x in files})
            require_split(str(path), split, splits)
        raise SourceError(f"{path}: no {name} in it or in {ANNOTATION_FOLDERS[1]}")
    captions = read_coco(folders[0] / name)
    masks = read_coco(folders[0] / MASKS_FILE.format(split)).annotations
    result = AnnotatedImages(find_images(captions, folders[0], images))
    for index, image in enumerate(captions.images):
        image_id = as_id(image.get("id")) or ""
        log = DefectLog(f"image {image_id}")
        annotations = captions.annotations.get(image_id, [])
        labels = as_list(annotations[0].get("labels"), log, "labels") if annotations else []
        item = Item(
            image_id,
            image_id,
            index,
            prompt.format(),
            reference_texts=tuple(str(x.get("caption", "")) for x in annotations),
            reference_phrases=tuple(map(str, labels)),
            reference_masks=tuple(_read_mask(x, image, log) for x in masks.get(image_id, [])),
        )
        result.items.append(item)
        result.add_defects(log)
    return result


def _read_mask(
    annotation: Mapping[str, Any], image: Mapping[str, Any], log: DefectLog
) -> RunLengths:
    sizes = image.get("height"), image.get("width")
    height, width = (x if isinstance(x, int) and x > 0 else 0 for x in sizes)
    segmentation = annotation.get("segmentation")
    where = f"mask {quoted(annotation.get('id'))}"
    if isinstance(segmentation, Mapping):
        try:  # kept as it is, even if its size is not that of the image
            return rle.compress(segmentation)
        except rle.MaskError as error:
            log.add(BAD_MASK, f"{where}: {error}")
            return rle.encode(np.zeros((height, width), bool))
    mask = read_mask(segmentation, height, width, log, where)
    if mask is None:
        return rle.encode(np.zeros((height, width), bool))
    return {"size": [height, width], "counts": mask.mask.decode("ascii")}


def score(
    items: Sequence[Item], predictions: Predictions, mode: Mode, scorers: TextScorers
) -> MetricResult:
    """Compute AP, mIoU, recall and caption metrics; in strict also precision and recall of phrases.

    Args:
        items: to be scored.
        predictions: by item id.
        mode: of counting.
        scorers: of phrases and captions.
    """
    references = {item.id: item.reference_caption() for item in items}
    captions = {name: x.grounded_caption() for name, x in predictions.items()}
    result = score_gcg(captions, references, scorers.similarity, mode)
    result |= score_item_captions(items, predictions, mode, scorers)
    return result if mode == "compat" else result | _score_phrases(items, predictions)


def _score_phrases(items: Sequence[Item], predictions: Predictions) -> MetricResult:
    """Compare phrases by their words (`glamm_jax.metrics.phrase_matching`), and their masks."""
    scores = {
        item.id: score_phrases(
            _phrases_with_masks(predictions[item.id], item) if item.id in predictions else [],
            [*zip(item.reference_phrases, item.reference_masks, strict=False)],
        )
        for item in items
    }
    total = sum_scores([*scores.values()])
    per_item = {
        name: {
            "phrases_matched": float(x.num_correct),
            "phrases_reference": float(x.num_reference),
            "phrases_predicted": float(x.num_predicted),
            "phrase_iou_sum": x.iou_sum,
        }
        for name, x in scores.items()
    }
    metrics = {
        "phrase_precision": total.precision,
        "phrase_recall": total.recall,
        "phrase_mask_iou": total.mask_iou,
    }
    ratios = {
        "phrase_precision": ("phrases_matched", "phrases_predicted"),
        "phrase_recall": ("phrases_matched", "phrases_reference"),
        "phrase_mask_iou": ("phrase_iou_sum", "phrases_reference"),
    }
    return MetricResult(metrics, per_item, ratios)


def _phrases_with_masks(prediction: Prediction, item: Item) -> list[tuple[str, RunLengths | None]]:
    """Pair every phrase with its first mask that has the size of the reference masks."""
    sizes = {tuple(mask["size"]) for mask in item.reference_masks}
    first: dict[int, RunLengths] = {}
    for mask, phrase in zip(prediction.masks, prediction.phrase_of, strict=True):
        if {tuple(mask["size"])} == sizes:
            first.setdefault(phrase, mask)
    return [(phrase, first.get(i)) for i, phrase in enumerate(prediction.phrases)]


def export(folder: AnyPath, predictions: Sequence[Prediction]) -> list[str]:
    """Write ID.json for every image, as `eval/gcg/infer.py` of the original does.

    Returns:
        The ids that cannot be the name of a file; their predictions are not written.
    """
    left_out = []
    for prediction in predictions:
        try:
            name = safe_name(prediction.image_id, ".json")
        except FileNameError:
            left_out.append(prediction.image_id)
            continue
        caption, phrases = clean_as_original(prediction)
        fields = {
            "image_id": prediction.image_id,
            "caption": caption,
            "phrases": list(phrases),
            "pred_masks": [dict(mask) for mask in prediction.masks],
        }
        write_atomic(folder / name, json.dumps(fields))
    return left_out


# Section 5: BuboGPT and Kosmos-2 as released, LISA trained on GranD-f; GLaMM fine-tuned on it.
TABLE = PaperTable(
    3,
    ("val", "test"),
    ("METEOR", "CIDEr", "AP50", "mIoU", "recall"),
    (
        ("GLaMM", "fine-tuned", "16.2 47.2 30.8 66.3 41.8  15.8 43.5 29.2 65.6 40.8"),
        (
            "GLaMM without the human-annotated images",
            "fine-tuned",
            "15.2 43.1 28.9 65.8 39.6  14.6 37.9 27.2 64.6 38.0",
        ),
        ("LISA, adapted", "fine-tuned", "13.0 33.9 25.2 62.0 36.3  12.9 32.2 24.8 61.7 35.5"),
        ("Kosmos-2", "zero-shot", "16.1 27.6 17.1 55.6 28.3  15.8 27.2 17.2 56.8 29.0"),
        ("BuboGPT", "zero-shot", "17.2 3.6 19.1 54.0 29.4  17.1 3.5 17.3 54.1 27.0"),
    ),
)

GCG = Benchmark(
    name="gcg",
    description="grounded conversation generation: a caption with a mask for every phrase",
    splits=("val", "test"),
    original_prompt=GCG_INSTRUCTION,
    training_prompt=GCG_QUESTIONS[0],
    items_from_record=items_from_record,
    items_from_annotations=items_from_annotations,
    score=score,
    export=export,
    uses_similarity=True,
    uses_captions=True,
    in_validation=True,
    published=TABLE.rows(),
    mode_differences={
        **CAPTION_MODE_DIFFERENCES,
        **dict.fromkeys(("AP", "AP50", "AP75"), _AP_DIFFERENCE),
        "mIoU": "compat: greedy pairs, a mask without a pair costs nothing; strict: the best "
        "pairing over all reference masks",
        "recall": "compat: an image ends at its first pair below a threshold; strict: the largest "
        "number of reference masks that can be matched at once",
    },
)
