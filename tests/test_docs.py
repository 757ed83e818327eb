"""The documentation names files, definitions and links that exist."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from itertools import product
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = (
    "annotate",
    "bench",
    "checkpoints",
    "configs",
    "convert",
    "demo",
    "docker",
    "docs",
    "eval",
    "examples",
    "glamm_jax",
    "tests",
    "tools",
    "train",
)
DOCUMENTS = sorted(
    str(path.relative_to(ROOT))
    for path in (
        *(ROOT / "docs").rglob("*.md"),
        *ROOT.glob("*.md"),
        *(path for folder in FOLDERS for path in (ROOT / folder).rglob("README.md")),
    )
)
MAX_TRACE_FILES = {"Trace 1": 25, "Trace 2": 18}

FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
CODE_SPAN = re.compile(r"`([^`\n]+)`")
# A path in a code span, which may be a part of a command, and the name after its colon.
NAMED_FILE = re.compile(
    rf"(?<![\w/.\-])((?:{'|'.join(FOLDERS)})/[\w./{{}},*\-]*[\w/}}*])(?::([A-Za-z_][\w.]*))?"
)
LINK = re.compile(r"\]\(([^)\s#]+)(?:#[^)\s]*)?\)")
PLACEHOLDER = re.compile(r"(?<![A-Za-z])(?:NAME|STEP)(?![A-Za-z])")  # stands for any name
OUTPUTS = ("bench/results",)  # written by programs, not in the tree


def _text(document: str) -> str:
    """A document without its code blocks."""
    return FENCE.sub("", (ROOT / document).read_text(encoding="utf-8"))


def _named_files(text: str) -> Iterator[tuple[str, str]]:
    """Yield (path, name after the colon or "") of everything in code spans, braces expanded."""
    for span in CODE_SPAN.findall(text):
        for path, name in NAMED_FILE.findall(span):
            parts = re.split(r"\{([^}]*)\}", path)
            choices = [part.split(",") if i % 2 else [part] for i, part in enumerate(parts)]
            for combination in product(*choices):
                yield "".join(combination), name


@cache
def _definitions(path: Path) -> frozenset[str]:
    """Dotted names of the functions, classes, methods, fields and constants of a module."""

    def walk(body: list[ast.stmt], prefix: str) -> Iterator[str]:
        for node in body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield prefix + node.name
            elif isinstance(node, ast.ClassDef):
                yield prefix + node.name
                yield from walk(node.body, f"{prefix}{node.name}.")
            elif isinstance(node, ast.Assign | ast.AnnAssign):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                yield from (prefix + t.id for t in targets if isinstance(t, ast.Name))

    return frozenset(walk(ast.parse(path.read_text(encoding="utf-8")).body, ""))


def _exists(file: str, name: str) -> bool:
    """Whether a file exists and defines or contains the name."""
    pattern = PLACEHOLDER.sub("*", file)
    if "*" in pattern:
        return any(ROOT.glob(pattern))
    path = ROOT / file
    if not path.exists():
        return file.startswith(OUTPUTS)
    if not name or path.is_dir():
        return not name
    if path.suffix == ".py":
        return name in _definitions(path)
    return re.search(rf"\b{re.escape(name)}\b", path.read_text(encoding="utf-8")) is not None


@pytest.mark.parametrize("document", DOCUMENTS)
def test_files_and_definitions_that_a_document_names_exist(document: str) -> None:
    named = dict.fromkeys(_named_files(_text(document)))
    missing = [f"{file}:{name}".rstrip(":") for file, name in named if not _exists(file, name)]
    assert not missing


@pytest.mark.parametrize("document", DOCUMENTS)
def test_relative_links_resolve(document: str) -> None:
    folder = (ROOT / document).parent
    links = (link for link in LINK.findall(_text(document)) if "://" not in link)
    assert not [link for link in links if not (folder / link).exists()]


@pytest.mark.parametrize(("trace", "limit"), MAX_TRACE_FILES.items())
def test_a_trace_passes_through_few_files(trace: str, limit: int) -> None:
    text = _text("docs/architecture.md")
    section = re.split(r"^## ", text.partition(f"## {trace}:")[2], flags=re.MULTILINE)[0]
    steps = re.findall(r"^(\d+)\. (.*)$", section, re.MULTILINE)
    assert [int(number) for number, _ in steps] == list(range(1, len(steps) + 1))
    files = [[file for file, _ in _named_files(step)] for _, step in steps]
    assert all(files), "every step names its file first"
    assert 1 < len({file for step in files for file in step}) <= limit


def test_every_question_has_an_answer() -> None:
    table = _text("docs/architecture.md").partition("## Where is it?")[2]
    rows = re.findall(r"^\| (.+) \| (.+) \|$", table, re.MULTILINE)[1:]
    assert len(rows) == 31
    assert all(list(_named_files(answer)) for _, answer in rows)
