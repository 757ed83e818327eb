"""`docs/original-quirks.md` lists the quirks that the code cites, and the code it names exists."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

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


def _definitions(body: list[ast.stmt], prefix: str = "") -> Iterator[str]:
    """Dotted names of the functions, classes, methods, fields and constants of a module."""
    for node in body:
        if isinstance(node, ast.FunctionDef):
            yield prefix + node.name
        elif isinstance(node, ast.ClassDef):
            yield prefix + node.name
            yield from _definitions(node.body, f"{prefix}{node.name}.")
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            yield from (prefix + target.id for target in targets if isinstance(target, ast.Name))


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


@pytest.mark.parametrize("document", ["original-quirks.md", "glossary.md"])
def test_code_that_a_document_names_exists(document: str) -> None:
    missing = []
    for file, name in CODE.findall((ROOT / "docs" / document).read_text(encoding="utf-8")):
        path = ROOT / file
        if not path.is_file():
            missing.append(file)
        elif name and name not in _definitions(ast.parse(path.read_text("utf-8")).body):
            missing.append(f"{file}:{name}")
    assert not missing
