"""Each item is asked once; batches, devices and processes have no say in what is said."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from glamm_jax.data import rle
from glamm_jax.data.record import Record, RecordError
from glamm_jax.evaluation import runner
from glamm_jax.evaluation.item import Item, Prediction
from glamm_jax.evaluation.predict import FAILED, predict
from glamm_jax.evaluation.prediction_files import PREDICTIONS, PredictionError, read_lines, to_line
from glamm_jax.evaluation.runner import PARTS, predict_all
from glamm_jax.inference.chat import Assistant, load
from glamm_jax.inference.generate import DecodeState, Generator
from glamm_jax.metrics.iou import iou
from glamm_jax.parallel import make_mesh
from tests.evaluation.conftest import MODEL, miniworld
from tests.evaluation.truth import right

ROOT = Path(__file__).resolve().parents[2]
QUESTIONS = miniworld("refseg", 2)
TOKENS = 8


def equal(some: Sequence[Prediction], others: Sequence[Prediction]) -> None:
    """The same words, the same masks but for pixels on the edge of rounding."""
    for one, other in zip(some, others, strict=True):
        names = ("id", "raw", "text", "phrases", "phrase_of", "finish", "problems")
        assert [getattr(one, name) for name in names] == [getattr(other, name) for name in names]
        assert len(one.masks) == len(other.masks)
        for mask, also in zip(one.masks, other.masks, strict=True):
            assert iou(mask, also) > 0.98
        np.testing.assert_allclose(one.scores, other.scores, atol=1e-4)


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of `alone`."""
    return tmp_path_factory.mktemp("alone")


@pytest.fixture(scope="module")
def alone(tiny_assistant: Assistant, out: Path) -> list[Prediction]:
    """In one go, on one device."""
    return predict_all(tiny_assistant, QUESTIONS.records, QUESTIONS.items, out, 8, TOKENS)


def test_predictions_come_in_the_order_of_the_items_and_lie_in_one_file(
    alone: list[Prediction], out: Path
) -> None:
    assert [each.id for each in alone] == [item.id for item in QUESTIONS.items]
    found, torn = read_lines(out / PREDICTIONS)
    assert not torn
    assert [each.id for each in found] == [each.id for each in alone]
    assert not (out / PARTS).exists()


def test_the_tiny_model_segments_what_it_is_asked_for_forced_and_free(
    alone: list[Prediction],
) -> None:
    ious = {True: [], False: []}
    for item, said in zip(QUESTIONS.items, alone, strict=True):
        for mask, true in zip(said.masks, item.reference_masks, strict=False):
            ious[bool(item.history)].append(iou(mask, true))
    assert min(len(each) for each in ious.values()) >= 3
    assert all(np.mean(each) > 0.6 for each in ious.values())


def test_the_size_of_a_batch_has_no_say(tiny_assistant: Assistant, alone: list[Prediction]) -> None:
    said = {x.id: x for x in predict(tiny_assistant, QUESTIONS.records, QUESTIONS.items, 2, TOKENS)}
    equal([said[item.id] for item in QUESTIONS.items], alone)


@pytest.mark.slow
def test_rows_lie_on_eight_devices_and_say_what_one_device_says(
    alone: list[Prediction], monkeypatch: pytest.MonkeyPatch
) -> None:
    places: list[set[int]] = []
    original = Generator.prefill

    def watched(*given: Any) -> DecodeState:
        state = original(*given)
        for array, axis in ((state.tokens, 0), (state.cache.keys, 1), (state.prompt_hidden, 0)):
            shards = array.addressable_shards
            places.append({shard.device.id for shard in shards})
            assert {shard.data.shape[axis] for shard in shards} == {array.shape[axis] // 8}
        return state

    monkeypatch.setattr(Generator, "prefill", watched)
    many = load(MODEL, mesh=make_mesh(data=8))
    said = {x.id: x for x in predict(many, QUESTIONS.records, QUESTIONS.items, 8, TOKENS)}
    equal([said[item.id] for item in QUESTIONS.items], alone)
    assert places
    assert all(len(each) == jax.device_count() == 8 for each in places)


# ------------------------------------------------------------------- without a model


class Told:
    """Instead of `ask`: tells the truth, remembers what it was asked, may die."""

    def __init__(self, dies_after: int = 1000):
        self.asked: list[str] = []
        self.left = dies_after

    def __call__(self, _: object, records: object, items: Sequence[Item], *sizes: int):
        for item in items:
            if not self.left:
                raise KeyboardInterrupt
            self.left -= 1
            self.asked.append(item.id)
            yield right(item)


def told(monkeypatch: pytest.MonkeyPatch, out: Path, dies_after: int = 1000) -> Told:
    one = Told(dies_after)
    monkeypatch.setattr(runner, "ask", one)
    predict_all(None, QUESTIONS.records, QUESTIONS.items, out)  # type: ignore[arg-type]  # no model
    return one


@pytest.mark.usefixtures("unchecked")
def test_a_killed_run_goes_on_without_asking_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(KeyboardInterrupt):
        told(monkeypatch, tmp_path, dies_after=5)
    part = tmp_path / PARTS / "0.jsonl"
    part.write_bytes(part.read_bytes()[:-30])  # the kill came in the middle of a line
    again = told(monkeypatch, tmp_path)
    assert again.asked == [item.id for item in QUESTIONS.items[4:]]
    assert "0.jsonl: its last line was cut off" in capsys.readouterr().err
    found, _ = read_lines(tmp_path / PREDICTIONS)
    assert [each.id for each in found] == [item.id for item in QUESTIONS.items]
    assert told(monkeypatch, tmp_path).asked == []


@pytest.mark.usefixtures("unchecked")
def test_parts_of_more_processes_are_taken_over(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    first, *_, last = QUESTIONS.items
    for number, item in enumerate((first, last)):
        part = tmp_path / PARTS / f"{number}.jsonl"
        part.parent.mkdir(exist_ok=True)
        part.write_text(to_line(right(item)))
    assert told(monkeypatch, tmp_path).asked == [item.id for item in QUESTIONS.items[1:-1]]


@pytest.mark.usefixtures("unchecked")
def test_a_file_of_something_else_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / PREDICTIONS).write_text("{}\n")
    with pytest.raises(PredictionError, match=r"predictions.jsonl: line 1: no prediction"):
        told(monkeypatch, tmp_path)


# ------------------------------------------------------------------- pictures that fail


class Broken:
    """Records of which the one before the last is no picture, and the last is not there."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> Record:
        if index == 3:
            raise RecordError("3.jpg: no such picture")
        record = QUESTIONS.records[index]
        return replace(record, image=b"JFIF") if index == 2 else record


def test_what_cannot_be_asked_fails_alone_and_says_why(
    tiny_assistant: Assistant, alone: list[Prediction]
) -> None:
    items = [item for item in QUESTIONS.items if not item.history]
    spoilt = {
        "broken": replace(items[0], id="broken", record=2),
        "missing": replace(items[0], id="missing", record=3),
        "outside": replace(items[0], id="outside", regions=((900.0, 0.0, 910.0, 9.0),)),
        "image": replace(items[0], id="image", prompt="What is <image>?"),
    }
    told = [*predict(tiny_assistant, Broken(), [*spoilt.values(), *items], 8, TOKENS)]
    said = {each.id: each for each in told}
    assert len(told) == len(said) == len(items) + len(spoilt)
    assert {name for name, each in said.items() if each.finish == FAILED} == {*spoilt}
    problems = {name: said[name].problems[0] for name in spoilt}
    assert problems["missing"] == "3.jpg: no such picture"
    assert "not a readable image" in problems["broken"]
    assert "box" in problems["outside"]
    assert "<image>" in problems["image"]
    sound = [each for each in alone if each.id in said]
    equal([said[each.id] for each in sound], sound)


# ------------------------------------------------------------------- processes


@pytest.mark.slow
def test_two_processes_answer_each_item_once_and_as_one(
    alone: list[Prediction], tmp_path: Path
) -> None:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    environment = {k: v for k, v in os.environ.items() if k not in ("XLA_FLAGS", "PYTHONPATH")}
    command = [
        *(sys.executable, "-m", "tests.evaluation.one_process", str(tmp_path), str(port)),
        *("--processes", "2", "--process"),
    ]
    started = [
        subprocess.Popen(
            [*command, str(n)], cwd=ROOT, env=environment,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for n in range(2)
    ]  # fmt: skip
    try:
        output = [process.communicate(timeout=600)[0] for process in started]
        assert not any(process.returncode for process in started), "\n".join(output)
    finally:
        for process in started:
            process.kill()
            process.wait()
    said, _ = read_lines(tmp_path / PREDICTIONS)
    equal(said, alone)
    asked = [json.loads((tmp_path / f"asked-{n}.json").read_text()) for n in range(2)]
    assert Counter(asked[0] + asked[1]) == Counter(item.id for item in QUESTIONS.items)
    assert all(asked)


def test_masks_are_run_lengths_of_the_pictures_size(alone: list[Prediction]) -> None:
    for each in alone:
        assert all(rle.decode(mask).shape == (64, 64) for mask in each.masks)
