"""A page about a run: its figures beside the paper's, how items differ, the best and the worst.

    write_report(out / "report.html", config, items, predictions, {"compat": scored}, pictures)

The page is one file that needs nothing else (`glamm_jax.report.html_page`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from glamm_jax.config.flat import flatten_config
from glamm_jax.evaluation.item import Item, Prediction
from glamm_jax.evaluation.item_cards import LoadImage, cards_of, common_question
from glamm_jax.evaluation.item_scores import ranked, values_of
from glamm_jax.evaluation.published import paper_table, rows
from glamm_jax.evaluation.scoring import FREE
from glamm_jax.metrics.captions import ALL_NAMES as CAPTION_FIGURES
from glamm_jax.metrics.result import MODES, MetricResult, Mode
from glamm_jax.report.html_page import Page

SHOWN = 8  # of the best, of the worst, and of those with problems
# How the modes differ, in short; docs/metrics.md has all.
_AP = (
    "compat: every mask has score 1, ties go by image and order; strict: ranked by the decoder's "
    "own estimate"
)
_CAPTION = "a missing caption is left out in compat, an empty one in strict"
QUIRKS: dict[str, dict[str, str]] = {
    "gcg": {
        "AP": _AP,
        "AP50": _AP,
        "AP75": _AP,
        "mIoU": "compat: greedy pairs, a mask without a partner costs nothing; strict: the best "
        "pairing over all true masks",
        "recall": "compat: an image ends at its first pair that fails; strict: the most true masks "
        "that can be found at once",
    },
    "refseg": {
        "cIoU": "compat leaves true masks without an answer out; strict counts their pixels",
        "gIoU": "compat adds 1e-5 to what it divides by",
    },
    "phrase_grounding": {
        "mIoU": "compat: masks belong to the true ones in their order, those that are missing are "
        "left out; strict: by their words, and 0",
        "recall": "compat: masks belong to the true ones in their order; strict: by their words",
    },
    "conversation": {
        "relative score": "compat: a malformed review counts -1 for both; strict leaves it out"
    },
}


def write_report(
    path: Path,
    config: Mapping[str, Any],
    items: Sequence[Item],
    predictions: Sequence[Prediction],
    scored_by_mode: Mapping[Mode, MetricResult],
    pictures: LoadImage,
) -> None:
    """Write the page, all or nothing.

    Args:
        config: of the run, as its config.json; `benchmark` and `split` name the paper's rows.
        pictures: the upright picture of an item, uint8[h, w, 3]; what it raises of OSError and
            ValueError is told on the item's card.
    """
    benchmark, split = (str(config.get(key, "")) for key in ("benchmark", "split"))
    said = {prediction.id: prediction for prediction in predictions}
    problems = _problems(items, predictions)
    troubled = {name: None for names in problems.values() for name in names}
    page = Page(f"{benchmark}, {split}".removesuffix(", "), str(config.get("model", "")))
    page.facts(_facts(items, predictions) | {"answers with problems": len(troubled)})
    page.section("Scores")
    _scores(page, benchmark, split, scored_by_mode)
    page.section("How items differ")
    page.histograms(_distributions(items, predictions, scored_by_mode))
    for title, shown, values in _chosen(items, [*troubled], scored_by_mode):
        page.section(title)
        _show(page, shown, said, values, pictures)
    page.section("What was irregular")
    page.section("In answers", level=3)
    page.kinds(problems)
    for mode, scored in scored_by_mode.items():
        page.section(f"Noted by scoring, {mode}", level=3)
        page.kinds(scored.notes)
    page.section("Configuration")
    lines = [
        f"{name} = {json.dumps(value, default=str)}"
        for name, value in flatten_config(dict(config)).items()
    ]
    page.folded("config.json", lines)
    page.save(path)


def _facts(items: Sequence[Item], predictions: Sequence[Prediction]) -> dict[str, int]:
    answered = {prediction.id for prediction in predictions}
    return {
        "pictures": len({item.image_id for item in items}),
        "questions": len(items),
        "answers": len(predictions),
        "without an answer": sum(item.id not in answered for item in items),
        "masks said": sum(len(prediction.masks) for prediction in predictions),
        "true masks": sum(len(item.reference_masks) for item in items),
    }


def _scores(
    page: Page, benchmark: str, split: str, scored_by_mode: Mapping[Mode, MetricResult]
) -> None:
    """Beside the paper's rows, then mode beside mode, and why they differ where they do."""
    figures: dict[str, Mapping[str, float]] = {m: x.scores for m, x in scored_by_mode.items()}
    if rows(benchmark, split) or len(figures) < len(MODES):
        header, lines = paper_table(benchmark, split, figures)
        page.table(header, [["" if cell is None else cell for cell in line] for line in lines])
    page.paragraph(
        "All shares are fractions. compat counts as the original's code does, whose figures the "
        "paper gives; strict counts as the figure's definition says."
    )
    if len(figures) == len(MODES):
        header = ("figure", "compat", "strict", "strict minus compat", "how they differ")
        names = dict.fromkeys(name for own in figures.values() for name in own)
        page.table(header, [_both_modes(benchmark, name, figures) for name in names])


def _both_modes(
    benchmark: str, name: str, figures: Mapping[str, Mapping[str, float]]
) -> list[object]:
    """A figure's row; a mode that does not have it has an empty cell."""
    compat, strict = (figures[mode].get(name) for mode in MODES)
    if compat is None or strict is None:
        return [name, "" if compat is None else compat, "" if strict is None else strict, "", ""]
    usual = _CAPTION if name in CAPTION_FIGURES else ""
    quirk = QUIRKS.get(benchmark, {}).get(name.removeprefix(FREE), usual)
    return [name, compat, strict, strict - compat, quirk if strict != compat else ""]


def _distributions(
    items: Sequence[Item],
    predictions: Sequence[Prediction],
    scored_by_mode: Mapping[Mode, MetricResult],
) -> dict[str, list[float]]:
    """Values of items, one drawing where the modes agree on all of them; lengths and counts."""
    found: dict[str, list[float]] = {}
    for figure in dict.fromkeys(key for x in scored_by_mode.values() for key in x.scores):
        own = {mode: values_of(scored, figure) for mode, scored in scored_by_mode.items()}
        if len({tuple(sorted(values.items())) for values in own.values()}) == 1:
            own = {"": next(iter(own.values()))}
        for mode, values in own.items():
            found[f"{figure}, {mode}".removesuffix(", ")] = [*values.values()]
    masks_said = [float(len(prediction.masks)) for prediction in predictions]
    masks_true = [float(len(item.reference_masks)) for item in items]
    found["words of an answer"] = [float(len(x.text.split())) for x in predictions]
    if any(masks_said) or any(masks_true):
        found |= {"masks of an answer": masks_said, "true masks of an item": masks_true}
    found["the decoder's own estimate of a mask's IoU"] = [s for x in predictions for s in x.scores]
    return found


Shown = tuple[str, list[Item], Mapping[str, str]]


def _chosen(
    items: Sequence[Item],
    troubled: Sequence[str],
    scored_by_mode: Mapping[Mode, MetricResult],
) -> list[Shown]:
    """Sections of items, each with the value of every item in words; no item is in two of them."""
    by_id = {item.id: item for item in items}
    mode, figure, values = ranked(scored_by_mode) or ("", "", {})
    order = sorted((name for name in values if name in by_id), key=lambda name: values[name])
    words = {name: f"{figure} {values[name]:.3f}" for name in order}
    num_best = min(SHOWN, (len(order) + 1) // 2)
    best = order[::-1][:num_best]
    worst = order[: len(order) - num_best][:SHOWN]
    shown = {*best, *worst}
    others = [name for name in troubled if name in by_id and name not in shown]
    rest = [name for name in by_id if not order and name not in others]
    sections = {
        f"Worst by {figure}, {mode}": worst,
        f"Best by {figure}, {mode}": best,
        "With problems": others[:SHOWN],
        "Some items": rest[:SHOWN],
    }
    return [(title, [by_id[x] for x in ids], words) for title, ids in sections.items() if ids]


def _show(
    page: Page,
    items: Sequence[Item],
    said: Mapping[str, Prediction],
    values: Mapping[str, str],
    pictures: LoadImage,
) -> None:
    """Cards two by two where there are masks; where there are words alone both stand on one."""
    question = common_question(items)
    if question:
        page.paragraph(f"asked: {question}")
    pairs = []
    for item in items:
        title = f"{item.id} {values.get(item.id, '')}".strip()
        pairs.append(cards_of(item, said.get(item.id), pictures, title, asks=not question))
    if any(card.masks for pair in pairs for card in pair):
        page.groups(pairs)
    else:
        page.cards([replace(one, lines=[*one.lines, *two.lines]) for one, two in pairs])


def _problems(items: Sequence[Item], predictions: Sequence[Prediction]) -> dict[str, list[str]]:
    """Kinds of trouble in answers, without their numbers and quotations, and whose they are."""
    forced = {item.id for item in items if item.history}  # their answers are cut on purpose
    found: dict[str, list[str]] = {}
    for said in predictions:
        kinds = [re.sub(r"'[^']*'|\"[^\"]*\"|\d+", "…", problem) for problem in said.problems]
        if said.finish == "length" and said.id not in forced:
            kinds.append("cut at its length")
        if said.finish == "failed" and not kinds:
            kinds.append("nothing could be asked")
        for kind in dict.fromkeys(kinds):
            found.setdefault(kind, []).append(said.id)
    return found
