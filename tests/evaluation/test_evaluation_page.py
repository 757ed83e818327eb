"""The report of an evaluation shows metrics, the best and worst items, and all problems."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from glamm_jax.data import rle
from glamm_jax.evaluation.benchmarks import BENCHMARKS
from glamm_jax.evaluation.benchmarks.base import Item, Prediction
from glamm_jax.evaluation.evaluation_page import MAX_ITEMS, write_report
from glamm_jax.evaluation.item_cards import MAX_SIDE, make_cards
from glamm_jax.evaluation.item_scores import item_values, rank_items
from glamm_jax.metrics.result import MetricResult, Mode
from glamm_jax.report.html_page import Card
from tests.evaluation.scene_items import (
    example_result,
    perfect_answer,
    scene_image,
    scene_items,
    shifted_answer,
)

CONFIG = {
    "benchmark": "gcg",
    "split": "val",
    "model": Path("tiny <weights>"),
    "versions": {"jax": "1"},
}


@pytest.fixture(scope="module")
def items() -> list[Item]:
    return scene_items(5)


@pytest.fixture(scope="module")
def predictions(items: list[Item]) -> list[Prediction]:
    return [perfect_answer(items[0]), *(shifted_answer(item, 6) for item in items[1:])]


def _page(
    folder: Path,
    items: Sequence[Item],
    predictions: Sequence[Prediction],
    scored: dict[Mode, MetricResult],
    config: Any = CONFIG,
) -> str:
    path, gcg = folder / "report.html", BENCHMARKS["gcg"]
    write_report(path, gcg, config, items, predictions, scored, scene_image)
    return (folder / "report.html").read_text("utf-8")


def _words(html: str) -> str:
    return re.sub(r"<style>.*?</style>|<[^>]*>", " ", html, flags=re.DOTALL)


def test_figures_of_both_modes_stand_beside_the_papers(
    tmp_path: Path, items: list[Item], predictions: list[Prediction]
) -> None:
    scored = example_result(items, predictions)
    strict = replace(scored, scores={**scored.scores, "AP50": 0.125})
    text = _words(_page(tmp_path, items, predictions, {"compat": scored, "strict": strict}))
    for expected in (
        "ours, compat",
        "ours, strict",
        "GLaMM (fine-tuned, table 3)",
        "0.308",
        "0.125",
    ):
        assert expected in text
    assert f"{0.125 - scored.scores['AP50']:,.4g}" in text
    # The difference of the modes is explained only for a metric that differs.
    assert "every mask has score 1" in text
    assert "greedy pairs" not in text
    assert "tiny &lt;weights&gt;" in text
    assert "versions.jax = &quot;1&quot;" in text


def test_every_item_is_shown_once_the_best_first_among_the_best(
    tmp_path: Path, items: list[Item], predictions: list[Prediction]
) -> None:
    scored = example_result(items, predictions)
    page = _page(tmp_path, items, predictions, {"compat": scored})
    titles = re.findall(r"<h3>(scene \d) mIoU (\d\.\d+)</h3>", page)
    assert sorted(name for name, _ in titles) == [item.id for item in items]
    values = [float(value) for _, value in titles]
    assert values[:2] == sorted(values[:2])
    assert values[2:] == sorted(values[2:], reverse=True)
    assert max(values[:2]) <= min(values[2:])
    assert titles[2] == ("scene 0", "1.000")


def test_a_large_run_shows_few_items(tmp_path: Path, items: list[Item]) -> None:
    many = [replace(items[i % 5], id=f"item {i}") for i in range(60)]
    predictions = [perfect_answer(item) for item in many]
    each = {item.id: {"mIoU": i / 60} for i, item in enumerate(many)}
    page = _page(tmp_path, many, predictions, {"strict": MetricResult({"mIoU": 0.5}, each)})
    titles = re.findall(r"<h3>(item \d+) ", page)
    worst = [f"item {i}" for i in range(MAX_ITEMS)]
    assert titles == worst + [f"item {i}" for i in range(59, 59 - MAX_ITEMS, -1)]


def test_what_is_irregular_is_counted_by_kind_and_named(
    tmp_path: Path, items: list[Item], predictions: list[Prediction]
) -> None:
    failed = replace(items[0], id="gone")
    cut = replace(items[0], id="cut")
    forced = replace(items[0], id="forced", history=(("What?", "It is [SEG]."),))
    scored = example_result(items, predictions)
    predictions = [
        *predictions,
        Prediction("gone", "x", "", finish="failed", problems=("cannot be read: '/a/b.jpg'",)),
        Prediction("cut", "x", "A", finish="length"),
        Prediction("forced", "x", "A", finish="length"),
    ]
    text = _words(_page(tmp_path, [*items, failed, cut, forced], predictions, {"compat": scored}))
    assert re.search(r"phrase … … has no \[SEG\]\s+4\b", text)
    assert re.search(r"cannot be read: …\s+1\b", text)
    assert re.search(r"ended by its maximum length\s+1\b", text)
    assert re.search(r"missing prediction\s+1\b", text)
    assert re.search(r"\b6\s+predictions with problems", text)


def test_a_run_without_items_or_figures_is_a_page_too(tmp_path: Path, items: list[Item]) -> None:
    nothing = _words(_page(tmp_path, [], [], {"compat": MetricResult({})}, {}))
    assert re.search(r"\b0\s+items", nothing)
    only = _page(tmp_path, items, [], {"compat": MetricResult({"AP": 0.5})})
    assert _words(only).count("no prediction") == len(items)
    assert re.search(r"\b5\s+items without a prediction", _words(only))


def _cards(item: Item, prediction: Prediction | None) -> tuple[Card, Card]:
    return make_cards(item, prediction, scene_image, "title", show_prompt=False)


def _phrases(card: Card, speaker: str) -> dict[int, str]:
    (line,) = [line for line in card.lines if line.speaker == speaker]
    return {mark.colour: line.text[mark.start : mark.end] for mark in line.marks}


def test_the_same_thing_has_the_same_colour_in_any_order(items: list[Item]) -> None:
    item, answer = items[0], perfect_answer(items[0])
    order = range(len(answer.masks))[::-1]
    shuffled = replace(
        answer,
        masks=tuple(answer.masks[i] for i in order),
        phrase_of=tuple(answer.phrase_of[i] for i in order),
    )
    prediction, reference = _cards(item, shuffled)
    # Two objects may share a phrase, which has one colour.
    phrases = _phrases(reference, "reference")
    assert len(phrases) == len({*item.reference_phrases}) > 3
    assert phrases.items() <= dict(enumerate(item.reference_phrases)).items()
    assert set(_phrases(prediction, "prediction").values()) == set(phrases.values())
    for mask, expected in zip(prediction.masks, reference.masks, strict=True):
        np.testing.assert_array_equal(mask, expected)


def test_a_mask_that_is_nowhere_true_has_a_colour_of_its_own(items: list[Item]) -> None:
    item = replace(
        items[0], reference_masks=items[0].reference_masks[:1], reference_phrases=("it",)
    )
    far = rle.encode(~rle.decode(item.reference_masks[0]))
    answer = Prediction(
        item.id, "", "a far thing", phrases=("far thing",), masks=(far,), phrase_of=(0,)
    )
    prediction, _ = _cards(item, answer)
    assert prediction.masks[0] is None
    assert _phrases(prediction, "prediction") == {1: "far thing"}


def test_large_pictures_are_small_with_their_masks_and_boxes() -> None:
    mask = np.zeros((1500, 3000), bool)
    mask[:, 1500:] = True
    item = Item(
        "x",
        "x",
        0,
        "?",
        regions=((300.0, 0.0, 600.0, 1500.0),),
        reference_masks=(rle.encode(mask),),
    )
    image = np.zeros((1500, 3000, 3), np.uint8)
    prediction, reference = make_cards(item, None, lambda _: image, "", show_prompt=True)
    assert prediction.image.shape == (MAX_SIDE // 2, MAX_SIDE, 3)
    (small,) = reference.masks
    assert small is not None
    assert small.shape == (MAX_SIDE // 2, MAX_SIDE)
    assert small[:, MAX_SIDE // 2 :].all()
    assert not small[:, : MAX_SIDE // 2].any()
    assert [*prediction.boxes_xyxy_pixel][-1] == (32.0, 0.0, 64.0, 160.0)
    assert prediction.lines[0].text == "?"


def test_pictures_and_masks_that_cannot_be_read_are_told_not_fatal(items: list[Item]) -> None:
    def absent(item: Item) -> np.ndarray:
        raise FileNotFoundError(f"{item.image_id}.jpg is not there")

    broken = replace(
        perfect_answer(items[0]), masks=({"size": [4, 4], "counts": "~"},), phrase_of=(0,)
    )
    prediction, _ = make_cards(items[0], broken, absent, "", show_prompt=False)
    assert "scene 0.jpg is not there" in prediction.lines[-1].text
    assert not any(mask is not None and mask.any() for mask in prediction.masks)


def test_an_items_own_value_is_its_column_or_the_ratio_of_its_columns() -> None:
    each = {
        "a": {"mIoU": 0.5, "hit": 1.0, "of": 2.0},
        "b": {"mIoU": float("nan"), "hit": 0.0, "of": 0.0},
        "c": {},
    }
    scored = MetricResult({"AP": 0.1, "recall": 0.5, "mIoU": 0.5}, each, {"recall": ("hit", "of")})
    assert item_values(scored, "recall") == {"a": 0.5}
    assert item_values(scored, "mIoU") == {"a": 0.5}
    assert item_values(scored, "AP") == {}
    assert item_values(MetricResult({"METEOR": 0.1}, {"a": {"METEOR_alone": 0.3}}), "METEOR") == {
        "a": 0.3
    }


def test_items_are_ranked_by_the_definition_and_the_first_figure_that_tells_them_apart() -> None:
    each = {"a": {"mIoU": 0.5, "CIDEr": 3.0}}
    compat = MetricResult({"AP": 0.1, "CIDEr": 3.0, "mIoU": 0.5}, each)
    strict = MetricResult({"AP": 0.1, "CIDEr": 2.0}, {"a": {"CIDEr": 2.0}})
    assert rank_items({"compat": compat}) == ("compat", "mIoU", {"a": 0.5})
    assert rank_items({"compat": compat, "strict": strict}) == ("strict", "CIDEr", {"a": 2.0})
    assert rank_items({"compat": compat, "strict": MetricResult({"AP": 0.1})}) == (
        "compat",
        "mIoU",
        {"a": 0.5},
    )
    assert rank_items({"strict": MetricResult({"AP": 0.1})}) is None
