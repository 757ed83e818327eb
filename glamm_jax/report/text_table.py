"""Tables of words and numbers for a terminal."""

from __future__ import annotations

from collections.abc import Sequence

GAP = "  "


def shown(cell: object) -> str:
    """A cell in words: fractions with four places, what there is not as a dash."""
    if cell is None:
        return "-"
    return f"{cell:.4f}" if isinstance(cell, float) else str(cell)


def text_table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Lines below each other; the first column stands to the left, the others to the right."""
    lines = [list(header), *([shown(cell) for cell in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        GAP.join(
            cell.rjust(width) if place else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )
