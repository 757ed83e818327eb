"""`glamm-jax ask --images`: answers about a folder, interrupted and resumed, in all formats."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from pycocotools import mask as coco
from pycocotools.coco import COCO

import glamm_jax
from glamm_jax.cli.ask import SCENE_SEED, SCENE_SIZE, main
from glamm_jax.evaluation import runner
from glamm_jax.evaluation.benchmarks.base import Prediction
from glamm_jax.miniworld import EASY, render_scene

MODEL = "checkpoints/miniworld-tiny"


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three scenes, one of them in a folder, and a file that is no image."""
    folder = tmp_path_factory.mktemp("images")
    (folder / "inner").mkdir()
    for number, name in enumerate(("a.png", "b.png", "inner/c.png")):
        pixels = render_scene(SCENE_SEED, number, SCENE_SIZE, EASY).image
        Image.fromarray(pixels).save(folder / name)
    (folder / "broken.jpg").write_bytes(b"no image")
    (folder / ".hidden").touch()
    return folder


def ask(images: Path, out: Path, *more: str) -> int:
    arguments = ["--images", str(images), "--out", str(out), "--tokens", "64", "--batch", "2"]
    return main([*arguments, *more])


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_every_image_has_the_answer_of_chat_and_a_bad_one_ends_nothing(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ask(images, tmp_path / "answers.jsonl") == 0
    printed = capsys.readouterr().out
    assert "4 questions about 4 images" in printed
    assert "not taken: .hidden: hidden" in printed
    assert "3 answers, 1 failed" in printed
    assert "failed: broken.jpg#0: 8 bytes: not a readable image" in printed
    answers = {line["image"]: line for line in lines(tmp_path / "answers.jsonl")}
    assert [*answers] == ["a.png", "b.png", "broken.jpg", "inner/c.png"]
    assert answers["broken.jpg"]["finish"] == "failed"
    assert "not a readable image" in answers["broken.jpg"]["problems"][0]
    assistant = glamm_jax.load(MODEL)
    for name in ("a.png", "inner/c.png"):
        line = answers[name]
        expected = assistant.chat(images / name, line["question"], max_tokens=64).to_json()
        assert line["text"] == expected["text"]
        assert line["raw"] == expected["raw"]
        assert len(line["groundings"]) == len(expected["groundings"]) > 0
        for found, wanted in zip(line["groundings"], expected["groundings"], strict=True):
            same = ("phrase", "start", "end")
            assert [found[key] for key in same] == [wanted[key] for key in same]
            assert coco.iou([found["mask"]], [wanted["mask"]], [0])[0, 0] > 0.99
            assert found["area"] == pytest.approx(wanted["area"], rel=0.01)


def test_an_interrupted_run_resumes_and_adds_formats(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    ended: list[bool] = []
    predict = runner.predict

    def interrupted(*arguments: Any) -> Any:
        for prediction in predict(*arguments):
            asked.append(prediction.id)
            yield prediction
            if len(asked) == 2 and not ended:
                ended.append(True)
                raise KeyboardInterrupt

    monkeypatch.setattr(runner, "predict", interrupted)
    out = tmp_path / "answers"
    expressions = ["--task", "refer", "--expression", "the circle", "--expression", "the sky"]
    assert ask(images, out, *expressions) == 130
    formats = ["--format", "jsonl", "coco", "label-studio", "parquet"]
    assert ask(images, out, *expressions, *formats) == 0
    answers = lines(tmp_path / "answers.jsonl")
    assert len(answers) == 8
    answered = [line["id"] for line in answers if line["finish"] != "failed"]
    assert sorted(name for name in asked if name in answered) == sorted(answered)  # each once

    instances = COCO(str(next((tmp_path / "answers-coco").rglob("*instances*.json"))))
    assert {x["name"] for x in instances.cats.values()} == {"the circle", "the sky"}
    masks = [x for line in answers for x in line["groundings"] if x["area"]]
    assert len(instances.anns) == len(masks) > 0
    assert (tmp_path / "answers-label-studio" / "tasks-00000.json").is_file()
    assert [*(tmp_path / "answers-parquet").rglob("*.parquet")]

    asked.clear()
    assert ask(images, out, *expressions) == 0
    assert {*asked} == {"broken.jpg#0", "broken.jpg#1"}  # only what failed is asked again


def test_boxes_and_their_images_come_from_a_file(images: Path, tmp_path: Path) -> None:
    file = tmp_path / "boxes.jsonl"
    box = [4, 4, 40, 40]
    file.write_text(json.dumps({"image": "b.png", "boxes": [box, [0, 0, 20, 20]]}) + "\n")
    assert ask(images, tmp_path / "regions", "--task", "region", "--questions", str(file)) == 0
    first, second = lines(tmp_path / "regions.jsonl")
    assert first["regions_xyxy_pixel"] == [box]
    assistant = glamm_jax.load(MODEL)
    expected = assistant.chat(images / "b.png", first["question"], regions=[box], max_tokens=64)
    assert first["text"] == expected.text
    assert second["finish"] != "failed"


@pytest.mark.parametrize(
    ("task", "line", "message"),
    [
        ("region", {"image": "b.png", "boxes": [[1, 2, 3]]}, "is not a box"),
        ("region", {"image": "b.png", "boxes": []}, "boxes is empty"),
        ("refer", {"image": "b.png", "boxes": [[1, 2, 3, 4]]}, "boxes: unknown for the task refer"),
        ("refer", {"image": "b.png", "expressions": [""]}, "is not an expression"),
        ("refer", {"image": "../b.png", "expressions": ["x"]}, "b.png"),
        ("gcg", {"image": "absent.png"}, "absent.png"),
        ("gcg", [], "line 1"),
    ],
)
def test_a_file_of_questions_that_cannot_be_used_is_named(
    images: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    task: str,
    line: object,
    message: str,
) -> None:
    file = tmp_path / "questions.jsonl"
    file.write_text(json.dumps(line) + "\n")
    assert ask(images, tmp_path / "out", "--task", task, "--questions", str(file)) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out.jsonl").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--task", "region"], "needs the boxes of each image"),
        (["--task", "refer"], "needs --expression TEXT"),
        (["--expression", "a dog"], "is for the task refer"),
        (["--temperature", "0.5"], "--temperature is for a single image"),
        (["--batch", "0"], "at least 1"),
        (["--prompt", "What is {this}?"], "braces"),
    ],
)
def test_options_that_do_not_fit_are_named_before_the_model_is_loaded(
    images: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    message: str,
) -> None:
    assert ask(images, tmp_path / "out", "--model", "absent", *options) == 2
    assert message in capsys.readouterr().err


def test_answers_of_another_question_are_not_mixed(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def answers(*arguments: Any) -> Any:
        yield from (Prediction(item.id, item.image_id, "x") for item in arguments[2])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner, "predict", answers)
        assert ask(images, tmp_path / "out", "--task", "caption") == 0
        assert ask(images, tmp_path / "out", "--task", "caption", "--prompt", "What is it?") == 2
    assert "answers of another configuration: prompt was" in capsys.readouterr().err
