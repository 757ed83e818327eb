"""The benchmark `hallu_seg_bench`: HalluSegBench, pairs of images that differ in one object.

    FOLDER/data.json                          the pairs, a list of objects
    FOLDER/factual_images, factual_masks, counterfactual_images, counterfactual_masks

Folders of the published data are test/refer_seg, test/reason_seg_val and test/reason_seg_test. A
pair has "factual_image_path", "factual_mask_path", "counterfactual_image_path",
"counterfactual_mask_path", "ann_id", "factual_label" and "counterfactual_label", and those of
reasoning segmentation "question" and "counterfactual_question".

Protocol: each of the two objects is asked for in each of the two images, by its label, or by its
question where there is one: four settings (`metrics.counterfactual`). The union of the masks of a
free answer counts; none is an empty mask. The exported masks, SETTING/IMAGE_ANNOTATION_mask.png,
are those that the programs of the repository read.

Source: README.md, generate_json.py, get_consistency.py, get_hallucination.py of
PLAN-Lab/HalluSegBench; the fields of data.json: the description of the data set
PLAN-Lab/HalluSegBench on Hugging Face.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from glamm_jax.data import rle
from glamm_jax.data.sources.defects import BROKEN_ENTRY, DefectLog, SourceError, quoted
from glamm_jax.data.sources.json_files import Fields, as_fields, as_id, read_json
from glamm_jax.data.sources.mask_files import read_label_map
from glamm_jax.evaluation.benchmarks.base import (
    FAILED,
    AnnotatedImages,
    Benchmark,
    Item,
    Prediction,
    Predictions,
    PromptTemplate,
    RunLengths,
    TextScorers,
    refuse_record,
)
from glamm_jax.evaluation.benchmarks.mask_items import collect_answers
from glamm_jax.evaluation.benchmarks.original_annotations import ImageFiles
from glamm_jax.evaluation.benchmarks.reason_seg import LONG_PROMPT
from glamm_jax.files import FileNameError, safe_name, write_atomic
from glamm_jax.metrics.counterfactual import (
    EDITED,
    FACTUAL,
    SETTINGS,
    CounterfactualPair,
    score_pairs,
)
from glamm_jax.metrics.result import MetricResult, Mode
from glamm_jax.storage import AnyPath
from glamm_jax.text.questions import REFERRING_INSTRUCTION, SEGMENTATION_QUESTIONS

FILE = "data.json"
PAIR, SETTING = "pair", "setting"  # names in `Item.metadata`
PATHS = (
    *("factual_image_path", "counterfactual_image_path"),
    *("factual_mask_path", "counterfactual_mask_path"),
)
ABSENT = "not in this image; the mask is of what is there instead"


def items_from_annotations(
    path: Path, split: str, images: Path | None, prompt: PromptTemplate
) -> AnnotatedImages:
    """Read the pairs: four items each.

    Args:
        path: the file, or its folder.
        split: of the data, "test"; a folder SPLIT/refer_seg is found, too.
        images: folder that the paths of the file are relative to; None: that of the file.
        prompt: about labels; questions have LISA's prompt.

    Raises:
        SourceError: the file is missing or has another layout.
    """
    places = [path] if path.is_file() else [path / FILE, path / split / "refer_seg" / FILE]
    file = next((place for place in places if place.is_file()), None)
    if file is None:
        raise SourceError(f"{path}: no {FILE}; name the folder of a part, such as test/refer_seg")
    entries = read_json(file)
    if not isinstance(entries, list):
        raise SourceError(f"{file}: must hold a list of pairs, not {quoted(entries)}")
    folder = images or file.parent
    names = list(
        dict.fromkeys(
            entry[key]
            for entry in entries
            if isinstance(entry, dict)
            for key in PATHS[:2]
            if isinstance(entry.get(key), str)
        )
    )
    result = AnnotatedImages(ImageFiles(folder, names, names), f"hallu_seg_bench/{folder.name}")
    positions = {name: i for i, name in enumerate(names)}
    for number, entry in enumerate(entries):
        log = DefectLog(f"pair {number}")
        fields = as_fields(entry, log, "entry")
        result.items += _read_pair(fields, folder, positions, prompt, log)
        result.add_defects(log)
    return result


def _read_pair(
    entry: Fields,
    folder: Path,
    positions: dict[str, int],
    prompt: PromptTemplate,
    log: DefectLog,
) -> list[Item]:
    """Make the items of a pair; none and a defect where it cannot be read."""
    paths = [entry.get(key) for key in PATHS]
    annotation = as_id(entry.get("ann_id"))
    questions = [_question(entry, prefix, prompt) for prefix in ("factual", "counterfactual")]
    if annotation is None or "" in questions or not all(isinstance(x, str) for x in paths):
        log.add(BROKEN_ENTRY, f"a path, ann_id or a label is missing: {quoted(entry)}")
        return []
    masks: list[RunLengths] = []
    for name in paths[2:]:
        labels = read_label_map(folder, str(name), log, f"mask {quoted(name)}")
        if labels is None:
            return []
        masks.append(rle.encode(labels != 0))
    pair = f"{PurePosixPath(str(paths[0])).stem}_{annotation}"
    items = []
    for setting in SETTINGS:
        label, image = setting.split("_")
        is_edited_label, is_edited_image = label == "edtl", image == "edti"
        image_name = str(paths[is_edited_image])
        is_absent = is_edited_label != is_edited_image
        items.append(
            Item(
                f"{setting}/{pair}",
                image_name,
                positions[image_name],
                questions[is_edited_label],
                reference_texts=(ABSENT,) if is_absent else (),
                reference_phrases=(_label(entry, is_edited_label),),
                reference_masks=(masks[is_edited_image],),
                metadata={PAIR: pair, SETTING: setting},
            )
        )
    return items


def _label(entry: Fields, is_edited: bool) -> str:
    value = entry.get("counterfactual_label" if is_edited else "factual_label")
    return value.strip() if isinstance(value, str) else ""


def _question(entry: Fields, prefix: str, prompt: PromptTemplate) -> str:
    """Return the prompt about an object; "" if it has neither question nor label."""
    is_edited = prefix == "counterfactual"
    question = entry.get("counterfactual_question" if is_edited else "question")
    if isinstance(question, str) and question.strip():
        return LONG_PROMPT.format(question.strip())
    label = _label(entry, is_edited)
    return prompt.format(label) if label else ""


def score(
    items: Sequence[Item], predictions: Predictions, mode: Mode, scorers: TextScorers
) -> MetricResult:
    """Compute the IoUs, their differences and the confusion mask scores.

    Args:
        items: to be scored.
        predictions: by item id; one that failed is a missing one, not an empty mask.
        mode: of counting.
        scorers: unused.
    """
    by_pair: dict[str, dict[str, Item]] = {}
    for item in items:
        by_pair.setdefault(item.metadata[PAIR], {})[item.metadata[SETTING]] = item
    pairs = {
        name: CounterfactualPair(
            _reference(settings, FACTUAL),
            _reference(settings, EDITED),
            {setting: item.id for setting, item in settings.items()},
        )
        for name, settings in by_pair.items()
    }
    masks = collect_answers(predictions, items, lambda item: _union(predictions[item.id]))
    return score_pairs(masks, pairs, mode)


def _reference(settings: Mapping[str, Item], setting: str) -> RunLengths:
    """Return the reference mask of a setting; where a limit cut the pair, that of another one."""
    item = settings.get(setting) or next(iter(settings.values()))
    return item.reference_masks[0]


def _union(prediction: Prediction) -> RunLengths | None:
    sizes = {tuple(mask["size"]) for mask in prediction.masks}
    if not prediction.masks:
        return None
    return rle.union(prediction.masks) if len(sizes) == 1 else prediction.masks[0]


def export(folder: AnyPath, predictions: Sequence[Prediction]) -> list[str]:
    """Write SETTING/PAIR_mask.png for every prediction.

    The programs of the repository take a prediction without a file for a missing one, so an answer
    without a mask is written as one black pixel, which they enlarge. A failed prediction has none.

    Returns:
        The ids that cannot be the name of a file.
    """
    left_out = []
    for prediction in predictions:
        setting, _, pair = prediction.id.partition("/")
        try:
            name = safe_name(pair, "_mask.png")
        except FileNameError:
            name = ""
        if not name or setting not in SETTINGS:
            left_out.append(prediction.id)
        elif prediction.finish != FAILED:
            mask = _union(prediction)
            pixels = np.zeros((1, 1), bool) if mask is None else rle.decode(mask)
            stream = io.BytesIO()
            Image.fromarray(pixels.astype(np.uint8) * 255).save(stream, "PNG")
            write_atomic(folder / setting / name, stream.getvalue())
    return left_out


HALLU_SEG_BENCH = Benchmark(
    name="hallu_seg_bench",
    description="HalluSegBench: masks of objects that were replaced in an edited image; IoU and "
    "its differences, confusion mask scores",
    splits=("test",),
    original_prompt=REFERRING_INSTRUCTION,
    training_prompt=SEGMENTATION_QUESTIONS[0],
    items_from_record=refuse_record,
    items_from_annotations=items_from_annotations,
    score=score,
    export=export,
    mode_differences={
        "IoU_factual": "compat leaves a missing prediction out; strict counts it as 0",
        **dict.fromkeys(
            ("CMS_factual", "CMS_counterfactual", "CCMS"),
            "compat rounds the score of each pair to four decimals",
        ),
    },
)
