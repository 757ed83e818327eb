"""The demo answers, paints, and says what it cannot use."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from convert.__main__ import main as convert
from demo import ask
from demo.__main__ import main
from glamm_jax.parity.golden_folder import GoldenSource, write_checkpoint
from glamm_jax.weights.glamm import CLIP_PREFIX
from glamm_jax.weights.tables import table_of
from tests.weights.checkpoints import CONFIG, TOKENIZER, all_shapes, described, write_clip


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (60, 100, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "picture.png")
    return tmp_path / "picture.png"


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr("sys.argv", ["demo", *map(str, arguments)])
    return main()


def test_a_region_and_a_phrase_give_an_answer_and_a_picture(
    picture: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    question = "Is <p> the roof </p> [SEG] in region1 <bbox>?"
    out = tmp_path / "out" / "answer"
    box = ("--box", 10, 6, 50, 30)
    given = ("--image", picture, "--prompt", question, *box, "--tokens", 2, "--out", out)
    assert run(monkeypatch, *given) == 0
    with Image.open(tmp_path / "out" / "answer.png") as painted:
        assert painted.format == "PNG"
        assert painted.width >= 100
    read = json.loads((tmp_path / "out" / "answer.json").read_text("utf-8"))
    assert read["regions_xyxy_pixel"] == [[10.0, 6.0, 50.0, 30.0]]
    assert read["prompt_groundings"][0]["mask"]["size"] == [60, 100]
    printed = capsys.readouterr().out
    assert read["text"] in printed
    assert "question  the roof: " in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--image", "nowhere.png"), "nowhere.png: no such file"),
        (("--box", 50, 30, 10, 6), "box 0 (50.0, 30.0, 10.0, 6.0) is inverted"),
        (("--box", 10, 6, 50, 30), "number of <bbox> in the prompt: 0; number of boxes: 1"),
        (("--prompt", " "), "the prompt is empty"),
        (("--tokens", 0), "max_tokens is 0"),
        (("--top-p", 2), "top_p: above 0 and at most 1"),
    ],
)
def test_what_cannot_be_used_is_said_in_one_line(
    arguments: tuple,
    message: str,
    picture: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(monkeypatch, "--image", picture, *arguments) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("demo: ")
    assert message in printed.err
    assert printed.err.count("\n") == 1
    assert not Path("out/demo.png").exists()


def test_a_folder_without_a_model_is_said_in_one_line(
    picture: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ("--model", picture.parent, "--image", picture, "--prompt", "What is this?")
    monkeypatch.setattr("sys.argv", ["demo.ask", *map(str, given)])
    assert ask.main() == 2
    printed = capsys.readouterr()
    assert "no model folder" in printed.err
    assert (printed.err.count("\n"), printed.out) == (1, "")


def test_a_model_that_is_asked_must_be_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["demo.ask", "--image", "x.png", "--prompt", "What?"])
    with pytest.raises(SystemExit):
        ask.main()
    assert "--model" in capsys.readouterr().err


def test_a_converted_checkpoint_answers_as_the_model_in_memory(
    picture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = {n: s for n, s in all_shapes(CONFIG).items() if not n.startswith(CLIP_PREFIX)}
    source = GoldenSource(held, table_of(CONFIG))
    write_checkpoint(source, tmp_path / "glamm", described(), tokenizer=TOKENIZER)
    write_clip(tmp_path / "clip")
    given = ["from-torch", tmp_path / "glamm", "--clip", tmp_path / "clip", "--out", tmp_path / "m"]
    assert convert([str(each) for each in given]) == 0
    question = ("--image", picture, "--prompt", "Is <p> the roof </p> [SEG]?", "--tokens", 2)
    assert run(monkeypatch, *question, "--out", tmp_path / "memory") == 0
    arguments = ["ask", "--model", tmp_path / "m", *question, "--out", tmp_path / "folder"]
    monkeypatch.setattr("sys.argv", [str(each) for each in arguments])
    assert ask.main() == 0
    assert (tmp_path / "folder.json").read_bytes() == (tmp_path / "memory.json").read_bytes()
    assert (tmp_path / "folder.png").read_bytes() == (tmp_path / "memory.png").read_bytes()
