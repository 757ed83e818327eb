"""The part `evaluation`: recorded metrics of the original against ours in mode `compat`.

A case is present if the file of its expected numbers is; then its inputs must be present, too:

    gcg_expected.json     gcg_gt/, gcg_pred/, text_similarity.json (in place of BERT)
    regcap_expected.json  regcap_annotations.json, regcap_results.json
    refseg_expected.json  refseg_cases.npz
    ptb_tokenizer.json    has inputs and expected tokens
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from glamm_jax.data.rle import encode
from glamm_jax.metrics.captions import meteor_process, score_captions, tokenize
from glamm_jax.metrics.refseg import score_refseg
from glamm_jax.metrics.result import MetricError, MetricResult
from tools.parity import evaluation_gcg
from tools.parity.recorded_folder import entry_errors, part_folder, report_unknown_files
from tools.parity.report import (
    ArrayComparison,
    ComparisonReport,
    GoldenError,
    RecordedFile,
    read_json,
)

PART = "evaluation"
IGNORED = 255  # value of ignored pixels in the original's targets
NO_SPICE = "SPICE: it needs CoreNLP, which cannot be redistributed"

# Input fields of region captioning: of its annotations, and of its results.
REGION_FIELDS = (
    r"images\[\d+\]\.(id|file_name|height|width)|"
    r"annotations\[\d+\]\.(id|image_id|caption|bbox)|info|licenses",
    r"\[\d+\]\.(image_id|caption)",
)

# Compares one case: (folder of the part, ledger, process of METEOR).
Case = Callable[[Path, ComparisonReport, Any], None]


def check(folder: Path, ledger: ComparisonReport) -> None:
    """Compare everything recorded in `folder/evaluation`.

    A case that cannot be compared is an entry of the ledger.

    Raises:
        GoldenError: the folder or Java is missing.
    """
    part = part_folder(folder, PART)
    present = [name for name in CASES if (part / name).is_file()]
    expected_files = {
        name for expected, (inputs, _) in CASES.items() for name in (expected, *inputs)
    }
    used = {name for expected in present for name in CASES[expected][0]}
    for name in sorted(expected_files - used - set(present)):
        if (part / name).exists():
            row = ArrayComparison(
                PART,
                f"{PART}/{name}",
                "",
                "excluded",
                note="input of a case without expected numbers",
            )
            ledger.rows.append(row)
    with ExitStack() as stack:
        meteor = None
        if set(present) & {evaluation_gcg.EXPECTED, "regcap_expected.json"}:
            with _as_golden_errors():
                meteor = stack.enter_context(meteor_process())
        for name in present:
            with ledger.guard(f"{PART}/{name}"), _as_golden_errors(), entry_errors(part / name):
                CASES[name][1](part, ledger, meteor)
    report_unknown_files(ledger, PART, part, expected_files)


def compare_captions(recorded: RecordedFile, result: MetricResult, prefix: str) -> None:
    """Compare the caption metrics under a prefix; SPICE is excluded.

    Args:
        recorded: the expected numbers.
        result: our metrics.
        prefix: of the names in the file.
    """
    for name in recorded.names_under(f"{prefix}."):
        metric = name.removeprefix(f"{prefix}.")
        if metric == "SPICE":
            recorded.exclude(name, NO_SPICE)
        elif metric in result.scores:
            recorded.compare(name, result.scores[metric], "metric")


@contextmanager
def _as_golden_errors() -> Iterator[None]:
    try:
        yield
    except MetricError as error:
        raise GoldenError(str(error)) from error


def _check_gcg(part: Path, ledger: ComparisonReport, meteor: Any) -> None:
    with RecordedFile.open(ledger, PART, part / evaluation_gcg.EXPECTED) as recorded:
        case = evaluation_gcg.GCGCase.read(part, ledger)
        case.compare(recorded)
        captions = case.captions(meteor)
        compare_captions(recorded, captions, "caption_metrics")
        case.compare_captions(recorded, captions, NO_SPICE)
        evaluation_gcg.compare_printed(recorded, captions.scores, case.result.scores)


def _check_regions(part: Path, ledger: ComparisonReport, meteor: Any) -> None:
    paths = [part / f"regcap_{name}.json" for name in ("annotations", "results")]
    annotations, results = map(read_json, paths)
    references: dict[str, list[str]] = {str(image["id"]): [] for image in annotations["images"]}
    for annotation in annotations["annotations"]:
        references[str(annotation["image_id"])].append(annotation["caption"])
    captions = {str(entry["image_id"]): entry["caption"] for entry in results}
    if len(captions) != len(results):
        raise GoldenError(f"{paths[1]}: more than one caption of an image")
    for path, pattern in zip(paths, REGION_FIELDS, strict=True):
        with RecordedFile.open(ledger, PART, path) as recorded:
            evaluation_gcg.exclude_inputs(recorded, pattern)
    result = score_captions(captions, references, mode="compat", meteor=meteor)
    with RecordedFile.open(ledger, PART, part / "regcap_expected.json") as recorded:
        compare_captions(recorded, result, "metrics")


class Referring(NamedTuple):
    """Recorded conversations by number: predicted masks, reference masks, ignored pixels."""

    predictions: dict[str, list[Any]]
    references: dict[str, list[Any]]
    ignored: dict[str, list[Any]]

    @classmethod
    def read(cls, cases: RecordedFile) -> Referring:
        """Read the conversations, in order."""
        numbers = sorted(int(name[2:]) for name in cases.names if re.fullmatch(r"gt\d+", name))
        result = cls({}, {}, {})
        for number in numbers:
            name, target = str(number), cases.input(f"gt{number}")
            logits = cases.input(f"logits{number}")
            result.predictions[name] = [encode(mask > 0) for mask in logits]
            # All other values are background, those of overlapping polygons included.
            result.references[name] = [encode(mask == 1) for mask in target]
            result.ignored[name] = [encode(mask == IGNORED) for mask in target]
        return result


def _check_referring(part: Path, ledger: ComparisonReport, _: Any) -> None:
    with RecordedFile.open(ledger, PART, part / "refseg_cases.npz") as cases:
        predictions, references, ignored = Referring.read(cases)
    with RecordedFile.open(ledger, PART, part / "refseg_expected.json") as recorded:
        recorded.compare("n", len(references), "exact")
        result = score_refseg(predictions, references, "compat", ignored)
        for metric in ("gIoU", "cIoU"):
            recorded.compare(metric, result.scores[metric], "metric")
        alone = [
            score_refseg({name: predictions[name]}, {name: masks}, "compat", ignored).scores
            for name, masks in references.items()
        ]
        table = [[scores["gIoU"], scores["cIoU"]] for scores in alone]
        recorded.compare("per_batch_alone", np.array(table).reshape(-1, 2), "metric")


def _check_tokens(part: Path, ledger: ComparisonReport, _: Any) -> None:
    with RecordedFile.open(ledger, PART, part / "ptb_tokenizer.json") as recorded:
        texts = recorded.input("inputs")
        tokens = tokenize({str(i): [text] for i, text in enumerate(texts)})
        recorded.compare("ptb_tokens", list(tokens.values()), "exact")


# File of expected numbers -> its inputs, and the function that compares them.
CASES: dict[str, tuple[tuple[str, ...], Case]] = {
    evaluation_gcg.EXPECTED: (evaluation_gcg.INPUTS, _check_gcg),
    "refseg_expected.json": (("refseg_cases.npz",), _check_referring),
    "regcap_expected.json": (("regcap_annotations.json", "regcap_results.json"), _check_regions),
    "ptb_tokenizer.json": ((), _check_tokens),
}
