"""The complete annotation of rendered scenes by oracles: quality, noise, and what runs again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from glamm_jax.grand.adapters import NOISE, ORACLES, NoiseOptions
from glamm_jax.grand.drivers.local import run_local
from glamm_jax.grand.images import scan_images
from glamm_jax.grand.pipeline import (
    PIPELINES,
    PipelineOptions,
    RoleSet,
    RoleSetError,
    build_graph,
)
from glamm_jax.grand.record import GrandRecord
from glamm_jax.grand.run_folder import AnnotationRun
from glamm_jax.grand.scoring import ScoreTotals, score_record
from glamm_jax.grand.stages import StageGraph
from glamm_jax.miniworld import FULL
from glamm_jax.miniworld.truth_folder import open_truth, write_scenes

NUM_SCENES, SIZE = 12, 96
DETECTORS = ("eva-02-01", "co_detr", "eva-02-02")


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes") / "scenes"
    write_scenes(folder, FULL, seed=5, count=NUM_SCENES, size=SIZE)
    return folder


def oracle_roles(scenes: Path, noise: NoiseOptions = NOISE["none"]) -> RoleSet:
    def oracle(kind: str, name: str, **options: Any) -> Any:
        return ORACLES[kind](scenes, name, noise, **options)

    return RoleSet(
        taggers={"ram": oracle("tagger", "ram")},
        detectors={name: oracle("detector", name) for name in DETECTORS},
        open_detectors={name: oracle("open_detector", name) for name in ("owl_vit", "pomp")},
        dense_captioners={"grit": oracle("dense_captioner", "grit")},
        region_proposer=oracle("region_proposer", "sam"),
        region_classifiers={"ov_sam": oracle("region_classifier", "ov_sam")},
        depth_estimator=oracle("depth_estimator", "midas"),
        landmark_classifier=oracle("landmark_classifier", "llava"),
        captioners={
            "blip2": oracle("captioner", "blip2", style="relation"),
            "llava": oracle("captioner", "llava"),
        },
        phrase_grounder=oracle("phrase_grounder", "mdetr"),
        region_captioner=oracle("region_captioner", "gpt4roi"),
        label_chooser=oracle("label_chooser", "eva_clip"),
        segmenter=oracle("segmenter", "hq_sam"),
        llm=oracle("llm", "vicuna"),
    )


def annotate(scenes: Path, out: Path, graph: StageGraph) -> dict[str, float | None]:
    """Annotate all scenes, and return the scores."""
    images = scenes / "images"
    run = AnnotationRun.create(out, scan_images(images), images)
    assert run_local(run, graph, processes=1).complete
    totals, truth = ScoreTotals(), open_truth(scenes)
    for image_id, record in records(run, graph):
        totals.add(score_record(record, truth[image_id]))
    return totals.values()


def records(run: AnnotationRun, graph: StageGraph) -> Iterator[tuple[str, GrandRecord]]:
    for scene in run.scenes(graph, ["annotations"]):
        assert not scene.errors
        yield scene.image_id, GrandRecord.from_json(scene.sections["annotations"]["record"])


def test_without_noise_every_metric_of_the_preset_paper_is_1(scenes: Path, tmp_path: Path) -> None:
    scores = annotate(
        scenes, tmp_path / "run", build_graph(oracle_roles(scenes), PIPELINES["paper"])
    )
    assert scores == dict.fromkeys(scores, 1.0)


def test_the_preset_released_has_no_relations_and_no_verification(
    scenes: Path, tmp_path: Path
) -> None:
    graph = build_graph(oracle_roles(scenes), PIPELINES["released"])
    scores = annotate(scenes, tmp_path / "run", graph)
    assert scores["relation_precision"] is None
    assert scores["verified_captions"] is None
    # The phrases begin with a small letter, and are searched with the same case.
    assert scores["short_grounding_recall"] is not None
    assert 0.5 < scores["short_grounding_recall"] < 1.0
    differing = ("relation_recall", "relation_precision", "verified_captions")
    others = {*scores} - {*differing, "short_grounding_recall"}
    assert {name: scores[name] for name in others} == dict.fromkeys(others, 1.0)


def test_votes_and_verification_remove_errors(scenes: Path, tmp_path: Path) -> None:
    roles = oracle_roles(scenes, NOISE["hard"])
    paper = annotate(scenes, tmp_path / "paper", build_graph(roles, PIPELINES["paper"]))
    released = annotate(scenes, tmp_path / "released", build_graph(roles, PIPELINES["released"]))
    for name in ("object_precision", "final_entity_precision", "dense_grounding_precision"):
        assert (paper[name] or 0.0) > (released[name] or 0.0), name
    assert (paper["object_recall"] or 0.0) < (released["object_recall"] or 0.0)
    assert (paper["final_entity_precision"] or 0.0) >= (paper["first_entity_precision"] or 0.0)


# Group of options -> the first stages that depend on it.
STEPS: Mapping[str, tuple[str, ...]] = {
    "merge": ("fusion",),
    "fusion": ("fusion",),
    "phrases": ("phrases", "phrase_boxes"),
    "links": ("links",),
    "attributes": ("region_attributes",),
    "labels": ("label_choices", "objects"),
    "graph": ("scene_graph",),
    "grounding": ("caption_grounding",),
    "masks": ("masks",),
}
OTHERS: Mapping[str, tuple[str, ...]] = {
    "tags": ("open_detections/owl_vit", "open_detections/pomp"),
    "regions": ("region_labels/ov_sam",),
    "depth": ("depth",),
    "relations": ("links",),
    "verification": ("dense_caption", "context"),
}


def changed_options() -> dict[str, PipelineOptions]:
    """Return for each group options that differ from those of `paper` in this group alone."""
    paper, released = PIPELINES["paper"], PIPELINES["released"]
    options = {
        name: replace(paper, steps=replace(paper.steps, **{name: getattr(released.steps, name)}))
        for name in STEPS
        if name != "merge"
    }
    merge = replace(paper.steps.merge, nms_iou=0.8)
    options["merge"] = replace(paper, steps=replace(paper.steps, merge=merge))
    for name in OTHERS:
        options[name] = replace(paper, **{name: getattr(released, name)})
    options["regions"] = replace(paper, regions=replace(paper.regions, min_score=0.2))
    return options


@pytest.mark.parametrize("name", [*STEPS, *OTHERS])
def test_an_option_changes_exactly_the_stages_that_depend_on_it(scenes: Path, name: str) -> None:
    roles = oracle_roles(scenes)
    before = build_graph(roles, PIPELINES["paper"])
    after = build_graph(roles, changed_options()[name])
    expected = {*(STEPS | OTHERS)[name]}
    for stage in before.stages.values():  # in the order of execution
        if expected & {*stage.all_inputs}:
            expected.add(stage.name)
    changed = {x for x in before.fingerprints if before.fingerprints[x] != after.fingerprints[x]}
    assert changed == expected


def test_too_few_sources_are_refused(scenes: Path) -> None:
    roles = oracle_roles(scenes)
    few = RoleSet(detectors={"co_detr": roles.detectors["co_detr"]})
    with pytest.raises(
        RoleSetError, match=r"an object needs 3 models .* there are 1 .*min_sources=1"
    ):
        build_graph(few, PIPELINES["paper"])


def test_a_detector_alone_gives_objects(scenes: Path, tmp_path: Path) -> None:
    roles = RoleSet(detectors={"co_detr": oracle_roles(scenes).detectors["co_detr"]})
    paper = PIPELINES["paper"]
    fusion = replace(paper.steps.fusion, min_sources=1)
    graph = build_graph(roles, replace(paper, steps=replace(paper.steps, fusion=fusion)))
    scores = annotate(scenes, tmp_path / "run", graph)
    assert scores["object_recall"] == scores["object_precision"] == 1.0
    assert scores["dense_captions"] == 0.0
