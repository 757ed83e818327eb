"""Phrases of captions that name objects, and the choice of a box for each.

    parsed = parser([parser_text(caption, options)])[0]
    phrases = extract_phrases(caption, parsed, options)
    boxes = choose_boxes(phrases, detections_of_each_phrase, options)

Source: GranD/level_2_inference/3_mdetr/utils.py, infer.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from glamm_jax.grand.lexicon import lexicon, noun_lemma
from glamm_jax.grand.options import PhraseOptions
from glamm_jax.grand.record import Box, Detection, Span
from glamm_jax.grand.roles import ParsedText
from glamm_jax.grand.text_parser import noun_chunks


class NounPhrase(NamedTuple):
    """A phrase with its noun; `span` is None if it is not a part of the text."""

    noun: str
    phrase: str
    span: Span | None = None


class PhraseBox(NamedTuple):
    """A box that a phrase of a caption names.

    Attributes:
        box: in pixels.
        nouns: of the phrase; usually one.
        phrase: as it was extracted.
        score: of the box; None in released files.
    """

    box: Box
    nouns: tuple[str, ...]
    phrase: str
    score: float | None = None


def parser_text(text: str, options: PhraseOptions) -> str:
    """Return the form of a text in which it is parsed."""
    return text.capitalize() if options.capitalize else text


def extract_phrases(text: str, parsed: ParsedText, options: PhraseOptions) -> list[NounPhrase]:
    """Return the phrases of a caption.

    Args:
        text: the caption.
        parsed: parse of `parser_text` of it.
        options: which phrases.
    """
    if options.spans:
        return noun_phrases(parser_text(text, options), parsed, nouns=options.nouns)
    phrases = long_phrases(parsed)
    if options.nouns or not phrases:
        phrases += [item for item in subtree_phrases(parsed) if item not in phrases]
    return phrases


def noun_phrases(text: str, parsed: ParsedText, *, nouns: bool = True) -> list[NounPhrase]:
    """Return every noun with the words directly before it that depend on it.

    Args:
        text: that was parsed.
        parsed: its tokens.
        nouns: single nouns and pairs of article and noun too.

    Raises:
        TextParserError: `parsed` is no parse of this text.
    """
    result: list[NounPhrase] = []
    for chunk in noun_chunks(text, parsed):
        length = chunk.head - chunk.first + 1
        has_article = length == 2 and parsed.pos[chunk.first] in ("DET", "PRON")
        if nouns or (length > 1 and not has_article):
            span = (chunk.start, chunk.end)
            result.append(NounPhrase(parsed.texts[chunk.head], text[chunk.start : chunk.end], span))
    return result


def long_phrases(parsed: ParsedText) -> list[NounPhrase]:
    """Return the subtree of every noun, without pairs of article and noun, and without repetitions.

    Subtrees are cut at commas, and a phrase that earlier ones contain is left out. This is the
    first extractor of the released code.
    """
    result: list[NounPhrase] = []
    earlier = ""
    for i, subtree in _noun_subtrees(parsed):
        if len(subtree) == 1:
            continue
        if len(subtree) == 2 and parsed.pos[subtree[0]] in ("DET", "PRON"):
            continue
        noun = parsed.texts[i]
        phrase = " ".join([parsed.texts[k] for k in subtree])
        if "," in phrase:
            pieces = [piece.strip() for piece in phrase.split(",")]
            last = next((k for k, piece in enumerate(pieces) if noun in piece), len(pieces) - 1)
            phrase = ",".join(pieces[: last + 1])
            if phrase == noun:
                continue
        if phrase not in earlier:
            result.append(NounPhrase(noun, phrase))
            earlier += phrase
    return result


def subtree_phrases(parsed: ParsedText) -> list[NounPhrase]:
    """Return the subtree of every noun that has more than the noun, in lower case.

    This is the second extractor of the released code.
    """
    result: list[NounPhrase] = []
    for i, subtree in _noun_subtrees(parsed):
        if len(subtree) > 1:
            phrase = " ".join([parsed.texts[k] for k in subtree]).lower()
            result.append(NounPhrase(parsed.texts[i], phrase.removesuffix(".")))
    return result


def content_lemmas(parsed: ParsedText) -> list[str]:
    """Return the base forms of a text's words that are neither stop words nor punctuation."""
    return [
        lemma
        for lemma, stop, punct in zip(parsed.lemmas, parsed.is_stop, parsed.is_punct, strict=True)
        if not stop and not punct
    ]


def choose_boxes(
    phrases: Sequence[NounPhrase],
    detections: Sequence[Sequence[Detection]],
    options: PhraseOptions,
) -> tuple[PhraseBox, ...]:
    """Choose the boxes of each phrase; phrases without one are left out.

    Args:
        phrases: of the captions.
        detections: of each phrase, in the order of the model.
        options: which boxes.

    Returns:
        One for each phrase, and several for a plural with `options.plural_boxes`.
    """
    chosen: list[PhraseBox] = []
    for phrase, candidates in zip(phrases, detections, strict=True):
        usable = [item for item in candidates if item.score > options.min_score]
        noun = phrase.noun
        if options.plural_boxes and len(usable) > 1 and lexicon().is_plural(noun.lower()):
            noun = noun_lemma(noun.lower())  # each box shows one
        elif usable and options.best_box:
            usable = [max(usable, key=lambda item: item.score)]
        else:
            usable = usable[:1]
        chosen += [PhraseBox(item.box, (noun,), phrase.phrase, item.score) for item in usable]
    if options.every_phrase:
        return tuple(chosen)
    last = {item.phrase: item for item in chosen}
    return tuple(
        item._replace(nouns=other.nouns)
        for item, other in zip(last.values(), chosen, strict=False)
    )  # fmt: skip


def _noun_subtrees(parsed: ParsedText) -> list[tuple[int, list[int]]]:
    subtrees = _subtrees(parsed.heads)
    return [(i, subtrees[i]) for i, pos in enumerate(parsed.pos) if pos == "NOUN"]


def _subtrees(heads: Sequence[int]) -> list[list[int]]:
    """Return each token with all tokens that depend on it, directly or not, in order."""
    subtrees: list[list[int]] = [[i] for i in range(len(heads))]
    for i, head in enumerate(heads):
        steps = 0
        while 0 <= head < len(heads) and steps < len(heads):
            if head != i:
                subtrees[head].append(i)
            head, steps = heads[head], steps + 1
    return [sorted(subtree) for subtree in subtrees]
