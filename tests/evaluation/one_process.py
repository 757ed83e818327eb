"""One process of an evaluation: python -m tests.evaluation.one_process RECORD ARGUMENT...

Started by test_runner.py. It runs `python -m eval ARGUMENT...`, and writes the ids that were
predicted to the file RECORD.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from glamm_jax.cli import eval as program
from glamm_jax.evaluation import runner


def main() -> int:
    """Run the program, and record what it predicts."""
    record, *arguments = sys.argv[1:]
    predicted: list[str] = []
    original = runner.predict

    def recording(assistant: Any, records: Any, items: Any, *sizes: int) -> Any:
        predicted.extend(item.id for item in items)
        return original(assistant, records, items, *sizes)

    runner.predict = recording
    status = program.main(arguments)
    Path(record).write_text(json.dumps(predicted))
    return status


if __name__ == "__main__":
    sys.exit(main())
