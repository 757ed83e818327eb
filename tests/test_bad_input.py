"""Every case of bad input gives the documented result, and the page in docs is up to date."""

from __future__ import annotations

import pytest

from tests import bad_input_table
from tests.bad_input.case import outcome


@pytest.mark.parametrize(
    "case", bad_input_table.CASES, ids=lambda case: f"{case.topic.split(',')[0]}: {case.title}"
)
def test_bad_input_gives_the_documented_result_or_message(case, tmp_path):
    assert outcome(case, tmp_path) == case.expected


def test_the_page_is_written_from_the_table():
    written = bad_input_table.DOCUMENT.read_text(encoding="utf-8")
    assert written == bad_input_table.document(), "run: python -m tests.bad_input_table"
