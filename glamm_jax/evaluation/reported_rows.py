"""Rows of other publications, to stand beside ours and the paper's: models, sources, settings.

    rows = reported_rows("gcg", "val")
    assert rows[0].metrics["AP50"] == 0.299

None of them was measured by this project. Metrics are fractions. A row that was read in another
publication than the model's own says so, and one that was not checked against any is marked.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from glamm_jax.evaluation.published import same_split

# Notes on the rows of the paper itself, by the name of the system.
ROW_NOTES: dict[str, str] = {
    "GLaMM without the human-annotated images": "X-SAM, X2SAM and Sa2VA print this row as GLaMM",
}
X_SAM = "X-SAM's repository, wanghao9610/X-SAM 2e76946, docs/srcs/images"
X2SAM = "X2SAM's repository, wanghao9610/X2SAM 5b0b106"
SA2VA = "the paper of Sa2VA"
RECHANNEL = "the paper of ReChannel, table 3"
UNCHECKED = "second-hand, not checked"
UNSPECIFIED, REINFORCEMENT = "unspecified", "reinforcement learning"


@dataclass(frozen=True)
class ReportedRow:
    """What a publication reports about a model.

    Attributes:
        name: of the model.
        benchmark: name of the benchmark.
        metrics: on one split, as fractions.
        split: in the spelling of `PaperTable.splits`.
        source: where it was read; "second-hand, not checked" where that is not known.
        setting: how the model was trained; "unspecified" where the source does not say whether on
            the training split of the benchmark.
    """

    name: str
    benchmark: str
    split: str
    metrics: Mapping[str, float]
    source: str
    setting: str = UNSPECIFIED


# Model, source, setting, AP50 / mIoU / recall on GranD_f val.
_GCG = (
    ("OMG-LLaVA-7B", f"{X_SAM}; {SA2VA}", UNSPECIFIED, "29.9 65.5 -"),
    ("Sa2VA-8B", SA2VA, UNSPECIFIED, "31.0 - -"),
    ("Sa2VA-8B", UNCHECKED, UNSPECIFIED, "33.2 67.7 45.1"),
    ("Sa2VA-26B", SA2VA, UNSPECIFIED, "33.5 - -"),
    ("X-SAM", X_SAM, UNSPECIFIED, "33.2 69.4 -"),
    ("X2SAM", X2SAM, UNSPECIFIED, "33.1 67.1 -"),
    ("SAMTok, Qwen2.5-VL-3B", UNCHECKED, REINFORCEMENT, "41.5 73.5 53.5"),
)
# Model, source, cIoU on the val splits of refCOCO, refCOCO+, refCOCOg.
_REFSEG = (
    ("OMG-LLaVA-7B", SA2VA, "78.0 69.1 72.9"),
    ("OMG-LLaVA-7B", X_SAM, "77.2 68.7 71.7"),
    ("Sa2VA-8B", SA2VA, "81.9 76.5 78.9"),
    ("Sa2VA-26B", SA2VA, "82.5 78.8 79.7"),
    ("X-SAM", X_SAM, "85.1 78.0 83.8"),
    ("X2SAM", X2SAM, "84.0 78.4 81.9"),
    ("FCLM-7B", RECHANNEL, "82.6 77.4 79.4"),
    ("F-LMM-7B", SA2VA, "76.1 65.2 68.5"),
    ("PSALM-1.3B", RECHANNEL, "83.6 72.9 73.8"),
    ("HyperSeg", X2SAM, "84.8 79.0 79.4"),
    ("UniPixel-7B", X2SAM, "80.8 75.3 76.4"),
)


def _fraction(cell: str) -> float:
    return round(float(cell) / 100, 6)


def _rows() -> list[ReportedRow]:
    rows = []
    for name, source, setting, line in _GCG:
        pairs = zip(("AP50", "mIoU", "recall"), line.split(), strict=True)
        metrics = {metric: _fraction(cell) for metric, cell in pairs if cell != "-"}
        rows.append(ReportedRow(name, "gcg", "val", metrics, source, setting))
    for name, source, line in _REFSEG:
        for dataset, cell in zip(("refcoco", "refcoco+", "refcocog"), line.split(), strict=True):
            metrics = {"cIoU": _fraction(cell)}
            rows.append(ReportedRow(name, "refseg", f"{dataset}/val", metrics, source))
    return rows


REPORTED: tuple[ReportedRow, ...] = tuple(_rows())


def reported_rows(benchmark: str, split: str) -> list[ReportedRow]:
    """Return the rows of a split, in the order of the list.

    Args:
        benchmark: its name.
        split: with the name of the data, in any spelling that `rows_of_split` takes.
    """
    return [row for row in REPORTED if row.benchmark == benchmark and same_split(split, row.split)]
