"""Evaluate trained stages, and write the metrics as JSON, a web page and a model card."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

from configs.learn import IMAGE_SIZE
from examples.learn_miniworld.evaluation import (
    LearnEvaluation,
    LearnScores,
    evaluate,
    held_out_scenes,
    predict_with,
)
from examples.learn_miniworld.stages import FINAL, MODEL, Stage, all_stages
from glamm_jax.evaluation.benchmarks.gcg import GCG
from glamm_jax.evaluation.benchmarks.refseg import REFSEG
from glamm_jax.evaluation.benchmarks.region_caption import REGION_CAPTION
from glamm_jax.evaluation.item_cards import image_loader, make_cards
from glamm_jax.files import write_atomic
from glamm_jax.inference.chat import load
from glamm_jax.miniworld import Scene
from glamm_jax.miniworld.world import EASY, NEW_PLACE, NEW_SHAPE, UNSEEN_KINDS, extended
from glamm_jax.report.curves import Curve
from glamm_jax.report.html_page import Page
from glamm_jax.training.run_folder import METRICS, read_lines

NUM_SCENES = 200
REPORT, ADAPTATION_REPORT = "learn-report.json", "adaptation-report.json"
MAX_ITEMS = 24  # of a benchmark, on the page
MIN_TARGETS = {
    "referring_miou": 0.85,
    "phrase_precision": 0.9,
    "phrase_recall": 0.9,
    "phrase_mask_iou": 0.85,
    "region_exact": 0.9,
}
MAX_TARGETS = {"shuffled_miou": 0.3}
MAX_LOSS = 0.05  # by which the set `released` may be worse than training all parameters
TITLES = {
    GCG.name: "Grounded captions",
    REFSEG.name: "Referring expressions",
    REGION_CAPTION.name: "Region captions",
}


def report_learning(out: Path) -> dict[str, Any]:
    """Evaluate the last stage; copy its model with a model card to OUT/model.

    Args:
        out: folder of the stages.

    Returns:
        The content of OUT/learn-report.json.
    """
    stages = all_stages()
    trained = [*stages.values()][: [*stages].index(FINAL) + 1]
    predict_items = predict_with(load(out / FINAL / MODEL))
    scenes = [*islice(held_out_scenes(EASY, IMAGE_SIZE), NUM_SCENES)]
    similar = [*islice(held_out_scenes(EASY, IMAGE_SIZE, same_coloured=True), NUM_SCENES)]
    evaluation = evaluate(predict_items, scenes, UNSEEN_KINDS)
    same_coloured = evaluate(predict_items, similar).scores
    report = write_report(out / REPORT, out, trained, evaluation, same_coloured)
    shutil.rmtree(out / MODEL, ignore_errors=True)
    shutil.copytree(out / FINAL / MODEL, out / MODEL)
    write_model_card(out / MODEL, report)
    return report


def report_adaptation(out: Path) -> dict[str, Any]:
    """Evaluate both adapted models, and the model before, on scenes of the other world.

    Args:
        out: folder of the stages.

    Returns:
        The content of OUT/adaptation-report.json.
    """
    stages = all_stages()
    released, complete = "adapted-released", "adapted-all"
    scenes = [*islice(new_scenes(), NUM_SCENES)]
    scores: dict[str, LearnScores] = {}
    for name in (FINAL, released, complete):
        evaluation = evaluate(predict_with(load(out / name / MODEL)), scenes)
        scores[name] = evaluation.scores
        if name != FINAL:
            write_report(out / name / REPORT, out, [stages[name]], evaluation)
    report: dict[str, Any] = {
        name: {"num_scenes": x.num_scenes, **x.metrics} for name, x in scores.items()
    }
    report["within_5_points"] = {
        name: scores[released].metrics[name] >= scores[complete].metrics[name] - MAX_LOSS
        for name in MIN_TARGETS
    }
    write_atomic(out / ADAPTATION_REPORT, json.dumps(report, indent=1) + "\n")
    return report


def new_scenes() -> Iterator[Scene]:
    """Render held-out scenes of the extended world that have its new shape or its new place.

    Two objects of each have the same colour.
    """
    for scene in held_out_scenes(extended(EASY), IMAGE_SIZE, same_coloured=True):
        has_new_shape = any(item.shape == NEW_SHAPE for item in scene.objects)
        if scene.layout.place == NEW_PLACE or has_new_shape:
            yield scene


def write_report(
    path: Path,
    out: Path,
    stages: Sequence[Stage],
    evaluation: LearnEvaluation,
    same_coloured: LearnScores | None = None,
) -> dict[str, Any]:
    """Write metrics, targets and durations as JSON, and a page beside it.

    Args:
        path: of the JSON file; the page has the same name with the suffix .html.
        out: folder of the stages.
        stages: that led to the evaluated model.
        evaluation: of the model.
        same_coloured: scores on scenes in which two objects have the same colour.

    Returns:
        The content of the JSON file.
    """
    metrics = evaluation.scores.metrics
    report = {
        **asdict(evaluation.scores),
        "same_coloured": dict(same_coloured.metrics) if same_coloured else {},
        "targets": {"at_least": MIN_TARGETS, "below": MAX_TARGETS},
        "reached": {name: metrics[name] >= target for name, target in MIN_TARGETS.items()}
        | {name: metrics[name] < target for name, target in MAX_TARGETS.items()},
        "stages": {
            stage.name: {"steps": stage.steps, "seconds": round(stage_seconds(out, stage), 1)}
            for stage in stages
        },
    }
    write_atomic(path, json.dumps(report, indent=1) + "\n")
    _page(report, out, stages, evaluation).save(path.with_suffix(".html"))
    return report


def stage_seconds(out: Path, stage: Stage) -> float:
    """Return the sum of the seconds of the stage's steps, compilation included."""
    return sum(record["seconds"] for record in read_lines(out / stage.name / METRICS))


def stage_curves(out: Path, stage: Stage) -> dict[str, dict[str, Curve]]:
    """Return the curve of each metric of the stage, by metric."""
    records = [*read_lines(out / stage.name / METRICS)]
    names = [
        name
        for name, value in records[0].items()
        if isinstance(value, float) and name not in ("seconds", "input_seconds")
    ]
    return {name: {name: [(r["step"], r[name]) for r in records]} for name in names}


def _rows(report: Mapping[str, Any]) -> list[tuple[str, float, str]]:
    """Return (metric, value, target) rows."""
    metrics = report["metrics"]
    rows = [(name, metrics[name], f"at least {x}") for name, x in MIN_TARGETS.items()]
    rows += [(name, metrics[name], f"below {x}") for name, x in MAX_TARGETS.items()]
    return rows + [(name, x, "") for name, x in metrics.items() if name not in {r[0] for r in rows}]


def _page(
    report: Mapping[str, Any], out: Path, stages: Sequence[Stage], evaluation: LearnEvaluation
) -> Page:
    page = Page("Learning the mini-world", f"{report['num_scenes']} held-out scenes, greedy")
    page.section("Metrics")
    page.table(
        ("metric", "value", "target"),
        [
            *_rows(report),
            *((f"same-coloured objects: {k}", x, "") for k, x in report["same_coloured"].items()),
            *((f"unseen kinds: {k}", x, "") for k, x in report["unseen"].items()),
        ],
    )
    page.section("Curves")
    for stage in stages:
        run = report["stages"][stage.name]
        page.section(f"{stage.name}: {stage.description}", 3)
        page.paragraph(f"{run['steps']} steps, {run['seconds']:.0f} s")
        page.curves(stage_curves(out, stage))
    load_image = image_loader(evaluation.records)
    for benchmark, title in TITLES.items():
        page.section(title)
        predictions = evaluation.predictions[benchmark]
        page.groups(
            [
                make_cards(item, predictions.get(item.id), load_image, item.id, show_prompt=True)
                for item in evaluation.items[benchmark][:MAX_ITEMS]
            ]
        )
    return page


def write_model_card(folder: Path, report: Mapping[str, Any]) -> None:
    """Write README.md of a model folder: what the model is, its metrics, and its limits.

    Args:
        folder: of the model.
        report: as `write_report` returns.
    """
    metrics = "\n".join(f"| {name} | {x:.3f} | {target} |" for name, x, target in _rows(report))
    same_coloured = "\n".join(f"| {k} | {x:.3f} |" for k, x in report["same_coloured"].items())
    unseen = "\n".join(f"| {name} | {x:.3f} |" for name, x in report["unseen"].items())
    seconds = sum(stage["seconds"] for stage in report["stages"].values())
    text = MODEL_CARD.format(
        num_scenes=report["num_scenes"],
        metrics=metrics,
        same_coloured=same_coloured,
        unseen=unseen,
        minutes=seconds / 60,
    )
    write_atomic(folder / "README.md", text)


MODEL_CARD = """# Tiny GLaMM of the mini-world

All parts of GLaMM at a small size (3.0 million parameters), trained from random weights by
`make learn` on rendered scenes: coloured shapes on sky and ground. The training steps took
{minutes:.0f} minutes on two CPU cores. Load it with `glamm_jax.load(folder)`.

It is trained on mini-world images of 64 x 64 pixels, and is of no use on other images.

Greedy decoding on {num_scenes} held-out scenes with two or three objects:

| metric | value | target |
|---|---:|---|
{metrics}

As many scenes in which two objects have the same colour:

| metric | value |
|---|---:|
{same_coloured}

Items whose reference names a combination of colour and shape that no training image or text has:

| metric | value |
|---|---:|
{unseen}

- `referring_miou`: mean IoU over expressions. `shuffled_miou`: the same images with expressions of
  other images. `swapped_miou`: with the expression of another object of the same image.
- `phrase_precision`, `phrase_recall`: phrases of grounded captions with the same words as the
  reference. `phrase_mask_iou`: mean over all reference phrases, 0 for one that is not matched.
- `region_exact`: region captions with the same words as the reference.
"""


if __name__ == "__main__":
    from glamm_jax.cli.program import print_module_help

    print_module_help(__doc__, "python -m examples.learn_miniworld")
