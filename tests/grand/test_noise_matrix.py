"""Each noise parameter of the oracles changes its own metric, and no other.

Scenes are annotated and scored by the program: `run` with one parameter above zero, then `score`,
compared with the scores without it. `EFFECTS` names the metrics that a parameter is about, and
those that depend on them, with the reason; all others stay within `MARGIN`. Errors of one model of
many are outvoted, as they should be. So some parameters are shown where less models are.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass, field, fields
from io import StringIO
from pathlib import Path

import pytest

from glamm_jax.cli.annotate import main
from glamm_jax.grand.adapters import NoiseOptions
from glamm_jax.grand.scoring import METRICS
from glamm_jax.miniworld import FULL
from glamm_jax.miniworld.truth_folder import write_scenes

pytestmark = pytest.mark.usefixtures("unchecked")  # most of the time would be type checks

ROLES = Path(__file__).resolve().parents[2] / "configs" / "annotate" / "noisy.toml"
MARGIN = 0.03  # of metrics that do not depend on a parameter
LEAST = 0.04  # by which the own metrics of a parameter fall
SIZE = 96

_GRAPH = "the dense caption says what the scene graph says"
_LINKS = "a phrase is linked to the object whose box has an IoU of 0.75 with its box"
_RELATIONS = "a relation needs the links of two phrases"
_SHORT = "short captions are grounded by the links"
_DENSE = "dense captions are grounded by the links, too"
_ALIKE = "a phrase that several objects of the graph fit is not grounded"
_CAPTIONS = dict.fromkeys(("first_entity_precision", "final_entity_precision"), _GRAPH)


@dataclass(frozen=True)
class Effect:
    """What a noise parameter does.

    Attributes:
        value: of the parameter.
        own: the metrics that it is about.
        dependents: other metrics that change -> why they do.
        without: tables of the role file that are left out.
        options: `--set` of the run.
        base: noise of the scores that are compared, too.
    """

    value: float
    own: tuple[str, ...]
    dependents: Mapping[str, str] = field(default_factory=dict)
    without: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    base: Mapping[str, float] = field(default_factory=dict)


EFFECTS: dict[str, Effect] = {
    # Without `attributes.min_area` small objects have no attribute but that of the dense captioner.
    "misses": Effect(0.75, ("object_recall",), options=("attributes.min_area=0",)),
    "false_positives": Effect(
        3,
        ("object_precision",),
        {
            **_CAPTIONS,
            "dense_grounding_precision": _ALIKE,
            "dense_grounding_recall": _ALIKE,
        },
        options=("fusion.min_sources=1",),
    ),
    "box_jitter": Effect(
        0.06,
        ("box_iou",),
        {
            "phrase_link_precision": _LINKS,
            "phrase_link_recall": _LINKS,
            "relation_precision": _RELATIONS,
            "relation_recall": _RELATIONS,
            "short_grounding_precision": _SHORT,
            "short_grounding_recall": _SHORT,
            "dense_grounding_precision": _DENSE,
            "dense_grounding_recall": _DENSE,
        },
        without=("region_proposer", "region_classifiers.ov_sam", "segmenter"),
    ),
    "label_confusion": Effect(0.8, ("label_accuracy",), without=("label_chooser",)),
    "choice_errors": Effect(0.8, ("label_accuracy",), base={"label_confusion": 0.4}),
    "attribute_errors": Effect(
        0.4, ("attribute_accuracy",), {**_CAPTIONS, "dense_grounding_recall": _ALIKE}
    ),
    "mask_erosion": Effect(
        0.1, ("mask_iou",), {"box_iou": "the box of an object becomes that of its mask"}
    ),
    "proposal_misses": Effect(0.5, ("mask_share",), without=("segmenter",)),
    "depth_noise": Effect(0.15, ("depth_layer_accuracy",)),
    "tag_misses": Effect(
        0.7,
        ("object_recall",),
        {
            "dense_grounding_recall": "without a dense captioner small objects have no attribute; "
            + _ALIKE
        },
        without=(
            *("detectors.eva-02-01", "detectors.co_detr", "detectors.eva-02-02"),
            *("dense_captioners.grit", "region_classifiers.ov_sam"),
        ),
        options=("fusion.min_sources=2",),
    ),
    "landmark_errors": Effect(0.5, ("landmark_accuracy",)),
    "caption_omissions": Effect(0.5, ("short_entity_recall",)),
    "caption_inventions": Effect(0.6, ("short_entity_precision",)),
    "grounding_misses": Effect(
        0.4,
        ("phrase_link_recall",),
        {"relation_recall": _RELATIONS, "short_grounding_recall": _SHORT},
    ),
    "llm_inventions": Effect(
        0.6,
        ("first_entity_precision",),
        {
            "final_entity_precision": "verification accepts an object that is like a true one",
            "verified_captions": "or there are inventions in every round",
            "dense_grounding_precision": "an invented object that is like a true one is grounded",
        },
    ),
    "llm_refusals": Effect(0.8, ("written_captions",)),
    "llm_truncations": Effect(
        0.8,
        ("written_captions",),
        {"verified_captions": "the checklist is cut as well, and is made by the rules"},
    ),
    "corrupt_images": Effect(0.4, ("annotated_images",)),
}
Scores = Callable[..., dict[str, float | None]]


def role_file(path: Path, noise: Mapping[str, float], without: tuple[str, ...]) -> Path:
    """Write a role file of oracles with some noise, without some of the models."""
    values = ", ".join(f"{name} = {value:g}" for name, value in noise.items())
    text = ROLES.read_text().replace('noise = "easy"', f"noise = {{ {values} }}")
    for table in without:
        text, number = re.subn(rf"^\[{re.escape(table)}\]\n([^\[\n]+\n)*", "", text, flags=re.M)
        assert number == 1, table
    path.write_text(text)
    return path


def scorer(folder: Path, count: int) -> Scores:
    """Return the function of noise, left out models and options that annotates and scores."""
    write_scenes(folder / "scenes", FULL, seed=5, count=count, size=SIZE)
    known: dict[str, dict[str, float | None]] = {}

    def scores(
        noise: Mapping[str, float], without: tuple[str, ...], options: tuple[str, ...]
    ) -> dict[str, float | None]:
        key = f"{dict(noise)} {without} {options}"
        if key not in known:
            out = folder / f"run-{len(known)}"
            roles = role_file(folder / f"roles-{len(known)}.toml", noise, without)
            arguments = ["run", str(folder / "scenes" / "images"), "--out", str(out)]
            arguments += ["--roles", str(roles), "--workers", "1", "--allow-failures", "1"]
            assert main(arguments + [x for option in options for x in ("--set", option)]) == 0
            known[key] = _score(out)
        return known[key]

    return scores


def _score(run: Path) -> dict[str, float | None]:
    text = StringIO()
    with redirect_stdout(text):
        assert main(["score", str(run), "--json"]) == 0
    return json.loads(text.getvalue())["metrics"]


def changes(scores: Scores, name: str) -> dict[str, float]:
    """Return by how much each metric changes if a parameter is added."""
    effect = EFFECTS[name]
    before = scores(effect.base, effect.without, effect.options)
    after = scores({**effect.base, name: effect.value}, effect.without, effect.options)
    return {
        metric: (after[metric] or 0.0) - (before[metric] or 0.0)
        for metric in METRICS
        if before[metric] is not None and after[metric] is not None
    }


def check(scores: Scores, name: str) -> dict[str, float]:
    """Compare the changes with the table, and return them."""
    effect, found = EFFECTS[name], changes(scores, name)
    for metric in effect.own:
        assert found[metric] <= -LEAST, (metric, found[metric])
    others = set(METRICS) - set(effect.own) - set(effect.dependents)
    changed = {x: found[x] for x in others if x in found and abs(found[x]) > MARGIN}
    assert changed == {}
    return found


def test_every_noise_parameter_is_in_the_table() -> None:
    assert [*EFFECTS] == sorted(EFFECTS, key=[x.name for x in fields(NoiseOptions)].index)
    assert {x.name for x in fields(NoiseOptions)} == set(EFFECTS)
    for effect in EFFECTS.values():
        assert {*effect.own, *effect.dependents} <= set(METRICS)


@pytest.fixture(scope="module")
def few_scenes(tmp_path_factory: pytest.TempPathFactory) -> Scores:
    return scorer(tmp_path_factory.mktemp("few"), 12)


@pytest.mark.parametrize("name", EFFECTS)
def test_a_noise_parameter_changes_its_own_metric_and_no_other(
    name: str, few_scenes: Scores
) -> None:
    """Issue 17, section 5."""
    check(few_scenes, name)


@pytest.fixture(scope="module")
def many_scenes(tmp_path_factory: pytest.TempPathFactory) -> Scores:
    return scorer(tmp_path_factory.mktemp("many"), 60)


@pytest.mark.slow
@pytest.mark.parametrize("name", EFFECTS)
def test_the_table_of_effects_on_more_scenes(name: str, many_scenes: Scores) -> None:
    """Each dependent metric that the table names changes; so it names none without reason."""
    found = check(many_scenes, name)
    assert {x for x in EFFECTS[name].dependents if found[x] > -0.003} == set()
