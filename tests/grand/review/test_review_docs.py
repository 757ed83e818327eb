"""docs/review.md has the keys of the page."""

from __future__ import annotations

import re

from glamm_jax.grand.review.server import PAGE
from tests.grand.review.conftest import ROOT


def test_the_documented_keys_are_those_of_the_page() -> None:
    script = (PAGE / "review.js").read_text()
    listed = re.findall(r'^  \["(.+)", "(.+)"\],$', script, re.MULTILINE)
    keys = [tuple(text.encode().decode("unicode_escape") for text in row) for row in listed]
    assert len(keys) > 20
    document = (ROOT / "docs" / "review.md").read_text()
    rows = re.findall(r"^\| (.+?) \| (.+?) \|$", document, re.MULTILINE)
    first = rows.index(("key", "what it does")) + 1
    assert rows[first : first + len(keys)] == keys
    # Every letter of the table is an action of the page.
    actions = set(re.findall(r'^  "?([a-z\[\]?])"?: ', script, re.MULTILINE))
    pattern = r"(?<!\+)\b[A-Z]\b(?!\+)"
    letters = {letter.lower() for text, _ in keys for letter in re.findall(pattern, text)}
    assert letters <= actions
