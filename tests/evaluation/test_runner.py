"""Each item is predicted once; batches, devices and processes do not change predictions."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest

from glamm_jax.data import rle
from glamm_jax.data.record import Record, RecordError
from glamm_jax.evaluation import runner
from glamm_jax.evaluation.benchmarks import BENCHMARKS
from glamm_jax.evaluation.benchmarks.base import FAILED, Item, Prediction, TextScorers
from glamm_jax.evaluation.evaluation_run import EvaluationRun, GenerationConfig
from glamm_jax.evaluation.items import EvaluationData
from glamm_jax.evaluation.predict import predict
from glamm_jax.evaluation.prediction_files import PREDICTIONS, PredictionError, read_lines, to_line
from glamm_jax.evaluation.runner import PARTS, predict_all
from glamm_jax.evaluation.scores import SCORES, load_scores
from glamm_jax.inference.chat import Assistant, load
from glamm_jax.inference.generate import DecodeState, Generator
from glamm_jax.metrics.iou import iou
from tests.evaluation.conftest import MODEL, miniworld
from tests.evaluation.example_predictions import perfect_prediction
from tests.free_port import free_port

ROOT = Path(__file__).resolve().parents[2]
ITEM_SET = miniworld("refseg", 2)
TOKENS = 8


def assert_equal(some: Sequence[Prediction], others: Sequence[Prediction]) -> None:
    """The same text; the same masks but for logits close to zero."""
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
    return predict_all(tiny_assistant, ITEM_SET.records, ITEM_SET.items, out, 8, TOKENS)


def test_predictions_come_in_the_order_of_the_items_and_lie_in_one_file(
    alone: list[Prediction], out: Path
) -> None:
    assert [each.id for each in alone] == [item.id for item in ITEM_SET.items]
    predictions, is_truncated = read_lines(out / PREDICTIONS)
    assert not is_truncated
    assert [each.id for each in predictions] == [each.id for each in alone]
    assert not (out / PARTS).exists()


def test_the_tiny_model_segments_what_it_is_asked_for_forced_and_free(
    alone: list[Prediction],
) -> None:
    ious = {True: [], False: []}
    for item, prediction in zip(ITEM_SET.items, alone, strict=True):
        for mask, reference in zip(prediction.masks, item.reference_masks, strict=False):
            ious[bool(item.history)].append(iou(mask, reference))
    assert min(len(each) for each in ious.values()) >= 3
    assert all(np.mean(each) > 0.6 for each in ious.values())


def test_the_size_of_a_batch_has_no_say(tiny_assistant: Assistant, alone: list[Prediction]) -> None:
    by_id = {x.id: x for x in predict(tiny_assistant, ITEM_SET.records, ITEM_SET.items, 2, TOKENS)}
    assert_equal([by_id[item.id] for item in ITEM_SET.items], alone)


def check_on_mesh(
    alone: list[Prediction], monkeypatch: pytest.MonkeyPatch, mesh: str, num_rows: int
) -> None:
    """Predict on eight devices of which so many divide the rows; compare with one device."""
    places: list[set[int]] = []
    original = Generator.prefill

    def recording(*arguments: Any) -> DecodeState:
        state = original(*arguments)
        for array, axis in ((state.tokens, 0), (state.cache.keys, 1), (state.prompt_hidden, 0)):
            shards = array.addressable_shards
            places.append({shard.device.id for shard in shards})
            assert {shard.data.shape[axis] for shard in shards} == {array.shape[axis] // num_rows}
        return state

    monkeypatch.setattr(Generator, "prefill", recording)
    many = load(MODEL, mesh=mesh)
    by_id = {x.id: x for x in predict(many, ITEM_SET.records, ITEM_SET.items, 8, TOKENS)}
    assert_equal([by_id[item.id] for item in ITEM_SET.items], alone)
    assert any(prediction.masks for prediction in alone)
    assert places
    assert all(len(each) == jax.device_count() == 8 for each in places)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mesh", "num_rows"), [("data=8", 8), ("fsdp=8", 8), ("tensor=2,data=4", 4)]
)
def test_any_mesh_says_what_one_device_says(
    alone: list[Prediction], monkeypatch: pytest.MonkeyPatch, mesh: str, num_rows: int
) -> None:
    check_on_mesh(alone, monkeypatch, mesh, num_rows)


def test_a_model_that_is_spread_over_eight_devices_says_what_one_device_says(
    alone: list[Prediction], monkeypatch: pytest.MonkeyPatch
) -> None:
    check_on_mesh(alone, monkeypatch, "fsdp=4,tensor=2", 4)


# ------------------------------------------------------------------- without a model


class PerfectPredict:
    """Instead of `predict`: perfect predictions; records the items, and may be interrupted."""

    def __init__(self, num_items: int = 1000):
        self.predicted: list[str] = []
        self.num_items = num_items

    def __call__(self, _: object, records: object, items: Sequence[Item], *sizes: int):
        for item in items:
            if not self.num_items:
                raise KeyboardInterrupt
            self.num_items -= 1
            self.predicted.append(item.id)
            yield perfect_prediction(item)


def run_perfect(
    monkeypatch: pytest.MonkeyPatch, out: Path, num_items: int = 1000
) -> PerfectPredict:
    perfect = PerfectPredict(num_items)
    monkeypatch.setattr(runner, "predict", perfect)
    nobody: Any = SimpleNamespace(mesh=None)
    predict_all(nobody, ITEM_SET.records, ITEM_SET.items, out)
    return perfect


@pytest.mark.usefixtures("unchecked")
def test_a_killed_run_goes_on_without_asking_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(KeyboardInterrupt):
        run_perfect(monkeypatch, tmp_path, num_items=5)
    part = tmp_path / PARTS / "0.jsonl"
    part.write_bytes(part.read_bytes()[:-30])  # the kill came in the middle of a line
    again = run_perfect(monkeypatch, tmp_path)
    assert again.predicted == [item.id for item in ITEM_SET.items[4:]]
    assert "0.jsonl: the last line was truncated" in capsys.readouterr().err
    predictions, _ = read_lines(tmp_path / PREDICTIONS)
    assert [each.id for each in predictions] == [item.id for item in ITEM_SET.items]
    assert run_perfect(monkeypatch, tmp_path).predicted == []


@pytest.mark.usefixtures("unchecked")
def test_parts_of_more_processes_are_taken_over(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    first, *_, last = ITEM_SET.items
    for number, item in enumerate((first, last)):
        part = tmp_path / PARTS / f"{number}.jsonl"
        part.parent.mkdir(exist_ok=True)
        part.write_text(to_line(perfect_prediction(item)))
    assert run_perfect(monkeypatch, tmp_path).predicted == [
        item.id for item in ITEM_SET.items[1:-1]
    ]


@pytest.mark.usefixtures("unchecked")
def test_a_file_of_something_else_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / PREDICTIONS).write_text("{}\n")
    with pytest.raises(PredictionError, match=r"predictions.jsonl: line 1: not a prediction"):
        run_perfect(monkeypatch, tmp_path)


# ------------------------------------------------------------------- images that fail


class Broken:
    """Records of which the one before the last is no picture, and the last is not there."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> Record:
        if index == 3:
            raise RecordError("3.jpg: no such image")
        record = ITEM_SET.records[index]
        return replace(record, image=b"JFIF") if index == 2 else record


def test_what_cannot_be_asked_fails_alone_and_says_why(
    tiny_assistant: Assistant, alone: list[Prediction]
) -> None:
    items = [item for item in ITEM_SET.items if not item.history]
    broken = {
        "broken": replace(items[0], id="broken", record=2),
        "missing": replace(items[0], id="missing", record=3),
        "outside": replace(items[0], id="outside", regions=((900.0, 0.0, 910.0, 9.0),)),
        "image": replace(items[0], id="image", prompt="What is <image>?"),
    }
    predictions = [*predict(tiny_assistant, Broken(), [*broken.values(), *items], 8, TOKENS)]
    by_id = {each.id: each for each in predictions}
    assert len(predictions) == len(by_id) == len(items) + len(broken)
    assert {name for name, each in by_id.items() if each.finish == FAILED} == {*broken}
    problems = {name: by_id[name].problems[0] for name in broken}
    assert problems["missing"] == "3.jpg: no such image"
    assert "not a readable image" in problems["broken"]
    assert "box" in problems["outside"]
    assert "<image>" in problems["image"]
    valid = [each for each in alone if each.id in by_id]
    assert_equal([by_id[each.id] for each in valid], valid)


# ------------------------------------------------------------------- processes


def run_two_processes(folder: Path, *options: str, devices: int = 1) -> list[list[str]]:
    """Run the program in two processes with as many devices each; return what each predicts."""
    environment = os.environ | {"XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"}
    command = [
        *("refseg", "--model", str(MODEL), "--data", "miniworld/easy@64", "--split", "test"),
        *("--limit", "2", "--tokens", str(TOKENS), "--out", str(folder / "out"), *options),
        *("--coordinator", f"localhost:{free_port()}", "--processes", "2", "--process"),
    ]
    program = [sys.executable, "-m", "tests.evaluation.one_process"]
    records = [folder / f"predicted-{n}.json" for n in range(2)]
    started = [
        subprocess.Popen(
            [*program, str(records[n]), *command, str(n)], cwd=ROOT, env=environment,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for n in range(2)
    ]  # fmt: skip
    try:
        output = [process.communicate(timeout=1200)[0] for process in started]
        assert not any(process.returncode for process in started), "\n".join(output)
    finally:
        for process in started:
            process.kill()
            process.wait()
    return [json.loads(record.read_text()) for record in records]


@pytest.mark.slow
def test_two_processes_answer_each_item_once_and_as_one(
    alone: list[Prediction], tmp_path: Path
) -> None:
    predicted = run_two_processes(tmp_path)
    predictions, _ = read_lines(tmp_path / "out" / PREDICTIONS)
    assert_equal(predictions, alone)
    assert Counter(predicted[0] + predicted[1]) == Counter(item.id for item in ITEM_SET.items)
    assert all(predicted)


@pytest.mark.slow
def test_two_processes_with_one_sharded_model_give_the_scores_of_one_process(
    alone: list[Prediction], tmp_path: Path
) -> None:
    sharded, single = tmp_path / "sharded", tmp_path / "single"
    sharded.mkdir()
    predicted = run_two_processes(sharded, "--mesh", "fsdp=2,tensor=2", devices=2)
    predictions, _ = read_lines(sharded / "out" / PREDICTIONS)
    assert_equal(predictions, alone)
    assert {*predicted[0]} == {item.id for item in ITEM_SET.items}
    assert predicted[0] == predicted[1]  # together
    assert not (sharded / "out" / PARTS).exists()
    run = EvaluationRun(
        BENCHMARKS["refseg"],
        EvaluationData("miniworld/easy@64", "test", limit=2),
        single,
        GenerationConfig("ours"),
    )
    expected = run.score({each.id: each for each in alone}, TextScorers()).modes
    modes = load_scores(sharded / "out" / SCORES).modes
    for mode, result in expected.items():
        assert modes[mode].scores == pytest.approx(result.scores, abs=0.01)
    config = json.loads((sharded / "out" / "config.json").read_text())
    assert (config["devices"], config["processes"]) == (4, 2)


def test_masks_are_run_lengths_of_the_pictures_size(alone: list[Prediction]) -> None:
    for each in alone:
        assert all(rle.decode(mask).shape == (64, 64) for mask in each.masks)
