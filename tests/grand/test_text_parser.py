"""The rule-based parser: noun phrases of rendered scenes and of photographs; spaCy's adapter."""

from __future__ import annotations

import itertools
import re
import sys
import types
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glamm_jax.grand.lexicon import lexicon, noun_lemma, plural, with_article
from glamm_jax.grand.roles import ParsedText, RoleError
from glamm_jax.grand.text_parser import (
    RuleParser,
    SpacyParser,
    TextParserError,
    noun_chunks,
    token_spans,
)
from glamm_jax.miniworld import render_scene
from glamm_jax.miniworld.captions import dense_caption, object_description, short_captions
from glamm_jax.miniworld.world import PLACES, WORLDS

CAPTIONS = Path(__file__).with_name("photograph_captions.txt").read_text("utf-8").splitlines()
PARSER = RuleParser()
NO_ENTITIES = {"picture", "evening", "night", *PLACES}  # nouns of mini-world texts without a mask
WORDS = re.findall(
    r"\S+",
    """
    a the two his her black white orange light dining man woman people dogs park parks stand stands
    riding parked is are has who that which of in to next on top left and or , . ' 's while very
    more one not down circle see saw ; quickly
    """,
)


def parse(text: str) -> ParsedText:
    (result,) = PARSER([text])
    assert isinstance(result, ParsedText)
    return result


def phrases(text: str) -> list[str]:
    return [text[x.start : x.end] for x in noun_chunks(text, parse(text))]


def subtree(text: str, noun: str) -> str:
    """The words that depend on the first token `noun`, itself included."""
    parsed = parse(text)
    top = parsed.texts.index(noun)

    def is_below(k: int) -> bool:
        return k == top or (parsed.heads[k] >= 0 and is_below(parsed.heads[k]))

    return " ".join(x for k, x in enumerate(parsed.texts) if is_below(k))


@pytest.mark.parametrize("world", ["easy", "full", "full-extended"])
def test_noun_phrases_of_rendered_scenes_are_their_annotated_phrases(world: str) -> None:
    for scene_id in range(40):
        scene = render_scene(1, scene_id, 64, WORLDS[world])
        rng = np.random.default_rng(scene_id)
        for caption in (dense_caption(scene, rng), *short_captions(scene, rng)):
            parsed = parse(caption.text)
            spans = [
                (x.start, x.end)
                for x in noun_chunks(caption.text, parsed)
                if parsed.lemmas[x.head] not in NO_ENTITIES
            ]
            assert spans == [(x.start, x.end) for x in caption.phrases], caption.text
        for index, item in enumerate(scene.objects):
            text = object_description(scene, index)
            assert phrases(text)[0].endswith(f"{item.colour} {item.shape}"), text


@pytest.mark.parametrize("row", range(0, len(CAPTIONS), 2))
def test_noun_phrases_of_photograph_captions(row: int) -> None:
    assert phrases(CAPTIONS[row]) == CAPTIONS[row + 1].strip().split(" | ")


@pytest.mark.parametrize(
    ("text", "noun", "expected"),
    [
        ("A man in a red shirt rides a horse.", "man", "A man in a red shirt"),
        ("A man in a red shirt rides a horse.", "shirt", "a red shirt"),
        ("A dog with a collar on a couch.", "dog", "A dog with a collar on a couch"),
        ("A dog with a collar on a couch.", "collar", "a collar"),
        ("A cup of the coffee of Rome.", "coffee", "the coffee of Rome"),
        ("A room with a lamp, a bed and a rug.", "lamp", "a lamp"),
        ("A room with a lamp, a bed and a rug.", "room", "A room with a lamp , a bed and a rug"),
        ("A man riding a horse jumps.", "man", "A man riding a horse"),
        ("A man rides a horse on the beach.", "horse", "a horse"),
        ("A man who wears a hat smiles.", "man", "A man who wears a hat"),
        ("There are a star with a cap and a ring.", "star", "a star with a cap"),
        ("A bowl of soup and a spoon.", "bowl", "A bowl of soup"),
        ("A store full of flowers.", "store", "A store full of flowers"),
    ],
)
def test_subtree_of_a_noun(text: str, noun: str, expected: str) -> None:
    assert subtree(text, noun) == expected


def test_columns_of_a_parse() -> None:
    parsed = parse("The women's dogs aren't barking.")
    assert parsed.texts == ("The", "women", "'s", "dogs", "are", "n't", "barking", ".")
    assert parsed.pos == ("DET", "NOUN", "PART", "NOUN", "AUX", "ADV", "VERB", "PUNCT")
    assert parsed.lemmas[1] == "woman" and parsed.lemmas[3] == "dog"
    assert parsed.lemmas[4] == "be" and parsed.lemmas[6] == "bark"
    assert parsed.is_stop == (True, False, True, False, True, True, False, False)
    assert parsed.is_punct == (False,) * 7 + (True,)
    assert parsed.heads == (3, 3, 3, 6, 6, 6, -1, 6)


def test_what_is_no_text_has_an_error_of_its_own() -> None:
    results = PARSER(["A dog.", "a " * 20_000, ""])
    assert [type(x) for x in results] == [ParsedText, RoleError, ParsedText]
    assert results[2] == ParsedText((), (), (), (), (), ())
    assert isinstance(PARSER._parse(None), RoleError)
    assert PARSER([]) == []


def check_structure(text: str) -> None:
    parsed = parse(text)
    count = len(parsed.texts)
    assert {len(column) for column in parsed} == {count}
    for k in range(count):
        steps, head = 0, parsed.heads[k]
        while head >= 0:
            assert head < count
            steps, head = steps + 1, parsed.heads[head]
            assert steps <= count, f"cycle in {text!r}"
    token_spans(text, parsed.texts)
    found = noun_chunks(text, parsed)
    assert all(a.end <= b.start for a, b in itertools.pairwise(found))


@given(st.lists(st.sampled_from(WORDS), max_size=14).map(" ".join))
def test_any_sequence_of_words_is_a_forest(text: str) -> None:
    check_structure(text)


@settings(max_examples=50)
@given(st.text(max_size=40))
def test_any_text_is_parsed(text: str) -> None:
    check_structure(text)


@pytest.mark.parametrize(
    ("singular", "expected"),
    [
        ("knife", "knives"),
        ("wine glass", "wine glasses"),
        ("bench", "benches"),
        ("city", "cities"),
        ("toy", "toys"),
        ("man", "men"),
        ("fireman", "firemen"),
        ("sheep", "sheep"),
        ("cross", "crosses"),
        ("bus", "buses"),
        ("tomato", "tomatoes"),
        ("photo", "photos"),
        ("person", "people"),
    ],
)
def test_plural_and_back(singular: str, expected: str) -> None:
    assert plural(singular) == expected
    assert noun_lemma(expected.split()[-1]) == singular.split()[-1]


def test_words_without_a_plural() -> None:
    assert [plural(x) for x in ("grass", "scissors", "trees")] == ["grass", "scissors", "trees"]
    assert [noun_lemma(x) for x in ("dress", "tennis", "pants", "us")] == [
        "dress",
        "tennis",
        "pants",
        "us",
    ]


def test_articles() -> None:
    nouns = ("umbrella", "uniform", "hour", "unidentified sign", "one-way street", "Ear")
    assert [with_article(x) for x in nouns] == [
        "an umbrella",
        "a uniform",
        "an hour",
        "an unidentified sign",
        "a one-way street",
        "an Ear",
    ]


def test_unknown_words_do_not_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("glamm_jax.grand.lexicon.MAX_CACHED", 10)
    for k in range(50):
        parse(f"a word{k}x")
    assert len(lexicon()._entries) <= 10


def fake_spacy() -> Any:
    """A module with what the adapter uses of spaCy; its parser knows two words."""

    def token(i: int, text: str, pos: str, head: int) -> Any:
        return SimpleNamespace(
            i=i,
            text=text,
            pos_=pos,
            lemma_=text.lower(),
            is_stop=pos == "DET",
            is_punct=False,
            is_space=pos == "SPACE",
            head=SimpleNamespace(i=head),
        )

    class Pipeline:
        def pipe(self, texts: list[str], batch_size: int) -> Any:
            for _ in texts:
                yield [
                    token(0, "A", "DET", 2),
                    token(1, " ", "SPACE", 0),
                    token(2, "dog", "NOUN", 2),
                ]

    def load(name: str, exclude: list[str]) -> Pipeline:
        if name != "known":
            raise OSError(name)
        return Pipeline()

    module = types.ModuleType("spacy")
    module.__dict__["load"] = load
    return module


def test_spacy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "spacy", fake_spacy())
    parser = SpacyParser("known")
    first, second = parser(["A  dog", "a " * 20_000])
    assert first == ParsedText(
        ("A", "dog"), ("DET", "NOUN"), ("a", "dog"), (True, False), (False, False), (1, -1)
    )
    assert isinstance(second, RoleError)
    assert [x[:2] for x in noun_chunks("A  dog", first)] == [(0, 6)]
    with pytest.raises(TextParserError, match="spacy download other"):
        SpacyParser("other").setup()


def test_without_spacy_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "spacy", None)
    with pytest.raises(TextParserError, match=r"glamm-jax\[annotate\]"):
        SpacyParser().setup()
