"""Sessions: images, boxes, requests, masks."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from glamm_jax.app.conversation import (
    MAX_BOXES,
    Conversation,
    SessionError,
    open_picture,
    picture_of,
)
from glamm_jax.data.boxes import BoxError
from glamm_jax.data.preprocess import ImageError, open_image
from tests.app.answers import HEIGHT, IMAGE, LEFT, RIGHT, WIDTH, answer, conversation, grounding

OPTIONS = {"max_tokens": 8, "seed": 1}


def sent_pixels(uri: str) -> np.ndarray:
    return open_image(base64.b64decode(uri.partition(",")[2]))


def test_the_server_gets_the_pixels(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274] = 6  # turned
    Image.fromarray(IMAGE).save(tmp_path / "turned.jpg", exif=exif)
    Image.fromarray(IMAGE).save(tmp_path / "plain.webp", lossless=True)
    jpeg, webp = (open_picture(tmp_path / name) for name in ("turned.jpg", "plain.webp"))
    assert jpeg.size == (WIDTH, HEIGHT)
    assert jpeg.sent_uri.startswith("data:image/jpeg;")
    assert webp.sent_uri.startswith("data:image/png;")
    for picture in (jpeg, webp, picture_of(IMAGE)):
        np.testing.assert_array_equal(sent_pixels(picture.sent_uri), picture.pixels)


def test_the_page_gets_a_reduced_image() -> None:
    picture = picture_of(np.zeros((500, 3000, 3), np.uint8))
    with Image.open(io.BytesIO(base64.b64decode(picture.shown_uri.partition(",")[2]))) as image:
        assert image.size == (1024, 170)


def test_an_image_that_the_server_would_refuse_is_reduced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("glamm_jax.app.conversation.MAX_PIXELS", 600)
    Image.fromarray(IMAGE).save(tmp_path / "large.png")
    picture = open_picture(tmp_path / "large.png")
    assert picture.size == (20, 30)
    assert "60 x 40 pixels was reduced to 30 x 20" in picture.note
    np.testing.assert_array_equal(sent_pixels(picture.sent_uri), picture.pixels)


def test_a_damaged_image_is_an_error_without_a_path(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    with pytest.raises(ImageError) as caught:
        open_picture(tmp_path / "a.png")
    assert str(tmp_path) not in str(caught.value)


def test_boxes_are_in_pixels_and_inside_of_the_image() -> None:
    session = Conversation(picture_of(IMAGE)).with_box([0.5, 0.25, 1.5, 1.0])
    assert session.boxes == ((30.0, 10.0, 60.0, 40.0),)
    session = session.with_box([0, 0, 0.5, 0.5]).without_box(0)
    assert session.boxes == ((0.0, 0.0, 30.0, 20.0),)


@pytest.mark.parametrize(
    "box",
    [None, "a", [1, 2], [0.5, 0.5, 0.2, 0.9], [0, 0, 0, 1], [float("nan")] * 4, [[0, 0, 1, 1]] * 2],
)
def test_what_is_no_box_is_refused(box: object) -> None:
    with pytest.raises((SessionError, BoxError)):
        Conversation(picture_of(IMAGE)).with_box(box)


def test_boxes_need_an_image_and_are_bounded() -> None:
    with pytest.raises(SessionError, match="no image"):
        Conversation().with_box([0, 0, 1, 1])
    session = Conversation(picture_of(IMAGE), ((0.0, 0.0, 9.0, 9.0),) * MAX_BOXES)
    with pytest.raises(SessionError, match="boxes already"):
        session.with_box([0, 0, 1, 1])


def test_a_request_has_the_image_once_and_the_raw_answers() -> None:
    session = Conversation(picture_of(IMAGE)).with_box([0, 0, 0.5, 0.5]).with_box([0, 0, 1, 1])
    first = "What is region2 <bbox>?"
    session = session.with_answer(first, answer("A dog.", question=first, raw="<p> A dog </p>."))
    body = session.request("And region1 <bbox>?", OPTIONS)
    assert body["max_tokens"] == 8
    user, assistant, again = body["messages"]
    assert [part["type"] for part in user["content"]] == ["image_url", "text"]
    assert user["content"][1]["text"] == first
    assert assistant == {"role": "assistant", "content": "<p> A dog </p>."}
    assert again["content"] == [{"type": "text", "text": "And region1 <bbox>?"}]
    # One box for each <bbox> of all questions, in their order.
    assert body["regions"] == [[0.0, 0.0, 60.0, 40.0], [0.0, 0.0, 30.0, 20.0]]


def test_questions_that_cannot_be_sent_say_what_to_do() -> None:
    with pytest.raises(SessionError, match="Upload one, or click an example"):
        Conversation().request("What?", OPTIONS)
    with pytest.raises(SessionError, match="question is empty"):
        Conversation(picture_of(IMAGE)).request("  ", OPTIONS)


def test_masks_of_one_phrase_have_one_colour() -> None:
    text = "Two dogs and a cat."
    groundings = [
        grounding(text, "Two dogs", LEFT, score=0.2),
        grounding(text, "Two dogs", RIGHT, score=0.6),
        grounding(text, "a cat", None),
        grounding(text, "", RIGHT),
    ]
    [exchange] = conversation((text, groundings)).exchanges
    dogs, cat, seg = exchange.masks
    assert (dogs.share, dogs.score, dogs.colour) == (1.0, 0.6, 0)
    assert cat.outline is None
    assert (seg.phrase, seg.share, seg.colour) == ("[SEG] 3", 0.5, 1)


def test_a_mask_of_the_last_answer() -> None:
    session = conversation(("A dog.", [grounding("A dog.", "A dog", LEFT)]))
    image, mask = session.mask(0)
    np.testing.assert_array_equal(mask, LEFT)
    assert image is IMAGE
    for index in (-1, 1):
        with pytest.raises(SessionError, match="Choose a mask"):
            session.mask(index)
    with pytest.raises(SessionError, match="no answer yet"):
        session.without_exchanges().last_answer()
