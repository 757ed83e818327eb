"""The graph of the stages: validation, order, fingerprints, and what runs again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from glamm_jax.grand.drivers.local import run_local
from glamm_jax.grand.images import ImageOptions, image_stage, scan_images
from glamm_jax.grand.run_folder import AnnotationRun
from glamm_jax.grand.stages import (
    GraphError,
    Stage,
    StageError,
    StageGraph,
    one_line,
    stage_seed,
)
from tests.grand.toy_stages import STAGES, MeanColour, calls, toy_graph, write_photographs


def _nothing(images: Sequence[Any]) -> list[dict[str, Any]]:
    return [{} for _ in images]


def _stage(name: str, *inputs: str, **fields: Any) -> Stage:
    return Stage(name=name, inputs=inputs, process=_nothing, **fields)


def _constant(value: int, images: Sequence[Any]) -> list[dict[str, Any]]:
    return [{"value": value} for _ in images]


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ([_stage("a"), _stage("a")], "stage 'a': there are two of this name"),
        ([_stage("a", "b")], "stage 'a': its input 'b' is no stage; there are: a"),
        ([_stage("a"), _stage("b", "a", "a")], "stage 'b': its input 'a' occurs twice"),
        (
            [_stage("a"), _stage("b", "a", optional_inputs=("a",))],
            "stage 'b': its input 'a' occurs twice",
        ),
        (
            [_stage("x", "a"), _stage("a", "c"), _stage("b", "a"), _stage("c", "b")],
            "the inputs of these stages form a cycle: a <- c <- b <- a",
        ),
        ([_stage("a", "a")], "the inputs of these stages form a cycle: a <- a"),
        ([_stage(" ")], "a stage has no name"),
        ([_stage("a", batch_size=0)], "stage 'a': batch_size 0 is below 1"),
        ([_stage("a", settings={1, 2})], "stage 'a': the settings are not JSON: set is not JSON"),
        ([_stage("a", settings=float("nan"))], "stage 'a': the settings are not JSON: Out of"),
    ],
)
def test_invalid_graphs_are_refused(stages: list[Stage], message: str) -> None:
    with pytest.raises(GraphError) as caught:
        StageGraph(stages)
    assert str(caught.value).startswith(message)


def test_stages_run_after_their_inputs_and_those_of_one_device_model_together() -> None:
    large, small = MeanColour("large", needs_device=True), MeanColour("small", needs_device=True)
    graph = StageGraph(
        [
            _stage("caption", "image", roles=(large,)),
            _stage("boxes", "image", roles=(small,)),
            _stage("fusion", "boxes", "caption"),
            _stage("landmark", "image", roles=(large,)),
            _stage("image"),
            _stage("tags", "image", roles=(MeanColour(),)),
        ]
    )
    assert list(graph.stages) == ["image", "tags", "caption", "landmark", "boxes", "fusion"]
    assert [(group.names, group.needs_device) for group in graph.groups] == [
        (("image", "tags"), False),
        (("caption", "landmark"), True),
        (("boxes",), True),
        (("fusion",), False),
    ]
    assert list(graph.with_inputs_of("boxes").stages) == ["image", "boxes"]
    with pytest.raises(GraphError, match="no stage 'mask'; there are: image"):
        graph.with_inputs_of("mask")


@dataclass(frozen=True)
class _Options:
    threshold: float = 0.5
    labels: tuple[str, ...] = ("a",)


def test_settings_may_be_dataclasses_and_the_order_of_keys_does_not_count() -> None:
    def fingerprint(settings: Any) -> str:
        return StageGraph([_stage("a", settings=settings)]).fingerprints["a"]

    assert fingerprint(_Options()) == fingerprint({"labels": ["a"], "threshold": 0.5})
    assert fingerprint(_Options()) != fingerprint(_Options(threshold=0.6))


Change = Callable[[Stage], Stage]
CHANGES: dict[str, Change] = {
    "settings": lambda stage: replace(stage, settings={"other": [stage.settings_json()]}),
    "version": lambda stage: replace(stage, version=stage.version + 1),
    "roles": lambda stage: replace(stage, roles=(*stage.roles, MeanColour("another"))),
}
AFFECTED = {
    "image": {"image", "size", "mean/colour", "sum"},
    "size": {"size", "sum"},
    "mean/colour": {"mean/colour", "sum"},
    "sum": {"sum"},
}


def _changed(graph: StageGraph, name: str, change: Change) -> StageGraph:
    return StageGraph(
        change(stage) if stage.name == name else stage for stage in graph.stages.values()
    )


@pytest.mark.parametrize("name", STAGES)
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_change_reaches_exactly_the_stages_that_depend_on_it(name: str, change: Change) -> None:
    graph = toy_graph()
    changed = _changed(graph, name, change)
    different = {x for x in STAGES if changed.fingerprints[x] != graph.fingerprints[x]}
    assert different == AFFECTED[name]


def test_batch_size_and_the_order_of_the_stages_change_no_fingerprint() -> None:
    graph = toy_graph()
    changed = StageGraph(replace(stage, batch_size=1) for stage in [*graph.stages.values()][::-1])
    assert changed.fingerprints == graph.fingerprints


@pytest.mark.parametrize("name", STAGES)
def test_after_a_change_exactly_the_stages_that_depend_on_it_run_again(
    name: str, tmp_path: Path
) -> None:
    photographs = write_photographs(tmp_path / "photos", 3)
    run = AnnotationRun.create(tmp_path / "run", scan_images(photographs), photographs)
    log = tmp_path / "log"
    run_local(run, toy_graph(str(log)), processes=1)
    log.unlink()
    graph = toy_graph(str(log))
    if name == "image":
        other = image_stage(ImageOptions(min_side=3))
        graph = StageGraph(other if x.name == "image" else x for x in graph.stages.values())
    else:
        graph = _changed(graph, name, CHANGES["settings"])
    result = run_local(run, graph, processes=1)
    assert {stage for stage, _, _ in calls(log)} == AFFECTED[name] - {"image"}
    assert result.computed_chunks == len(AFFECTED[name])
    assert result.complete
    log.unlink()
    assert run_local(run, toy_graph(str(log)), processes=1).computed_chunks == 0  # both are kept
    assert not calls(log)


def test_seeds_are_those_of_image_stage_and_attempt() -> None:
    assert stage_seed("a.jpg", "tags", 0) == 276243398
    seeds = {stage_seed(image, stage, n) for image in "ab" for stage in "st" for n in range(2)}
    assert len(seeds) == 8
    assert all(0 <= seed < 2**31 for seed in seeds)


def test_messages_are_one_short_line_without_addresses() -> None:
    assert one_line("a\n  b <C object at 0x7fdeadbeef>") == "a b <C object at 0x...>"
    assert len(one_line("x" * 1000)) == 500
    assert StageError("skipped", "m", "tags").to_json() == {
        "kind": "skipped",
        "message": "m",
        "stage": "tags",
    }


def test_partial_functions_do_not_change_fingerprints() -> None:
    def graph(value: int) -> StageGraph:
        return StageGraph([Stage(name="a", process=partial(_constant, value), settings={})])

    # What `process` holds must be in the settings: the fingerprint cannot see it.
    assert graph(1).fingerprints == graph(2).fingerprints
