"""Text with phrases as pieces that do not overlap, each of one phrase.

    pieces("A red dog", [(0, 9), (2, 5)])  ->  "A " of 0, "red" of 1, " dog" of 0

Phrases may overlap and contain each other. A character belongs to the shortest phrase around it, so
that an inner phrase stays visible. A phrase of no characters, a [SEG] without a phrase, is an empty
piece at its place.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple


class Piece(NamedTuple):
    """A part of a text.

    Attributes:
        text: empty for a phrase of no characters only.
        phrase: index of its phrase; None outside of all phrases.
        is_first: it is the first piece of its phrase.
    """

    text: str
    phrase: int | None
    is_first: bool = False


def pieces(text: str, spans: Sequence[tuple[int, int]]) -> list[Piece]:
    """Cut a text at the ends of its phrases.

    Args:
        text: the text.
        spans: of each phrase, first character and the one behind its last.
    """
    spans = [(min(max(0, start), len(text)), min(max(0, end), len(text))) for start, end in spans]
    cuts = sorted({0, len(text), *(cut for span in spans for cut in span)})
    result: list[Piece] = []
    seen: set[int] = set()
    for start, end in pairwise([*cuts, cuts[-1]]):
        for i, span in enumerate(spans):
            if span[0] == start and span[1] <= start:
                result.append(Piece("", i, True))
        if start == end:
            continue
        around = [i for i, span in enumerate(spans) if span[0] <= start and end <= span[1]]
        phrase = min(around, key=lambda i: (spans[i][1] - spans[i][0], i), default=None)
        result.append(Piece(text[start:end], phrase, phrase is not None and phrase not in seen))
        if phrase is not None:
            seen.add(phrase)
    return result
