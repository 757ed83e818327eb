"""The part `grand`: the bookkeeping of GranD, step by step and chained, case by case.

Every case of `STEP.json.gz` is computed by preset `released` from its recorded input. Values must
be equal as JSON, numbers as written; depth may differ by 0.01. Each step of `chain.json.gz` is
computed twice: from the recorded output of the step before, and from ours. Affordances count for
labels that the shared recordings (`tests/goldens/grand`) contain: the table of the original is not
ours.

A case whose recorded output is an error is excluded; it is computed nevertheless, and `HERE` says
what this implementation does instead.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from tools.parity import grand_steps
from tools.parity.recorded_folder import part_folder, report_unknown_files
from tools.parity.report import ArrayComparison, ComparisonReport, GoldenError, RecordedFile

PART = "grand"
CHAIN = "chain"
ENDING = ".json.gz"
STEPS = (*grand_steps.STEPS, "13_mdetr", "22_hq_sam", CHAIN)
SHARED = Path(__file__).resolve().parents[2] / "tests" / "goldens" / PART
DEPTH_TOLERANCE = 0.01
MAX_SHOWN = 5  # differing fields of a case in its note
# What this implementation does where the original stops or loses the image.
HERE = {
    "10a_merge_nms": "a detection without mask is used",
    "14a_merge": "a file without the model's key counts as an empty list",
    "14b_relations": "a missing caption or phrase file counts as empty; the key is the file name",
    "15_attributes": 'a description without ": " is used as a whole, an empty one is ignored',
    "18_graph_level3": "there is no graph, and the stage is skipped with a reason",
    "19_graph_level4": "there is no text, and the stage is skipped with a reason",
    "20a_short_ground": "a phrase without objects is left out; no captions, no groundings",
    "20b_dense_ground": "ids that no object has and missing attributes are left out; a text that "
    "cannot be decoded is kept",
    "21_masks": "a file without the key counts as an empty list",
    "exp_referring": "the file is not written (preset paper: the object is left out)",
    "exp_captions": "a phrase has no mask, or the file is not written (preset paper: never)",
}


def check(folder: Path, report: ComparisonReport) -> None:
    """Compare every file of `folder/grand`, or of `folder` if it has these files itself.

    Args:
        folder: the golden folder.
        report: receives the results.

    Raises:
        GoldenError: there is no such folder, or no file of a step in it.
    """
    part = folder if is_recorded(folder) else part_folder(folder, PART)
    index = part / "index.json"
    expected = _read_index(index) if index.is_file() else {}
    found = [step for step in STEPS if (part / f"{step}{ENDING}").is_file()]
    if not found:
        raise GoldenError(f"{part}: no {STEPS[0]}{ENDING} or another step")
    for step in (*found, *(step for step in expected if step not in found)):
        path = part / f"{step}{ENDING}"
        with report.guard(str(path)):
            cases = read_cases(path)
            _check_index(path, cases, expected.get(step))
            _check_step(step, cases, report)
    known = {f"{step}{ENDING}" for step in STEPS} | {"index.json", "README.md"}
    report_unknown_files(report, PART, part, known)


def is_recorded(folder: Path) -> bool:
    """Return whether a folder itself has recorded steps."""
    return any((folder / f"{step}{ENDING}").is_file() for step in STEPS)


def read_cases(path: Path) -> dict[str, tuple[Any, Any]]:
    """Read the cases of a step: name -> input and output.

    Raises:
        GoldenError: the file is absent or cannot be read.
    """
    if not path.is_file():
        raise GoldenError(f"{path}: no such file")
    try:
        with gzip.open(path, "rt", encoding="utf-8") as file:
            return {item["case"]: (item["input"], item["output"]) for item in json.load(file)}
    except (OSError, EOFError, ValueError, TypeError, KeyError) as error:
        raise GoldenError(f"{path}: cannot be read: {error}") from error


def _read_index(path: Path) -> dict[str, list[str]]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        return {step: list(cases) for step, cases in value.items()}
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise GoldenError(f"{path}: cannot be read: {error}") from error


def _check_index(path: Path, cases: Mapping[str, Any], listed: Sequence[str] | None) -> None:
    missing = [name for name in listed or () if name not in cases]
    if missing:
        raise GoldenError(f"{path}: no case {missing[0]!r}, which index.json lists")


def _check_step(step: str, cases: Mapping[str, tuple[Any, Any]], report: ComparisonReport) -> None:
    recordings = {name: output for name, (_, output) in cases.items()}
    with RecordedFile(report, PART, f"{PART}/{step}{ENDING}", recordings) as recorded:
        for name, (given, output) in cases.items():
            try:
                if step == CHAIN:
                    _check_chain(recorded, name, given, output)
                else:
                    _check_case(recorded, name, step, given, output)
            except Exception as error:  # of this implementation, on any input
                note = f"{type(error).__name__}: {error}"
                recorded.record_error(name, 1.0, "exact", note)


def _check_case(recorded: RecordedFile, name: str, step: str, given: Any, output: Any) -> None:
    """Compare one case, or compute it and exclude it if the original failed."""
    if "error" in output:
        if step == "22_hq_sam":
            raise GoldenError(f"{name}: an error is recorded for a step that has none")
        grand_steps.STEPS[step](given)
        note = f"{output['error']} in the original; here {HERE.get(step, 'it does not fail')}"
        recorded.exclude(name, note)
        return
    if step == "13_mdetr":
        ((image, _),) = output.items()
        actual: Any = {image: {"mdetr-re": grand_steps.phrase_boxes(given)}}
    elif step == "22_hq_sam":
        actual = grand_steps.box_prompts(given, output)
    else:
        actual = grand_steps.STEPS[step](given)
    differences = list(find_differences(output, actual))
    if step == "20b_dense_ground":
        helpers = {key: given[key] for key in ("extractor_1", "extractor_2", "content_words")}
        differences += find_differences(helpers, grand_steps.extractors(given), "input")
    _add(recorded, name, differences)


def _check_chain(recorded: RecordedFile, name: str, given: Any, output: Any) -> None:
    """Compare all steps of a chain, each alone and each from our output of the step before."""
    for chained in (False, True):
        differences: list[str] = []
        for step, actual in grand_steps.chain(given, output, chained=chained):
            if "error" not in output[step]:
                differences += find_differences(output[step], actual, step)
            elif not chained:
                file = next(file for file in STEPS if file.startswith(step))
                note = f"{output[step]['error']} in the original; here {HERE[file]}"
                row = ArrayComparison(PART, recorded.file, f"{name}.{step}", "excluded", note=note)
                recorded.report.rows.append(row)
        _add(recorded, name if chained else f"{name} (steps alone)", differences)


def _add(recorded: RecordedFile, name: str, differences: Sequence[str]) -> None:
    shown = "; ".join(differences[:MAX_SHOWN])
    more = f"; {len(differences) - MAX_SHOWN} more" if len(differences) > MAX_SHOWN else ""
    recorded.record_error(name, float(len(differences)), "exact", shown + more)


# ------------------------------------------------------------------------- comparison


def find_differences(recorded: Any, actual: Any, place: str = "") -> Iterator[str]:
    """Yield the place of every difference of two JSON values, with both values.

    Args:
        recorded: from the original.
        actual: ours.
        place: of both in the output.
    """
    if recorded == actual and type(recorded) is type(actual):
        return
    if isinstance(recorded, dict) and isinstance(actual, dict):
        if place.endswith("affordances"):
            recorded, actual = _shared_affordances(recorded), _shared_affordances(actual)
        for key in dict.fromkeys((*recorded, *actual)):
            inner = f"{place}.{key}" if place else str(key)
            if key not in actual:
                yield f"{inner}: recorded {_short(recorded[key])}, here missing"
            elif key not in recorded:
                yield f"{inner}: not recorded, here {_short(actual[key])}"
            else:
                yield from find_differences(recorded[key], actual[key], inner)
    elif isinstance(recorded, list) and isinstance(actual, list):
        if len(recorded) != len(actual):
            yield f"{place}: recorded {len(recorded)} entries, here {len(actual)}"
        for i, pair in enumerate(zip(recorded, actual, strict=False)):
            yield from find_differences(*pair, f"{place}[{i}]")
    elif not _equal_numbers(recorded, actual, place.endswith(".depth")):
        yield f"{place}: recorded {_short(recorded)}, here {_short(actual)}"


def _equal_numbers(a: Any, b: Any, is_depth: bool) -> bool:
    for value in (a, b):
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
    # Both have two decimals; the last one may differ.
    return a == b or (is_depth and abs(a - b) < 1.5 * DEPTH_TOLERANCE)


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 80 else text[:77] + "..."


@cache
def _shared_labels() -> frozenset[str]:
    """Return all labels of the objects in the shared recordings of 10b."""
    labels: set[str] = set()
    for step in ("10b_fusion", CHAIN):
        path = SHARED / f"{step}{ENDING}"
        if path.is_file():
            for given, output in read_cases(path).values():
                contents = output["10a"] if step == CHAIN else given
                labels.update(_labels_in(contents.values()))
    return frozenset(labels)


def _labels_in(images: Iterable[Any]) -> Iterator[str]:
    for models in images:
        for content in models.values():
            for item in content if isinstance(content, list) else ():
                yield item.get("description", item.get("label"))


def _shared_affordances(value: Mapping[str, Any]) -> dict[str, Any]:
    """Return affordances without descriptions, and without labels that are not shared.

    Where a label is not shared the ids may belong to it, so the category has no ids.
    """
    shared = _shared_labels()
    result: dict[str, Any] = {}
    for name, entry in value.items():
        labels = [label for label in entry["labels"] if label in shared]
        if labels:
            complete = len(labels) == len(entry["labels"])
            result[name] = {"labels": labels, "object_ids": entry["object_ids"] if complete else []}
    return result
