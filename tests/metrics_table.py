"""The page on the two ways of counting, docs/metrics.md: its words, and figures made on the spot.

python -m tests.metrics_table    writes it anew; a test compares it with what is there
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from glamm_jax.metrics.captions import score_captions
from glamm_jax.metrics.gcg import score_gcg
from glamm_jax.metrics.phrase_grounding import score_grounding
from glamm_jax.metrics.refseg import score_refseg
from glamm_jax.metrics.result import MODES, MetricResult
from tools.parity.evaluation import PART, Referring
from tools.parity.evaluation_gcg import GCGCase
from tools.parity.report import ComparisonReport, RecordedFile

ROOT = Path(__file__).resolve().parent.parent
DOCUMENT = ROOT / "docs" / "metrics.md"
FIXTURES = ROOT / "tests" / "goldens" / PART

OPENING = """\
# How answers are scored

Written by `python -m tests.metrics_table`; do not edit.

Every figure comes in two modes. **compat** is what the original's code computes, quirks included:
`python -m convert parity tests/goldens --only evaluation` holds it to the recorded numbers within
1e-6. Compare it with the paper. **strict** is what the figure's definition says. Compare models
with it. All figures are shares in 0 to 1; CIDEr reaches 10.

The last columns score the recorded answers in `tests/goldens/evaluation`: 20 images with grounded
captions, whose phrases a recorded table compares, and 10 conversations of referring segmentation.

"""

# figure -> what compat does, what strict does, why
RANKING = (
    "every score is 1: ties are ranked by image id, then by order of saying",
    "the decoder's estimate ranks; equal scores are one point of the curve",
    "a renamed image must not change AP; here no scores are recorded, all are equal",
)
ROWS: dict[str, dict[str, tuple[str, str, str]]] = {
    "Grounded conversation": {
        "AP": RANKING,
        "AP50": RANKING,
        "AP75": RANKING,
        "mIoU": (
            "mean of pairs taken greedily; masks without a pair cost nothing; two empty masks "
            "end the pairing; an image without pairs is 0",
            "the pairing with the largest sum, over all true masks; two empty masks agree",
            "whoever says less must not score higher",
        ),
        "recall": (
            "the first pair that fails a threshold ends the image; labels and masks pair up by "
            "number, and a best pair without a label undoes the image; thresholds are reached; "
            "over true phrases",
            "the most true masks that can be found at once; a mask belongs to the phrase in "
            "front of it; thresholds are exceeded; over true masks",
            "the paper's appendix A.1; a good mask counts whatever the others are",
        ),
    },
    "Referring segmentation": {
        "cIoU": (
            "a true mask without an answer is absent; float32",
            "a true mask without an answer counts as answered by an empty mask",
            "whoever does not answer must not score higher",
        ),
        "gIoU": (
            "1e-5 in both denominators; float32",
            "exact, float64",
            "a perfect answer is 1",
        ),
    },
    "Phrase grounding (the grounded captions, as if their phrases had been asked)": {
        "mIoU": (
            "masks pair up by their order; a phrase without a mask is absent",
            "masks belong to the phrase in front of them; a phrase without a mask is 0",
            "no code is published; compat keeps the original's customs",
        ),
        "recall": (
            "by order; over all phrases, at an IoU of 0.5",
            "by words; over all phrases, at an IoU of 0.5",
            "as above",
        ),
    },
    "Captions (without the caption of sa_1007)": {
        "CIDEr": (
            "an item without a caption is left out",
            "it has an empty caption",
            "a failed item must cost something; with all captions the modes agree",
        ),
        "ROUGE_L": ("as CIDEr; BLEU and METEOR, too", "as CIDEr", "as above"),
    },
}

BAD_INPUT = """
## Bad input

What is irregular is in `Scored.notes`, by kind, with the ids of its items. Broken run lengths, and
fields that do not belong together, are a `MetricError` that names image and mask.

| kind | compat | strict |
|---|---|---|
| unknown prediction | left out | left out |
| missing prediction | nothing said (the original's GCG stops); captions: left out | nothing said |
| empty split | AP -1, other figures 0; no figure of captions | no figure |
| no true mask | GCG: mIoU 0; else left out | left out, its masks are wrong in AP |
| empty mask said, empty true mask | two of them: see mIoU above; recall takes them for a match of \
the masks | two of them agree |
| sizes disagree | the mask agrees with nothing; GCG: no match in the image, as the original's \
exception has it | the mask agrees with nothing |
| more phrases than masks | phrases and masks pair up by number | by place |
| fewer phrases than masks | a best pair without label undoes the image's matches | masks without \
a phrase match no phrase |
| true phrases and masks disagree | by number | by place |
| scores not finite | no score is read | they rank last |
| no mask given | an empty mask | an empty mask |
| fewer masks than expressions | absent from cIoU, 0 in gIoU | an empty mask |
| more masks than expressions | not looked at | not looked at |
| empty caption | scored | scored |
| line break | a space | a space |
| CIDEr of a single item is 0 | as it says: no word is rare | the same |
"""


def results() -> Iterator[Mapping[str, MetricResult]]:
    """Both modes' outcomes, family by family in the order of ROWS."""
    case = GCGCase.read(FIXTURES, ComparisonReport())
    yield {mode: score_gcg(case.said, case.true, case.similarity, mode) for mode in MODES}
    with RecordedFile.open(ComparisonReport(), PART, FIXTURES / "refseg_cases.npz") as cases:
        said, true, ignored = Referring.read(cases)
    yield {mode: score_refseg(said, true, mode, ignored) for mode in MODES}
    yield {mode: score_grounding(case.said, case.true, mode) for mode in MODES}
    words = {name: each.caption for name, each in case.said.items() if name != "sa_1007"}
    names = tuple(ROWS["Captions (without the caption of sa_1007)"])
    yield {mode: score_captions(words, case.references, names, mode=mode) for mode in MODES}


def document() -> str:
    """The page."""
    lines = [
        OPENING + "| figure | compat | strict | why | compat | strict |",
        "|---|---|---|---|---:|---:|",
    ]
    for (family, rows), found in zip(ROWS.items(), results(), strict=True):
        lines.append(f"| **{family}** | | | | | |")
        for figure, told in rows.items():
            numbers = (f"{found[mode].scores[figure]:.4f}" for mode in MODES)
            lines.append(f"| {' | '.join((figure, *told, *numbers))} |")
    return "\n".join(lines) + "\n" + BAD_INPUT


if __name__ == "__main__":
    DOCUMENT.write_text(document(), encoding="utf-8")
