"""Parsers of captions: by rules, or by spaCy.

    parser = RuleParser()
    text = "A man in a red shirt rides two horses."
    (parsed,) = parser([text])
    [text[x.start : x.end] for x in noun_chunks(text, parsed)]
    # ["A man", "a red shirt", "two horses"]

`RuleParser` knows the function words, looks at endings and at neighbours, and takes all else for
nouns. Its trees are flat. The subtree of a noun is its noun phrase with what is attached to it by
prepositions, participles ("riding a horse") and relative clauses. The nouns of an enumeration have
the same head, so that none is in the subtree of another. A preposition belongs to the noun that
began its chain, "of" to the nearest one: "a dog | with a collar | on a couch".
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from glamm_jax.errors import GLaMMError
from glamm_jax.grand.dependency_heads import dependency_heads
from glamm_jax.grand.lexicon import lexicon
from glamm_jax.grand.part_of_speech import PartOfSpeechTagger
from glamm_jax.grand.roles import ParsedText, Results, RoleError

RULES_VERSION = "1"  # changes with the rules of this file
MAX_CHARACTERS = 20_000  # of a text; what is longer is no caption
MAX_REMEMBERED = 80  # characters of a text that is parsed once; phrases repeat, captions do not
# Words, also with hyphens; numbers and clock times; marks.
_TOKEN = re.compile(r"\w+(?:[-&]\w+|(?<=\d)[.,:]\d+)*|\.\.\.|[^\w\s]")
# The same with contractions, which cost time: "don't" is "do" and "n't".
_TOKEN_WITH_APOSTROPHES = re.compile(
    r"['\u2019](?:s|re|ve|ll|d|m)\b|\w+(?=n['\u2019]t\b)|n['\u2019]t\b|" + _TOKEN.pattern,
    re.IGNORECASE,
)
_NOUN_TAGS = frozenset(["NOUN", "PROPN"])
_POSSESSIVE = frozenset(["'", "\u2019", "s", "'s", "\u2019s"])
_CHUNK_TAGS = frozenset(["DET", "PRON", "NUM", "ADJ", "ADV", "NOUN", "PROPN", "PART", "VERB"])


class TextParserError(GLaMMError):
    """A parser of texts cannot be used."""


class NounChunk(NamedTuple):
    """A noun with the words in front of it that belong to it.

    Attributes:
        start: first character in the text.
        end: character behind the last one.
        first: index of the first token.
        head: index of the noun, the last token.
    """

    start: int
    end: int
    first: int
    head: int


class RuleParser:
    """A `TextParser` without a model.

    Attributes:
        name: "rules".
        fingerprint: of the rules and the word lists.
        needs_device: False.
    """

    name = "rules"
    needs_device = False

    def __init__(self) -> None:
        self.fingerprint = f"rules-{RULES_VERSION}-{lexicon().fingerprint}"

    def setup(self) -> None:
        """Do nothing: there are no weights."""

    def __call__(self, texts: Sequence[str]) -> Results[ParsedText]:
        """Parse texts; one that is not a text, or much too long, gives a RoleError."""
        return [self._parse(text) for text in texts]

    def _parse(self, text: object) -> ParsedText | RoleError:
        if not isinstance(text, str):
            return RoleError("input", f"{type(text).__name__} is not a text")
        if len(text) > MAX_CHARACTERS:
            return RoleError("input", f"{len(text)} characters; at most {MAX_CHARACTERS} are read")
        return _parse_text(text) if len(text) > MAX_REMEMBERED else _parse_phrase(text)


def _parse_text(text: str) -> ParsedText:
    has_apostrophe = "'" in text or "\u2019" in text
    words = (_TOKEN_WITH_APOSTROPHES if has_apostrophe else _TOKEN).findall(text)
    lower = [word.lower() for word in words]
    lists = lexicon()
    entries = [lists.entry(word) for word in lower]
    tagger = PartOfSpeechTagger(lower, entries, lists)
    tags = tagger.tags
    heads = dependency_heads(lower, tags, tagger.phrases, lists)
    lemmas = [
        e.noun if tag == "NOUN" else e.verb if tag in ("VERB", "AUX") else word
        for e, tag, word in zip(entries, tags, lower, strict=True)
    ]
    return ParsedText(
        tuple(words),
        tuple(tags),
        tuple(lemmas),
        tuple([e.is_stop for e in entries]),
        tuple([tag == "PUNCT" for tag in tags]),
        tuple(heads),
    )


_parse_phrase = lru_cache(maxsize=4096)(_parse_text)


class SpacyParser:
    """A `TextParser` that is a model of spaCy.

    Attributes:
        name: of the model.
        fingerprint: of the model.
        needs_device: False.
    """

    needs_device = False

    def __init__(self, model: str = "en_core_web_sm", batch_size: int = 64) -> None:
        self.name = f"spacy/{model}"
        self.fingerprint = f"spacy-{model}"
        self._model = model
        self._batch_size = batch_size
        self._pipeline: Any = None

    def setup(self) -> None:
        """Load the model.

        Raises:
            TextParserError: spaCy or the model is not installed.
        """
        try:
            import spacy  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise TextParserError(
                'the parser of spaCy needs the package spacy: pip install "glamm-jax[annotate]"'
            ) from error
        try:
            self._pipeline = spacy.load(self._model, exclude=["ner"])
        except OSError as error:
            raise TextParserError(
                f"spaCy has no model {self._model!r}: python -m spacy download {self._model}"
            ) from error

    def __call__(self, texts: Sequence[str]) -> Results[ParsedText]:
        """Parse texts; one that is not a text gives a RoleError."""
        if self._pipeline is None:
            self.setup()
        pipeline: Any = self._pipeline
        valid = [isinstance(text, str) and len(text) <= MAX_CHARACTERS for text in texts]
        usable = [text for text, ok in zip(texts, valid, strict=True) if ok]
        documents = iter(pipeline.pipe(usable, batch_size=self._batch_size))
        return [
            _from_spacy(next(documents))
            if ok
            else RoleError("input", f"not a text of at most {MAX_CHARACTERS} characters")
            for ok in valid
        ]


def _from_spacy(document: Any) -> ParsedText:
    """Return the columns of spaCy's tokens without those that are white space."""
    tokens = [token for token in document if not token.is_space]
    index = {token.i: k for k, token in enumerate(tokens)}
    return ParsedText(
        tuple(token.text for token in tokens),
        tuple(token.pos_ for token in tokens),
        tuple(token.lemma_ for token in tokens),
        tuple(bool(token.is_stop) for token in tokens),
        tuple(bool(token.is_punct) for token in tokens),
        tuple(-1 if t.head.i == t.i else index.get(t.head.i, -1) for t in tokens),
    )


def token_spans(text: str, tokens: Sequence[str]) -> list[tuple[int, int]]:
    """Return the characters [start, end) of each token in the text.

    Raises:
        TextParserError: a token does not follow the one before it in the text.
    """
    spans, position = [], 0
    for token in tokens:
        start = text.find(token, position)
        if start < 0:
            raise TextParserError(f"{token!r} is not a token of {text[:80]!r}")
        position = start + len(token)
        spans.append((start, position))
    return spans


def noun_chunks(text: str, parsed: ParsedText) -> list[NounChunk]:
    """Return the noun phrases of a text in its order, none inside another, without attachments.

    Works with any parser. A phrase ends with its noun.

    Raises:
        TextParserError: `parsed` is no parse of this text.
    """
    pos, heads = parsed.pos, parsed.heads
    spans = token_spans(text, parsed.texts)
    phrases: list[NounChunk] = []
    begin = 0
    for i, tag in enumerate(pos):
        if tag not in _NOUN_TAGS:
            continue
        above = heads[i]
        if above > i and pos[above] in _NOUN_TAGS and _is_joined(parsed, i, above):
            continue  # a noun in front of a noun: "traffic light"
        first = i
        while first > begin and _belongs(pos, heads, first - 1, first, i, parsed.texts):
            first -= 1
        phrases.append(NounChunk(spans[first][0], spans[i][1], first, i))
        begin = i + 1
    return phrases


def _is_joined(parsed: ParsedText, low: int, high: int) -> bool:
    """Whether the tokens between two nouns all belong to the second one."""
    return all(
        (parsed.pos[k] in _CHUNK_TAGS or parsed.texts[k] in _POSSESSIVE)
        and low <= parsed.heads[k] <= high
        for k in range(low + 1, high)
    )


def _belongs(
    pos: Sequence[str],
    heads: Sequence[int],
    k: int,
    first: int,
    head: int,
    texts: Sequence[str],
) -> bool:
    """Whether token `k` in front of a phrase [first, head] is its first word."""
    if texts[k] in _POSSESSIVE and 0 <= heads[k] < k:  # depends on the owner, as in "man's dog"
        return k < heads[heads[k]] <= head
    if not k < heads[k] <= head:
        return False
    if pos[k] in _CHUNK_TAGS:
        return pos[k] != "VERB" or heads[k] == head
    return pos[k] == "CCONJ" or (pos[k] == "PUNCT" and texts[k] in ",-/")
