"""The app in headless Chromium: everything that people do, alone, in twos and in tens.

In an environment with the extras `app` and `browser`: `make test-app`.
"""

from __future__ import annotations

import json
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from glamm_jax.data import rle
from glamm_jax.data.preprocess import open_image
from tests.app.browser import CONTRASTS, Visitor, chromium, running_app
from tests.app.loopback_server import LoopbackServer, halves, image_digest, serve

pytest.importorskip("gradio", reason="pip install 'glamm-jax[app]'")
pytest.importorskip("playwright", reason="pip install playwright")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]

HEIGHT, WIDTH = 120, 200
LEFT, RIGHT = "0-0", "0-1"  # ids of the masks of the first answer
# A pipeline of diffusers, for a machine without it.
STAND_IN = """
from types import SimpleNamespace
from PIL import Image
class AutoPipelineForInpainting:
    @classmethod
    def from_pretrained(cls, name):
        return cls()
    def __call__(self, prompt, image, mask_image, height, width):
        colour = {"red": (255, 0, 0)}[prompt]
        return SimpleNamespace(images=[Image.new("RGB", image.size, colour)])
"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as running:
        yield running


@pytest.fixture(scope="module")
def shared() -> Iterator[tuple[LoopbackServer, str]]:
    """A server, and the address of an app that uses it."""
    with serve(LoopbackServer()) as server, running_app("--server", server.url) as (url, _):
        yield server, url


@pytest.fixture
def server(shared: tuple[LoopbackServer, str]) -> LoopbackServer:
    fresh = LoopbackServer(url=shared[0].url, lock=shared[0].lock)
    shared[0].__dict__.update(fresh.__dict__)
    return shared[0]


@pytest.fixture
def visit(
    browser: Any, shared: tuple[LoopbackServer, str], server: LoopbackServer
) -> Iterator[Callable[..., Visitor]]:
    visitors: list[Visitor] = []

    def new(**options: Any) -> Visitor:
        visitors.append(Visitor(browser, shared[1], **options))
        return visitors[-1]

    yield new
    for visitor in visitors:
        visitor.close()
        assert not visitor.problems


def picture(folder: Path, number: int = 0) -> tuple[Path, str]:
    """A file of an image, and its name in the answers of the server."""
    pixels = np.random.default_rng(number).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    path = folder / f"picture {number}.png"
    Image.fromarray(pixels).save(path)
    return path, image_digest(path.read_bytes())


def eventually(condition: Callable[[], bool], seconds: float = 10.0) -> bool:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.05)
    return condition()


def test_upload_draw_ask_hover_click_follow_up(
    visit: Callable[..., Visitor], server: LoopbackServer, tmp_path: Path
) -> None:
    person = visit()
    path, digest = picture(tmp_path)
    person.upload(path)
    person.draw(0.1, 0.2, 0.6, 0.9)
    assert person.question.input_value() == "What is in region1 <bbox>? Describe it in detail."
    server.seconds_per_word = 0.1
    person.send()
    pending = person.page.locator(".pending .answer > span")
    pending.filter(has_text="A left part").wait_for()  # while the rest is generated
    assert person.answers() == [f"A left part is beside a right part of {digest} in 1."]
    [box] = server.requests[-1]["regions"]
    assert np.allclose(box, [20, 24, 120, 108], atol=1.5)

    phrase = person.page.locator(f'.phrase[data-mask="{LEFT}"]')
    mask = f'path[data-mask="{LEFT}"]'
    other = f'path[data-mask="{RIGHT}"]'
    phrase.hover()
    assert "is-lit" in (person.page.locator(mask).get_attribute("class") or "")
    assert eventually(lambda: float(person.style(other, "opacity")) < 0.5)
    person.question.hover()
    assert "is-lit" not in (person.page.locator(mask).get_attribute("class") or "")
    phrase.click()
    assert phrase.get_attribute("aria-pressed") == "false"
    person.question.click()
    assert eventually(lambda: person.style(mask, "opacity") == "0")
    phrase.click()
    assert phrase.get_attribute("aria-pressed") == "true"

    person.send("And region1 <bbox> again?")
    assert person.answers(2)[1].endswith("in 2.")
    assert len(server.requests[-1]["regions"]) == 2
    assert "</p> [SEG]" in server.requests[-1]["messages"][1]["content"]
    # The masks of the last answer are shown, those of earlier ones when their phrase is pressed.
    person.question.click()
    assert eventually(lambda: person.style(mask, "opacity") == "0")
    assert person.style('path[data-mask="1-0"]', "opacity") == "1"
    phrase.click()
    person.question.click()
    assert eventually(lambda: person.style(mask, "opacity") == "1")

    person.page.get_by_label("Remove region1").click()
    person.page.wait_for_selector(".glamm-stage .remove", state="detached")
    person.press("New conversation")
    person.page.wait_for_selector(".exchange", state="detached")
    assert person.page.locator(".glamm-stage .picture").count() == 1


def test_the_keyboard_is_enough(
    visit: Callable[..., Visitor], server: LoopbackServer, tmp_path: Path
) -> None:
    person = visit()
    person.upload(picture(tmp_path)[0])
    keyboard = person.page.keyboard
    person.page.get_by_role("button", name="Draw a box by numbers").focus()
    keyboard.press("Enter")
    left = person.page.get_by_label("left")
    left.fill("10")
    left.press("Tab")  # a person leaves the field before the value is used
    person.page.wait_for_timeout(500)
    assert left.input_value() == "10"
    person.page.get_by_role("button", name="Add the box").focus()
    keyboard.press("Enter")
    person.page.wait_for_selector(".glamm-stage .remove")
    person.question.focus()
    keyboard.press("Tab")
    assert person.page.evaluate("document.activeElement.innerText").strip() == "Ask"
    keyboard.press("Enter")
    person.answers()
    assert server.requests[-1]["regions"] == [[20.0, 30.0, 150.0, 90.0]]
    first = person.page.locator(f'.phrase[data-mask="{LEFT}"]')
    first.focus()
    keyboard.press("Tab")
    assert person.page.evaluate("document.activeElement.dataset.mask") == RIGHT
    # The focus is visible, and lights the mask.
    focused = f'.phrase[data-mask="{RIGHT}"]'
    assert person.style(focused, "outlineStyle") == "solid"
    mask = person.page.locator(f'path[data-mask="{RIGHT}"]')
    assert "is-lit" in (mask.get_attribute("class") or "")
    for key, pressed in (("Enter", "false"), ("Space", "true"), ("Space", "false")):
        keyboard.press(key)
        assert person.page.locator(focused).get_attribute("aria-pressed") == pressed
    person.page.get_by_label("Remove region1").focus()
    keyboard.press("Enter")
    person.page.wait_for_selector(".glamm-stage .remove", state="detached")


def test_opacity_and_files(visit: Callable[..., Visitor], tmp_path: Path) -> None:
    person = visit()
    path, digest = picture(tmp_path)
    person.upload(path)
    person.send("What?")
    person.answers()
    person.page.get_by_label("number input for Opacity of the masks").fill("0.9")
    person.page.keyboard.press("Tab")
    assert eventually(lambda: person.style(f'path[data-mask="{LEFT}"]', "fillOpacity") == "0.9")
    saved = {}
    for name in ("PNG", "JSON (COCO RLE)", "SVG"):
        button = person.page.get_by_role("button", name=name, exact=True)
        button.and_(person.page.locator(":enabled")).wait_for()
        with person.page.expect_download() as download:
            button.click()
        saved[name] = tmp_path / download.value.suggested_filename
        download.value.save_as(saved[name])
    assert sorted(path.name for path in saved.values()) == [
        "answer.json",
        "answer.png",
        "answer.svg",
    ]
    fields = json.loads(saved["JSON (COCO RLE)"].read_text())
    assert digest in fields["text"]
    mask = rle.decode(fields["groundings"][0]["mask"])
    np.testing.assert_array_equal(mask, halves(WIDTH, HEIGHT)[0])
    assert open_image(saved["PNG"]).shape[1] == 480
    assert ElementTree.parse(saved["SVG"]).getroot().tag.endswith("svg")


def test_examples_presets_and_pressing_a_mask(visit: Callable[..., Visitor]) -> None:
    person = visit()
    thumbnails = person.page.locator(".gallery-item")
    assert thumbnails.count() == 5
    thumbnails.nth(2).click()
    person.page.wait_for_selector(".glamm-stage .remove")
    assert "region1 <bbox>" in person.question.input_value()
    for name in ("Describe with masks", "Describe the image", "Segment an object"):
        before = person.question.input_value()
        person.press(name)
        assert eventually(lambda before=before: person.question.input_value() != before)
    selection = (
        "[...document.querySelectorAll('#glamm-question textarea')].map("
        "e => e.value.slice(e.selectionStart, e.selectionEnd))[0]"
    )
    assert eventually(lambda: person.page.evaluate(selection) == "object")
    person.page.keyboard.type("star")
    assert "the star " in person.question.input_value()
    person.send()
    person.answers()
    frame = person.page.locator(".glamm-stage svg").bounding_box()
    person.page.mouse.click(frame["x"] + 0.1 * frame["width"], frame["y"] + 0.5 * frame["height"])
    phrase = person.page.locator(f'.phrase[data-mask="{LEFT}"]')
    assert eventually(lambda: phrase.get_attribute("aria-pressed") == "false")


def test_errors_are_shown(
    visit: Callable[..., Visitor], server: LoopbackServer, tmp_path: Path
) -> None:
    person = visit()
    person.send("What?")
    assert "Upload one, or click an example" in person.error()
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"\x89PNG\r\n\x1a\n no image")
    person.page.locator("input[type=file]").first.set_input_files(bad)
    person.page.locator(".error", has_text="The file cannot be used").wait_for()
    person.upload(picture(tmp_path)[0])
    person.send("What is region1 <bbox>?")
    person.page.locator(".error", has_text="there is no box").wait_for()
    assert person.question.input_value() == "What is region1 <bbox>?"  # to be corrected
    person.send("fail")
    person.page.locator(".error", has_text="the question <b>fails</b>").wait_for()
    server.cut_after = 2
    person.send("What?")
    person.page.locator(".error", has_text="before the answer was complete").wait_for()
    server.cut_after = -1
    person.send("What?")
    person.answers()


def test_a_server_that_is_down_is_named(browser: Any, tmp_path: Path) -> None:
    with running_app("--server", "http://127.0.0.1:9") as (url, _):
        person = Visitor(browser, url)
        person.upload(picture(tmp_path)[0])
        person.send("What?")
        assert "The server http://127.0.0.1:9 cannot be reached" in person.error()
        person.close()


def test_without_a_pipeline_the_page_says_how_to_get_one(visit: Callable[..., Visitor]) -> None:
    person = visit()
    person.page.get_by_role("button", name="Paint into a mask").click()
    person.page.get_by_text("Conditional generation needs").wait_for()
    assert person.page.get_by_text("--inpainting MODEL").count() == 1
    assert person.page.get_by_role("button", name="Paint", exact=True).is_disabled()


def test_hostile_text_is_text(visit: Callable[..., Visitor], tmp_path: Path) -> None:
    person = visit()
    person.upload(picture(tmp_path)[0])
    hostile = "<img src=x onerror=alert(1)>${alert(2)}{{value}}`"
    person.send(hostile)
    person.answers()
    assert hostile in person.transcript.inner_text()
    assert person.page.locator(".glamm-transcript img").count() == 0


def test_stop_frees_the_server(
    visit: Callable[..., Visitor], server: LoopbackServer, tmp_path: Path
) -> None:
    person = visit()
    person.upload(picture(tmp_path)[0])
    server.seconds_per_word = 1.0
    person.send("What?")
    person.page.locator(".pending .answer", has_text="A left").wait_for()
    person.press("Stop")
    person.page.wait_for_selector(".pending", state="detached")
    assert eventually(lambda: server.num_left == 1)
    person.send("What?")
    person.page.locator(".pending .answer", has_text="A left").wait_for()
    person.close()  # leaves
    assert eventually(lambda: server.num_left == 2)


def test_two_people_at_once_get_their_own_answers(
    visit: Callable[..., Visitor], server: LoopbackServer, tmp_path: Path
) -> None:
    server.seconds_per_word = 0.1
    people = [visit() for _ in range(2)]
    pictures = [picture(tmp_path, number) for number in range(2)]
    for person, (path, _) in zip(people, pictures, strict=True):
        person.upload(path)
    people[0].draw(0.1, 0.1, 0.5, 0.5)
    assert people[1].page.locator(".glamm-stage .remove").count() == 0
    for round_number in (1, 2):
        for person in people:
            person.send(f"Question {round_number}")
        for person, (_, digest) in zip(people, pictures, strict=True):
            answers = person.answers(round_number)
            assert all(digest in answer for answer in answers)


def test_ten_people_at_once_are_queued(
    visit: Callable[..., Visitor], server: LoopbackServer, tmp_path: Path
) -> None:
    server.slots, server.seconds_per_word = 3, 0.1
    people = [visit() for _ in range(10)]
    pictures = [picture(tmp_path, number) for number in range(10)]
    for person, (path, _) in zip(people, pictures, strict=True):
        person.upload(path)
    for person in people:
        person.send("What?")
    for person, (_, digest) in zip(people, pictures, strict=True):
        [answer] = person.answers()
        assert digest in answer
    assert server.num_refused > 0  # seven of them waited


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_has_contrast(visit: Callable[..., Visitor], tmp_path: Path, theme: str) -> None:
    person = visit(color_scheme=theme)
    person.upload(picture(tmp_path)[0])
    person.draw(0.1, 0.1, 0.5, 0.5)
    person.send()
    person.answers()
    person.page.locator(f'.phrase[data-mask="{RIGHT}"]').click()  # one is shown, one is hidden
    person.send("fail")
    person.error()
    low = [
        (text, round(value, 2)) for text, value in person.page.evaluate(CONTRASTS) if value < 4.5
    ]
    assert not low


def test_a_mask_is_painted_by_a_stand_in_for_diffusers(
    browser: Any, server: LoopbackServer, tmp_path: Path
) -> None:
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "diffusers.py").write_text(STAND_IN)
    options = ("--server", server.url, "--inpainting", "any")
    with running_app(*options, python_path=str(tmp_path / "modules")) as (url, _):
        person = Visitor(browser, url)
        path, _ = picture(tmp_path)
        person.upload(path)
        person.send("What?")
        person.answers()
        person.page.get_by_role("button", name="Paint into a mask").click()
        person.page.get_by_label("What to paint").fill("red")
        person.press("Paint")
        painted = person.page.locator(".image-container img, .image-frame img").last
        painted.wait_for()
        data = person.page.evaluate(
            "async (url) => [...new Uint8Array(await (await fetch(url)).arrayBuffer())]",
            painted.get_attribute("src"),
        )
        pixels, original = open_image(bytes(data)), open_image(path)
        left, right = halves(WIDTH, HEIGHT)
        assert (pixels[left] == (255, 0, 0)).all()
        np.testing.assert_array_equal(pixels[right], original[right])
        person.close()
