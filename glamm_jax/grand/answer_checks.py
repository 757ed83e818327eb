"""Whether an answer of a language model can be used as a caption or a paragraph of context.

    text = clean_answer('Caption: "A dog runs on the beach."')    # A dog runs on the beach.
    find_problem(text, "stop", CAPTION_LIMITS)                    # None
    find_problem("I'm sorry, I can't see images.", "stop", CAPTION_LIMITS)    # "refusal"

Both functions accept any text; none raises.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

Problem = Literal[
    "empty",
    "not finished",
    "not text",
    "refusal",
    "markup",
    "source data",
    "repeats the prompt",
    "repeats itself",
    "too short",
    "too long",
]
CHECKS_VERSION = "1"  # changes with the rules of this file
COPIED_WORDS = 9  # words in a row that an answer may not share with the fixed texts of its request
REPEATED_WORDS, REPEATED_TIMES = 7, 3  # words in a row that may not occur so often
MIN_REPEATED_SENTENCE = 4  # words of a sentence that may occur only once
MAX_SAME_WORD = 5  # times that a word may stand in a row
MAX_READ = 20_000  # characters of an answer that are examined
MIN_LETTERS = 0.5  # share of letters among the characters that are no white space
MIN_LATIN = 0.8  # share of Latin letters among the letters

_WORD = re.compile(r"[^\W_]+(?:['\u2019-][^\W_]+)*")
_SENTENCE_END = re.compile(r"[.!?]+(?:\s+|$)")
_REFUSAL = re.compile(
    r"\b(?:as an? (?:ai|artificial intelligence|(?:large )?language model)\b"
    r"|i(?:'m|\u2019m| am) (?:sorry|unable|not able|afraid|an ai|a language model)"
    r"|i (?:can ?not|can't|can\u2019t|could ?n't|do(?: not|n't|n\u2019t) (?:have|know|see)"
    r"|won't|will not|apologi[sz]e)\b"
    r"|(?:please|could you|can you) (?:provide|upload|share|give me|specify)\b"
    r"|no (?:image|photograph|photo|picture|graph) (?:was|is|has been) "
    r"(?:provided|attached|given|uploaded))",
    re.IGNORECASE,
)
_MARKUP = re.compile(
    r"```|~~~"
    r"|^\s*(?:[-*+\u2022\u2023\u25e6]|#{1,6}|\d{1,2}[.)]|[a-z]\)|>)\s+\S"
    r"|^\s*[\[{]"  # JSON
    r"|\"\w+\"\s*:"
    r"|\*\*|__|^\s*\|.*\||\[[^\]\n]*\]\([^)\n]*\)"
    r"|</?[a-z][a-z0-9]*(?:\s[^<>\n]*)?/?>|<\||\|>"
    r"|^\s*=+\s*$|^\s*-{3,}\s*$",
    re.IGNORECASE | re.MULTILINE,
)
_SOURCE_DATA = re.compile(
    r"\b(?:scene[- ]graphs?|knowledge graph|group[ _]ids?|groups? #?\d+|bounding box(?:es)?"
    r"|object[ _]ids?|short captions?|depth layers?|layers? of depth"
    r"|(?:the|this|your) (?:given |provided |input )?(?:graph|data|json|prompt|input text)\b"
    r"|(?:the )?(?:provided|given|above|supplied) "
    r"(?:information|description|data|details|list|graph|captions?|objects|text|input))",
    re.IGNORECASE,
)
# At the beginning of a line, as the graph writes them; "in the background:" is prose.
_GRAPH_LINES = re.compile(
    r"^\s*(?:(?:immediate )?foreground|midground|background|landmarks?|relationships?|objects"
    r"|group \d+)\s*:",
    re.IGNORECASE | re.MULTILINE,
)
# The expressions above are slow. Without one of these words or characters they match nothing.
_REFUSAL_WORDS = frozenset(
    ["i", "i'm", "i\u2019m", "ai", "model", "intelligence", "please", "you", "me", "no"]
)
_SOURCE_WORDS = frozenset(
    """
    graph graphs scene-graph scene-graphs group groups group_id id ids box boxes caption captions
    layer layers data json prompt text information description details list objects input
    """.split()  # noqa: SIM905
)
_MARKUP_CHARACTERS = re.compile(r"[`~*_|<{\[\"\n=]")
_LABEL = re.compile(
    r"(?:(?:the |a |my )?(?:new |revised |final |corrected |updated |dense |detailed |image )*"
    r"(?:caption|answer|response|description|paragraph|output|context)(?: \d)?"
    r"|assistant|istant|ai)\s*:\s*",
    re.IGNORECASE,
)
_INTRODUCTION = re.compile(
    r"(?:(?:sure|certainly|of course|okay|ok)(?:[.!:]|,[^.:!\n]{0,60}[:!])\s*"
    r"|here(?: is|'s|\u2019s)\b[^.:\n]{0,80}:\s*)",
    re.IGNORECASE,
)
_END_MARKS = ("</s>", "<|im_end|>", "<|eot_id|>", "<end_of_turn>", "###")
_QUOTES = {'"': '"', "'": "'", "\u201c": "\u201d", "\u2018": "\u2019", "\u00ab": "\u00bb", "`": "`"}


@dataclass(frozen=True)
class TextLimits:
    """How long an answer may be.

    Attributes:
        min_words: fewest words.
        max_words: most words.
        max_sentences: most sentences.
    """

    min_words: int
    max_words: int
    max_sentences: int


CAPTION_LIMITS = TextLimits(min_words=4, max_words=250, max_sentences=10)
CONTEXT_LIMITS = TextLimits(min_words=30, max_words=350, max_sentences=12)


def clean_answer(text: str) -> str:
    """Return an answer without harmless additions.

    These are an introduction, a heading such as "Caption:", quotation marks around everything, the
    end marks of chat templates, and line breaks. Lists keep their lines, so that they are
    recognised as markup.
    """
    text = text.strip()
    for _ in range(4):  # additions inside additions
        before = text
        for mark in _END_MARKS:
            text = text.removesuffix(mark).rstrip()
        for pattern in (_INTRODUCTION, _LABEL):
            match = pattern.match(text)
            if match and match.end() < len(text):
                text = text[match.end() :].lstrip()
        if len(text) > 1 and _QUOTES.get(text[0]) == text[-1] and text[-1] not in text[1:-1]:
            text = text[1:-1].strip()
        if text == before:
            break
    if "\n" in text and (_has_markup(text[:MAX_READ]) or _has_graph_lines(text[:MAX_READ])):
        return text
    return " ".join(text.split())


def word_runs(text: str, length: int = COPIED_WORDS) -> frozenset[tuple[str, ...]]:
    """Return all runs of this many words of a text."""
    words = [word.lower() for word in _WORD.findall(text)]
    return frozenset(_runs(words, length))


def find_problem(
    text: str,
    finish_reason: str,
    limits: TextLimits,
    fixed_runs: frozenset[tuple[str, ...]] = frozenset(),
) -> Problem | None:
    """Return why an answer cannot be used; None if it can.

    Args:
        text: the answer, cleaned.
        finish_reason: why the model stopped.
        limits: of its length.
        fixed_runs: `word_runs` of the texts that all requests have in common.
    """
    stripped = "".join(text[:MAX_READ].split())
    if not stripped:
        return "empty"
    if finish_reason != "stop":
        return "not finished"
    if _is_no_text(stripped):
        return "not text"
    text = text[:MAX_READ]
    lower = text.lower()
    words = _WORD.findall(lower)
    vocabulary = set(words)
    if not vocabulary.isdisjoint(_REFUSAL_WORDS) and _REFUSAL.search(text):
        return "refusal"
    if _has_graph_lines(text):
        return "source data"
    if not vocabulary.isdisjoint(_SOURCE_WORDS) and _SOURCE_DATA.search(text):
        return "source data"
    if _has_markup(text):
        return "markup"
    if not fixed_runs.isdisjoint(_runs(words, COPIED_WORDS)):
        return "repeats the prompt"
    sentences = [x.strip() for x in _SENTENCE_END.split(lower) if not x.isspace() and x]
    if _repeats_itself(words, sentences):
        return "repeats itself"
    if len(words) < limits.min_words:
        return "too short"
    if len(words) > limits.max_words or len(sentences) > limits.max_sentences:
        return "too long"
    return None


def _has_markup(text: str) -> bool:
    is_suspect = _MARKUP_CHARACTERS.search(text) or not text[:1].isalpha() or text[1:2] == ")"
    return bool(is_suspect and _MARKUP.search(text))


def _has_graph_lines(text: str) -> bool:
    return ":" in text and bool(_GRAPH_LINES.search(text))


def _is_no_text(characters: str) -> bool:
    """Whether these are no words of a Latin alphabet; `characters` has no white space."""
    if characters.isascii() and characters.isprintable():
        letters = latin = sum(map(str.isalpha, characters))
    else:
        letters = latin = 0
        for x in characters:
            if x.isalpha():
                letters += 1
                latin += x < "\u0250"
            elif x == "\ufffd" or unicodedata.category(x) in ("Cc", "Cs", "Co", "Cn"):
                return True
    return letters < MIN_LETTERS * len(characters) or latin < MIN_LATIN * letters


def _runs(words: list[str], length: int) -> Iterator[tuple[str, ...]]:
    return zip(*(words[k:] for k in range(length)), strict=False)


def _repeats_itself(words: list[str], sentences: list[str]) -> bool:
    long_sentences = [x for x in sentences if x.count(" ") >= MIN_REPEATED_SENTENCE - 1]
    if len(set(long_sentences)) < len(long_sentences):
        return True
    num_repeated = len(words) - len(set(words))
    if num_repeated < MAX_SAME_WORD:
        return False
    in_a_row = 1
    for previous, word in pairwise(words):
        in_a_row = in_a_row + 1 if word == previous else 1
        if in_a_row > MAX_SAME_WORD:
            return True
    runs = list(_runs(words, REPEATED_WORDS))
    if len(set(runs)) == len(runs):
        return False
    return max(Counter(runs).values()) >= REPEATED_TIMES
