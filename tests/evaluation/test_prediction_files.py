"""Predictions are read back from our file and the original's; problems are named."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from glamm_jax.data import rle
from glamm_jax.evaluation.benchmarks import gcg
from glamm_jax.evaluation.benchmarks.base import Item, Prediction
from glamm_jax.evaluation.benchmarks.generated_text import clean_as_original, write_caption_list
from glamm_jax.evaluation.prediction_files import (
    BROKEN_MASK,
    REPEATED,
    UNKNOWN,
    UNREADABLE,
    PredictionError,
    from_line,
    read_lines,
    read_predictions,
    to_line,
    write_lines,
)

MASK = rle.encode(np.eye(4, 5, dtype=bool))
FIRST = Prediction(
    "sa_1", "sa_1", "A dog runs.", "<p> A dog </p> [SEG] runs.",
    phrases=("A dog",), masks=(MASK, MASK), phrase_of=(0, -1), scores=(0.5, 0.25),
    problems=("[SEG] 1 belongs to no phrase",),
)  # fmt: skip
SECOND = Prediction("sa_2", "sa_2", "Nothing.", "Nothing.")
ITEMS = [Item(name, name, i, "?") for i, name in enumerate(("sa_1", "sa_2", "sa_3"))]


def test_our_lines_hold_everything(tmp_path: Path) -> None:
    write_lines(tmp_path / "all.jsonl", [FIRST, SECOND])
    predictions, is_truncated = read_lines(tmp_path / "all.jsonl")
    assert [asdict(each) for each in predictions] == [asdict(FIRST), asdict(SECOND)]
    assert not is_truncated


def test_a_torn_last_line_is_left_out_and_a_broken_one_is_named(tmp_path: Path) -> None:
    path = tmp_path / "all.jsonl"
    path.write_text(to_line(FIRST) + to_line(SECOND)[:-20])
    predictions, is_truncated = read_lines(path)
    assert [each.id for each in predictions] == ["sa_1"]
    assert is_truncated
    path.write_text("{}\n" + to_line(FIRST))
    with pytest.raises(PredictionError, match=r"all.jsonl: line 1: not a prediction"):
        read_lines(path)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"phrase_of": [0]}, "for each of 2 masks"),
        ({"phrase_of": [0, 1]}, "for each of 2 masks"),
        ({"scores": [0.5]}, "1 scores of 2 masks"),
    ],
)
def test_lines_that_contradict_themselves_are_refused(change: dict, problem: str) -> None:
    with pytest.raises(PredictionError, match=problem):
        from_line(json.dumps(asdict(FIRST) | change))


def cleaned(decoded: str) -> tuple[str, list[str]]:
    """The cleaning of eval/gcg/infer.py, step by step."""
    text = decoded.replace("\n", "").replace("  ", " ").split("ASSISTANT: ")[-1]
    phrases = [phrase.strip() for phrase in re.findall(r"<p>(.*?)<\/p>", text)]
    clean = re.sub(r"<.*?>", "", text).replace("[SEG]", "")
    return " ".join(clean.split()).strip("'").strip(), phrases


@pytest.mark.parametrize(
    "raw",
    [
        "<p> A dog </p> [SEG] and <p>a  cat</p>[SEG] .",
        "'<p> A dog </p> [SEG] runs\nfast.'",
        "<p> A dog <p> two </p> [SEG] </p> <image> here",
        "no phrase at all",
        "<p></p> [SEG] [SEG] ASSISTANT: <p> b </p>",
    ],
)
def test_caption_and_phrases_are_cleaned_as_the_original_cleans_them(raw: str) -> None:
    caption, phrases = clean_as_original(replace(FIRST, raw=raw))
    assert (caption, list(phrases)) == cleaned(raw)


def test_a_folder_of_the_original_comes_back(tmp_path: Path) -> None:
    gcg.export(tmp_path / "predictions", [FIRST, SECOND])
    content = json.loads((tmp_path / "predictions" / "sa_1.json").read_text())
    assert content == {
        "image_id": "sa_1",
        "caption": "A dog runs.",
        "phrases": ["A dog"],
        "pred_masks": [MASK, MASK],
    }
    read = read_predictions(tmp_path / "predictions", ITEMS)
    assert [*read.predictions] == ["sa_1", "sa_2"]
    assert not read.notes
    first = read.predictions["sa_1"]
    assert (first.text, first.phrases, first.masks) == (FIRST.text, FIRST.phrases, FIRST.masks)
    assert first.phrase_of == (0, -1)


def test_one_more_key_around_a_prediction_is_taken_off(tmp_path: Path) -> None:
    inner = {"caption": "A dog.", "phrases": [], "pred_masks": []}
    (tmp_path / "sa_2.json").write_text(json.dumps({"anything": inner}))
    assert read_predictions(tmp_path, ITEMS).predictions["sa_2"].text == "A dog."


def test_what_is_wrong_in_a_folder_is_named_and_costs_itself_alone(tmp_path: Path) -> None:
    gcg.export(tmp_path, [FIRST, replace(SECOND, id="sa_9", image_id="sa_9")])
    (tmp_path / "sa_2.json").write_text('{"image_id": "sa_2", "capt')
    broken = {"caption": "", "phrases": [], "pred_masks": [{"size": [4, 5], "counts": "?"}]}
    (tmp_path / "sa_3.json").write_text(json.dumps(broken))
    read = read_predictions(tmp_path, ITEMS)
    assert [*read.predictions] == ["sa_1", "sa_3"]
    assert read.notes == {UNREADABLE: ["sa_2.json"], BROKEN_MASK: ["sa_3"], UNKNOWN: ["sa_9"]}


def test_captions_of_regions_go_into_one_list_and_several_files_are_read(tmp_path: Path) -> None:
    items = [Item(str(i), str(i), i, "?") for i in (1, 2)]
    predictions = [Prediction("1", "1", "a dog"), Prediction("2", "2", "a cat")]
    write_caption_list(tmp_path / "rank_0.json", predictions[:1])
    write_caption_list(tmp_path / "rank_1.json", predictions)
    assert json.loads((tmp_path / "rank_0.json").read_text()) == [
        {"image_id": 1, "caption": "a dog"}
    ]
    read = read_predictions(tmp_path, items)
    assert {name: each.text for name, each in read.predictions.items()} == {
        "1": "a dog",
        "2": "a cat",
    }
    assert read.notes == {REPEATED: ["1"]}


def test_predictions_for_other_items_or_none_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(PredictionError, match="no such file or folder"):
        read_predictions(tmp_path / "absent", ITEMS)
    with pytest.raises(PredictionError, match=r"contains neither predictions.jsonl nor any"):
        read_predictions(tmp_path, ITEMS)
    gcg.export(tmp_path, [replace(SECOND, image_id="other")])
    with pytest.raises(PredictionError, match=r"for any of 3 items \(1 unknown prediction\)"):
        read_predictions(tmp_path, ITEMS)


BARE = [{"image_id": "sa_1", "caption": "A dog."}, {"image_id": "sa_2", "caption": "A cat."}]


@pytest.mark.parametrize("name", ["all.json", "all.jsonl", "all.txt"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("extension", ["", ".jpg", ".PNG"])
def test_lines_of_the_original_s_layout_are_read(
    tmp_path: Path, name: str, mark: str, extension: str
) -> None:
    entries = [x | {"image_id": x["image_id"] + extension} for x in BARE]
    text = mark + "\r\n".join(map(json.dumps, entries)) + "\r\n"
    (tmp_path / name).write_text(text, encoding="utf-8")
    read = read_predictions(tmp_path / name, ITEMS)
    assert {key: x.text for key, x in read.predictions.items()} == {
        "sa_1": "A dog.",
        "sa_2": "A cat.",
    }
    assert not read.notes
    (tmp_path / name).write_text(text + "{broken\n", encoding="utf-8")
    assert read_predictions(tmp_path / name, ITEMS).notes == {UNREADABLE: [name]}


def test_our_lines_and_files_of_the_original_may_begin_with_a_mark(tmp_path: Path) -> None:
    text = "\ufeff" + to_line(FIRST) + to_line(SECOND)
    (tmp_path / "predictions.jsonl").write_text(text, encoding="utf-8")
    read = read_predictions(tmp_path, ITEMS)
    assert [asdict(x) for x in read.predictions.values()] == [asdict(FIRST), asdict(SECOND)]
    content = json.dumps({"caption": "A dog.", "phrases": [], "pred_masks": []})
    (tmp_path / "sa_2.jpg.json").write_text("\ufeff" + content, encoding="utf-8")
    assert [*read_predictions(tmp_path / "sa_2.jpg.json", ITEMS).predictions] == ["sa_2"]


def test_items_may_have_extensions_that_predictions_lack(tmp_path: Path) -> None:
    items = [Item("sa_1.jpg", "sa_1.jpg", 0, "?"), Item("x.png", "x.png", 1, "?")]
    items += [Item("x.jpg", "x.jpg", 2, "?")]  # "x" alone is neither
    entries = [*BARE, {"image_id": "x", "caption": "It."}]
    (tmp_path / "all.json").write_text(json.dumps(entries))
    read = read_predictions(tmp_path / "all.json", items)
    assert [*read.predictions] == ["sa_1.jpg"]
    assert read.notes == {UNKNOWN: ["sa_2", "x"]}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"id": 1}, "id = 1 is not a text"),
        ({"text": None}, "no field 'text'"),
        ({"phrases": ["dog", 2]}, "phrases is not a list of texts"),
        ({"phrase_of": [True]}, "phrase_of is not a list of whole numbers"),
        ({"scores": ["0.5"]}, "scores is not a list of numbers"),
        ({"masks": [[]], "phrase_of": [-1]}, "is not an object"),
        (
            {"masks": [{"size": [2, 2], "counts": [1 << 63, 1]}], "phrase_of": [-1]},
            "counts must be",
        ),
        ({"problems": [[[]]]}, "problems is not a list of texts"),
    ],
)
def test_a_line_with_a_field_of_another_type_is_named(tmp_path, changes, message):
    path = tmp_path / "predictions.jsonl"
    valid = {"id": "1", "image_id": "1", "text": "A dog."}
    path.write_text(json.dumps(valid) + "\n" + json.dumps(valid | changes) + "\n")
    with pytest.raises(PredictionError, match=r"line 2: not a prediction: .*" + message):
        read_lines(path)
