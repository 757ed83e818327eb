"""Spans of the phrases of a caption, corrected where the source has them wrong or not at all.

Sources give spans, phrases, or both, and the two may contradict each other: spans become stale when
a caption is edited afterwards, and phrases that were assembled from words are not literal parts of
their caption. Letters and digits are preserved in all of these cases, so texts are compared by
their letters and digits alone, ignoring case.

    phrases = PhraseSpans("A man's hat on a dog.", log, "caption")
    phrases.add_phrase("man 's hat", None, [0])     # region 0 belongs to "man's hat", 2 to 11
    phrases.links()                                 # (Link(0, 2, 11),)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from glamm_jax.data.record import Link
from glamm_jax.data.sources.defects import (
    BAD_SPAN,
    NULL_SPAN,
    OVERLAPPING_PHRASES,
    PHRASE_DIFFERS,
    PHRASE_NOT_FOUND,
    REPEATED_PHRASE,
    STALE_SPAN,
    DefectLog,
    quoted,
)

Span = tuple[int, int]


class PhraseSpans:
    """The grounded phrases of one caption: spans, and the regions of each."""

    def __init__(self, text: str, log: DefectLog, where: str):
        """Start without phrases.

        Args:
            text: the caption.
            log: for the defects of its phrases.
            where: the place of the caption, for defects.
        """
        self._text, self._log, self._where = text, log, where
        self._letters, self._positions = _letters(text)
        self._regions: dict[Span, list[int]] = {}

    def add_phrase(
        self, phrase: str | None, span: Any, regions: Sequence[int], *, may_be_stale: bool = False
    ) -> None:
        """Assign regions to a phrase at its span, or at the nearest place where it occurs.

        Args:
            phrase: None if the source gives only spans.
            span: [start, end) in characters, from a file; None if the source gives none.
            regions: indices of the regions of the phrase.
            may_be_stale: ignore a span whose text differs from the phrase.
        """
        source_span = checked_span(span, self._text)
        actual = source_span
        if phrase is not None:
            actual = self._find_phrase(phrase, source_span, may_be_stale)
        place = f"{self._where}: {quoted(phrase)}, span {quoted(span)}"
        if actual is None:
            self._log.add(BAD_SPAN if phrase is None else PHRASE_NOT_FOUND, place)
            return
        if actual != source_span:
            kind = NULL_SPAN if span is None else STALE_SPAN
            self._log.add(kind, f"{place}, found at {actual}")
        elif phrase is not None and not self._span_matches(actual, phrase):
            self._log.add(PHRASE_DIFFERS, place)
        self._assign(actual, regions)

    def search_phrase(self, phrase: str, regions: Sequence[int]) -> None:
        """Assign regions to a phrase without a span: at its first occurrence without regions."""
        spans = self._occurrences(phrase)
        if spans:
            unassigned = (span for span in spans if span not in self._regions)
            self._assign(next(unassigned, spans[0]), regions)
        else:
            self._log.add(PHRASE_NOT_FOUND, f"{self._where}: {quoted(phrase)}")

    def count_occurrences(self, phrase: str) -> int:
        """Return how often a phrase occurs in the caption."""
        return len(self._occurrences(phrase))

    def links(self) -> tuple[Link, ...]:
        """Return the links in the order of the text, without overlaps.

        Of two overlapping phrases the earlier one is cut before the start of the later one, and
        dropped if nothing is left of it. Differs: the original compares spans in the order of the
        file (quirk 40: it also cuts phrases that do not overlap).
        """
        spans = sorted(self._regions)
        next_starts = [start for start, _ in spans[1:]] + [len(self._text)]
        links: list[Link] = []
        for (start, end), next_start in zip(spans, next_starts, strict=False):
            new_end = min(end, next_start)
            if end > next_start:
                new_end = start + len(self._text[start : max(start, next_start - 1)].rstrip())
                action = f"cut to {self._text[start:new_end]!r}" if new_end > start else "dropped"
                place = f"{self._where}: {quoted(self._text[start:end])} at {start} {action}"
                self._log.add(OVERLAPPING_PHRASES, place)
            if new_end > start:
                links += [Link(region, start, new_end) for region in self._regions[start, end]]
        return tuple(links)

    def _assign(self, span: Span, regions: Sequence[int]) -> None:
        assigned = self._regions.setdefault(span, [])
        if assigned:
            phrase = quoted(self._text[slice(*span)])
            self._log.add(REPEATED_PHRASE, f"{self._where}: {phrase} at {span[0]}, masks joined")
        assigned += [region for region in regions if region not in assigned]

    def _find_phrase(
        self, phrase: str, source_span: Span | None, may_be_stale: bool
    ) -> Span | None:
        trusted = None if may_be_stale else source_span
        if trusted is not None and self._span_matches(trusted, phrase):
            return trusted
        near = 0 if source_span is None else source_span[0]
        spans = self._occurrences(phrase)
        if spans:
            return min(spans, key=lambda span: abs(span[0] - near))
        return trusted if trusted and self._is_complete_words(trusted) else None

    def _occurrences(self, phrase: str) -> list[Span]:
        letters = _letters(phrase)[0]
        spans: list[Span] = []
        start = self._letters.find(letters) if letters else -1
        while start >= 0:
            span = self._positions[start], self._positions[start + len(letters) - 1] + 1
            spans += [span] if self._is_complete_words(span) else []
            start = self._letters.find(letters, start + 1)
        return spans

    def _span_matches(self, span: Span, phrase: str) -> bool:
        return _letters(self._text[slice(*span)])[0] == _letters(phrase)[0]

    def _is_complete_words(self, span: Span) -> bool:
        """Whether neither end of a span is inside of a word."""
        text, (start, end) = self._text, span
        cut_left = start > 0 and text[start - 1].isalnum() and text[start].isalnum()
        cut_right = end < len(text) and text[end - 1].isalnum() and text[end].isalnum()
        return not cut_left and not cut_right


def checked_span(span: Any, text: str) -> Span | None:
    """Return a span that is inside of the text and not empty; None for anything else."""
    if not isinstance(span, list | tuple) or len(span) != 2:
        return None
    start, end = span
    if not all(isinstance(x, int) and not isinstance(x, bool) for x in span):
        return None
    return (start, end) if 0 <= start < end <= len(text) else None


def _letters(text: str) -> tuple[str, list[int]]:
    """Letters and digits of a text, case folded, and the position of each in the text."""
    pairs = [(x, i) for i, character in enumerate(text) for x in character.casefold()]
    pairs = [(x, i) for x, i in pairs if x.isalnum()]
    return "".join(x for x, _ in pairs), [i for _, i in pairs]
