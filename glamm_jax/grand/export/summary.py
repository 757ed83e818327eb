"""What an export has written, and what it has left out and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

SUMMARY_FILE = "export.json"
SCHEMA = 1


@dataclass
class ExportSummary:
    """The content of an export.

    Attributes:
        format: name of the format.
        options: of the export, as JSON.
        filters: that were applied, as JSON.
        num_images: images in the export.
        counts: what was written: "objects", "captions", ...
        dropped: what was not, as "KIND: REASON".
    """

    format: str
    options: Mapping[str, Any] = field(default_factory=dict)
    filters: Mapping[str, Any] = field(default_factory=dict)
    num_images: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)

    def to_json(self) -> dict[str, Any]:
        """Return what `export.json` has."""
        return {
            "schema": SCHEMA,
            "format": self.format,
            "options": dict(self.options),
            "filters": dict(self.filters),
            "images": self.num_images,
            "counts": {name: n for name, n in sorted(self.counts.items()) if n},
            "dropped": {name: n for name, n in sorted(self.dropped.items()) if n},
        }

    def lines(self) -> list[str]:
        """Return the lines that a program prints."""
        value = self.to_json()
        return count_lines(self.num_images, value["counts"], value["dropped"])


def count_lines(
    num_images: int, counts: Mapping[str, int], dropped: Mapping[str, int]
) -> list[str]:
    """Return aligned lines of what was written and what was left out.

    Args:
        num_images: that were written.
        counts: of what was written.
        dropped: of what was not; shown in the order of their names, unless 0.
    """
    rows = [("images", num_images), *counts.items()]
    rows += [(f"dropped: {name}", n) for name, n in sorted(dropped.items()) if n]
    width = max(len(name) for name, _ in rows)
    return [f"{name:<{width}}  {n:>9,}" for name, n in rows]
