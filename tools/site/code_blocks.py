"""The fenced code blocks of a document."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from typing import NamedTuple

BLOCK = re.compile(
    r"(?P<mark><!--[^>]*-->\n)?"
    r"^(?P<indent> *)```(?P<language>\S*)[^\n]*\n(?P<text>.*?)^(?P=indent)```$",
    re.MULTILINE | re.DOTALL,
)
RUN = "A test runs this block"


class CodeBlock(NamedTuple):
    """A fenced block, without its indentation.

    Attributes:
        language: as written behind the fence; "" for none.
        text: of the block.
        is_run: a comment in front of it says that a test runs it.
    """

    language: str
    text: str
    is_run: bool


def code_blocks(document: str) -> Iterator[CodeBlock]:
    """Yield the fenced blocks of a document's text."""
    for block in BLOCK.finditer(document):
        text = textwrap.dedent(block["text"])
        yield CodeBlock(block["language"], text, RUN in (block["mark"] or ""))
