"""CHAIR: mentions are found in their forms, and both ratios agree with a count by hand."""

from __future__ import annotations

import random
from typing import get_args

import pytest

from glamm_jax.metrics.coco_objects import OBJECT_WORDS
from glamm_jax.metrics.object_hallucination import mentioned_objects, score_hallucination
from glamm_jax.metrics.result import MODES, MetricError, Mode

CLASSES = tuple(OBJECT_WORDS)


@pytest.mark.parametrize(
    ("caption", "classes"),
    [
        ("Two men and a woman's handbag.", ["person", "person", "handbag"]),
        ("Hot dogs on a bench, dogs on benches.", ["hot dog", "bench", "dog", "bench"]),
        ("A baby elephant beside a baby.", ["elephant", "person"]),
        ("The seat of the toilet; a chair.", ["toilet", "chair"]),
        ("The toilet seat is up.", ["toilet"]),
        ("A passenger train on train tracks.", ["train"]),
        ("Knives, geese, mice, calves and buses", ["knife", "bird", "mouse", "cow", "bus"]),
        ("a dining table with wine glasses", ["dining table", "wine glass"]),
        ("hot, dog", ["dog"]),
        ("dobermans and huskies", ["dog", "dog"]),
        ("a bow tie and skis", ["tie", "skis"]),
        ("", []),
    ],
)
def test_words_are_classes(caption: str, classes: list[str]) -> None:
    for mode in get_args(Mode):
        assert mentioned_objects(caption, mode) == classes


def test_words_that_the_published_program_misses_count_in_strict_alone() -> None:
    caption = "A motor bike, a cheesecake and an iPhone."
    assert mentioned_objects(caption, "compat") == []
    assert mentioned_objects(caption, "strict") == ["motorcycle", "cake", "cell phone"]


def test_every_class_is_named_by_its_own_name() -> None:
    assert len(OBJECT_WORDS) == 80
    for name in CLASSES:
        assert name in mentioned_objects(f"There is a {name} in it.")


@pytest.mark.parametrize("seed", range(4))
def test_both_ratios_agree_with_a_count_by_hand(seed: int) -> None:
    rng = random.Random(seed)
    captions, annotated, references, truths, mentions = {}, {}, {}, {}, {}
    for i in range(50):
        name = f"{i}"
        annotated[name] = rng.sample(CLASSES, 4)
        spoken = rng.sample(CLASSES, 2)
        references[name] = [f"a {spoken[0]} , a {spoken[1]} ."]
        truths[name] = {*annotated[name], *spoken}
        mentions[name] = rng.choices([*truths[name], *rng.sample(CLASSES, 3)], k=rng.randrange(5))
        captions[name] = " , ".join(mentions[name])
    wrong = {k: [x for x in v if x not in truths[k]] for k, v in mentions.items()}
    expected = {
        "CHAIRi": sum(map(len, wrong.values())) / sum(map(len, mentions.values())),
        "CHAIRs": sum(bool(x) for x in wrong.values()) / len(wrong),
    }
    compat, strict = (score_hallucination(captions, annotated, references, m) for m in MODES)
    assert compat.scores == pytest.approx(expected)
    recalled = sum(len(set(mentions[k]) & truths[k]) for k in truths)
    expected["object_recall"] = recalled / sum(map(len, truths.values()))
    assert strict.scores == pytest.approx(expected)


def test_a_missing_caption_hallucinates_in_strict_and_unknown_classes_are_refused() -> None:
    annotated = {"a": ["dog"], "b": ["cat"]}
    compat, strict = (score_hallucination({"a": "A dog."}, annotated, {}, m) for m in MODES)
    assert compat.scores == {"CHAIRi": 0, "CHAIRs": 0}
    assert strict.scores == {"CHAIRi": 0, "CHAIRs": 0.5, "object_recall": 0.5}
    with pytest.raises(MetricError, match="a: 'unicorn' is no object class"):
        score_hallucination({}, {"a": ["unicorn"]}, {}, "compat")
