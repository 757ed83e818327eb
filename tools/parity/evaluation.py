"""The part `evaluation`: what the original's evaluations printed, against our metrics in `compat`.

A case is there when the file of its expected numbers is; then its inputs must be, too.

gcg_expected.json: gcg_gt/, gcg_pred/, text_similarity.json (stands in for BERT).
regcap_expected.json: regcap_annotations.json, regcap_results.json. refseg_expected.json:
refseg_cases.npz. ptb_tokenizer.json has both.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from glamm_jax.data.rle import encode
from glamm_jax.metrics.captions import running_meteor, score_captions, tokenize
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
IGNORED = 255  # of the original's targets
NO_SPICE = "SPICE: it needs CoreNLP, which nobody may pass on"

# Inputs of region captioning: of its annotations, and of its results.
REGION_FIELDS = (
    r"images\[\d+\]\.(id|file_name|height|width)|"
    r"annotations\[\d+\]\.(id|image_id|caption|bbox)|info|licenses",
    r"\[\d+\]\.(image_id|caption)",
)

# Compares one case: the part's folder, the ledger, and METEOR's process.
Case = Callable[[Path, ComparisonReport, Any], None]


def check(folder: Path, ledger: ComparisonReport) -> None:
    """Compare everything recorded in `folder/evaluation`.

    Raises: GoldenError naming what is absent or broken in the folder as a whole; a case that
        cannot be compared lands in the ledger.
    """
    part = part_folder(folder, PART)
    present = [name for name in CASES if (part / name).is_file()]
    known = {name for expected, (inputs, _) in CASES.items() for name in (expected, *inputs)}
    used = {name for expected in present for name in CASES[expected][0]}
    for name in sorted(known - used - set(present)):
        if (part / name).exists():
            row = ArrayComparison(
                PART, f"{PART}/{name}", "", "excluded", note="input of a case without numbers"
            )
            ledger.rows.append(row)
    with ExitStack() as stack:
        meteor = None
        if set(present) & {evaluation_gcg.EXPECTED, "regcap_expected.json"}:
            with _as_golden_errors():
                meteor = stack.enter_context(running_meteor())
        for name in present:
            with ledger.guard(f"{PART}/{name}"), _as_golden_errors(), entry_errors(part / name):
                CASES[name][1](part, ledger, meteor)
    report_unknown_files(ledger, PART, part, known)


def compare_captions(recorded: RecordedFile, scored: MetricResult, prefix: str) -> None:
    """Compare the figures of captions under a prefix; SPICE is excluded."""
    for name in recorded.names_under(f"{prefix}."):
        figure = name.removeprefix(f"{prefix}.")
        if figure == "SPICE":
            recorded.exclude(name, NO_SPICE)
        elif figure in scored.scores:
            recorded.compare(name, scored.scores[figure], "metric")


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
        evaluation_gcg.compare_printed(recorded, captions.scores, case.scored.scores)


def _check_regions(part: Path, ledger: ComparisonReport, meteor: Any) -> None:
    paths = [part / f"regcap_{name}.json" for name in ("annotations", "results")]
    truth, results = map(read_json, paths)
    true: dict[str, list[str]] = {str(each["id"]): [] for each in truth["images"]}
    for each in truth["annotations"]:
        true[str(each["image_id"])].append(each["caption"])
    said = {str(each["image_id"]): each["caption"] for each in results}
    if len(said) != len(results):
        raise GoldenError(f"{paths[1]}: more than one caption of an image")
    for path, pattern in zip(paths, REGION_FIELDS, strict=True):
        with RecordedFile.open(ledger, PART, path) as recorded:
            evaluation_gcg.exclude_inputs(recorded, pattern)
    scored = score_captions(said, true, mode="compat", meteor=meteor)
    with RecordedFile.open(ledger, PART, part / "regcap_expected.json") as recorded:
        compare_captions(recorded, scored, "metrics")


class Referring(NamedTuple):
    """Recorded conversations by number: masks said, true masks, pixels to be ignored."""

    said: dict[str, list[Any]]
    true: dict[str, list[Any]]
    ignored: dict[str, list[Any]]

    @classmethod
    def read(cls, cases: RecordedFile) -> Referring:
        """The conversations, in order."""
        numbers = sorted(int(name[2:]) for name in cases.names if re.fullmatch(r"gt\d+", name))
        whole = cls({}, {}, {})
        for number in numbers:
            name, target = str(number), cases.input(f"gt{number}")
            whole.said[name] = [encode(each > 0) for each in cases.input(f"logits{number}")]
            # What is neither 1 nor to be ignored is background, overlapping polygons, too.
            whole.true[name] = [encode(each == 1) for each in target]
            whole.ignored[name] = [encode(each == IGNORED) for each in target]
        return whole


def _check_referring(part: Path, ledger: ComparisonReport, _: Any) -> None:
    with RecordedFile.open(ledger, PART, part / "refseg_cases.npz") as cases:
        said, true, ignored = Referring.read(cases)
    with RecordedFile.open(ledger, PART, part / "refseg_expected.json") as recorded:
        recorded.compare("n", len(true), "exact")
        scored = score_refseg(said, true, "compat", ignored)
        for figure in ("gIoU", "cIoU"):
            recorded.compare(figure, scored.scores[figure], "metric")
        alone = [
            score_refseg({name: said[name]}, {name: true[name]}, "compat", ignored).scores
            for name in true
        ]
        table = [[each["gIoU"], each["cIoU"]] for each in alone]
        recorded.compare("per_batch_alone", np.array(table).reshape(-1, 2), "metric")


def _check_tokens(part: Path, ledger: ComparisonReport, _: Any) -> None:
    with RecordedFile.open(ledger, PART, part / "ptb_tokenizer.json") as recorded:
        texts = recorded.input("inputs")
        tokens = tokenize({str(i): [text] for i, text in enumerate(texts)})
        recorded.compare("ptb_tokens", list(tokens.values()), "exact")


# file of expected numbers -> its inputs, and what compares them
CASES: dict[str, tuple[tuple[str, ...], Case]] = {
    evaluation_gcg.EXPECTED: (evaluation_gcg.INPUTS, _check_gcg),
    "refseg_expected.json": (("refseg_cases.npz",), _check_referring),
    "regcap_expected.json": (("regcap_annotations.json", "regcap_results.json"), _check_regions),
    "ptb_tokenizer.json": ((), _check_tokens),
}
