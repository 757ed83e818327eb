"""`make learn`: what its stages are made of, what they see, and how their answers are judged."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from configs import learn as recipe
from examples.learn_miniworld.__main__ import ADAPT, LEARN, main
from examples.learn_miniworld.aids import Aid, mask_batch, tag_batch
from examples.learn_miniworld.evaluate import Evaluation, evaluate, held_out_scenes
from examples.learn_miniworld.report import write_card, write_report
from examples.learn_miniworld.stages import all_stages, is_done, run_stage
from examples.learn_miniworld.vocabulary import write_tokenizer
from glamm_jax.config.experiment import ExperimentConfig
from glamm_jax.data.loader import open_batches
from glamm_jax.inference.answer import Grounding
from glamm_jax.inference.chat import Question, load
from glamm_jax.miniworld import EASY, Scene, render_scene
from glamm_jax.miniworld.world import COLOURS, EASY_PALE, EASY_SEEN, UNSEEN_KINDS, WORLDS
from glamm_jax.text.tokenizer import load_tokenizer

ROOT = Path(__file__).parents[2]
SHIPPED = "checkpoints/miniworld-tiny"


@pytest.fixture(autouse=True)
def _from_the_checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def aid(name: str) -> Aid:
    made_of = all_stages()[name].made_of
    assert isinstance(made_of, Aid)
    return made_of


# ------------------------------------------------------------------------ what is learned from


def test_every_stage_can_be_run_from_those_before_it() -> None:
    stages = all_stages()
    assert [name for group in (*LEARN, *ADAPT) for name in group] == list(stages)
    done: set[str] = set()
    for group in (*LEARN, *ADAPT):
        for name in group:
            assert set(stages[name].starts_from) <= done
        done |= set(group)


def test_no_training_picture_has_an_unseen_kind() -> None:
    worlds = {EASY_SEEN, EASY_PALE}
    for stage in all_stages().values():
        if isinstance(stage.made_of, ExperimentConfig):
            parts = stage.made_of.data.mixture
            worlds |= {WORLDS[part.dataset.removeprefix("miniworld/")] for part in parts}
    assert not any(set(world.kinds) & set(UNSEEN_KINDS) for world in worlds)
    assert set(UNSEEN_KINDS) <= set(EASY.kinds)


def test_the_tokenizer_is_made_again_byte_for_byte(tmp_path: Path) -> None:
    write_tokenizer(tmp_path)
    for name in ("tokenizer.model", "tokenizer_config.json"):
        assert (tmp_path / name).read_bytes() == (Path(recipe.TOKENIZER) / name).read_bytes()


def test_words_of_the_worlds_are_single_pieces() -> None:
    tokenizer = load_tokenizer(recipe.TOKENIZER, recipe.model_config().tokens)
    for word in (*COLOURS, *EASY.shapes, "moon", "picture", "and"):
        assert len(tokenizer.encode(word, add_special=False)) == 1, word


def test_the_batches_of_the_runs_lose_nothing() -> None:
    config = recipe.get_config()
    batches = open_batches(config.data, config.model)
    for _ in range(3):
        batch = next(batches).batch
        assert (batch.target_valid.sum(1) > 0).all()
        assert batch.mask_has_truth.sum() >= 4 * recipe.IMAGES  # two things and two expressions
    counts = batches.get_state()["shards"]["0"]["counts"]
    batches.close()
    assert all("waited" in name for name in counts), counts


def test_tags_are_what_covers_a_patch() -> None:
    one = render_scene(3, 1, recipe.IMAGE_SIZE, EASY_SEEN)
    batch = tag_batch([one], aid("tags"))
    colours, shapes = (x.reshape(8, 8) for x in (batch.colours, batch.shapes))
    for number, thing in enumerate(one.objects):
        whole = one.object_mask(number).reshape(8, 8, 8, 8).all((1, 3))
        assert (colours[whole] == 1 + list(COLOURS).index(thing.colour)).all()
        assert (shapes[whole] == 1 + EASY.shapes.index(thing.shape)).all()
    nothing = (one.rendering.labels < len(one.stuff)).reshape(8, 8, 8, 8).all((1, 3))
    assert not colours[nothing].any()
    assert not shapes[nothing].any()


def test_masks_are_those_of_all_things() -> None:
    scenes = [render_scene(3, number, recipe.IMAGE_SIZE, EASY_SEEN) for number in range(4)]
    batch = mask_batch(scenes, aid("masks"))
    assert batch.valid.sum() == sum(len(one.objects) for one in scenes)
    places = np.flatnonzero(batch.valid)
    truth = [one.object_mask(k) for one in scenes for k in range(len(one.objects))]
    np.testing.assert_array_equal(batch.masks[places].astype(bool), truth)
    assert (np.diff(batch.mask_image[places]) >= 0).all()


# ------------------------------------------------------------------------ how it is judged


@dataclass
class _Said:
    """As much of an `Answer` as is judged."""

    text: str
    groundings: tuple[Grounding, ...]
    regions: np.ndarray = field(default_factory=lambda: np.zeros((0, 4)))


class _Oracle:
    """Answers from the truth of its scenes; `wrong` says red of everything."""

    def __init__(self, scenes: Sequence[Scene], wrong: bool = False):
        self.known = {one.image.tobytes(): one for one in scenes}
        self.wrong = wrong

    def chat_many(self, questions: Sequence[Question]) -> list[Any]:
        return [self._answer(self.known[np.asarray(q.image).tobytes()], q) for q in questions]

    def _answer(self, one: Scene, question: Question) -> _Said:
        names = [f"{t.colour} {t.shape}" for t in one.objects]
        if len(question.regions):
            x0, y0, x1, y1 = question.regions[0]
            middle = [abs(t.x * one.size - (x0 + x1) / 2) for t in one.objects]
            high = [abs(t.y * one.size - (y0 + y1) / 2) for t in one.objects]
            i = int(np.argmin(np.add(middle, high)))
            return _Said(
                f"a {'red' if self.wrong else one.objects[i].colour} {one.objects[i].shape}", ()
            )
        asked = [i for i, name in enumerate(names) if name in question.prompt]
        if re.search("Segment the", question.prompt):
            return _Said("It is.", tuple(self._grounding(one, i, "") for i in asked[:1]))
        said = [self._grounding(one, i, f"a {name}") for i, name in enumerate(names)]
        return _Said("", tuple(said[:1] if self.wrong else said))

    def _grounding(self, one: Scene, number: int, phrase: str) -> Grounding:
        return Grounding(phrase, 0, 0, one.object_mask(number), 1.0)


def test_held_out_scenes_have_two_things_of_one_colour() -> None:
    scenes = list(islice(held_out_scenes(EASY, 32), 20))
    for one in scenes:
        colours = [thing.colour for thing in one.objects]
        assert len(set(colours)) < len(colours)
    kinds = {thing.kind for one in scenes for thing in one.objects}
    assert kinds & set(UNSEEN_KINDS)


def test_the_truth_gets_full_marks_and_fails_when_asked_for_something_else() -> None:
    scenes = list(islice(held_out_scenes(EASY, 32), 12))
    oracle: Any = _Oracle(scenes)
    scores = evaluate(Evaluation(oracle, scenes, at_once=5), UNSEEN_KINDS)
    for name in ("referring_miou", "phrases_right", "phrase_mask_iou", "regions_right"):
        assert getattr(scores, name) == 1.0, name
    assert scores.swapped_miou == 0.0
    assert scores.shuffled_miou < 0.3
    assert all(value == 1.0 for value in scores.unseen.values())


def test_naming_one_thing_only_costs_recall() -> None:
    scenes = list(islice(held_out_scenes(EASY, 32), 12))
    oracle: Any = _Oracle(scenes, wrong=True)
    scores = evaluate(Evaluation(oracle, scenes, at_once=5))
    things = sum(len(one.objects) for one in scenes)
    assert scores.phrase_precision == 1.0
    assert scores.phrases_right == scores.phrase_recall == len(scenes) / things
    assert scores.phrase_mask_iou == pytest.approx(len(scenes) / things)
    red = sum(thing.colour == "red" for one in scenes for thing in one.objects)
    assert scores.regions_right == pytest.approx(red / things)


def test_the_report_says_which_bars_are_met_and_shows_the_scenes(tmp_path: Path) -> None:
    scenes = list(islice(held_out_scenes(EASY, 32), 6))
    oracle: Any = _Oracle(scenes, wrong=True)
    evaluation = Evaluation(oracle, scenes, at_once=6)
    scores = evaluate(evaluation, UNSEEN_KINDS)
    stage = all_stages()["tags"]
    (tmp_path / "tags").mkdir()
    lines = [{"step": i, "loss": 2.0 - i, "seconds": 1.0} for i in (0, 1)]
    (tmp_path / "tags" / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)))
    report = write_report(tmp_path / "report.json", tmp_path, [stage], scores, evaluation)
    assert json.loads((tmp_path / "report.json").read_text()) == report
    assert report["met"]["referring_miou"]
    assert not report["met"]["phrases_right"]
    assert report["stages"]["tags"]["seconds"] == 2.0
    page = (tmp_path / "report.html").read_text()
    assert page.count("<article>") == len(evaluation.asked)
    assert page.count("<polyline") == 1
    write_card(tmp_path, report)
    assert "| referring_miou | 1.000 | at least 0.75 |" in (tmp_path / "README.md").read_text()


# ------------------------------------------------------------------------ the program


def test_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0
    told = capsys.readouterr().out
    assert all(name in told for group in LEARN for name in group)


def test_an_unknown_stage_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--out", str(tmp_path), "--stage", "nothing"]) == 2
    assert "no stage 'nothing'; there are tags, masks" in capsys.readouterr().err


@pytest.mark.slow
def test_two_steps_of_every_stage_make_a_model_that_answers(tmp_path: Path) -> None:
    for stage in all_stages().values():
        optim = replace(stage.made_of.optim, total_steps=2, warmup_steps=1)
        short = replace(stage, made_of=replace(stage.made_of, optim=optim))  # type: ignore[arg-type]  # either
        assert not is_done(tmp_path, short)
        assert len(list(run_stage(tmp_path, short))) == 2
        assert is_done(tmp_path, short)
        lines = (tmp_path / stage.name / "metrics.jsonl").read_text().splitlines()
        assert [json.loads(line)["step"] for line in lines] == [0, 1]
    one = render_scene(3, 1, recipe.IMAGE_SIZE, EASY_SEEN)
    answer = load(tmp_path / "adapted" / "model").chat(one.image, "What?", max_tokens=4)
    assert answer.finish in ("end", "length")


@pytest.mark.slow
def test_the_weights_of_this_repository_see_point_and_speak() -> None:
    scenes = list(islice(held_out_scenes(EASY, recipe.IMAGE_SIZE), 20))
    report = json.loads((ROOT / SHIPPED / "learn-report.json").read_text(encoding="utf-8"))
    scores = evaluate(Evaluation(load(ROOT / SHIPPED), scenes, at_once=20))
    for name in ("referring_miou", "phrases_right", "phrase_mask_iou", "regions_right"):
        # Twenty scenes are fifty things: a figure may lie two standard deviations off.
        assert abs(getattr(scores, name) - report["scores"][name]) < 0.12, name
