"""Pages are one file with escaped content, and load and run nothing."""

from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from glamm_jax.report.histogram import BINS, histogram_svg
from glamm_jax.report.html_page import MAX_SIDE, Card, Page, TextLine, TextMark
from glamm_jax.report.mask_overlay import colour_of

VOID = {"meta", "img"}


class _Tree(HTMLParser):
    """Parses elements in order and checks that all that are opened are closed."""

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def _image(height: int = 20, width: int = 30) -> np.ndarray:
    return np.full((height, width, 3), 200, np.uint8)


def _page(*cards: Card) -> _Tree:
    page = Page("title", "subtitle")
    page.cards(cards)
    return _Tree(page.html())


def _pixels(source: str | None) -> np.ndarray:
    assert source is not None
    data = base64.b64decode(source.removeprefix("data:image/jpeg;base64,"), validate=True)
    return np.asarray(Image.open(io.BytesIO(data)))


def test_words_have_the_colour_of_their_mask() -> None:
    mask = np.zeros((20, 30), bool)
    mask[5:15, 5:15] = True
    card = Card(_image(), [TextLine("A dog runs.", [TextMark(0, 5, 0)])], masks=[mask])
    tree = _page(card)
    (mark,) = tree.all("mark")
    assert mark["style"] == "--c:#{:02x}{:02x}{:02x}".format(*colour_of(0))
    assert tree.words[-4:-2] == ["A dog", " runs."] or "A dog" in tree.words
    plain, masked = (_pixels(image["src"]) for image in tree.all("img"))
    assert plain.shape == masked.shape == (20, 30, 3)
    change = np.abs(masked.astype(int) - plain).max(-1)
    assert (change[6:14, 6:14] > 8).all()  # the tint
    assert change[5, 6:14].min() > 40  # the contour
    assert (change[:3] < 40).all()


def test_a_card_without_masks_has_one_image_and_boxes_keep_their_colours() -> None:
    tree = _page(
        Card(_image(), [TextLine("a cat")], boxes_xyxy_pixel=[None, (3.0, 4.0, 13.5, 9.0)])
    )
    assert len(tree.all("img")) == 1
    (box,) = tree.all("rect")
    assert box == {
        "x": "3.0",
        "y": "4.0",
        "width": "10.5",
        "height": "5.0",
        "stroke": "#{:02x}{:02x}{:02x}".format(*colour_of(1)),
    }
    (drawing,) = tree.all("svg")
    assert drawing["viewbox"] == "0 0 30 20"


def test_large_images_are_embedded_small_with_their_masks() -> None:
    mask = np.zeros((1500, 3000), bool)
    mask[:, 1500:] = True
    tree = _page(Card(_image(1500, 3000), [], masks=[mask, None]))
    for image in tree.all("img"):
        assert _pixels(image["src"]).shape == (MAX_SIDE // 2, MAX_SIDE, 3)


@pytest.mark.parametrize(
    "marks",
    [
        [TextMark(2, 4, 0), TextMark(3, 6, 1)],  # overlapping
        [TextMark(4, 6, 0), TextMark(0, 2, 1)],  # out of order
        [TextMark(2, 4, 0), TextMark(5, 99, 1)],  # beyond the end
        [TextMark(2, 4, 0), TextMark(5, 5, 1)],  # empty
    ],
)
def test_marks_that_do_not_fit_cost_no_letter(marks: list[TextMark]) -> None:
    tree = _page(Card(_image(), [TextLine("abcdefgh", marks)]))
    assert "".join(tree.words).count("abcdefgh") == 1
    assert len(tree.all("mark")) == 1


def test_a_token_is_marked_as_one_and_a_turn_has_its_speaker() -> None:
    marks = [TextMark(0, 5, 0), TextMark(6, 11, 0, is_token=True)]
    tree = _page(Card(_image(), [TextLine("A dog [SEG] runs.", marks, speaker="GLaMM")]))
    assert [mark.get("class") for mark in tree.all("mark")] == [None, "token"]
    assert tree.words[tree.words.index("GLaMM") :][:5] == ["GLaMM", "A dog", " ", "[SEG]", " runs."]


def test_text_is_escaped_and_the_page_may_load_nothing() -> None:
    attack = '<script>alert(1)</script><img src="http://x/y"> & "quotes" \ud800'
    page = Page(attack, attack)
    page.section(attack)
    page.paragraph(attack)
    page.table((attack, "number"), [(attack, 3), (attack, 0.5)])
    page.collapsed(attack, [attack])
    page.histograms({attack: [1.0, 2.0]})
    page.facts({attack: 7})
    page.cards(
        [Card(_image(), [TextLine(attack, [TextMark(0, 8, 0)], attack, attack)], title=attack)]
    )
    text = page.html()
    tree = _Tree(text)
    assert not tree.all("script")
    assert all((image["src"] or "").startswith("data:image/jpeg") for image in tree.all("img"))
    links = [element["href"] or "" for element in tree.all("a")]
    assert all(link.startswith("#") for link in links)
    (policy,) = [meta for meta in tree.all("meta") if "http-equiv" in meta]
    assert "default-src 'none'" in (policy["content"] or "")
    assert "".join(tree.words).count('alert(1)</script><img src="http://x/y"> & "quotes" ?') >= 10
    text.encode("utf-8")


def test_links_lead_to_the_sections() -> None:
    page = Page("title")
    page.section("one")
    page.section("under one", level=3)
    only = _Tree(page.html())
    assert [link["href"] for link in only.all("a")] == [f"#{h['id']}" for h in only.all("h3")]
    page.section("two")
    tree = _Tree(page.html())
    assert [link["href"] for link in tree.all("a")] == [f"#{h['id']}" for h in tree.all("h2")]


def test_both_colour_schemes_define_the_same_colours() -> None:
    text = Page("title").html()
    light, dark = re.findall(r":root \{(.*?)\}", text, re.DOTALL)
    names = [set(re.findall(r"(--\w+):", scheme)) for scheme in (light, dark)]
    assert names[0] == names[1]
    used = set(re.findall(r"var\((--\w+)\)", text)) - {"--c"}
    assert used == names[0]


def test_a_page_is_written_atomically(tmp_path: Path) -> None:
    path = tmp_path / "new" / "page.html"
    page = Page("title")
    page.save(path)
    assert path.read_text(encoding="utf-8") == page.html()
    assert list(path.parent.iterdir()) == [path]
    path.unlink()
    path.mkdir()
    with pytest.raises(OSError, match="directory"):
        page.save(path)
    assert list(path.parent.iterdir()) == [path]


def _bars(svg: str) -> dict[str, float]:
    """Return title of a bar -> its height."""
    matches = re.findall(r'height="([\d.]+)"><title>(.*?)</title>', svg)
    return {title: float(height) for height, title in matches}


def test_few_integers_have_a_bar_each() -> None:
    bars = _bars(histogram_svg([1, 1, 1, 4, 4, 2]))
    assert list(bars) == ["1: 3", "2: 1", "3: 0", "4: 2"]
    tallest = bars["1: 3"]
    assert [round(bar / tallest, 2) for bar in bars.values()] == [1, 0.33, 0, 0.67]


def test_numbers_that_differ_by_rounding_alone_are_the_same() -> None:
    assert histogram_svg([1.0, 1.0 - 2**-53]) == "<p>always 1</p>"


def test_other_numbers_are_counted_in_bins_and_none_is_lost() -> None:
    numbers = np.random.default_rng(0).normal(size=1000).tolist()
    svg = histogram_svg([*numbers, float("nan"), float("inf")])
    counts = [int(title.rpartition(": ")[2]) for title in _bars(svg)]
    assert len(counts) == BINS
    assert sum(counts) == 1000
    assert f"median {np.median(numbers):.4g}" in svg


def test_a_single_value_is_a_sentence_and_no_value_is_empty() -> None:
    assert histogram_svg([256, 256]) == "<p>always 256</p>"
    assert histogram_svg([]) == histogram_svg([float("nan")]) == ""
    page = Page("title")
    page.histograms({"empty": []})
    assert "empty" not in page.html()


def test_cards_of_a_group_stay_together() -> None:
    page = Page("title")
    page.groups(
        [[Card(_image(), [TextLine(name)]) for name in "ab"], [Card(_image(), [TextLine("c")])]]
    )
    tree = _Tree(page.html())
    kinds = [
        attributes.get("class") for tag, attributes in tree.elements if tag in ("div", "article")
    ]
    group = ["cards group", *([None, "image", "text"] * 2)]
    assert kinds == ["groups", *group, *group[:4]]


def test_questions_and_answers_differ() -> None:
    lines = [
        TextLine("Where?", speaker="user", is_question=True),
        TextLine("Here.", speaker="GLaMM"),
    ]
    tree = _page(Card(_image(), lines))
    assert [attributes.get("class") for attributes in tree.all("p")][1:] == [
        "turn question",
        "turn",
    ]
