"""Where a phrase stands in a text, as complete words."""

from __future__ import annotations

from glamm_jax.grand.record import Span


def word_spans(text: str, phrase: str) -> list[Span]:
    """Return where a phrase occurs in a text without letters directly before or after it.

    The same as the pattern `(?<!\\w)phrase(?!\\w)`, which would be compiled for each phrase.
    """
    spans: list[Span] = []
    start = text.find(phrase)
    while start >= 0:
        end = start + len(phrase)
        is_inside = _is_letter(text[start - 1 : start]) or _is_letter(text[end : end + 1])
        if not is_inside:
            spans.append((start, end))
        start = text.find(phrase, start + 1 if is_inside else end)
    return spans


def _is_letter(character: str) -> bool:
    return character.isalnum() or character == "_"
