"""docs/metrics.md shows the figures that the recorded answers have today."""

from __future__ import annotations

from tests import metrics_table


def test_the_page_is_up_to_date() -> None:
    page = metrics_table.document()
    assert metrics_table.DOCUMENT.read_text(encoding="utf-8") == page, (
        "write it anew: python -m tests.metrics_table"
    )
