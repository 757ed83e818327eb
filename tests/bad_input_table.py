"""All cases of bad input: the input, and the resulting value or error message.

`tests/test_bad_input.py` runs every case. `docs/bad-input.md` is generated from them by

    python -m tests.bad_input_table
"""

from __future__ import annotations

from pathlib import Path

from tests.bad_input import (
    checkpoint_folders,
    geometry,
    image_files,
    prompts,
    shard_files,
    weight_files,
)
from tests.bad_input.case import Case

DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "bad-input.md"

CASES: tuple[Case, ...] = (
    *(*image_files.CASES, *geometry.CASES, *prompts.CASES),
    *(*weight_files.CASES, *checkpoint_folders.CASES, *shard_files.CASES),
)


def document() -> str:
    """Return the text of the page: one section for each topic, one row for each case."""
    lines = [
        "# Bad input",
        "",
        "Results and error messages for unusual and invalid input. The errors are subclasses of "
        "`GLaMMError` (`glamm_jax/errors.py`); the commands print the message and exit with "
        "status 2. Image sizes are width x height.",
        "",
        "This page is generated: do not edit it, run `python -m tests.bad_input_table`. "
        "`tests/test_bad_input.py` checks every row.",
    ]
    for topic in dict.fromkeys(case.topic for case in CASES):
        lines += ["", f"## {topic}", "", "| Input | Result or message |", "|---|---|"]
        for case in CASES:
            if case.topic == topic:
                lines.append(f"| {_cell(case.title)} | {_cell(case.expected)} |")
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    for character in ("\\", "|", "<", "[", "*", "_"):
        text = text.replace(character, "\\" + character)
    return text


if __name__ == "__main__":
    DOCUMENT.write_text(document(), encoding="utf-8")
