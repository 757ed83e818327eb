"""Reading a grounded answer: clean text, phrases with their place in it, and their masks.

    "<p> A dog </p> [SEG] runs.</s>"  ->  "A dog runs.", one phrase (0, 5), mask 0

Source: eval/gcg/infer.py:77. What the model wrote is parsed as far as it goes; what is malformed is
said in `problems`, never raised.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from glamm_jax.text.questions import SEGMENTATION_ANSWERS
from glamm_jax.text.special_tokens import PHRASE_END, PHRASE_START, SEG

TAG = re.compile(r"<.*?>")
PHRASE = re.compile(f"{re.escape(PHRASE_START)}(.*?){re.escape(PHRASE_END)}")
MARK = re.compile("|".join(map(re.escape, (PHRASE_START, PHRASE_END, SEG))))
ANSWER_MARK = "ASSISTANT: "
NOWHERE = -1


@dataclass(frozen=True)
class Phrase:
    """A phrase of an answer.

    text: as the model wrote it, stripped. start, end: its place in `ParsedAnswer.text`, end not
    included; equal when nothing of it is left there. segs: which [SEG] of the answer, counted
    from 0, stand behind it.
    """

    text: str
    start: int
    end: int
    segs: tuple[int, ...] = ()


@dataclass(frozen=True)
class ParsedAnswer:
    """An answer taken apart.

    seg_places: where in `text` each [SEG] stood. loose_segs: those that belong to no phrase, as in
    "It is [SEG].".
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
    """The answer of the last turn in decoded ids, which hold the prompt, too (trap 35)."""
    return decoded.replace("\n", "").replace("  ", " ").split(ANSWER_MARK)[-1]


def parse_answer(generated: str) -> ParsedAnswer:
    """Take an answer apart; of a whole decoded conversation, `last_answer` is to be given."""
    raw = _one_line(generated)
    text, sources = _clean(raw)
    found = list(PHRASE.finditer(raw))
    segs = [match.start() for match in re.finditer(re.escape(SEG), raw)]
    owners = _owners(raw, [match.end() for match in found], segs)
    phrases = []
    for i, match in enumerate(found):
        start, end = _place(sources, *match.span(1))
        own = tuple(k for k, owner in enumerate(owners) if owner == i)
        phrases.append(Phrase(match.group(1).strip(), start, end, own))
    loose = tuple(k for k, owner in enumerate(owners) if owner is None)
    problems = _tag_problems(raw) + _phrase_problems(phrases)
    if not _is_segmentation_answer(raw):
        problems += [f"[SEG] {k} belongs to no phrase" for k in loose]
    seg_places = tuple(_place(sources, seg, seg)[0] for seg in segs)
    return ParsedAnswer(text, tuple(phrases), seg_places, loose, tuple(problems))


def stable_text(generated: str) -> str:
    """How much of the clean text is certain while an answer is still being written.

    Held back are the last word (the next token may finish it, or close up to it) and all behind an
    open "<", which may become a tag.
    """
    opened = generated.find("<", generated.rfind(">") + 1)
    text, _ = _clean(_one_line(generated if opened < 0 else generated[:opened]))
    return text.rpartition(" ")[0]


def match_masks(
    answer: ParsedAnswer, num_masks: int
) -> tuple[tuple[int | None, ...], tuple[str, ...]]:
    """(index of the mask of each [SEG], problems); None where the mask is missing.

    A [SEG] in the prompt has a mask, too, and comes first, so the answer's are the last (trap 3).
    """
    first = num_masks - answer.num_segs
    masks = tuple(k + max(first, 0) for k in range(answer.num_segs))
    if first >= 0:
        return masks, ()
    problem = f"the answer has {answer.num_segs} [SEG] and {num_masks} masks"
    return tuple(k if k < num_masks else None for k in masks), (problem,)


def _one_line(written: str) -> str:
    return written.replace("\n", " ")


def _is_segmentation_answer(raw: str) -> bool:
    """Whether this is an answer of the segmentation tasks, whose [SEG] has no phrase."""
    return "".join(raw.split()) in {"".join(each.split()) for each in SEGMENTATION_ANSWERS}


def _clean(raw: str) -> tuple[str, list[int]]:
    """The text to read, and for each of its characters where it stands in `raw`.

    Tags go first, then [SEG], then surplus white space and quotes at the ends; the space before a
    full stop stays (trap 35).
    """
    tags = _covered(TAG, raw)
    kept = _without(raw, [i for i in range(len(raw)) if i not in tags])
    words: list[list[int]] = [[]]
    for i in kept:
        if raw[i].isspace():
            words.append([])
        else:
            words[-1].append(i)
    words = [word for word in words if word]
    # A space between words comes from nowhere: no phrase starts or ends with it.
    places = [i for word in words for i in (*word, NOWHERE)][:-1]
    text = " ".join("".join(raw[i] for i in word) for word in words)
    for characters in ("'", None):
        left = len(text) - len(text.lstrip(characters))
        text = text.strip(characters)
        places = places[left : left + len(text)]
    return text, places


def _covered(pattern: re.Pattern[str], text: str) -> set[int]:
    return {i for match in pattern.finditer(text) for i in range(*match.span())}


def _without(raw: str, kept: list[int]) -> list[int]:
    """Drop [SEG] from what the tags left over."""
    covered = _covered(re.compile(re.escape(SEG)), "".join(raw[i] for i in kept))
    return [i for k, i in enumerate(kept) if k not in covered]


def _place(places: list[int], start: int, end: int) -> tuple[int, int]:
    """The stretch of clean text that comes from raw[start:end]."""
    inside = [k for k, i in enumerate(places) if start <= i < end]
    if not inside:
        after = next((k for k, i in enumerate(places) if i >= end), len(places))
        return after, after
    return inside[0], inside[-1] + 1


def _owners(raw: str, phrase_ends: list[int], segs: list[int]) -> list[int | None]:
    """For each [SEG] the phrase it stands behind, with nothing between but space and [SEG]."""
    owners: list[int | None] = []
    for seg in segs:
        before = [i for i, end in enumerate(phrase_ends) if end <= seg]
        between = raw[phrase_ends[before[-1]] : seg] if before else "x"
        owners.append(before[-1] if before and not between.replace(SEG, "").strip() else None)
    return owners


def _tag_problems(raw: str) -> list[str]:
    problems: list[str] = []
    opened: int | None = None
    for match in MARK.finditer(raw):
        mark, at = match.group(), match.start()
        if mark == PHRASE_START:
            if opened is not None:
                problems.append(f"<p> at {opened} is not closed before the next one at {at}")
            opened = at
        elif mark == PHRASE_END:
            if opened is None:
                problems.append(f"</p> at {at} closes nothing")
            opened = None
        elif opened is not None:
            problems.append(f"[SEG] at {at} stands inside a phrase")
    if opened is not None:
        problems.append(f"<p> at {opened} is never closed")
    return problems


def _phrase_problems(phrases: list[Phrase]) -> list[str]:
    problems = []
    for i, phrase in enumerate(phrases):
        if not phrase.text:
            problems.append(f"phrase {i} is empty")
        if not phrase.segs:
            problems.append(f"phrase {i} {phrase.text!r} has no [SEG]")
        if len(phrase.segs) > 1:
            problems.append(f"phrase {i} {phrase.text!r} has {len(phrase.segs)} [SEG]")
    return problems
