"""`docs/original-quirks.md` lists the quirks that the code cites.

`tests/test_docs.py` checks that the code it names exists.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "docs" / "original-quirks.md").read_text(encoding="utf-8")
NUM_QUIRKS = 49
FOLDERS = [
    "glamm_jax",
    "tests",
    "tools",
    "bench",
    "configs",
    "convert",
    "demo",
    "eval",
    "examples",
    "train",
]
CITATION = re.compile(r"\bquirks? (\d+(?:(?:, (?:and )?| and )\d+)*)", re.IGNORECASE)
CODE = re.compile(r"`([\w/]+\.py)(?::([\w.]+))?`")


def _numbers(text: str) -> set[int]:
    """Numbers that comments, docstrings and names such as `test_quirk_8_...` cite."""
    listed = (match.group(1) for match in CITATION.finditer(text.replace("_", " ")))
    return {int(number) for numbers in listed for number in re.findall(r"\d+", numbers)}


def test_all_quirks_are_listed_in_order() -> None:
    numbers = [int(number) for number in re.findall(r"^### (\d+)\. ", TEXT, re.MULTILINE)]
    assert numbers == list(range(1, NUM_QUIRKS + 1))


def test_every_quirk_says_what_happens_and_where_its_code_is() -> None:
    for entry in re.split(r"^### ", TEXT, flags=re.MULTILINE)[1:]:
        fields = re.findall(r"^- (Original|Effect|Here|Code): ", entry, re.MULTILINE)
        assert fields == ["Original", "Effect", "Here", "Code"], entry.partition("\n")[0]
        assert CODE.search(entry.partition("- Code: ")[2]), entry.partition("\n")[0]


def test_cited_quirks_are_listed() -> None:
    paths = (path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
    unknown = {
        str(path.relative_to(ROOT)): numbers
        for path in paths
        if (numbers := _numbers(path.read_text("utf-8")) - set(range(1, NUM_QUIRKS + 1)))
    }
    assert not unknown


def test_messages_have_no_quirk_numbers() -> None:
    cited = []
    for path in (ROOT / "glamm_jax").rglob("*.py"):
        tree = ast.parse(path.read_text("utf-8"))
        docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        cited += [
            f"{path.relative_to(ROOT)}:{node.lineno}"
            for node in ast.walk(tree)
            if isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and id(node) not in docstrings
            and CITATION.search(node.value)
        ]
    assert not cited
