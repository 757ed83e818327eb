"""Parser of grounded answers: clean text, phrases with their character spans, and their masks.

    "<p> A dog </p> [SEG] runs.</s>"  ->  "A dog runs.", one phrase (0, 5), mask 0

Malformed text is never an error: what can be parsed is returned, and what is wrong is listed in
`ParsedAnswer.problems`.

Source: eval/gcg/infer.py:77.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from glamm_jax.text.questions import SEGMENTATION_ANSWERS
from glamm_jax.text.special_tokens import PHRASE_END, PHRASE_START, SEG

MARK = re.compile("|".join(map(re.escape, (PHRASE_START, PHRASE_END, SEG))))
SEG_MARK = re.compile(re.escape(SEG))
ANSWER_MARK = "ASSISTANT: "
STOPS = ".,;:!?"
NO_SOURCE = -1  # source index of a character that was inserted


@dataclass(frozen=True)
class Phrase:
    """A phrase of an answer.

    Attributes:
        text: as generated, stripped.
        start: index of its first character in `ParsedAnswer.text`.
        end: index behind its last character; equal to `start` if cleaning left nothing of it.
        segs: indices, counted from 0, of the [SEG] tokens of the answer that belong to it.
    """

    text: str
    start: int
    end: int
    segs: tuple[int, ...] = ()


@dataclass(frozen=True)
class ParsedAnswer:
    """The parts of an answer.

    Attributes:
        text: clean text, without tags and [SEG].
        phrases: in the order of the text.
        seg_positions: for each [SEG], the index in `text` at which it was.
        unassigned_segs: indices of the [SEG] tokens that belong to no phrase, as in "It is [SEG].".
        problems: what is malformed, in words.
    """

    text: str
    phrases: tuple[Phrase, ...]
    seg_positions: tuple[int, ...]
    unassigned_segs: tuple[int, ...] = ()
    problems: tuple[str, ...] = ()

    @property
    def num_segs(self) -> int:
        """Number of [SEG] in the answer."""
        return len(self.seg_positions)


def last_answer(decoded: str) -> str:
    """Return the last answer of a decoded conversation.

    Quirk 35: the generated ids of the original include the prompt, so the answer is cut out.
    """
    return decoded.replace("\n", "").replace("  ", " ").split(ANSWER_MARK)[-1]


def parse_answer(generated: str, *, keep_spaces: bool = False) -> ParsedAnswer:
    """Parse one answer. For a complete decoded conversation, pass the result of `last_answer`.

    Args:
        generated: the answer, with tags and [SEG].
        keep_spaces: keep the space before a full stop that the [SEG] in "dog [SEG]." leaves, as the
            original does (quirk 35).
    """
    raw = generated.replace("\n", " ")
    text, sources = _clean(raw, keep_spaces)
    phrase_spans = list(_spans(raw, PHRASE_START, PHRASE_END))
    segs = [match.start() for match in SEG_MARK.finditer(raw)]
    owners = _owners(raw, [end for _, end in phrase_spans], segs)
    own_segs: dict[int | None, list[int]] = {}
    for k, owner in enumerate(owners):
        own_segs.setdefault(owner, []).append(k)
    find_clean = _CleanSpans(sources)
    problems = _tag_problems(raw)
    phrases = []
    for i, (first, last) in enumerate(phrase_spans):
        own = tuple(own_segs.get(i, ()))
        inside = first + len(PHRASE_START), last - len(PHRASE_END)
        phrase = Phrase(raw[slice(*inside)].strip(), *find_clean(*inside), own)
        phrases.append(phrase)
        if not phrase.text:
            problems.append(f"phrase {i} is empty")
        if not own:
            problems.append(f"phrase {i} {phrase.text!r} has no [SEG]")
        if len(own) > 1:
            problems.append(f"phrase {i} {phrase.text!r} has {len(own)} [SEG]")
    unassigned = tuple(own_segs.get(None, ()))
    # Answers of the segmentation tasks have a [SEG] and no phrase.
    segmentation_answers = {"".join(answer.split()) for answer in SEGMENTATION_ANSWERS}
    if "".join(raw.split()) not in segmentation_answers:
        problems += [f"[SEG] {k} belongs to no phrase" for k in unassigned]
    seg_positions = tuple(find_clean(seg, seg)[0] for seg in segs)
    return ParsedAnswer(text, tuple(phrases), seg_positions, unassigned, tuple(problems))


def phrase_texts(text: str) -> list[str]:
    """Return the stripped texts between each <p> and the next </p>."""
    spans = _spans(text, PHRASE_START, PHRASE_END)
    return [text[a + len(PHRASE_START) : b - len(PHRASE_END)].strip() for a, b in spans]


def stable_text(generated: str) -> str:
    """Return the part of the clean text that no further token can change.

    Excluded are the last word, which the next token may extend, and everything behind an open "<",
    which may become a tag.
    """
    opened = generated.find("<", generated.rfind(">") + 1)
    closed = generated if opened < 0 else generated[:opened]
    text, _ = _clean(closed.replace("\n", " "), keep_spaces=False)
    return text.rpartition(" ")[0]


def match_masks(
    answer: ParsedAnswer, num_masks: int
) -> tuple[tuple[int | None, ...], tuple[str, ...]]:
    """Assign the masks of a conversation to the [SEG] tokens of its answer.

    Quirk 3: a [SEG] in the prompt has a mask as well. Its mask comes first, so the masks of the
    answer are the last ones.

    Returns:
        The mask index of each [SEG], None where there is no mask; and the problems in words.
    """
    first = num_masks - answer.num_segs
    masks = tuple(k + max(first, 0) for k in range(answer.num_segs))
    if first >= 0:
        return masks, ()
    problem = f"the answer has {answer.num_segs} [SEG] and {num_masks} masks"
    return tuple(k if k < num_masks else None for k in masks), (problem,)


def _spans(text: str, opening: str, closing: str) -> Iterator[tuple[int, int]]:
    """Yield what opening(.*?)closing matches, in linear time also for many openings."""
    end = 0
    while (start := text.find(opening, end)) >= 0:
        close = text.find(closing, start + len(opening))
        if close < 0:
            return
        end = close + len(closing)
        yield start, end


def _owners(raw: str, phrase_ends: list[int], segs: list[int]) -> list[int | None]:
    """Return the phrase of each [SEG]: the one before it, with nothing but [SEG] in between."""
    owners: list[int | None] = []
    phrase, position = -1, 0  # between the end of the phrase and the position is white space only
    for seg in segs:
        while phrase + 1 < len(phrase_ends) and phrase_ends[phrase + 1] <= seg:
            phrase += 1
            position = phrase_ends[phrase]
        if phrase >= 0 and position >= 0:
            position = -1 if raw[position:seg].strip() else seg + len(SEG)
        owners.append(phrase if phrase >= 0 and position >= 0 else None)
    return owners


def _clean(raw: str, keep_spaces: bool) -> tuple[str, list[int]]:
    """Return the clean text, and for each of its characters its index in `raw`.

    Tags are removed first, then [SEG], then surplus white space and quotes at the ends.
    """
    in_tag = {i for span in _spans(raw, "<", ">") for i in range(*span)}
    untagged = [i for i in range(len(raw)) if i not in in_tag]
    # Searched without the tags: removing one may join the characters of a [SEG].
    matches = SEG_MARK.finditer("".join(raw[i] for i in untagged))
    in_seg = {untagged[k] for match in matches for k in range(*match.span())}
    words: list[list[int]] = [[]]
    for i in untagged:
        if i in in_seg:
            continue
        if raw[i].isspace():
            words.append([])
        else:
            words[-1].append(i)
    words = [word for word in words if word]
    characters: list[str] = []
    sources: list[int] = []
    for indices in words:
        word = [raw[i] for i in indices]
        if characters and (keep_spaces or not _starts_with_stop(word)):
            # A space between words has no source, so that no phrase starts or ends with it.
            characters.append(" ")
            sources.append(NO_SOURCE)
        characters += word
        sources += indices
    text = "".join(characters)
    for quotes in ("'", None):
        left = len(text) - len(text.lstrip(quotes))
        text = text.strip(quotes)
        sources = sources[left : left + len(text)]
    return text, sources


def _starts_with_stop(word: Sequence[str]) -> bool:
    return word[0] in STOPS and (len(word) == 1 or not word[1].isalnum())


class _CleanSpans:
    """Finds the span of clean text whose characters come from raw[start:end]."""

    def __init__(self, sources: list[int]):
        self._length = len(sources)
        # Without the inserted characters, the sources increase.
        self._positions = [k for k, i in enumerate(sources) if i != NO_SOURCE]
        self._sources = [sources[k] for k in self._positions]

    def __call__(self, start: int, end: int) -> tuple[int, int]:
        first, last = (bisect_left(self._sources, x) for x in (start, end))
        if first < last:
            return self._positions[first], self._positions[last - 1] + 1
        position = self._positions[last] if last < len(self._positions) else self._length
        return position, position


def _tag_problems(raw: str) -> list[str]:
    problems: list[str] = []
    opened: int | None = None
    for match in MARK.finditer(raw):
        mark, position = match.group(), match.start()
        if mark == PHRASE_START:
            if opened is not None:
                problems.append(f"<p> at {opened} is not closed before the next one at {position}")
            opened = position
        elif mark == PHRASE_END:
            if opened is None:
                problems.append(f"</p> at {position} has no <p> before it")
            opened = None
        elif opened is not None:
            problems.append(f"[SEG] at {position} is inside a phrase")
    if opened is not None:
        problems.append(f"<p> at {opened} is never closed")
    return problems
