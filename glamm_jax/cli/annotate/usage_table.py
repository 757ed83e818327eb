"""The table of what requests to endpoints took."""

from __future__ import annotations

from collections.abc import Mapping

from glamm_jax.grand.adapters.endpoint.usage import USAGE_COUNTS
from glamm_jax.report.text_table import text_table


def usage_lines(usage: Mapping[str, Mapping[str, float]]) -> list[str]:
    """Return a table between empty lines; [] if there were no requests.

    Args:
        usage: counts of each model, as `model_usage` returns them.
    """
    if not usage:
        return []
    names = [name for name in USAGE_COUNTS if any(name in counts for counts in usage.values())]
    rows = [
        (model, *(_count_text(name, counts.get(name, 0)) for name in names))
        for model, counts in usage.items()
    ]
    header = ("model", *(name.replace("_", " ") for name in names))
    return ["", text_table(header, rows), ""]


def _count_text(name: str, number: float) -> str:
    if name == "cost":
        return f"{number:,.4f}"
    return f"{number:,.1f}" if name == "seconds" else f"{number:,.0f}"
