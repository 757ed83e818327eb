"""Oracles of the roles: the contract of all roles, exact answers without noise, and each noise."""

from __future__ import annotations

import math
import pickle
from collections import Counter
from dataclasses import fields, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from glamm_jax.data import rle
from glamm_jax.errors import FolderError, GLaMMError
from glamm_jax.grand.adapters import NOISE, ORACLES, NoiseOptions
from glamm_jax.grand.adapters.oracle import (
    OracleCaptioner,
    OracleDetector,
    OracleOpenDetector,
    box_mask,
    eroded,
)
from glamm_jax.grand.adapters.oracle_language import NOTHING, REFUSAL, OracleLLM, parse_graph
from glamm_jax.grand.record import Detection
from glamm_jax.grand.roles import LANDMARKS, RoleError, RoleImage
from glamm_jax.miniworld.annotations import mask_box
from glamm_jax.miniworld.mentions import find_mentions, head_mention
from glamm_jax.miniworld.scene import render_scene
from glamm_jax.miniworld.truth_folder import open_truth, scene_truth, write_scenes
from glamm_jax.miniworld.world import EASY, FULL, PLACES
from tests.grand.oracle_calls import (
    KINDS,
    call,
    columns,
    graph_text,
    make_oracle,
    read_image,
    request,
)

# Parameter -> a value with which some of 16 scenes are changed for certain, and whose answers.
STRONG: dict[str, tuple[float, set[str]]] = {
    "misses": (0.5, {"detector", "open_detector", "dense_captioner"}),
    "false_positives": (4.0, {"detector", "open_detector", "dense_captioner"}),
    "box_jitter": (0.1, {"detector", "open_detector", "dense_captioner"}),
    "label_confusion": (0.5, {"detector", "open_detector", "region_classifier"}),
    "choice_errors": (0.5, {"label_chooser"}),
    "attribute_errors": (0.5, {"dense_captioner", "region_captioner"}),
    "mask_erosion": (0.1, {"detector", "region_proposer", "segmenter"}),
    "proposal_misses": (0.5, {"region_proposer"}),
    "depth_noise": (0.1, {"depth_estimator"}),
    "tag_misses": (0.5, {"tagger"}),
    "landmark_errors": (0.5, {"landmark_classifier"}),
    "caption_omissions": (0.5, {"captioner"}),
    "caption_inventions": (0.5, {"captioner"}),
    "grounding_misses": (0.5, {"phrase_grounder"}),
    "llm_inventions": (0.5, {"llm"}),
    "llm_refusals": (0.5, {"llm"}),
    "llm_truncations": (0.5, {"llm"}),
    "corrupt_images": (0.5, set(KINDS)),
}


def _same(first: Any, second: Any) -> bool:
    if isinstance(first, np.ndarray) and isinstance(second, np.ndarray):
        return np.array_equal(first, second)
    return type(first) is type(second) and first == second


def _same_all(first: list[Any], second: list[Any]) -> bool:
    return len(first) == len(second) and all(map(_same, first, second))


def _answers(kind: str, folder: Path, noise: NoiseOptions) -> list[Any]:
    ids = open_truth(folder).image_ids
    role = make_oracle(kind, folder, noise)
    if kind != "llm":
        return call(role, kind, folder, ids)
    return role([request(graph_text(open_truth(folder)[i]), i) for i in ids])


# ---------------------------------------------------------------- contract of all roles


@pytest.mark.parametrize("kind", KINDS)
def test_results_are_in_order_and_independent_of_the_batch(kind: str, scene_folder: Path) -> None:
    role = make_oracle(kind, scene_folder, NOISE["hard"])
    ids = open_truth(scene_folder).image_ids
    together = call(role, kind, scene_folder, ids)
    assert len(together) == len(ids)
    alone = [call(role, kind, scene_folder, [image_id])[0] for image_id in ids]
    assert _same_all(together, alone)
    backwards = call(role, kind, scene_folder, ids[::-1])
    assert _same_all(together, backwards[::-1])
    assert role([], *([] for _ in columns(kind, scene_folder, []))) == []


@pytest.mark.parametrize("kind", KINDS)
def test_an_image_that_cannot_be_used_is_one_error(kind: str, scene_folder: Path) -> None:
    ids = open_truth(scene_folder).image_ids[:3]
    images = [read_image(scene_folder, image_id) for image_id in ids]
    inputs = columns(kind, scene_folder, ids)
    role = make_oracle(kind, scene_folder)
    expected = role(images, *inputs)
    for bad in (RoleImage(ids[1], np.zeros((1, 1, 3), np.uint8)), RoleImage("x", images[1].pixels)):
        results = role([images[0], bad, images[2]], *inputs)
        assert _same_all(results[::2], expected[::2])
        assert isinstance(results[1], RoleError)
        assert results[1].kind == "input"
        assert "\n" not in results[1].message


def _check_detections(detections: list[Detection], size: int) -> None:
    for detection in detections:
        x0, y0, x1, y1 = detection.box
        assert 0 <= x0 < x1 <= size
        assert 0 <= y0 < y1 <= size
        assert 0 <= detection.score <= 1
        if detection.mask is not None:
            assert rle.decode(detection.mask).shape == (size, size)


@pytest.mark.parametrize("noise", ["none", "hard"])
def test_answers_are_valid(noise: str, scene_folder: Path) -> None:
    options = replace(NOISE[noise], corrupt_images=0.0, false_positives=8.0 * (noise == "hard"))
    answers = {kind: _answers(kind, scene_folder, options) for kind in KINDS}
    for kind in ("detector", "open_detector", "dense_captioner", "region_proposer"):
        assert any(answers[kind])
        for detections in answers[kind]:
            _check_detections(detections, 128)
    for detections, boxes in zip(
        answers["region_classifier"],
        columns("region_classifier", scene_folder, open_truth(scene_folder).image_ids)[0],
        strict=True,
    ):
        assert [detection.box for detection in detections] == boxes
    for groups in answers["phrase_grounder"]:
        for detections in groups:
            _check_detections(detections, 128)
    for masks in answers["segmenter"]:
        assert all(rle.decode(mask).any() for mask in masks)
    for depth in answers["depth_estimator"]:
        assert depth.dtype == np.float32
        assert depth.shape == (128, 128)
        assert np.isfinite(depth).all()
        assert depth.min() >= 0
    for landmark in answers["landmark_classifier"]:
        assert landmark.fine_category in LANDMARKS[landmark.category]
    for kind in ("tagger", "label_chooser"):
        assert all(0 <= tag.score <= 1 for tags in answers[kind] for tag in tags)
    for text in (*answers["captioner"], *chain.from_iterable(answers["region_captioner"])):
        assert text.strip() == text != ""


@pytest.mark.parametrize("kind", [*KINDS, "llm"])
def test_a_role_can_be_sent_to_another_process(kind: str, scene_folder: Path) -> None:
    role = make_oracle(kind, scene_folder, NOISE["easy"])
    copy = pickle.loads(pickle.dumps(role))
    assert (copy.name, copy.fingerprint) == (role.name, role.fingerprint)
    ids = open_truth(scene_folder).image_ids[:2]
    if kind != "llm":
        expected = call(role, kind, scene_folder, ids)
        assert _same_all(call(copy, kind, scene_folder, ids), expected)


def test_the_fingerprint_changes_with_everything_that_changes_answers(
    scene_folder: Path, tmp_path: Path
) -> None:
    write_scenes(tmp_path / "other", EASY, seed=0, count=1, size=64)
    roles = [
        OracleDetector(scene_folder),
        OracleDetector(scene_folder, "a"),
        OracleDetector(scene_folder, "a", NOISE["easy"]),
        OracleDetector(scene_folder, "a", masks=True),
        OracleOpenDetector(scene_folder, "a"),
        OracleDetector(tmp_path / "other", "a"),
        OracleCaptioner(scene_folder, "a", style="relation"),
        OracleCaptioner(scene_folder, "a"),
    ]
    assert len({role.fingerprint for role in roles}) == len(roles)
    again = OracleDetector(scene_folder, "a", NOISE["easy"])
    assert again.fingerprint == roles[2].fingerprint
    assert roles[0].name == "OracleDetector"


# ---------------------------------------------------------------- without noise: the truth


def test_detectors_without_noise_find_every_object(scene_folder: Path) -> None:
    truths = [open_truth(scene_folder)[i] for i in open_truth(scene_folder).image_ids]
    answers = {
        kind: _answers(kind, scene_folder, NoiseOptions())
        for kind in ("detector", "open_detector", "dense_captioner", "region_proposer")
    }
    for k, truth in enumerate(truths):
        objects = Counter((item.box, item.shape) for item in truth.objects)
        masks = {item.box: item.counts for item in truth.objects}
        assert Counter((d.box, d.label) for d in answers["detector"][k]) == objects
        assert all(d.mask == truth.run_lengths(masks[d.box]) for d in answers["detector"][k])
        assert Counter((d.box, d.label) for d in answers["open_detector"][k]) == objects
        described = Counter((item.box, item.description) for item in truth.objects)
        assert Counter((d.box, d.description) for d in answers["dense_captioner"][k]) == described
        regions = [*truth.objects, *truth.stuff, *truth.parts]
        proposals = answers["region_proposer"][k]
        assert [d.box for d in proposals] == [region.box for region in regions]
        assert [d.mask for d in proposals] == [truth.run_lengths(r.counts) for r in regions]


def test_an_open_detector_returns_only_what_is_asked_for(scene_folder: Path) -> None:
    role = make_oracle("open_detector", scene_folder, NOISE["hard"])
    images = [read_image(scene_folder, i) for i in open_truth(scene_folder).image_ids]
    answers = role(images, [["star", "grass"]] * len(images))
    labels = {d.label for a in answers if not isinstance(a, RoleError) for d in a}
    assert labels == {"star"}
    assert role(images[:1], [[]]) == [[]]


def test_other_roles_without_noise_answer_the_truth(scene_folder: Path) -> None:
    folder = open_truth(scene_folder)
    answers = {kind: _answers(kind, scene_folder, NoiseOptions()) for kind in KINDS}
    for k, image_id in enumerate(folder.image_ids):
        truth = folder[image_id]
        shapes = [item.shape for item in truth.objects]
        tags = {tag.text for tag in answers["tagger"][k]}
        assert tags == {*shapes, *(stuff.name for stuff in truth.stuff), truth.place}
        labels = [detection.label for detection in answers["region_classifier"][k]]
        assert labels[:-1] == shapes
        assert answers["region_classifier"][k][-1].score < 0.1  # an empty box
        descriptions = [item.description for item in truth.objects]
        assert answers["region_captioner"][k][:-1] == descriptions
        assert [tag.text for tag in answers["label_chooser"][k]] == [*shapes, "chair"]
        masks = [truth.run_lengths(item.counts) for item in truth.objects]
        assert answers["segmenter"][k][:-1] == masks
        assert np.array_equal(answers["depth_estimator"][k], truth.depth_map())
        assert tuple(answers["landmark_classifier"][k]) == PLACES[truth.place].landmark
        assert answers["captioner"][k] == truth.captions[1].text
        expected = [
            [truth.objects[i].box for i in ids] for c in truth.captions for _, _, ids in c.phrases
        ]
        boxes = [[d.box for d in group] for group in answers["phrase_grounder"][k]]
        assert boxes == [*expected, [], [], []]


def test_captioners_have_two_styles(scene_folder: Path) -> None:
    images = [read_image(scene_folder, i) for i in open_truth(scene_folder).image_ids]
    texts = OracleCaptioner(scene_folder, style="relation")(images)
    assert texts == [open_truth(scene_folder)[i.image_id].captions[0].text for i in images]
    with pytest.raises(KeyError):
        OracleCaptioner(scene_folder, style="poem")


# ---------------------------------------------------------------- noise


def test_the_table_has_every_parameter() -> None:
    assert list(STRONG) == [field.name for field in fields(NoiseOptions)]


@pytest.fixture(scope="module")
def exact_answers(scene_folder: Path) -> dict[str, list[Any]]:
    return {kind: _answers(kind, scene_folder, NoiseOptions()) for kind in ORACLES}


@pytest.mark.parametrize("parameter", list(STRONG))
def test_a_parameter_changes_the_answers_of_its_roles_only(
    parameter: str, scene_folder: Path, exact_answers: dict[str, list[Any]]
) -> None:
    value, roles = STRONG[parameter]
    noise = NoiseOptions(**{parameter: value})
    changed = {
        kind
        for kind in ORACLES
        if not _same_all(_answers(kind, scene_folder, noise), exact_answers[kind])
    }
    assert changed == roles


def test_the_errors_of_one_parameter_do_not_move_those_of_another(scene_folder: Path) -> None:
    ids = open_truth(scene_folder).image_ids
    only_misses = NoiseOptions(misses=0.4)
    few = call(make_oracle("detector", scene_folder, only_misses), "detector", scene_folder, ids)
    both = replace(only_misses, label_confusion=0.5, box_jitter=0.1)
    more = call(make_oracle("detector", scene_folder, both), "detector", scene_folder, ids)
    assert [[d.score for d in a] for a in few] == [[d.score for d in a] for a in more]


def test_models_with_different_names_err_independently(scene_folder: Path) -> None:
    ids = open_truth(scene_folder).image_ids
    noise = NoiseOptions(misses=0.5)
    found = []
    for name in ("a", "b"):
        role = make_oracle("detector", scene_folder, noise, name)
        answers = call(role, "detector", scene_folder, ids)
        found.append({(i, d.box) for i, a in zip(ids, answers, strict=True) for d in a})
    total = sum(len(open_truth(scene_folder)[i].objects) for i in ids)
    shares = [len(boxes) / total for boxes in (*found, found[0] & found[1])]
    # Of 70 objects: half, half and a quarter, each within three standard deviations.
    assert all(abs(a - b) < 0.19 for a, b in zip(shares, (0.5, 0.5, 0.25), strict=True))


def test_the_rates_are_those_of_the_options(scene_folder: Path) -> None:
    ids = open_truth(scene_folder).image_ids
    noise = NoiseOptions(false_positives=3.0)
    exact = _answers("detector", scene_folder, NoiseOptions())
    number = 0
    for name in "abcdef":
        role = make_oracle("detector", scene_folder, noise, name)
        answers = call(role, "detector", scene_folder, ids)
        number += sum(len(a) - len(b) for a, b in zip(answers, exact, strict=True))
    # 96 images with 3 boxes each on average, some of which find no free place.
    assert 2.3 < number / (6 * len(ids)) < 3.4


def test_all_roles_fail_for_the_same_corrupt_images(scene_folder: Path) -> None:
    failed = {
        kind: [isinstance(a, RoleError) for a in _answers(kind, scene_folder, noise)]
        for noise in [NoiseOptions(corrupt_images=0.5)]
        for kind in KINDS
    }
    assert len({tuple(flags) for flags in failed.values()}) == 1
    assert 0 < sum(failed["tagger"]) < 16


@pytest.mark.parametrize(
    ("name", "value"), [("misses", 1.1), ("misses", -0.1), ("box_jitter", math.nan)]
)
def test_impossible_options_are_refused(name: str, value: float) -> None:
    with pytest.raises(GLaMMError, match=name):
        NoiseOptions(**{name: value})


def test_eroded_masks_are_inside_and_have_their_box(scene_folder: Path) -> None:
    folder = open_truth(scene_folder)
    for image_id in folder.image_ids:
        truth = folder[image_id]
        for region in (*truth.objects, *truth.stuff, *truth.parts):
            for share in (0.02, 0.25):
                box, runs = eroded(truth, region.box, region.counts, share, 0.9)
                mask, whole = rle.decode(runs), rle.decode(truth.run_lengths(region.counts))
                assert mask.any()
                assert not (mask & ~whole).any()
                assert box == mask_box(mask)


@pytest.mark.parametrize(
    "box", [(0.0, 0.0, 128.0, 128.0), (3.2, 5.0, 9.9, 128.0), (127.5, 127.5, 128.0, 128.0)]
)
def test_the_mask_of_a_box_has_its_pixels(box: Any, scene_folder: Path) -> None:
    mask = rle.decode(box_mask(open_truth(scene_folder)["scene_000000"], box))
    x0, y0, x1, y1 = box
    expected = np.zeros((128, 128), bool)
    expected[int(y0) : math.ceil(y1), int(x0) : math.ceil(x1)] = True
    assert np.array_equal(mask, expected)


# ---------------------------------------------------------------- language model


def test_a_caption_names_every_object_of_the_graph(scene_folder: Path) -> None:
    folder = open_truth(scene_folder)
    role: Any = OracleLLM(scene_folder)
    for image_id in folder.image_ids:
        truth = folder[image_id]
        (answer,) = role([request(graph_text(truth), image_id)])
        assert answer.finish_reason == "stop"
        mentions = find_mentions(answer.text)
        named = [
            [i for i, item in enumerate(truth.objects) if mention.fits(item)]
            for mention in mentions
        ]
        assert sorted(named) == [[i] for i in range(len(truth.objects))]
        assert 2 <= answer.text.count(".") <= 4


def test_captions_of_unknown_and_repeated_words() -> None:
    graph = parse_graph(
        "Foreground:\nGroup 0: star/a red star, star/a red star\nGroup 1: dog, /a brown cat\n"
        "Midground:\nGroup 2: cross\nRelationships:\nGroup 3: no group\n"
    )
    assert graph is not None
    assert graph.landmark == ""
    assert [item.label for item in graph.layers["Foreground"]] == ["star", "star", "dog", ""]
    llm = _llm(NoiseOptions())
    text = "Foreground:\nGroup 0: star/a red star, star/a red star\nMidground:\nGroup 1: dog, ring"
    assert (
        llm(text) == "Nearby, there are two red stars. Farther back, there are a dog, and a ring."
    )
    assert llm("Foreground:\nGroup 0: \nLandmarks:\nIndoor scene, Work space") == (
        "This is a work space."
    )


def _llm(noise: NoiseOptions) -> Any:
    role: Any = OracleLLM.__new__(OracleLLM)
    role.name, role.noise = "llm", noise
    return lambda text, seed=0: role([request(text, seed=seed)])[0].text


def test_the_phrases_of_a_caption_are_listed() -> None:
    llm = _llm(NoiseOptions(llm_inventions=1.0))
    caption = "Nearby, there are two red stars, and a ring. Far away, there is a ring."
    expected = "two red stars\na ring"
    assert llm(f"List them.\n\n{caption}\n") == expected
    assert llm(f"Example. Caption: a star.\nAnswer: a star\n\nCaption: {caption}") == expected
    assert llm("Caption: Nothing can be seen here.") == NOTHING
    start = 'Begin with A; without objects write "A none".\n\nCaption:\n'
    assert llm(start + caption) == "A two red stars\nA a ring"
    assert llm(start + "Nothing.") == "A none"


def test_additional_context_is_a_paragraph() -> None:
    llm = _llm(NoiseOptions())
    text = llm("Objects:\nstar/a red star\nring\n\nLandmarks:\nOutdoor scene, Rural landscape")
    assert "the star, and the ring" in text
    assert "rural landscape" in text
    assert 5 <= text.count(". ") + 1 <= 7
    assert "\n" not in text
    assert not any(word in text.lower() for word in ("object", "scene", "graph"))


def test_errors_of_the_language_model() -> None:
    text = "Foreground:\nGroup 0: star/a red star\nLandmarks:\nOutdoor scene, Rural landscape"
    correct = _llm(NoiseOptions())(text)
    invents = _llm(NoiseOptions(llm_inventions=1.0))
    inventions = set()
    for seed in range(5):
        mentions = find_mentions(invents(text, seed))
        assert len(mentions) == 2
        inventions.add(mentions[1][4:6])
        # With the invented object in the feedback, it is not invented again.
        feedback = f"Not in the image: a {mentions[1].colour} {mentions[1].shape}\n{text}"
        assert find_mentions(invents(feedback, seed))[1] != mentions[1]
    assert len(inventions) > 2
    assert _llm(NoiseOptions(llm_refusals=1.0))(text) == REFUSAL
    cut: Any = OracleLLM.__new__(OracleLLM)
    cut.name, cut.noise = "llm", NoiseOptions(llm_truncations=1.0)
    (answer,) = cut([request(text)])
    assert answer.finish_reason == "length"
    assert correct.startswith(answer.text)
    assert len(answer.text) < len(correct)


# ---------------------------------------------------------------- truth of scenes


def test_scenes_are_found_by_name_with_and_without_folder_and_extension(
    scene_folder: Path, tmp_path: Path
) -> None:
    folder = open_truth(scene_folder)
    assert len(folder) == 16
    assert folder["part/scene_000003.png"] == folder["scene_000003"]
    assert folder.find("scene_3.png") is None
    with pytest.raises(FolderError, match="scene_3"):
        folder["scene_3"]
    with pytest.raises(GLaMMError, match=r"scenes\.json"):
        open_truth(tmp_path)


def test_a_damaged_folder_is_an_error(tmp_path: Path) -> None:
    write_scenes(tmp_path / "scenes", EASY, count=2, size=64)
    truth_file = tmp_path / "scenes" / "truth.jsonl"
    content = truth_file.read_bytes()
    for damaged in (content[:40], content.replace(b'"stuff"', b'"staff"'), b"\xff" * len(content)):
        truth_file.write_bytes(damaged)
        with pytest.raises(FolderError, match="scene_000000"):
            type(open_truth(tmp_path / "scenes"))(tmp_path / "scenes")["scene_000000"]


def test_the_truth_is_that_of_the_scene(scene_folder: Path) -> None:
    scene = render_scene(1, 5, 128, FULL)
    truth = open_truth(scene_folder)["scene_000005"]
    assert truth == scene_truth(scene, "scene_000005")
    assert np.array_equal(read_image(scene_folder, "scene_000005").pixels, scene.image)
    depth = truth.depth_map()
    for i, item in enumerate(truth.objects):
        mask = scene.object_mask(i)
        assert np.array_equal(rle.decode(truth.run_lengths(item.counts)), mask)
        assert item.box == mask_box(mask)
        assert np.allclose(depth[mask], item.depth)
    assert len({*depth[scene.stuff_mask(len(scene.stuff) - 1)]}) > 5  # the ground has a slope


def test_descriptions_are_unambiguous() -> None:
    for scene_id in range(25):
        truth = scene_truth(render_scene(3, scene_id, 96, FULL))
        for i, item in enumerate(truth.objects):
            mention = head_mention(item.description)
            assert mention is not None
            assert (mention.start, mention.end) == (0, len(item.description))
            assert [k for k, other in enumerate(truth.objects) if mention.fits(other)] == [i]
        for text, phrases in truth.captions:
            spans = [(mention.start, mention.end) for mention in find_mentions(text)]
            assert spans == [(start, end) for start, end, _ in phrases]


def test_mentions_of_all_forms() -> None:
    text = "Two large red stars, one more striped blue ring; 12 crosses, the star-like Crosses."
    mentions = find_mentions(text)
    assert [text[m.start : m.end] for m in mentions] == [
        "Two large red stars",
        "one more striped blue ring",
        "12 crosses",
        "Crosses",
    ]
    assert [m.number for m in mentions] == [2, 1, 12, None]
    assert [text[m.content : m.end] for m in mentions][1] == "striped blue ring"
    assert head_mention("A meadow with a star") is None
