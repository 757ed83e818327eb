"""The HTML of the image and the transcript: escaped, connected by ids, usable by keyboard."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from glamm_jax import app
from glamm_jax.app.conversation import Conversation
from glamm_jax.app.views import Pending, mask_choices, stage_html, transcript_html
from glamm_jax.report.mask_overlay import contrast
from tests.app.answers import LEFT, RIGHT, answer, conversation, grounding

HOSTILE = '<script>alert(1)</script><img src=x onerror="alert(2)">${alert(3)}{{value}}\'"'
Attributes = dict[str, str | None]


class Elements(HTMLParser):
    """The elements of a page with their attributes, and its text."""

    def __init__(self, page: str):
        super().__init__()
        self.elements: list[tuple[str, Attributes]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def of_class(self, name: str) -> list[Attributes]:
        return [a for _, a in self.elements if name in (a.get("class") or "").split()]


def session() -> Conversation:
    text = "A dog and a red ball."
    groundings = [grounding(text, "A dog", LEFT), grounding(text, "a red ball", RIGHT)]
    return conversation((text, groundings), ("A dog.", [grounding("A dog.", "A dog", RIGHT)]))


def test_phrases_and_masks_have_the_same_ids_and_colours() -> None:
    masks = Elements(stage_html(session())).of_class("mask")
    phrases = Elements(transcript_html(session())).of_class("phrase")
    assert [mask["data-mask"] for mask in masks] == ["0-0", "0-1", "1-0"]
    assert [(p["data-mask"], p["style"]) for p in phrases] == [
        (mask["data-mask"], mask["style"]) for mask in masks
    ]


def test_phrases_are_buttons_for_the_keyboard() -> None:
    text = "A red dog."
    page = transcript_html(
        conversation((text, [grounding(text, text[:9], LEFT), grounding(text, "red", RIGHT)]))
    )
    phrases = Elements(page).of_class("phrase")
    # Three pieces of two phrases; each phrase is one stop.
    assert [p["data-mask"] for p in phrases] == ["0-0", "0-1", "0-0"]
    assert [p.get("role") for p in phrases] == ["button", "button", None]
    assert [p.get("tabindex") for p in phrases] == ["0", "0", None]
    assert Elements(page).of_class("glamm-transcript")[0]["aria-live"] == "polite"


def test_a_mask_without_a_phrase_has_its_place_in_the_text() -> None:
    text = "It is."
    seg = grounding(text, "", LEFT, start=5, end=5)
    page = Elements(transcript_html(conversation((text, [seg]))))
    assert "It is [SEG] 1." in page.text
    inside = conversation(("The and.", [grounding("The and.", "", LEFT, start=4, end=4)]))
    assert "The  [SEG] 1 and." in Elements(transcript_html(inside)).text
    asked = Conversation(session().picture).with_answer(
        "Find the red ball in the picture and segment it.", answer(text, seg)
    )
    assert "It is red ball." in Elements(transcript_html(asked)).text
    without = Elements(transcript_html(conversation((text, [grounding(text, "It", None)]))))
    assert without.of_class("no-mask")


def test_text_of_models_and_people_is_escaped() -> None:
    hostile = conversation((HOSTILE, [grounding(HOSTILE, HOSTILE, LEFT)]))
    exchange = replace(
        hostile.exchanges[0],
        question=HOSTILE,
        answer=replace(hostile.exchanges[0].answer, problems=(HOSTILE,)),
    )
    hostile = replace(hostile, exchanges=(exchange,))
    pending = Pending(HOSTILE, HOSTILE, HOSTILE, HOSTILE)
    for page in (stage_html(hostile), transcript_html(hostile, pending)):
        parsed = Elements(page)
        assert not {"script", "meta"} & {tag for tag, _ in parsed.elements}
        assert not [a for _, a in parsed.elements if any(name.startswith("on") for name in a)]
        assert [a["alt"] for tag, a in parsed.elements if tag == "img"] in (
            [],
            ["The image, 60 x 40 pixels"],
        )
        assert HOSTILE in parsed.text


def test_the_masks_of_the_last_answer_with_masks_are_shown() -> None:
    text = "A dog."
    first = (text, [grounding(text, "A dog", LEFT)])
    page = Elements(stage_html(conversation(first, ("A star.", []))))
    [stage] = page.of_class("glamm-stage")
    assert (stage["data-exchanges"], stage["data-shown"]) == ("2", "0")
    assert "A dog" in page.text


def test_boxes_are_numbered_and_can_be_removed() -> None:
    page = Elements(stage_html(session().with_box([0, 0, 0.5, 0.5]).with_box([0.5, 0, 1, 1])))
    assert [button["data-box"] for button in page.of_class("remove")] == ["0", "1"]
    assert [button["aria-label"] for button in page.of_class("remove")] == [
        "Remove region1",
        "Remove region2",
    ]
    assert "region2: 30, 0, 60, 40" in page.text


def test_a_box_in_a_question_is_shown_as_a_word() -> None:
    boxed = Conversation(session().picture, ((0.0, 0.0, 9.0, 9.0),))
    page = Elements(transcript_html(boxed, Pending("What is region1 <bbox>?")))
    assert page.text.count("What is region1 box?") == 1


def test_an_answer_is_read_out_when_it_is_complete() -> None:
    states = (Pending("What?", "A", "..."), Pending("What?", error="no"), None)
    pages = [Elements(transcript_html(Conversation(), state)) for state in states]
    busy = [page.of_class("glamm-transcript")[0]["aria-busy"] for page in pages]
    assert busy == ["true", "false", "false"]


def test_errors_are_alerts() -> None:
    page = Elements(transcript_html(Conversation(), Pending("Where?", error="no server")))
    assert page.of_class("error")[0]["role"] == "alert"
    assert "no server" in page.text


def test_masks_of_the_last_answer_can_be_chosen() -> None:
    assert list(mask_choices(session())) == [("1: A dog", 0)]
    assert list(mask_choices(Conversation())) == []
    assert "Drop an image" in stage_html(Conversation())


@pytest.mark.parametrize("selector", [r"\.glamm-transcript \.error"])
def test_colours_of_the_style_sheet_have_contrast(selector: str) -> None:
    style = (Path(app.__file__).parent / "page.css").read_text(encoding="utf-8")
    rule = re.search(rf"{selector} {{(.*?)}}", style, re.DOTALL)
    assert rule is not None
    colours = {
        name: tuple(bytes.fromhex(value))
        for name, value in re.findall(r"\b(background|color): #([0-9a-f]{6})", rule[1])
    }
    (r, g, b), (x, y, z) = colours["color"], colours["background"]
    assert contrast((r, g, b), (x, y, z)) >= 4.5
