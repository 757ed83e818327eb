"""The last stage: what was learned, on scenes that were held out."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from configs.learn import IMAGE_SIZE
from examples.learn_miniworld.evaluate import Evaluation, Scores, evaluate, held_out_scenes
from examples.learn_miniworld.report import write_card, write_report
from examples.learn_miniworld.stages import MODEL, all_stages
from glamm_jax.files import write_atomic
from glamm_jax.inference.chat import load
from glamm_jax.miniworld import Scene
from glamm_jax.miniworld.world import EASY, NEW_PLACE, NEW_SHAPE, UNSEEN_KINDS, extended

SCENES = 200
ADAPTED, RETRAINED = "adapted", "retrained"
LEARNED = ("tags", "masks", "first", "speak", "whole", "polish")
WITHIN = 0.05  # the released set of everything


def score(out: Path, report: Path) -> dict[str, Any]:
    """Figures of OUT/polish; the model with its card goes to OUT/model."""
    stages = all_stages()
    folder = out / LEARNED[-1] / MODEL
    evaluation = Evaluation(load(folder), list(islice(held_out_scenes(EASY, IMAGE_SIZE), SCENES)))
    scores = evaluate(evaluation, UNSEEN_KINDS)
    written = write_report(report, out, [stages[name] for name in LEARNED], scores, evaluation)
    shutil.rmtree(out / MODEL, ignore_errors=True)
    shutil.copytree(folder, out / MODEL)
    write_card(out / MODEL, written)
    print(json.dumps(written["scores"], indent=1))
    return written


def score_adapted(out: Path, report: Path) -> dict[str, Any]:
    """Figures of both second runs, on scenes that have the new shape or the new ground."""
    found = {}
    stages = all_stages()
    for name in (LEARNED[-1], ADAPTED, RETRAINED):
        evaluation = Evaluation(load(out / name / MODEL), list(islice(new_scenes(), SCENES)))
        found[name] = evaluate(evaluation)
        if name != LEARNED[-1]:
            own = out / name / report.name
            write_report(own, out, [stages[name]], found[name], evaluation)
    result: dict[str, Any] = {name: scores.to_json() for name, scores in found.items()}
    result["within_5_points"] = _within(found[ADAPTED], found[RETRAINED])
    write_atomic(out / "adapt-report.json", json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))
    return result


def new_scenes() -> Iterator[Scene]:
    """Held-out scenes of the extended world with the new shape or on the new ground."""
    for one in held_out_scenes(extended(EASY), IMAGE_SIZE):
        if one.layout.place == NEW_PLACE or any(each.shape == NEW_SHAPE for each in one.objects):
            yield one


def _within(adapted: Scores, retrained: Scores) -> dict[str, bool]:
    names = ("referring_miou", "phrases_right", "phrase_mask_iou", "regions_right")
    return {name: getattr(adapted, name) >= getattr(retrained, name) - WITHIN for name in names}
