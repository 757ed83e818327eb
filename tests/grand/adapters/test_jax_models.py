"""This library's own models as roles, through files of roles."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import glamm_jax
from glamm_jax.data import rle
from glamm_jax.data.preprocess import grounding_image
from glamm_jax.grand.adapters.jax_models.sam_roles import point_grid
from glamm_jax.grand.role_files import RoleFileError, read_roles
from glamm_jax.grand.roles import (
    LANDMARKS,
    ChatMessage,
    LLMRequest,
    PhraseQuery,
    RoleError,
    RoleImage,
)
from glamm_jax.inference.sam_predictor import SAMPredictor
from glamm_jax.inference.text_chat import TextChat
from glamm_jax.miniworld import EASY, render_scene
from glamm_jax.models.sam.postprocess import postprocess_masks
from glamm_jax.nn.pixel_normalization import normalize_pixels
from glamm_jax.text.questions import REFERRING_INSTRUCTION

MODEL = Path(__file__).resolve().parents[3] / "checkpoints/miniworld-tiny"
FILE = f"""
[captioners.glamm]
class = "glamm"
model = "{MODEL}"
max_tokens = 24
[dense_captioners.gcg]
class = "glamm"
model = "{MODEL}"
prompt = "Describe the image in detail. Mark each thing that you mention with a segmentation mask."
max_tokens = 64
[region_captioner]
class = "glamm"
model = "{MODEL}"
[phrase_grounder]
class = "glamm"
model = "{MODEL}"
[landmark_classifier]
class = "glamm"
model = "{MODEL}"
max_tokens = 4
[segmenter]
class = "glamm"
model = "{MODEL}"
[region_proposer]
class = "glamm"
model = "{MODEL}"
points_per_side = 4
min_iou = 0.0
min_stability = 0.0
[llm]
class = "glamm"
model = "{MODEL}"
max_tokens = 8
temperature = 0.0
batch_size = 2
"""


@pytest.fixture(scope="module")
def roles(tmp_path_factory: pytest.TempPathFactory) -> Any:
    path = tmp_path_factory.mktemp("jax") / "roles.toml"
    path.write_text(FILE)
    return read_roles(path)


@pytest.fixture(scope="module")
def images() -> list[RoleImage]:
    scenes = [render_scene(1, number, 96, EASY) for number in (3, 4)]
    pixels = [scenes[0].image, scenes[1].image[:70]]
    return [RoleImage(f"image-{i}", np.ascontiguousarray(x)) for i, x in enumerate(pixels)]


def test_masks_of_boxes_are_those_of_the_model(roles: Any, images: list[RoleImage]) -> None:
    boxes = [[(5.0, 6.0, 40.0, 50.0), (30.0, 20.0, 80.0, 60.0)], []]
    masks, none = roles.segmenter(images, boxes)
    assert none == []
    assistant = glamm_jax.load(MODEL)
    model = nnx.merge(assistant.generator.graph, assistant.generator.state)
    sam = model.config.sam
    pixels, resized, original = grounding_image(images[0].pixels, sam.image_size)
    sizes = jnp.array([resized, resized]), jnp.array([original, original])
    normalized = normalize_pixels(
        jnp.asarray(pixels[None]), sam.pixel_mean, sam.pixel_std, sizes[0][:1]
    )
    scaled = jnp.array(boxes[0], jnp.float32) * (resized[0] / original[0])
    embeddings = jnp.repeat(model.sam.encode(normalized.astype(jnp.float32)), 2, 0)
    logits, _ = model.sam.predict_masks(embeddings, boxes=scaled)
    expected = postprocess_masks(logits[:, 0], *sizes, sam.image_size, original) > 0
    for mask, reference in zip(masks, np.asarray(expected), strict=True):
        assert (rle.decode(mask) != reference).mean() < 0.001


def test_automatic_masks_are_good_stable_and_differ(roles: Any, images: list[RoleImage]) -> None:
    proposals = roles.region_proposer(images)
    alone = roles.region_proposer(images[1:])
    assert proposals[1] == alone[0]
    for image, found in zip(images, proposals, strict=True):
        scores = [item.score for item in found]
        assert found and scores == sorted(scores, reverse=True)
        for item in found:
            assert item.mask["size"] == [*image.pixels.shape[:2]]
            assert tuple(map(float, rle.box(item.mask) or ())) == item.box
    np.testing.assert_allclose(
        point_grid(2), [[0.25, 0.25], [0.75, 0.25], [0.25, 0.75], [0.75] * 2]
    )


def test_stability_is_the_overlap_of_both_thresholds() -> None:
    predictor = SAMPredictor(MODEL)
    image = predictor.encode(np.full((64, 48, 3), 90, np.uint8))
    side = predictor.config.mask_size
    ramp = np.broadcast_to(np.linspace(-6, 6, side, dtype=np.float32)[:, None], (side, side))
    stable, soft, empty = np.where(ramp > 0, 20.0, -20.0), ramp / 4, ramp * 0 - 9
    masks = predictor.masks(image, np.stack([stable, soft, empty]).astype(np.float32))
    assert masks.stability[0] > 0.85 > masks.stability[1] > 0.05
    assert (masks.stability[2], masks.masks[2].sum(), masks.foreground[2]) == (0, 0, 0)
    assert masks.masks.shape == (3, 64, 48)


@pytest.mark.slow
def test_captions_and_regions_are_those_of_chat(roles: Any, images: list[RoleImage]) -> None:
    assistant = glamm_jax.load(MODEL)
    captions = roles.captioners["glamm"](images)
    expected = [
        assistant.chat(
            x.pixels, "Can you provide a brief description of the image?", max_tokens=24
        ).text
        for x in images
    ]
    assert captions == [text.strip() for text in expected]
    box = (5.0, 6.0, 40.0, 50.0)
    first, second = roles.region_captioner(images, [[box, box], []])
    assert first[0] == first[1] and first[0]
    assert second == []


@pytest.mark.slow
def test_phrases_have_boxes_and_masks(roles: Any, images: list[RoleImage]) -> None:
    caption = "A circle and a square."
    query = PhraseQuery(caption, "A circle", (0, 8))
    grounded, none = roles.phrase_grounder(images, [[query, query], []])
    assert none == [] and grounded[0] == grounded[1]
    answer = glamm_jax.load(MODEL).chat(
        images[0].pixels, REFERRING_INSTRUCTION.format(name="A circle"), max_tokens=32
    )
    masks = [x.runs for x in answer.groundings if x.runs and rle.area(x.runs)]
    assert [item.mask for item in grounded[0]] == masks
    for item in grounded[0]:
        assert 0 <= item.score <= 1 and item.description == "A circle"
    dense = roles.dense_captioners["gcg"](images)
    assert any(dense) and all(x.description and x.mask for group in dense for x in group)


@pytest.mark.slow
def test_a_place_that_is_not_named_is_an_error(roles: Any, images: list[RoleImage]) -> None:
    for place in roles.landmark_classifier(images):
        if isinstance(place, RoleError):
            assert place.kind == "output" and "names none of" in place.message
        else:
            assert place.fine_category in LANDMARKS[place.category]


def test_texts_do_not_depend_on_the_batch(roles: Any) -> None:
    def request(text: str, seed: int = 0) -> LLMRequest:
        return LLMRequest(
            "a", (ChatMessage("system", "Be brief."), ChatMessage("user", text)), seed
        )

    texts = ["What is this?", "Describe the circle, the square and all the other things.", "Hi"]
    together = roles.llm([request(text) for text in texts])
    assert together == [roles.llm([request(text)])[0] for text in texts]
    assert {answer.finish_reason for answer in together} <= {"stop", "length"}
    long, wrong = roles.llm(
        [request("word " * 3000), LLMRequest("a", (ChatMessage("assistant", "Hi"),), 0)]
    )
    assert long.kind == "input" and "positions of the model" in long.message
    assert wrong.kind == "input" and "do not alternate" in wrong.message
    assert roles.llm([]) == []


def test_samples_depend_on_their_seed_only() -> None:
    chat = TextChat(MODEL)
    question = [("user", "What is in the image?")]
    options: dict[str, Any] = {"temperature": 1.5, "max_tokens": 12}
    one, two, three = chat.answer([question] * 3, seeds=[1, 2, 1], **options)
    assert one == three != two
    assert chat.answer([question], seeds=[2], **options) == [two]


def test_weights_stay_in_the_worker(roles: Any, images: list[RoleImage]) -> None:
    role = roles.segmenter
    role.setup()
    copy = pickle.loads(pickle.dumps(role))
    assert len(pickle.dumps(role)) < 10_000
    box = [[(5.0, 6.0, 40.0, 50.0)], []]
    assert copy(images, box) == role(images, box)
    assert copy.fingerprint == role.fingerprint
    assert jax.default_backend() == "cpu" and role.needs_device


def test_roles_share_their_weights(roles: Any) -> None:
    roles.captioners["glamm"].setup()
    roles.region_captioner.setup()
    roles.segmenter.setup()
    roles.region_proposer.setup()
    assert roles.captioners["glamm"].model is roles.region_captioner.model
    assert roles.segmenter.model is roles.region_proposer.model


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model = 'nowhere'", r"\[segmenter\]: .*nowhere"),
        ("", "model"),
        (f"model = '{MODEL}'\ndtype = 'int4'", "choose from float32"),
        (f"model = '{MODEL}'\nbatch_size = 0", "at least 1"),
        (f"model = '{MODEL}'\nboxes = 3", "no key 'boxes'"),
    ],
)
def test_wrong_arguments_are_named(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "roles.toml"
    path.write_text(f"[segmenter]\nclass = 'glamm'\n{text}\n")
    with pytest.raises(RoleFileError, match=message):
        read_roles(path)


def test_a_role_without_an_adapter_is_named(tmp_path: Path) -> None:
    path = tmp_path / "roles.toml"
    path.write_text(f"[depth_estimator]\nclass = 'glamm'\nmodel = '{MODEL}'\n")
    with pytest.raises(RoleFileError, match="glamm has no depth_estimator"):
        read_roles(path)
