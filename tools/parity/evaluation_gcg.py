"""The recorded evaluation of grounded captions: its files, and the comparison with our metrics."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from pycocotools import mask as coco

from glamm_jax.metrics.average_precision import COCO_STATS
from glamm_jax.metrics.captions import score_captions
from glamm_jax.metrics.gcg import (
    GroundedCaption,
    greedy_matches,
    phrase_indices_by_order,
    read_pair,
    score_gcg,
)
from glamm_jax.metrics.iou import read_runs
from glamm_jax.metrics.result import MetricResult
from tools.parity.recorded_folder import part_folder
from tools.parity.report import (
    ArrayComparison,
    ComparisonReport,
    GoldenError,
    RecordedFile,
    read_json,
)

PART = "evaluation"
EXPECTED = "gcg_expected.json"
INPUTS = ("gcg_gt", "gcg_pred", "text_similarity.json")
REFERENCES = {kind: f"_gcg_coco_{kind}_gt.json" for kind in ("caption", "mask")}
CAPTION_FIELDS = (
    r"images\[\d+\]\.(id|file_name|height|width)|annotations\[\d+\]\.(id|image_id|caption|labels)"
)
MASK_FIELDS = (
    r"images\[\d+\]\.(id|file_name)|categories\[\d+\]\.(id|name|supercategory)|"
    r"annotations\[\d+\]\.(id|image_id|segmentation\.(size|counts))"
)
PREDICTION_FIELDS = r"(.+\.)?(caption|phrases|pred_masks(\[\d+\]\.(size|counts))?)"


def exclude_inputs(recorded: RecordedFile, pattern: str) -> None:
    """Exclude the names that are inputs of a case; other unknown names fail."""
    for name in recorded.names:
        if re.fullmatch(pattern, name):
            recorded.exclude(name, "input")


class RecordedSimilarity:
    """The recorded table of similarities, in place of BERT."""

    name = "recorded table"

    def __init__(self, phrases: Sequence[str], table: Float[np.ndarray, "n n"]):
        self._numbers = {phrase: i for i, phrase in enumerate(phrases)}
        self._table = table

    def __call__(
        self, some: Sequence[str], others: Sequence[str]
    ) -> Float[np.ndarray, "some others"]:
        """Look similarities up.

        Raises:
            GoldenError: the table has no such phrase.
        """
        if unknown := [phrase for phrase in (*some, *others) if phrase not in self._numbers]:
            raise GoldenError(f"{PART}/text_similarity.json: no phrase {unknown[0]!r} in it")
        rows, columns = (
            np.array([self._numbers[phrase] for phrase in phrases], int)
            for phrases in (some, others)
        )
        return self._table[np.ix_(rows, columns)]


@dataclass
class GCGCase:
    """Predictions and references by name, in the order of the references' file.

    The name is the image id; a number is padded, so that names sort like numbers.

    Attributes:
        ids: image ids as recorded.
        predictions: recorded predictions.
        references: recorded references.
        reference_texts: all captions of an image.
        similarity: of phrases.
    """

    ids: dict[str, Any]
    predictions: dict[str, GroundedCaption]
    references: dict[str, GroundedCaption]
    reference_texts: dict[str, list[str]]
    similarity: RecordedSimilarity

    @classmethod
    def read(cls, part: Path, ledger: ComparisonReport) -> GCGCase:
        """Read all inputs.

        Raises:
            GoldenError: a file is missing or broken.
        """
        paths = {
            kind: _only_file(part_folder(part, "gcg_gt"), end) for kind, end in REFERENCES.items()
        }
        for path in sorted((part / "gcg_gt").iterdir()):
            if path not in paths.values():
                ledger.rows.append(ArrayComparison(PART, f"gcg_gt/{path.name}", "", "unknown"))
        with RecordedFile.open(ledger, PART, paths["caption"]) as recorded:
            exclude_inputs(recorded, CAPTION_FIELDS)
        masks = _read_reference_masks(paths["mask"], ledger)
        captions = read_json(paths["caption"])
        of_image: dict[Any, list[Any]] = {image["id"]: [] for image in captions["images"]}
        for annotation in captions["annotations"]:
            of_image[annotation["image_id"]].append(annotation)
        ids, predictions, references, reference_texts = {}, {}, {}, {}
        folder = part_folder(part, "gcg_pred")
        for image, entries in of_image.items():
            if not entries:
                raise GoldenError(f"{paths['caption']}: no caption of {image}")
            name = image if isinstance(image, str) else f"{image:012d}"
            ids[name] = image
            first = entries[0]
            references[name] = _caption(first["caption"], first["labels"], masks.get(image, []))
            reference_texts[name] = [entry["caption"] for entry in entries]
            predictions[name] = _read_prediction(folder / f"{image}.json", ledger)
        file_names = {f"{image}.json" for image in of_image}
        for path in sorted(folder.iterdir()):
            if path.name not in file_names:
                note = "of no image of the split: the original does not open it"
                name = f"gcg_pred/{path.name}"
                ledger.rows.append(ArrayComparison(PART, name, "", "excluded", note=note))
        similarity = _read_similarity(part / INPUTS[2], ledger)
        return cls(ids, predictions, references, reference_texts, similarity)

    @cached_property
    def result(self) -> MetricResult:
        """Our metrics of masks."""
        return score_gcg(self.predictions, self.references, self.similarity, "compat")

    def captions(self, meteor: Any) -> MetricResult:
        """Compute our caption metrics."""
        captions = {name: x.caption for name, x in self.predictions.items()}
        return score_captions(captions, self.reference_texts, mode="compat", meteor=meteor)

    def compare(self, recorded: RecordedFile) -> None:
        """Compare the metrics of masks."""
        scores, per_item = self.result.scores, self.result.per_item
        recorded.exclude_prefix("special_images", "prose")
        recorded.exclude("spice", "prose: why there is no SPICE")
        recorded.compare("image_order", list(self.ids.values()), "exact")
        for name in COCO_STATS:
            recorded.compare(f"coco_segm_stats.{name}", scores[name], "metric")
        for name in ("mIoU", "recall"):
            recorded.compare(name, scores[name], "metric")
        ious = [per_item[name]["mIoU"] for name in self.references]
        recorded.compare("mIoU_per_image", ious, "metric")
        for name, column in {
            "recall_true_positives": "recall_matches",
            "recall_denominator": "recall_true",
        }.items():
            recorded.compare(name, sum(columns[column] for columns in per_item.values()), "exact")
        matches = [
            greedy_matches(read_pair(name, self.predictions[name], reference), self.similarity)
            for name, reference in self.references.items()
        ]
        recorded.compare("recall_matches_per_image", matches, "exact")

    def compare_captions(
        self, recorded: RecordedFile, captions: MetricResult, no_spice: str
    ) -> None:
        """Compare the caption metrics of each image by itself.

        Args:
            recorded: the expected numbers.
            captions: our metrics.
            no_spice: reason for the exclusion of SPICE.
        """
        for image, columns in captions.per_item.items():
            prefix = f"caption_metrics_per_image.{self.ids[image]}."
            for name in recorded.names_under(prefix):
                metric = name.removeprefix(prefix)
                value = columns.get(metric, columns.get(f"{metric}_alone"))
                if metric.startswith("SPICE"):
                    recorded.exclude(name, no_spice)
                elif value is not None:
                    recorded.compare(name, value, "metric")


def compare_printed(
    recorded: RecordedFile, captions: Mapping[str, float], masks: Mapping[str, float]
) -> None:
    """Compare the lines that the original prints; those of the captions are printed twice.

    Args:
        recorded: the expected lines.
        captions: our caption metrics.
        masks: our metrics of masks.
    """
    caption_lines = [f"{name}: {value:.3f}" for name, value in captions.items()]
    expected = [
        *(*caption_lines, *caption_lines),
        f"Mean IoU (mIoU) across all images: {masks['mIoU']:.3f}",
        f"Recall: {masks['recall']:.3f}",
    ]
    lines = [line for line in recorded.get("printed_lines") if not line.startswith("SPICE")]
    recorded.record_error("printed_lines", float(lines != expected), "exact")


def _only_file(folder: Path, end: str) -> Path:
    files = sorted(folder.glob(f"*{end}"))
    if len(files) != 1:
        raise GoldenError(f"{folder}: {len(files)} files *{end}, expected one")
    return files[0]


def _read_reference_masks(path: Path, ledger: ComparisonReport) -> dict[Any, list[Any]]:
    """Read the masks of each image in their order, and compare their recorded properties."""
    with RecordedFile.open(ledger, PART, path) as recorded:
        content = read_json(path)
        exclude_inputs(recorded, MASK_FIELDS)
        masks: dict[Any, list[Any]] = {}
        for i, annotation in enumerate(content["annotations"]):
            runs = annotation["segmentation"]
            masks.setdefault(annotation["image_id"], []).append(runs)
            properties = {
                "area": read_runs(runs).area,
                "bbox": coco.toBbox(runs).tolist(),
                "iscrowd": 0,
                "category_id": content["categories"][0]["id"],
            }
            for field, value in properties.items():
                if field in annotation:
                    recorded.compare(f"annotations[{i}].{field}", value, "exact")
        for i, image in enumerate(content["images"]):
            sizes = [runs["size"] for runs in masks.get(image["id"], [])]
            for k, field in enumerate(("height", "width")):
                if sizes:
                    recorded.compare(f"images[{i}].{field}", sizes[0][k], "exact")
                else:
                    recorded.exclude(f"images[{i}].{field}", "image without a mask")
    return masks


def _read_prediction(path: Path, ledger: ComparisonReport) -> GroundedCaption:
    """Read a prediction in the original's format: the fields, or the fields under an outer key."""
    with RecordedFile.open(ledger, PART, path) as recorded:
        content = read_json(path)
        exclude_inputs(recorded, PREDICTION_FIELDS)
        for name in recorded.names:
            if name.rpartition(".")[2] == "image_id":
                recorded.record_error(name, float(str(recorded.get(name)) != path.stem), "exact")
        fields = content if "caption" in content else next(iter(content.values()))
        return _caption(fields["caption"], fields["phrases"], fields["pred_masks"])


def _caption(caption: str, phrases: Sequence[str], masks: Sequence[Any]) -> GroundedCaption:
    """Make a caption whose masks match its phrases by their order."""
    phrase_of = phrase_indices_by_order(len(phrases), len(masks))
    return GroundedCaption(caption, tuple(phrases), tuple(masks), phrase_of)


def _read_similarity(path: Path, ledger: ComparisonReport) -> RecordedSimilarity:
    with RecordedFile.open(ledger, PART, path) as recorded:
        recorded.exclude("note", "prose")
        phrases = recorded.input("phrases")
        table = np.asarray(recorded.get("similarity"), np.float64)
        if table.shape != (len(phrases), len(phrases)):
            raise GoldenError(f"{path}: {len(phrases)} phrases, but a table of shape {table.shape}")
        # The table is an input, but the properties of a cosine can be checked.
        error = max(np.abs(table - table.T).max(), np.abs(np.diag(table) - 1).max())
        recorded.record_error("similarity", float(error), "metric", "symmetric, 1 on the diagonal")
        return RecordedSimilarity(phrases, table)
