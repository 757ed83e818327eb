"""Phrases of the short captions and of the dense caption, with the objects that they name.

    record = ground_short_captions(record, GroundingOptions())
    record = ground_dense_caption(record, "A red cup on a table.", parse, GroundingOptions())
    record.dense_caption.groundings[0].span         # (0, 9)

The dense caption is grounded by four rules, in this order: it contains an attribute of an object;
it contains a phrase that is linked to objects; one of its phrases is similar to an attribute or to
a linked phrase; the noun of a phrase is a label of exactly one object, or of two of which one
contains the other.

Source: GranD/utils/ground_short_captions.py, utils/ground_dense_caption.py.
"""

from __future__ import annotations

import re
import string
import unicodedata
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from itertools import pairwise
from typing import Any, NamedTuple

from glamm_jax.grand.attributes import remove_prefix
from glamm_jax.grand.options import GroundingOptions
from glamm_jax.grand.phrases import (
    NounPhrase,
    content_lemmas,
    long_phrases,
    noun_phrases,
    subtree_phrases,
)
from glamm_jax.grand.record import (
    Box,
    GrandCaption,
    GrandObject,
    GrandRecord,
    PhraseGrounding,
    PhraseLink,
    Span,
    changed,
)
from glamm_jax.grand.roles import ParsedText
from glamm_jax.grand.scene_graph import after_colon
from glamm_jax.grand.word_spans import word_spans

Parse = Callable[[str], ParsedText]
# Punctuation but for comma and dot, which the released code deletes from dense captions.
_DELETED = str.maketrans("", "", "".join(sorted(set(string.punctuation) - {",", "."})))


class _Match(NamedTuple):
    """A text that names objects, before its span is known."""

    text: str
    ids: tuple[int, ...]
    span: Span | None = None


# ------------------------------------------------------------------------- short captions


def ground_short_captions(record: GrandRecord, options: GroundingOptions) -> GrandRecord:
    """Find the linked phrases in the short captions.

    A phrase without objects is left out; the released code loses the image if it occurs in a
    caption.

    Args:
        record: after the links.
        options: how phrases are found, and what is kept.

    Returns:
        The record with `short_captions` instead of `captions`.
    """
    if not options.exact:
        record = _normalized(record)
    boxes = _boxes_by_id(record)
    captions: list[GrandCaption] = []
    for text in record.captions:
        caption = text if options.exact else text.strip()
        groundings = [
            item
            for link in record.links
            for item in _link_groundings(caption, link, boxes, options)
        ]
        if options.caption_order:
            groundings.sort(key=_by_span)
        if not options.overlaps:
            groundings = _without_overlaps(groundings)
        captions.append(GrandCaption(caption, tuple(groundings)))
    return changed(record, captions=(), short_captions=tuple(captions))


def _link_groundings(
    caption: str, link: PhraseLink, boxes: Mapping[int, Box], options: GroundingOptions
) -> Iterator[PhraseGrounding]:
    ids = link.object_ids
    if options.skip_missing:
        ids = tuple(number for number in ids if number in boxes)
    if not ids:
        return
    first = boxes.get(ids[0])
    if options.all_ids:
        numbers, results = ids, tuple([boxes.get(number) for number in ids])
    else:
        numbers, results = (min(ids),), (first,)
    for span in _spans(caption, link.phrase, options):
        yield PhraseGrounding(caption[span[0] : span[1]], span, numbers, results)


def _spans(text: str, phrase: str, options: GroundingOptions) -> list[Span]:
    """Return where a phrase occurs in a text."""
    if options.words:
        results = _word_spans(text, phrase)
    else:
        start = text.find(phrase)
        results = [] if start < 0 else [(start, start + len(phrase))]
    return results if options.every_occurrence else results[:1]


def _word_spans(text: str, phrase: str) -> list[Span]:
    """Return where the words of a phrase occur in a text, complete and in any case."""
    lower, words = text.lower(), phrase.lower().split()
    if not words or not all(word in lower for word in words):
        return []
    simple = len(words) == 1 or all(word.isalnum() for word in words)
    # Other blanks, and letters whose lower case is longer, need the pattern.
    if simple and len(lower) == len(text) and not _has_other_blanks(text):
        return word_spans(lower, " ".join(words))
    pattern = re.escape(words[0])
    for before, word in pairwise(words):
        # Extracted phrases have blanks around punctuation; the text need not have them.
        gap = r"\s+" if before[-1].isalnum() and word[0].isalnum() else r"\s*"
        pattern += gap + re.escape(word)
    return [m.span() for m in re.finditer(rf"(?<!\w){pattern}(?!\w)", text, re.IGNORECASE)]


@lru_cache(maxsize=64)  # the phrases of a caption are looked for one after the other
def _has_other_blanks(text: str) -> bool:
    return re.search(r"\s\s|[^\S ]", text) is not None


def _by_span(grounding: PhraseGrounding) -> tuple[int, int]:
    start, end = grounding.span or (0, 0)
    return start, -end


def _without_overlaps(groundings: Sequence[PhraseGrounding]) -> list[PhraseGrounding]:
    """Keep the longest of groundings that overlap, the first of equal ones, in their order."""
    selected: list[int] = []
    spans = [item.span or (0, 0) for item in groundings]
    for i in sorted(range(len(spans)), key=lambda i: spans[i][0] - spans[i][1]):
        start, end = spans[i]
        if all(end <= spans[k][0] or spans[k][1] <= start for k in selected):
            selected.append(i)
    return [groundings[i] for i in sorted(selected)]


def _boxes_by_id(record: GrandRecord) -> dict[int, Box]:
    return {item.id: item.box for item in (*record.objects, *record.floating_objects)}


def _normalized(record: GrandRecord) -> GrandRecord:
    """Return a record whose texts are in normal form NFKC, doubled backslashes once."""
    value = record.to_json()
    if all(text.isascii() and "\\\\" not in text for text in _texts_in(value)):
        return record
    return GrandRecord.from_json(_map_texts(value))


def _texts_in(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _texts_in(item)
    elif isinstance(value, list | tuple):
        for item in value:
            if not isinstance(item, float | int):
                yield from _texts_in(item)


def _map_texts(value: Any) -> Any:
    if isinstance(value, str):
        return unicodedata.normalize("NFKC", value).replace("\\\\", "\\")
    if isinstance(value, Mapping):
        return {key: _map_texts(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_map_texts(item) for item in value]
    return value


# ------------------------------------------------------------------------- dense caption


def ground_dense_caption(
    record: GrandRecord, caption: str, parse: Parse, options: GroundingOptions
) -> GrandRecord:
    """Ground the phrases of the dense caption.

    Args:
        record: after the short captions.
        caption: the dense caption.
        parse: dependency parser of one text.
        options: which phrases are compared with what.

    Returns:
        The record with `dense_caption`. Ids that no object has are left out, and so are texts that
        cannot be decoded; the released code loses the image.
    """
    grounder = _DenseGrounder(record, caption, parse, options)
    grounder.match_attributes()
    grounder.match_links()
    grounder.match_similar()
    grounder.match_nouns()
    groundings = grounder.groundings()
    record = changed(
        record,
        objects=tuple([_with_list(item) for item in record.objects]),
        floating_objects=tuple([_with_list(item) for item in record.floating_objects]),
    )
    if not options.exact:
        caption = _plain_text(caption)
    return changed(record, dense_caption=GrandCaption(caption, tuple(groundings)))


class _DenseGrounder:
    """The matches of one caption, in the order in which the rules find them."""

    def __init__(
        self, record: GrandRecord, caption: str, parse: Parse, options: GroundingOptions
    ) -> None:
        self.record, self.caption, self.options = record, caption, options
        self.lower = caption.lower()
        self.parse = parse
        self.items = (*record.objects, *record.floating_objects)
        self.boxes = {item.id: item.box for item in self.items}
        self.matches: list[_Match] = []
        if options.exact:
            self.phrases = noun_phrases(caption, parse(caption))
        else:
            self.phrases = long_phrases(parse(caption.capitalize()))
        self.lemmas: dict[str, list[str]] = {}
        self.names: list[tuple[int, _LabelForms]] | None = None

    def match_attributes(self) -> None:
        """Ground the first attribute of each object that the caption contains."""
        for item in self.items:
            for attribute in item.attributes or ():
                text = self._clean(attribute).lower()
                spans = self._find(text)
                if spans:
                    self._add(text, (item.id,), spans)
                    break

    def match_links(self) -> None:
        """Ground the linked phrases that the caption contains."""
        for link in self.record.links:
            self._add(link.phrase, link.object_ids, self._find(link.phrase))

    def match_similar(self) -> None:
        """Ground the phrases that resemble an attribute or a linked phrase."""
        table = self._table()
        texts = {match.text for match in self.matches}
        for phrase in self.phrases:
            text = phrase.phrase.lower()
            if text in texts if phrase.span is None else self._is_covered(phrase.span):
                continue
            best, winners = 0.0, []
            named = self._named(phrase) if self.options.noun_agrees else None
            for number, entry in table:
                if named and number not in named:
                    continue
                score = self._similarity(text, entry)
                if score > best:
                    best, winners = score, []
                if score == best and score > 0:
                    winners.append((number, entry))
            if best < self.options.min_similarity:
                continue
            several = len(dict(winners)) > 1 and len({entry for _, entry in winners}) > 1
            if several and self.options.skip_ambiguous:
                continue
            ids = tuple(dict.fromkeys(number for number, _ in winners))
            self._add(text, ids if self.options.same_objects else ids[:1], [phrase.span])

    def match_nouns(self) -> None:
        """Ground what is left by comparing nouns with labels."""
        texts = {match.text for match in self.matches}
        for phrase in self.phrases:
            if phrase.span is not None:
                if not self._is_covered(phrase.span):
                    self._match_noun(phrase.phrase.lower(), phrase.noun, phrase.span)
            # The first phrase begins with a capital, and so is grounded again.
            elif phrase.phrase not in texts:
                if self.options.head_noun:
                    self._match_noun(phrase.phrase.lower(), phrase.noun, None)
                    continue
                for part in subtree_phrases(self.parse(phrase.phrase.capitalize())):
                    self._match_noun(part.phrase, part.noun, None)

    def _match_noun(self, text: str, noun: str, span: Span | None) -> None:
        hits = self._noun_hits(text, noun)
        if self.options.plurals and len(hits) > 1 and noun.lower().endswith("s"):
            self._add(text, tuple([item.id for item in hits]), [span])
        elif len(hits) == 1:
            self._add(text, (hits[0].id,), [span])
        elif len(hits) == 2:
            first, second = hits
            # The second of two equal boxes.
            if _contains(second.box, first.box):
                self._add(text, (second.id,), [span])
            elif _contains(first.box, second.box):
                self._add(text, (first.id,), [span])

    def _noun_hits(self, text: str, noun: str) -> list[GrandObject]:
        objects = self.record.objects
        if not self.options.distinct_objects:
            hits: list[GrandObject] = []
            for item in objects:
                if noun in item.labels:
                    hits.append(item)
                else:
                    hits += [item for label in item.labels if _differ_by_s(label, noun)]
            return hits
        noun = noun.lower()
        # The chosen label counts more than the other candidates.
        for labels_of in (_chosen_label, _all_labels):
            hits = [x for x in objects if _forms(labels_of(x)).occur(text, noun)]
            if hits:
                return hits
        return []

    def _clean(self, attribute: str) -> str:
        text = remove_prefix(attribute) if self.options.exact else after_colon(attribute)
        return text.strip()

    def _find(self, text: str) -> list[Span | None]:
        """Return the spans of a text in the caption; None is a place to be found later."""
        if self.options.exact:
            return list(_spans(self.caption, text, self.options))
        return [None] if text in self.lower else []

    def _add(self, text: str, ids: Sequence[int], spans: Iterable[Span | None]) -> None:
        existing = tuple([number for number in ids if number in self.boxes])
        if existing:
            self.matches += [_Match(text, existing, span) for span in spans]

    def _is_covered(self, span: Span) -> bool:
        return any(
            match.span is not None and match.span[0] < span[1] and span[0] < match.span[1]
            for match in self.matches
        )

    def _table(self) -> list[tuple[int, str]]:
        """Return ids and the texts that phrases are compared with."""
        if self.options.all_texts:
            table = [
                (x.id, self._clean(text).lower()) for x in self.items for text in x.attributes or ()
            ]
            table += [(n, link.phrase) for link in self.record.links for n in link.object_ids]
            return [(number, text) for number, text in table if text and number in self.boxes]
        texts: dict[int, str] = {}
        for item in self.items:
            if item.attributes:
                text = item.attributes[0]
                texts[item.id] = after_colon(text).lower() if ":" in text else text
        extracted = {phrase.phrase for phrase in self.phrases}
        for link in self.record.links:
            if link.object_ids and link.phrase not in extracted:
                texts[link.object_ids[0]] = link.phrase
        return list(texts.items())

    def _named(self, phrase: NounPhrase) -> frozenset[int]:
        """Return the ids of the objects that have the noun of a phrase as label."""
        if self.names is None:
            self.names = [(item.id, _forms(item.labels)) for item in self.items]
        text, noun = phrase.phrase.lower(), phrase.noun.lower()
        return frozenset([n for n, forms in self.names if forms.occur(text, noun)])

    def _similarity(self, phrase: str, entry: str) -> float:
        if self.options.whole_words:
            a, b = f" {phrase} ", f" {entry} "
            if a in b or b in a:
                return 1.0
        elif phrase in entry or entry in phrase:
            return 1.0
        short, other = (phrase, entry) if len(phrase) < len(entry) else (entry, phrase)
        lemmas = self._lemmas(short)
        if not lemmas:
            return 0.0
        words: Any = other
        if self.options.whole_words:
            words = {*other.split(), *self._lemmas(other)}
        return sum(lemma in words for lemma in lemmas) / len(lemmas)

    def _lemmas(self, text: str) -> list[str]:
        if text not in self.lemmas:
            self.lemmas[text] = content_lemmas(self.parse(text))
        return self.lemmas[text]

    def groundings(self) -> list[PhraseGrounding]:
        """Return the matches without repetitions, and with their spans."""
        if self.options.exact:
            return self._exact_groundings()
        unique = {}
        for match in self.matches:
            unique.setdefault(match.text, match)
        selected: list[_Match] = []
        for match in sorted(unique.values(), key=lambda match: -len(match.text)):
            if not any(match.text in other.text and match.ids == other.ids for other in selected):
                selected.append(match)
        caption = self.lower.strip()
        result: list[PhraseGrounding] = []
        for match in selected:
            text = match.text.strip()
            start = caption.find(text)
            span = (start, start + len(text)) if start >= 0 else None
            result.append(self._grounding(_plain_text(match.text), match.ids, span))
        return result

    def _exact_groundings(self) -> list[PhraseGrounding]:
        ids_of: dict[Span, tuple[int, ...]] = {}
        for match in self.matches:
            if match.span is not None:
                existing = ids_of.get(match.span, ())
                if not existing or self.options.same_objects:
                    ids_of[match.span] = tuple(dict.fromkeys(existing + match.ids))
        results = [
            self._grounding(self.caption[a:b], ids, (a, b)) for (a, b), ids in ids_of.items()
        ]
        if not self.options.overlaps:
            results = _without_overlaps(results)
        return sorted(results, key=_by_span) if self.options.caption_order else results

    def _grounding(self, text: str, ids: tuple[int, ...], span: Span | None) -> PhraseGrounding:
        return PhraseGrounding(text, span, ids, tuple([self.boxes[number] for number in ids]))


def _with_list(item: GrandObject) -> GrandObject:
    """Return an object whose attributes are written as a list even if it was read from a text."""
    return changed(item, attributes=item.attributes) if item.irregular and item.attributes else item


def _contains(outer: Box, inner: Box) -> bool:
    return (
        outer[0] <= inner[0]
        and outer[1] <= inner[1]
        and outer[2] >= inner[2]
        and outer[3] >= inner[3]
    )


def _differ_by_s(a: str, b: str) -> bool:
    return a == b + "s" or b == a + "s"


def _chosen_label(item: GrandObject) -> tuple[str, ...]:
    return item.labels[:1] if item.label is None else (item.label,)


def _all_labels(item: GrandObject) -> tuple[str, ...]:
    return item.labels


class _LabelForms(NamedTuple):
    """What objects with some labels are called; `several` are the forms of several words."""

    all: frozenset[str]
    several: tuple[str, ...]

    def occur(self, text: str, noun: str) -> bool:
        """Return whether a phrase with this noun, or its last words, is a form of a label."""
        if noun in self.all:
            return True
        return any(text == form or text.endswith(f" {form}") for form in self.several)


@lru_cache(maxsize=1024)
def _forms(labels: tuple[str, ...]) -> _LabelForms:
    """Return labels in lower case with blanks, and with and without a final s."""
    forms: set[str] = set()
    for label in labels:
        name = label.lower().replace("_", " ")
        forms |= {name, f"{name}s"}
        if name.endswith("s"):
            forms.add(name[:-1])
    return _LabelForms(frozenset(forms), tuple([form for form in forms if " " in form]))


def _plain_text(text: str) -> str:
    """Return a text as the released code stores it: escapes decoded, without most punctuation."""
    if "\\" in text or not text.isascii():
        with warnings.catch_warnings(), suppress(UnicodeDecodeError):
            warnings.simplefilter("ignore", DeprecationWarning)  # of unknown escapes, which stay
            # Where this fails the released code stops; here the text is kept.
            text = text.encode().decode("unicode_escape")
    return text.translate(_DELETED)
