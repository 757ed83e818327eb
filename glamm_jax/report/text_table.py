"""Tables of text and numbers for a terminal."""

from __future__ import annotations

from collections.abc import Sequence

GAP = "  "


def format_cell(cell: object) -> str:
    """Return a cell as text: floats with four decimal places, None as a dash."""
    if cell is None:
        return "-"
    return f"{cell:.4f}" if isinstance(cell, float) else str(cell)


def text_table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return the lines of a table; the first column is left-aligned, the others right-aligned."""
    lines = [list(header), *([format_cell(cell) for cell in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        GAP.join(
            cell.rjust(width) if column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )
