"""Where the phrases of a caption stand, however well the source knew it.

Sources give spans, or phrases, or both, and the two may contradict each other: spans go stale when
a caption is cleaned afterwards, and phrases that were put together from words are no longer parts
of their caption. Letters and digits survive all of that, so they decide.

    phrases = Phrases("A man's hat on a dog.", notes, "caption")
    phrases.place("man 's hat", None, [0])      region 0 belongs to "man's hat", 2 to 11
    phrases.links()                             (Link(0, 2, 11),)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from glamm_jax.data.record import Link
from glamm_jax.data.sources.source_files import (
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


class Phrases:
    """The grounded phrases of one caption."""

    def __init__(self, text: str, notes: DefectLog, where: str):
        self._text, self._notes, self._where = text, notes, where
        self._letters, self._places = _letters(text)
        self._regions: dict[Span, list[int]] = {}

    def place(
        self, phrase: str | None, span: Any, regions: Sequence[int], *, may_be_stale: bool = False
    ) -> None:
        """Tie regions to a phrase: to its span, or to the nearest place where it stands.

        phrase: None where the source only has spans. span: [start, end) or nothing.
        may_be_stale: a span that does not say what the phrase says is not believed.
        """
        given = checked_span(span, self._text)
        found = given if phrase is None else self._find(phrase, given, may_be_stale)
        name = f"{self._where}: {quoted(phrase)}, span {quoted(span)}"
        if found is None:
            self._notes.add(BAD_SPAN if phrase is None else PHRASE_NOT_FOUND, name)
            return
        if found != given:
            self._notes.add(NULL_SPAN if span is None else STALE_SPAN, f"{name}, found at {found}")
        elif phrase is not None and not self._says(found, phrase):
            self._notes.add(PHRASE_DIFFERS, name)
        self._add(found, regions)

    def search(self, phrase: str, regions: Sequence[int]) -> None:
        """Tie regions to a phrase of which the source tells no span: its first free place."""
        places = self._occurrences(phrase)
        if places:
            free = (span for span in places if span not in self._regions)
            self._add(next(free, places[0]), regions)
        else:
            self._notes.add(PHRASE_NOT_FOUND, f"{self._where}: {quoted(phrase)}")

    def count(self, phrase: str) -> int:
        """How often a phrase stands in the caption."""
        return len(self._occurrences(phrase))

    def links(self) -> tuple[Link, ...]:
        """Links in the order of the text, without overlaps: the earlier phrase ends before the
        next begins, and is dropped where nothing is left of it (trap 40 is what the original does).
        """
        spans = sorted(self._regions)
        followings = [start for start, _ in spans[1:]] + [len(self._text)]
        links: list[Link] = []
        for (start, end), following in zip(spans, followings, strict=False):
            kept = min(end, following)
            if end > following:
                kept = start + len(self._text[start : max(start, following - 1)].rstrip())
                what = f"cut to {self._text[start:kept]!r}" if kept > start else "dropped"
                name = f"{self._where}: {quoted(self._text[start:end])} at {start} {what}"
                self._notes.add(OVERLAPPING_PHRASES, name)
            if kept > start:
                links += [Link(region, start, kept) for region in self._regions[start, end]]
        return tuple(links)

    def _add(self, span: Span, regions: Sequence[int]) -> None:
        known = self._regions.setdefault(span, [])
        if known:
            name = f"{self._where}: {quoted(self._text[slice(*span)])} at {span[0]}, masks joined"
            self._notes.add(REPEATED_PHRASE, name)
        known += [region for region in regions if region not in known]

    def _find(self, phrase: str, given: Span | None, may_be_stale: bool) -> Span | None:
        believed = None if may_be_stale else given
        if believed is not None and self._says(believed, phrase):
            return believed
        near = 0 if given is None else given[0]
        places = self._occurrences(phrase)
        if places:
            return min(places, key=lambda span: abs(span[0] - near))
        return believed if believed and self._whole_words(believed) else None

    def _occurrences(self, phrase: str) -> list[Span]:
        wanted = _letters(phrase)[0]
        found: list[Span] = []
        at = self._letters.find(wanted) if wanted else -1
        while at >= 0:
            span = self._places[at], self._places[at + len(wanted) - 1] + 1
            found += [span] if self._whole_words(span) else []
            at = self._letters.find(wanted, at + 1)
        return found

    def _says(self, span: Span, phrase: str) -> bool:
        return _letters(self._text[slice(*span)])[0] == _letters(phrase)[0]

    def _whole_words(self, span: Span) -> bool:
        """Whether no word is cut by either end."""
        text, (start, end) = self._text, span
        cut_left = start > 0 and text[start - 1].isalnum() and text[start].isalnum()
        cut_right = end < len(text) and text[end - 1].isalnum() and text[end].isalnum()
        return not cut_left and not cut_right


def checked_span(span: Any, text: str) -> Span | None:
    """A span that lies in the text and is not empty; None for anything else."""
    if not isinstance(span, list | tuple) or len(span) != 2:
        return None
    start, end = span
    if not all(isinstance(x, int) and not isinstance(x, bool) for x in span):
        return None
    return (start, end) if 0 <= start < end <= len(text) else None


def _letters(text: str) -> tuple[str, list[int]]:
    """Letters and digits without case, and for each of them its place in the text."""
    pairs = [(x, i) for i, character in enumerate(text) for x in character.casefold()]
    pairs = [(x, i) for x, i in pairs if x.isalnum()]
    return "".join(x for x, _ in pairs), [i for _, i in pairs]
