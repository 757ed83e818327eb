"""CHAIR: objects that a caption mentions and the image does not have.

A mention is a word of `glamm_jax.metrics.coco_objects` in a caption, singular or plural. The
objects of an image are those of its instance annotations and of its reference captions.

CHAIRi: mentions of objects that the image does not have / mentions. CHAIRs: captions with such a
mention / captions. Both are better the lower they are.

compat: an image without a caption is left out, and the words that the published program cannot
find are not counted. strict: every word of the list is counted, a missing caption counts as one
with a hallucination in CHAIRs, and there is object_recall, mentioned objects / objects, because a
caption that says nothing hallucinates nothing.

Source: utils/chair.py of LisaAnne/Hallucination. Differs: words are made singular by the plural
forms of the words of the list, there by a library that does so for every word (pattern), and the
words of a caption are split by a regular expression, there by NLTK's tokenizer.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import cache

import numpy as np

from glamm_jax.metrics.coco_objects import COMPOUNDS, OBJECT_WORDS, UNMATCHED_WORDS
from glamm_jax.metrics.result import Irregularities, MetricError, MetricResult, Mode

RATIOS = {"CHAIRi": ("hallucinated_mentions", "mentions")}
STRICT_RATIOS = {**RATIOS, "object_recall": ("mentioned_objects", "objects")}
# A hyphen joins words, and a mark of punctuation separates them.
TOKENS = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)*|'s|[^\sa-z0-9]")
IRREGULAR_PLURALS = {
    "mouse": "mice",
    "goose": "geese",
    "knife": "knives",
    "pocketknife": "pocketknives",
    "calf": "calves",
    "thief": "thieves",
    **{f"{word}man": f"{word}men" for word in ("", "wo", "police", "gentle", "service")},
}
SIBILANTS = ("s", "x", "z", "ch", "sh")


def mentioned_objects(caption: str, mode: Mode = "strict") -> list[str]:
    """Return the classes that a caption mentions, in the order of the mentions.

    Args:
        caption: a text.
        mode: compat leaves out the words that the published program cannot find.
    """
    singular, class_of = _vocabulary(mode)
    tokens = [singular.get(match[0], match[0]) for match in TOKENS.finditer(caption.lower())]
    words: list[str] = []
    while tokens:
        pair = " ".join(tokens[:2])
        words.append(COMPOUNDS.get(pair, tokens[0]))
        tokens = tokens[2 if pair in COMPOUNDS else 1 :]
    if "toilet" in words:  # its seat is no chair
        words = [word for word in words if word != "seat"]
    return [class_of[word] for word in words if word in class_of]


def score_hallucination(
    captions: Mapping[str, str],
    annotated: Mapping[str, Collection[str]],
    reference_captions: Mapping[str, Sequence[str]],
    mode: Mode,
) -> MetricResult:
    """Compute CHAIRi and CHAIRs, in strict also object_recall.

    Args:
        captions: image -> generated caption. Unknown images are ignored.
        annotated: image -> classes of its instance annotations, by COCO's names.
        reference_captions: image -> its captions; an image may have none.
        mode: compat or strict.

    Raises:
        MetricError: a class is none of COCO's.
    """
    notes = Irregularities()
    notes.add_id_mismatches(captions, annotated)
    per_item: dict[str, dict[str, float]] = {}
    for name, classes in annotated.items():
        objects = set(classes)
        if unknown := sorted(objects - OBJECT_WORDS.keys()):
            raise MetricError(f"{name}: {unknown[0]!r} is no object class of COCO")
        for text in reference_captions.get(name, ()):
            objects.update(mentioned_objects(text, mode))
        if name not in captions:
            if mode == "strict":
                per_item[name] = _columns([], objects, mode) | {"CHAIRs": 1.0}
            continue
        notes.add_if(not captions[name].strip(), "empty caption", name)
        per_item[name] = _columns(mentioned_objects(captions[name], mode), objects, mode)
    rows = per_item.values()
    scores = {"CHAIRs": float(np.mean([row["CHAIRs"] for row in rows]))} if rows else {}
    ratios = RATIOS if mode == "compat" else STRICT_RATIOS
    for metric, (numerator, denominator) in ratios.items():
        if total := sum(row[denominator] for row in rows):
            scores[metric] = sum(row[numerator] for row in rows) / total
    return MetricResult(scores, per_item, ratios, notes.as_dict())


def _columns(mentions: Sequence[str], objects: Collection[str], mode: Mode) -> dict[str, float]:
    hallucinated = sum(mention not in objects for mention in mentions)
    columns = {
        "hallucinated_mentions": float(hallucinated),
        "mentions": float(len(mentions)),
        "CHAIRs": float(hallucinated > 0),
    }
    if mode == "strict":
        columns["mentioned_objects"] = float(len(set(mentions) & set(objects)))
        columns["objects"] = float(len(objects))
    return columns


@cache
def _vocabulary(mode: Mode) -> tuple[dict[str, str], dict[str, str]]:
    """Return plural -> singular of all words that matter, and word -> class."""
    class_of = {
        word.lower(): name
        for name, words in OBJECT_WORDS.items()
        for word in words
        if mode == "strict" or word not in UNMATCHED_WORDS
    }
    words = dict.fromkeys(part for text in (*class_of, *COMPOUNDS) for part in text.split())
    singular = {plural: word for word in words for plural in _plurals(word)}
    # "people" and "skis" are words of the list themselves.
    return {plural: word for plural, word in singular.items() if plural not in words}, class_of


def _plurals(word: str) -> Iterator[str]:
    """Yield the possible plural forms of an English noun."""
    if word in IRREGULAR_PLURALS:
        yield IRREGULAR_PLURALS[word]
    elif word.endswith("y") and word[-2:-1] not in "aeiou":
        yield f"{word[:-1]}ies"
    elif word.endswith(SIBILANTS):
        yield f"{word}es"
    else:
        yield f"{word}s"
        if word.endswith("o"):
            yield f"{word}es"
