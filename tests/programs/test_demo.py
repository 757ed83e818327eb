"""The shipped model answers questions; the demo's steps are commands with a gallery."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from demo import __main__ as demo
from demo.gallery import METRICS, read_metrics, write_gallery
from glamm_jax.cli import ask
from glamm_jax.cli import steps as command_steps
from glamm_jax.cli.convert import main as convert
from glamm_jax.cli.eval import parse as parse_eval
from glamm_jax.cli.steps import Step
from glamm_jax.cli.train import load_config
from glamm_jax.cli.train import parse as parse_train
from glamm_jax.config.overrides import with_overrides
from glamm_jax.evaluation.benchmarks import BENCHMARKS
from glamm_jax.evaluation.benchmarks.base import Item, Prediction
from glamm_jax.evaluation.items import EvaluationData, open_items
from glamm_jax.evaluation.prediction_files import PREDICTIONS, write_lines
from glamm_jax.evaluation.scores import SCORES, RunScores, save_scores
from glamm_jax.inference.chat import Assistant
from glamm_jax.metrics.phrase_matching import score_phrases
from glamm_jax.metrics.result import MetricResult
from glamm_jax.miniworld import EASY, render_scene
from glamm_jax.testing.golden_checkpoints import GoldenSource, write_checkpoint
from glamm_jax.text.tokenizer import load_tokenizer
from glamm_jax.weights.glamm import CLIP_PREFIX
from glamm_jax.weights.tables import table_of
from tests.weights.checkpoints import CONFIG, TOKENIZER, all_shapes, hf_config, write_clip
from tools.parity.golden_model import golden_glamm

ROOT = Path(__file__).parents[2]


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (60, 100, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "picture.png")
    return tmp_path / "picture.png"


def run(*arguments: object) -> int:
    return ask.main([str(each) for each in arguments])


def test_a_region_and_a_phrase_give_an_answer_and_a_picture(
    picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    question = "Is <p> the roof </p> [SEG] in region1 <bbox>?"
    out = tmp_path / "out" / "answer"
    box = ("--box", 10, 6, 50, 30)
    given = ("--image", picture, "--prompt", question, *box, "--tokens", 2, "--out", out)
    assert run(*given) == 0
    with Image.open(tmp_path / "out" / "answer.png") as painted:
        assert painted.format == "PNG"
        assert painted.width >= 100
    read = json.loads((tmp_path / "out" / "answer.json").read_text("utf-8"))
    assert read["regions_xyxy_pixel"] == [[10.0, 6.0, 50.0, 30.0]]
    assert read["prompt_groundings"][0]["mask"]["size"] == [60, 100]
    printed = capsys.readouterr().out
    assert read["text"] in printed
    assert "question  the roof: " in printed
    assert "the shipped model only knows drawn shapes" in printed


def test_the_shipped_model_names_the_things_of_a_scene_and_outlines_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--scene", 1, "--out", tmp_path / "answer") == 0
    assert "only knows drawn shapes" not in capsys.readouterr().out
    read = json.loads((tmp_path / "answer.json").read_text("utf-8"))
    one = render_scene(ask.SCENE_SEED, 1, ask.SCENE_SIZE, EASY)
    true = [
        (f"{thing.colour} {thing.shape}", one.object_mask(i)) for i, thing in enumerate(one.objects)
    ]
    said = [(each["phrase"], each["mask"]) for each in read["groundings"]]
    scores = score_phrases(said, true)
    assert scores.recall == 1
    assert scores.mask_iou > 0.5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--image", "nowhere.png"), "nowhere.png: no such file"),
        (("--box", 50, 30, 10, 6), "box 0 (50.0, 30.0, 10.0, 6.0) is inverted"),
        (("--box", 10, 6, 50, 30), "number of <bbox> in the prompt: 0; number of boxes: 1"),
        (("--prompt", " "), "the prompt is empty"),
        (("--tokens", 0), "max_tokens is 0"),
        (("--top-p", 2), "top_p: must be above 0 and at most 1"),
        (("--model", "."), "not a model folder"),
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
    assert run("--image", picture, *arguments) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("ask: ")
    assert message in printed.err
    assert printed.err.count("\n") == 1
    assert not Path("out").exists()


def test_a_converted_checkpoint_answers_as_the_model_in_memory(
    picture: Path, tmp_path: Path
) -> None:
    held = {n: s for n, s in all_shapes(CONFIG).items() if not n.startswith(CLIP_PREFIX)}
    source = GoldenSource(held, table_of(CONFIG))
    write_checkpoint(source, tmp_path / "glamm", hf_config(), tokenizer=TOKENIZER)
    write_clip(tmp_path / "clip")
    given = ["from-torch", tmp_path / "glamm", "--clip", tmp_path / "clip", "--out", tmp_path / "m"]
    assert convert([str(each) for each in given]) == 0
    prompt = "Is <p> the roof </p> [SEG]?"
    question = ("--image", picture, "--prompt", prompt, "--tokens", 2)
    assert run("--model", tmp_path / "m", *question, "--out", tmp_path / "folder") == 0
    assistant = Assistant(golden_glamm(CONFIG, salt=""), load_tokenizer(TOKENIZER))
    assistant.chat(picture, prompt, max_tokens=2).save(tmp_path / "memory.json")
    assert (tmp_path / "folder.json").read_bytes() == (tmp_path / "memory.json").read_bytes()


def test_the_steps_are_commands_that_their_programs_understand(tmp_path: Path) -> None:
    steps = list(demo.steps(tmp_path))
    assert [step.command[0] for step in steps] == [
        *("convert", "convert", "convert", "convert", "eval", "eval", "eval"),
        *("train", "train.export", "eval", "eval", "eval"),
    ]
    for step in steps:
        if step.command[0] == "eval":
            options = parse_eval([*step.command[1:]])
            assert options.out == step.output.parent
    options = parse_train([*steps[7].command[1:]])
    config = with_overrides(load_config(ROOT / options.config), options.set)
    assert config.data.mixture[0].dataset == str(steps[1].output.parent)
    assert config.optim.trainable == "released"


def test_the_gallery_shows_what_was_said_before_and_after(tmp_path: Path) -> None:
    data = EvaluationData("miniworld/easy-new@64", "test", limit=3)
    for benchmark in METRICS:
        prompt = BENCHMARKS[benchmark].prompt_template("ours")
        item_set = open_items(BENCHMARKS[benchmark], data, prompt)
        for when, text in (("before", "a pebble"), ("after", "a moon & more")):
            predictions = [perfect(item, text) for item in item_set.items]
            write_lines(tmp_path / when / benchmark / PREDICTIONS, predictions)
            names = METRICS[benchmark].values()
            scored = MetricResult(dict.fromkeys(names, 0.25 if when == "before" else 0.75))
            scores = RunScores(benchmark, "test", {"compat": scored})
            save_scores(tmp_path / when / benchmark / SCORES, scores)
    page = write_gallery(tmp_path, data, 7.2).read_text("utf-8")
    assert page.count("a pebble") == page.count("a moon &amp; more") > 6
    assert page.count("data:image/jpeg") > 18
    assert set(read_metrics(tmp_path, "after")["gcg"].values()) == {0.75}
    assert set(read_metrics(tmp_path, "before")["refseg"]) == {"ciou", "giou"}


def test_a_demo_that_fails_says_where_and_goes_on_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def only_draw(step: Step, out: Path) -> bool:
        if "miniworld" in step.command:
            step.output.mkdir(parents=True)
        return step.output.exists()

    monkeypatch.setattr(command_steps, "run_step", only_draw)
    given = ["--out", str(tmp_path / "demo"), "--report", str(tmp_path / "report.json")]
    assert demo.main(given) == 1
    assert "step 2 failed" in capsys.readouterr().err
    list(demo.steps(tmp_path / "demo"))[1].output.mkdir(parents=True)
    assert demo.main(given) == 1
    printed = capsys.readouterr()
    assert printed.out.count("done already") == 2
    assert "step 4 failed" in printed.err
    assert not (tmp_path / "report.json").exists()


def perfect(item: Item, text: str) -> Prediction:
    """The reference masks, with this text."""
    count = len(item.reference_masks)
    phrase_of, scores = tuple(range(count)), (1.0,) * count
    return Prediction(
        item.id,
        item.image_id,
        text,
        "",
        item.reference_phrases,
        item.reference_masks,
        phrase_of,
        scores,
    )
