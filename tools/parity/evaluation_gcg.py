"""The recorded evaluation of grounded captions: its files, and our figures beside its own."""

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
    owners_by_number,
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
TRUTH = {kind: f"_gcg_coco_{kind}_gt.json" for kind in ("caption", "mask")}
CAPTION_FIELDS = (
    r"images\[\d+\]\.(id|file_name|height|width)|annotations\[\d+\]\.(id|image_id|caption|labels)"
)
MASK_FIELDS = (
    r"images\[\d+\]\.(id|file_name)|categories\[\d+\]\.(id|name|supercategory)|"
    r"annotations\[\d+\]\.(id|image_id|segmentation\.(size|counts))"
)
SAID_FIELDS = r"(.+\.)?(caption|phrases|pred_masks(\[\d+\]\.(size|counts))?)"


def exclude_inputs(recorded: RecordedFile, pattern: str) -> None:
    """Settle the names that are inputs of a case; others stay unknown, and fail."""
    for name in recorded.names:
        if re.fullmatch(pattern, name):
            recorded.exclude(name, "input")


class RecordedSimilarity:
    """The table that stood in for BERT."""

    name = "recorded table"

    def __init__(self, phrases: Sequence[str], table: Float[np.ndarray, "n n"]):
        self._numbers = {phrase: i for i, phrase in enumerate(phrases)}
        self._table = table

    def __call__(
        self, some: Sequence[str], others: Sequence[str]
    ) -> Float[np.ndarray, "some others"]:
        """Raises: GoldenError when the table lacks a phrase."""
        if unknown := [each for each in (*some, *others) if each not in self._numbers]:
            raise GoldenError(f"{PART}/text_similarity.json: no phrase {unknown[0]!r} in it")
        rows, columns = (np.array([self._numbers[p] for p in each], int) for each in (some, others))
        return self._table[np.ix_(rows, columns)]


@dataclass
class GCGCase:
    """Predictions and truth in the order of the truth's file.

    They go by the image's id, numbers padded so that their order is that of text. ids: as recorded.
    """

    ids: dict[str, Any]
    said: dict[str, GroundedCaption]
    true: dict[str, GroundedCaption]
    references: dict[str, list[str]]
    similarity: RecordedSimilarity

    @classmethod
    def read(cls, part: Path, ledger: ComparisonReport) -> GCGCase:
        """Everything that the numbers were made of.

        Raises: GoldenError naming what is absent or broken.
        """
        paths = {kind: _only_file(part_folder(part, "gcg_gt"), end) for kind, end in TRUTH.items()}
        for path in sorted((part / "gcg_gt").iterdir()):
            if path not in paths.values():
                ledger.rows.append(ArrayComparison(PART, f"gcg_gt/{path.name}", "", "unknown"))
        with RecordedFile.open(ledger, PART, paths["caption"]) as recorded:
            exclude_inputs(recorded, CAPTION_FIELDS)
        masks = _read_true_masks(paths["mask"], ledger)
        captions = read_json(paths["caption"])
        of_image: dict[Any, list[Any]] = {image["id"]: [] for image in captions["images"]}
        for each in captions["annotations"]:
            of_image[each["image_id"]].append(each)
        ids, said, true, references = {}, {}, {}, {}
        folder = part_folder(part, "gcg_pred")
        for image, every in of_image.items():
            if not every:
                raise GoldenError(f"{paths['caption']}: no caption of {image}")
            name = image if isinstance(image, str) else f"{image:012d}"
            ids[name] = image
            truth = every[0]
            true[name] = _caption(truth["caption"], truth["labels"], masks.get(image, []))
            references[name] = [each["caption"] for each in every]
            said[name] = _read_said(folder / f"{image}.json", ledger)
        known = {f"{image}.json" for image in of_image}
        for path in sorted(folder.iterdir()):
            if path.name not in known:
                note = "of no image of the split: the original does not open it"
                ledger.rows.append(
                    ArrayComparison(PART, f"gcg_pred/{path.name}", "", "excluded", note=note)
                )
        return cls(ids, said, true, references, _read_similarity(part / INPUTS[2], ledger))

    @cached_property
    def scored(self) -> MetricResult:
        """Our figures of masks."""
        return score_gcg(self.said, self.true, self.similarity, "compat")

    def captions(self, meteor: Any) -> MetricResult:
        """Our figures of words."""
        said = {name: each.caption for name, each in self.said.items()}
        return score_captions(said, self.references, mode="compat", meteor=meteor)

    def compare(self, recorded: RecordedFile) -> None:
        """Compare all that concerns masks."""
        figures, each = self.scored.scores, self.scored.per_item
        recorded.exclude_prefix("special_images", "prose")
        recorded.exclude("spice", "prose: why there is no SPICE")
        recorded.compare("image_order", list(self.ids.values()), "exact")
        for name in COCO_STATS:
            recorded.compare(f"coco_segm_stats.{name}", figures[name], "metric")
        for name in ("mIoU", "recall"):
            recorded.compare(name, figures[name], "metric")
        recorded.compare("mIoU_per_image", [each[name]["mIoU"] for name in self.true], "metric")
        for name, column in {
            "recall_true_positives": "recall_matches",
            "recall_denominator": "recall_true",
        }.items():
            recorded.compare(name, sum(columns[column] for columns in each.values()), "exact")
        matches = [
            greedy_matches(read_pair(name, self.said[name], truth), self.similarity)
            for name, truth in self.true.items()
        ]
        recorded.compare("recall_matches_per_image", matches, "exact")

    def compare_captions(
        self, recorded: RecordedFile, captions: MetricResult, no_spice: str
    ) -> None:
        """Compare what every image scores by itself."""
        for image, columns in captions.per_item.items():
            prefix = f"caption_metrics_per_image.{self.ids[image]}."
            for name in recorded.names_under(prefix):
                figure = name.removeprefix(prefix)
                value = columns.get(figure, columns.get(f"{figure}_alone"))
                if figure.startswith("SPICE"):
                    recorded.exclude(name, no_spice)
                elif value is not None:
                    recorded.compare(name, value, "metric")


def compare_printed(
    recorded: RecordedFile, captions: Mapping[str, float], masks: Mapping[str, float]
) -> None:
    """Compare the lines on the original's screen: those of the captions come twice."""
    words = [f"{name}: {value:.3f}" for name, value in captions.items()]
    ours = [
        *(*words, *words),
        f"Mean IoU (mIoU) across all images: {masks['mIoU']:.3f}",
        f"Recall: {masks['recall']:.3f}",
    ]
    lines = [line for line in recorded.get("printed_lines") if not line.startswith("SPICE")]
    recorded.record_error("printed_lines", float(lines != ours), "exact")


def _only_file(folder: Path, end: str) -> Path:
    found = sorted(folder.glob(f"*{end}"))
    if len(found) != 1:
        raise GoldenError(f"{folder}: {len(found)} files *{end}, there should be one")
    return found[0]


def _read_true_masks(path: Path, ledger: ComparisonReport) -> dict[Any, list[Any]]:
    """The true masks of each image in their order; what is said of them beside is compared."""
    with RecordedFile.open(ledger, PART, path) as recorded:
        whole = read_json(path)
        exclude_inputs(recorded, MASK_FIELDS)
        masks: dict[Any, list[Any]] = {}
        for i, each in enumerate(whole["annotations"]):
            runs = each["segmentation"]
            masks.setdefault(each["image_id"], []).append(runs)
            facts = {
                "area": read_runs(runs).area,
                "bbox": coco.toBbox(runs).tolist(),
                "iscrowd": 0,
                "category_id": whole["categories"][0]["id"],
            }
            for field, value in facts.items():
                if field in each:
                    recorded.compare(f"annotations[{i}].{field}", value, "exact")
        for i, image in enumerate(whole["images"]):
            sizes = [runs["size"] for runs in masks.get(image["id"], [])]
            for k, field in enumerate(("height", "width")):
                if sizes:
                    recorded.compare(f"images[{i}].{field}", sizes[0][k], "exact")
                else:
                    recorded.exclude(f"images[{i}].{field}", "of no mask")
    return masks


def _read_said(path: Path, ledger: ComparisonReport) -> GroundedCaption:
    """A prediction in the original's format: the fields, or the fields under one key."""
    with RecordedFile.open(ledger, PART, path) as recorded:
        whole = read_json(path)
        exclude_inputs(recorded, SAID_FIELDS)
        for name in recorded.names:
            if name.rpartition(".")[2] == "image_id":
                recorded.record_error(name, float(str(recorded.get(name)) != path.stem), "exact")
        fields = whole if "caption" in whole else next(iter(whole.values()))
        return _caption(fields["caption"], fields["phrases"], fields["pred_masks"])


def _caption(caption: str, phrases: Sequence[str], masks: Sequence[Any]) -> GroundedCaption:
    """Masks belong to phrases by their numbers."""
    phrase_of = owners_by_number(len(phrases), len(masks))
    return GroundedCaption(caption, tuple(phrases), tuple(masks), phrase_of)


def _read_similarity(path: Path, ledger: ComparisonReport) -> RecordedSimilarity:
    with RecordedFile.open(ledger, PART, path) as recorded:
        recorded.exclude("note", "prose")
        phrases = recorded.input("phrases")
        table = np.asarray(recorded.get("similarity"), np.float64)
        if table.shape != (len(phrases), len(phrases)):
            raise GoldenError(f"{path}: {len(phrases)} phrases, a table of {table.shape}")
        # An input; but it is a cosine, which a slip would show in.
        error = max(np.abs(table - table.T).max(), np.abs(np.diag(table) - 1).max())
        recorded.record_error("similarity", float(error), "metric", "symmetric, 1 on the diagonal")
        return RecordedSimilarity(phrases, table)
