"""docs/metrics.md has the current values of the recorded answers."""

from __future__ import annotations

from tests import metrics_table


def test_the_page_is_up_to_date() -> None:
    page = metrics_table.document()
    assert metrics_table.DOCUMENT.read_text(encoding="utf-8") == page, (
        "run python -m tests.metrics_table"
    )
