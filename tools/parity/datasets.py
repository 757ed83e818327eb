"""The part `datasets`: what each dataset class of the original returned, compared with our records.

The files that both read are in the part `fixtures` of the same folder.
"""

from __future__ import annotations

from pathlib import Path

from tools.parity import datasets_grounded, datasets_plain
from tools.parity.dataset_items import DatasetCheck
from tools.parity.recorded_folder import entry_errors, part_folder, report_unknown_files
from tools.parity.report import ComparisonReport, RecordedFile

PART, FILE = "datasets", "items.json"

# The entries of a dataset without a check are reported as unknown.
CHECKS: dict[str, DatasetCheck] = {**datasets_grounded.CHECKS, **datasets_plain.CHECKS}


def check(folder: Path, ledger: ComparisonReport) -> None:
    """Compare everything recorded in `folder/datasets` with the records of `folder/fixtures/data`.

    Raises:
        GoldenError: something is missing or broken; names it.
    """
    part = part_folder(folder, PART)
    data = part_folder(part_folder(folder, "fixtures"), "data")
    with entry_errors(part / FILE), RecordedFile.open(ledger, PART, part / FILE) as recorded:
        for dataset in dict.fromkeys(name.split(".")[0] for name in recorded.names):
            for field in ("note", "cwd"):
                recorded.exclude(f"{dataset}.{field}", "prose")
            if dataset in CHECKS:
                CHECKS[dataset](recorded, dataset, data)
    report_unknown_files(ledger, PART, part, {FILE})
