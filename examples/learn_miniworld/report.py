"""What a model that has learned is handed over with: figures as JSON, a page, a model card."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from examples.learn_miniworld.evaluate import Asked, Evaluation, Scores
from examples.learn_miniworld.stages import Stage
from glamm_jax.files import write_atomic
from glamm_jax.metrics.phrase_matching import match_phrases
from glamm_jax.report.curves import Curve
from glamm_jax.report.html_page import Card, Page, TextLine, TextMark
from glamm_jax.training.run_folder import METRICS, read_lines

PANELS = 24  # of each task, on the page
BARS = {
    "referring_miou": 0.75,
    "phrases_right": 0.9,
    "phrase_mask_iou": 0.65,
    "regions_right": 0.9,
}
CONTROL = 0.3  # expressions of other pictures must stay below
TASKS = {"gcg": "Grounded captions", "referring": "Expressions", "region": "Regions"}


def curves_of(out: Path, stage: Stage) -> dict[str, dict[str, Curve]]:
    """{metric: its curve} of a stage that is done."""
    records = list(read_lines(out / stage.name / METRICS))
    names = [
        name
        for name, value in records[0].items()
        if isinstance(value, float) and name not in ("seconds", "input_seconds")
    ]
    return {name: {name: [(r["step"], r[name]) for r in records]} for name in names}


def seconds_of(out: Path, stage: Stage) -> float:
    """Seconds of the steps of a stage that is done; the first compiles."""
    return sum(each["seconds"] for each in read_lines(out / stage.name / METRICS))


def write_report(
    path: Path, out: Path, stages: Sequence[Stage], scores: Scores, evaluation: Evaluation
) -> dict[str, Any]:
    """`path` as JSON and, beside it, as a page; returns the JSON."""
    report = {
        "scores": scores.to_json(),
        "bars": {**BARS, "shuffled_miou_below": CONTROL},
        "met": {name: getattr(scores, name) >= bar for name, bar in BARS.items()}
        | {"shuffled_miou": scores.shuffled_miou < CONTROL},
        "stages": {
            stage.name: {"steps": stage.steps, "seconds": round(seconds_of(out, stage), 1)}
            for stage in stages
        },
    }
    write_atomic(path, json.dumps(report, indent=1) + "\n")
    _page(report, out, stages, evaluation).save(path.with_suffix(".html"))
    return report


def _page(
    report: dict[str, Any], out: Path, stages: Sequence[Stage], evaluation: Evaluation
) -> Page:
    scores = report["scores"]
    page = Page("Learned from nothing", f"greedy answers about {scores['scenes']} held-out scenes")
    page.section("Figures")
    rows = [(name, scores[name], f"at least {bar}") for name, bar in BARS.items()]
    rows += [("shuffled_miou", scores["shuffled_miou"], f"below {CONTROL}")]
    rows += [(name, scores[name], "") for name in ("phrase_recall", "phrase_precision")]
    rows += [(f"of unseen kinds: {name}", value, "") for name, value in scores["unseen"].items()]
    page.table(("figure", "reached", "bar"), rows)
    page.section("Curves")
    for stage in stages:
        own = report["stages"][stage.name]
        page.section(f"{stage.name}: {stage.about}", 3)
        page.paragraph(f"{own['steps']} steps, {own['seconds']:.0f} s")
        page.curves(curves_of(out, stage))
    for task, title in TASKS.items():
        page.section(title)
        asked = [each for each in evaluation.asked if each.task == task][:PANELS]
        page.cards([_card(each, evaluation) for each in asked])
    return page


def _card(asked: Asked, evaluation: Evaluation) -> Card:
    """The picture twice, with predicted and with true masks; question, answer, what is there."""
    answer, scene = asked.answer, evaluation.scenes[asked.scene]
    things = ", ".join(f"{thing.colour} {thing.shape}" for thing in scene.objects)
    marks = [TextMark(each.start, each.end, i) for i, each in enumerate(answer.groundings)]
    return Card(
        np.concatenate([scene.image] * (2 if asked.true else 1), axis=1),
        (
            TextLine(asked.text, speaker="asked"),
            TextLine(answer.text, marks, speaker="said", note=f"{asked.score:.2f}"),
            TextLine(things, speaker="there"),
        ),
        masks=_side_by_side(asked) if asked.true else (),
        boxes_xyxy_pixel=[tuple(box) for box in answer.regions.tolist()],
        title=f"scene {scene.scene_id}" + ": predicted, true" * bool(asked.true),
    )


def _side_by_side(asked: Asked) -> list[np.ndarray]:
    """Masks of the doubled picture: predicted on the left, the truth of the same phrase right."""
    said = [(each.phrase, each.mask) for each in asked.answer.groundings]
    found = match_phrases([phrase for phrase, _ in said], [phrase for phrase, _ in asked.true])
    nothing = np.zeros_like(asked.true[0][1])
    true_of = {i: mask for i, (_, mask) in zip(found, asked.true, strict=True)}
    pairs = [(mask, true_of.pop(i, nothing)) for i, (_, mask) in enumerate(said)]
    missed = [mask for i, (_, mask) in zip(found, asked.true, strict=True) if i is None]
    pairs += [(nothing, mask) for mask in missed]
    return [np.concatenate([nothing if a is None else a, b], axis=1) for a, b in pairs]


def write_card(folder: Path, report: dict[str, Any]) -> None:
    """README.md of a model folder: what it is, what it can do, what it cannot."""
    scores = report["scores"]
    rows = [(name, scores[name], f"at least {bar}") for name, bar in BARS.items()]
    rows.append(("shuffled_miou", scores["shuffled_miou"], f"below {CONTROL}"))
    figures = "\n".join(f"| {name} | {value:.3f} | {bar} |" for name, value, bar in rows)
    unseen = "\n".join(f"| {name} | {value:.3f} |" for name, value in scores["unseen"].items())
    seconds = sum(each["seconds"] for each in report["stages"].values())
    text = CARD.format(
        scenes=scores["scenes"], figures=figures, unseen=unseen, minutes=seconds / 60
    )
    write_atomic(folder / "README.md", text)


CARD = """# Tiny GLaMM of the mini-world

Every part of GLaMM, small, trained from random weights by `make learn` on drawn scenes (coloured
shapes on sky and ground) in {minutes:.0f} minutes of steps. Load it with `glamm_jax.load(folder)`.

It speaks of 64 x 64 pixel pictures of the mini-world and of nothing else.

Greedy answers about {scenes} held-out scenes with two or three things, two of them of one colour:

| figure | reached | bar |
|---|---:|---|
{figures}

Of combinations of colour and shape that no training picture or text had:

| figure | reached |
|---|---:|
{unseen}

`shuffled_miou`: the pictures are asked for expressions of other pictures. `phrases_right`: the
smaller of recall and precision. `phrase_mask_iou`: over all true phrases, 0 where one is not named.
"""
