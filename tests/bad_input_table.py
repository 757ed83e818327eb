"""One table of bad input: what goes in, and the result or message that comes out.

`tests/test_bad_input.py` checks every row; `docs/bad-input.md` is written from the same rows by

    python -m tests.bad_input_table
"""

from __future__ import annotations

from pathlib import Path

from tests.bad_input import checkpoint_folders, geometry, pictures, shard_files, weight_files, words
from tests.bad_input.case import Case

DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "bad-input.md"

CASES: tuple[Case, ...] = (
    *(*pictures.CASES, *geometry.CASES, *words.CASES),
    *(*weight_files.CASES, *checkpoint_folders.CASES, *shard_files.CASES),
)


def document() -> str:
    """The page: one section a topic, one row a case."""
    lines = [
        "# Bad input",
        "",
        "Written from `tests/bad_input_table.py`, whose rows `tests/test_bad_input.py` checks. "
        "Do not edit: `python -m tests.bad_input_table` writes it anew. "
        "Sizes are width x height.",
    ]
    for topic in dict.fromkeys(case.topic for case in CASES):
        lines += ["", f"## {topic}", "", "| Input | Result or message |", "|---|---|"]
        for case in CASES:
            if case.topic == topic:
                lines.append(f"| {_cell(case.title)} | {_cell(case.expected)} |")
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    for mark in ("\\", "|", "<", "[", "*", "_"):
        text = text.replace(mark, "\\" + mark)
    return text


if __name__ == "__main__":
    DOCUMENT.write_text(document(), encoding="utf-8")
