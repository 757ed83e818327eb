"""`make learn`: its stages, the data of the encoders' pretraining, its evaluation and reports."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from configs import learn as recipe
from examples.learn_miniworld.__main__ import ADAPT, LEARN, REPORTS, main
from examples.learn_miniworld.encoder_pretraining import (
    EncoderPretraining,
    object_batch,
    patch_batch,
)
from examples.learn_miniworld.evaluation import (
    BENCHMARKS,
    SceneRecords,
    evaluate,
    held_out_scenes,
    predict_with,
)
from examples.learn_miniworld.report import write_model_card, write_report
from examples.learn_miniworld.stages import all_stages, is_done, run_stage
from examples.learn_miniworld.train_tokenizer import write_tokenizer
from glamm_jax.config.experiment import ExperimentConfig
from glamm_jax.data.loader import open_batches
from glamm_jax.evaluation.benchmarks.base import Item, Prediction
from glamm_jax.inference.chat import load
from glamm_jax.miniworld import EASY, render_scene
from glamm_jax.miniworld.world import COLOURS, EASY_SEEN, UNSEEN_KINDS, WORLDS, World
from glamm_jax.text.tokenizer import load_tokenizer

ROOT = Path(__file__).parents[2]
PUBLISHED = "checkpoints/miniworld-tiny"


@pytest.fixture(autouse=True)
def _in_checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def pretraining(encoder: str) -> EncoderPretraining:
    config = all_stages()[encoder].config
    assert isinstance(config, EncoderPretraining)
    return config


# ------------------------------------------------------------------------ training data


def test_every_stage_starts_from_stages_that_run_before_it() -> None:
    stages = all_stages()
    assert [name for group in (*LEARN, *ADAPT) for name in group] == list(stages)
    done: set[str] = set()
    for group in (*LEARN, *ADAPT):
        for name in group:
            assert set(stages[name].starts_from) <= done
        done |= set(group)


def test_no_training_image_has_an_unseen_kind() -> None:
    worlds: set[World] = set()
    for stage in all_stages().values():
        if isinstance(stage.config, ExperimentConfig):
            names = [entry.dataset for entry in stage.config.data.mixture]
            worlds |= {WORLDS[x.removeprefix("miniworld/").partition("@")[0]] for x in names}
        else:
            worlds |= {WORLDS[name] for name in stage.config.worlds}
    assert not any(set(world.kinds) & set(UNSEEN_KINDS) for world in worlds)
    assert set(UNSEEN_KINDS) <= set(EASY.kinds)


def test_the_tokenizer_is_reproduced_byte_for_byte(tmp_path: Path) -> None:
    write_tokenizer(tmp_path)
    for name in ("tokenizer.model", "tokenizer_config.json"):
        assert (tmp_path / name).read_bytes() == (Path(recipe.TOKENIZER) / name).read_bytes()


def test_words_of_the_worlds_are_single_pieces() -> None:
    tokenizer = load_tokenizer(recipe.TOKENIZER, recipe.model_config().tokens)
    for word in (*COLOURS, *EASY.shapes, "moon", "picture", "and"):
        assert len(tokenizer.encode(word, add_special=False)) == 1, word


def test_the_batches_of_the_runs_drop_nothing() -> None:
    config = recipe.get_config()
    batches = open_batches(config.data, config.model)
    for _ in range(3):
        batch = next(batches).batch
        assert (batch.target_valid.sum(1) > 0).all()
        assert batch.mask_has_truth.sum() >= 4 * recipe.IMAGES  # two objects and two expressions
    state = batches.get_state()
    batches.close()
    counts = state["shards"]["0"]["counts"]
    assert all("deferred" in name for name in counts), counts


def test_the_class_of_a_patch_is_that_of_the_object_covering_it() -> None:
    scene = render_scene(3, 1, recipe.IMAGE_SIZE, EASY_SEEN)
    batch = patch_batch([scene], pretraining("clip"))
    colours, shapes = (x.reshape(8, 8) for x in (batch.colours, batch.shapes))
    for number, item in enumerate(scene.objects):
        covered = scene.object_mask(number).reshape(8, 8, 8, 8).all((1, 3))
        assert (colours[covered] == 1 + list(COLOURS).index(item.colour)).all()
        assert (shapes[covered] == 1 + EASY.shapes.index(item.shape)).all()
    background = (scene.rendering.labels < len(scene.stuff)).reshape(8, 8, 8, 8).all((1, 3))
    assert not colours[background].any()
    assert not shapes[background].any()


def test_an_object_batch_has_the_masks_of_all_objects() -> None:
    scenes = [render_scene(3, number, recipe.IMAGE_SIZE, EASY_SEEN) for number in range(4)]
    batch = object_batch(scenes, pretraining("sam"))
    assert batch.valid.sum() == sum(len(scene.objects) for scene in scenes)
    slots = np.flatnonzero(batch.valid)
    masks = [scene.object_mask(k) for scene in scenes for k in range(len(scene.objects))]
    np.testing.assert_array_equal(batch.masks[slots].astype(bool), masks)
    assert (np.diff(batch.image_of_mask[slots]) >= 0).all()


# ------------------------------------------------------------------------ evaluation


def predict_reference(records: SceneRecords, items: Sequence[Item]) -> Iterator[Prediction]:
    """Predict the references; an expression gets the mask of the object that its prompt names."""
    expressions = {
        (item.record, item.prompt): item.reference_masks
        for index in range(len(records))
        for item in BENCHMARKS[1].items_from_record(
            records[index], index, BENCHMARKS[1].prompt_template("ours")
        )
    }
    for item in items:
        text = item.reference_texts[0] if item.reference_texts else ""
        masks, phrase_of = item.reference_masks, tuple(range(len(item.reference_masks)))
        phrases = item.reference_phrases if text else ()
        if not text:
            masks = expressions.get((item.record, item.prompt), ())
            phrase_of = (-1,) * len(masks)
        yield Prediction(
            item.id, item.image_id, text, phrases=phrases, masks=masks, phrase_of=phrase_of
        )


def predict_first_phrase(records: SceneRecords, items: Sequence[Item]) -> Iterator[Prediction]:
    """Predict the references, but only the first phrase, and every region as red."""
    for prediction in predict_reference(records, items):
        first = slice(0, 1)
        yield replace(
            prediction,
            text=f"a red {prediction.text.split()[-1]}" if prediction.text else "",
            phrases=prediction.phrases[first],
            masks=prediction.masks[first],
            phrase_of=prediction.phrase_of[first],
        )


def test_same_coloured_scenes_have_two_objects_of_one_colour() -> None:
    scenes = list(islice(held_out_scenes(EASY, 32, same_coloured=True), 20))
    for scene in scenes:
        colours = [item.colour for item in scene.objects]
        assert len(set(colours)) < len(colours)
    kinds = {item.kind for scene in scenes for item in scene.objects}
    assert kinds & set(UNSEEN_KINDS)


def test_references_score_1_and_the_controls_fail() -> None:
    scenes = list(islice(held_out_scenes(EASY, 32), 12))
    scores = evaluate(predict_reference, scenes, UNSEEN_KINDS).scores
    controls = {"shuffled_miou", "swapped_miou"}
    assert scores.num_scenes == 12
    for name in {*scores.metrics} - controls:
        assert scores.metrics[name] == 1.0, name
    assert scores.metrics["swapped_miou"] == 0.0
    assert scores.metrics["shuffled_miou"] < 0.3
    assert {*scores.unseen} == {*scores.metrics} - controls - {"phrase_precision"}
    assert all(value == 1.0 for value in scores.unseen.values())


def test_a_single_phrase_costs_recall() -> None:
    scenes = list(islice(held_out_scenes(EASY, 32), 12))
    evaluation = evaluate(predict_first_phrase, scenes)
    metrics = evaluation.scores.metrics
    num_phrases = sum(len(item.reference_phrases) for item in evaluation.items["gcg"])
    assert num_phrases == sum(len(scene.objects) for scene in scenes)
    assert metrics["phrase_precision"] == 1.0
    assert metrics["phrase_recall"] == pytest.approx(len(scenes) / num_phrases)
    assert metrics["phrase_mask_iou"] == pytest.approx(len(scenes) / num_phrases)
    num_red = sum(item.colour == "red" for scene in scenes for item in scene.objects)
    assert metrics["region_exact"] == pytest.approx(num_red / num_phrases)


def test_the_report_compares_with_the_targets_and_shows_the_items(tmp_path: Path) -> None:
    scenes = list(islice(held_out_scenes(EASY, 32), 6))
    evaluation = evaluate(predict_first_phrase, scenes, UNSEEN_KINDS)
    same_coloured = replace(evaluation.scores, metrics={"referring_miou": 0.625})
    stage = all_stages()["clip"]
    (tmp_path / "clip").mkdir()
    lines = [{"step": i, "loss": 2.0 - i, "seconds": 1.0} for i in (0, 1)]
    (tmp_path / "clip" / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)))
    report = write_report(tmp_path / "report.json", tmp_path, [stage], evaluation, same_coloured)
    assert json.loads((tmp_path / "report.json").read_text()) == report
    assert report["reached"]["referring_miou"]
    assert not report["reached"]["phrase_recall"]
    assert report["stages"]["clip"]["seconds"] == 2.0
    page = (tmp_path / "report.html").read_text()
    assert page.count("<article>") == 2 * sum(map(len, evaluation.items.values()))
    assert page.count("<polyline") == 1
    write_model_card(tmp_path, report)
    card = (tmp_path / "README.md").read_text()
    assert "| referring_miou | 1.000 | at least 0.85 |" in card
    assert "| referring_miou | 0.625 |" in card


# ------------------------------------------------------------------------ the program


def test_help_names_all_stages(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0
    output = capsys.readouterr().out
    assert all(name in output for group in LEARN for name in group)


def test_an_unknown_stage_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--out", str(tmp_path), "--stage", "nothing"]) == 2
    error = capsys.readouterr().err
    assert "no stage 'nothing'; there are clip, sam" in error
    assert all(name in error for name in REPORTS)


@pytest.mark.slow
def test_two_steps_of_every_stage_make_a_model_that_answers(tmp_path: Path) -> None:
    for stage in all_stages().values():
        optim = replace(stage.config.optim, total_steps=2, warmup_steps=1)
        short = replace(stage, config=replace(stage.config, optim=optim))  # type: ignore[arg-type]  # either
        assert not is_done(tmp_path, short)
        assert len(list(run_stage(tmp_path, short))) == 2
        assert is_done(tmp_path, short)
        lines = (tmp_path / stage.name / "metrics.jsonl").read_text().splitlines()
        assert [json.loads(line)["step"] for line in lines] == [0, 1]
    scene = render_scene(3, 1, recipe.IMAGE_SIZE, EASY_SEEN)
    model = load(tmp_path / "adapted-released" / "model")
    answer = model.chat(scene.image, "What?", max_tokens=4)
    assert answer.finish in ("end", "length")


@pytest.mark.slow
def test_the_published_weights_have_the_reported_metrics() -> None:
    scenes = list(islice(held_out_scenes(EASY, recipe.IMAGE_SIZE), 20))
    report = json.loads((ROOT / PUBLISHED / "learn-report.json").read_text(encoding="utf-8"))
    metrics = evaluate(predict_with(load(ROOT / PUBLISHED)), scenes).scores.metrics
    for name, value in metrics.items():
        # Twenty scenes are fifty objects: a metric may differ by two standard deviations.
        assert abs(value - report["metrics"][name]) < 0.12, name
