"""The review page in headless Chromium: everything that a reviewer does, alone and in twos."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from glamm_jax.data import rle
from glamm_jax.grand.export.filters import NO_FILTERS, filter_record
from glamm_jax.grand.record import GrandRecord
from glamm_jax.grand.run_folder import AnnotationRun
from glamm_jax.grand.run_records import export_items
from tests.app.browser import CONTRASTS, chromium
from tests.grand.review.serving import ReviewClient, review_server

pytest.importorskip("playwright", reason="pip install playwright")
pytestmark = pytest.mark.skipif(
    not (shutil.which("chromium") or shutil.which("chromium-browser")),
    reason="apt-get install chromium",
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as running:
        yield running


@pytest.fixture
def client(review_run: AnnotationRun) -> Iterator[ReviewClient]:
    with review_server(review_run) as running:
        yield running


class Reviewer:
    """A person with a page of their own."""

    def __init__(self, browser: Any, client: ReviewClient, author: str = "ann", anchor: str = ""):
        self.client = client
        self.context = browser.new_context(viewport={"width": 1280, "height": 1000})
        self.page = self.context.new_page()
        self.page.set_default_timeout(10_000)
        self.problems: list[str] = []
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.on("console", self._check_message)
        self.page.on("request", self._check_request)
        self.page.goto(f"{client.url}/{anchor}")
        self.page.wait_for_selector(".stage svg")
        self.page.locator("#author").fill(author)
        self.page.locator("#author").blur()

    def _check_message(self, message: Any) -> None:
        # A refusal (409) is shown on the page as well.
        if message.type == "error" and "409" not in message.text:
            self.problems.append(message.text)

    def _check_request(self, request: Any) -> None:
        if not request.url.startswith((self.client.url, "data:")):
            self.problems.append(f"the page loads {request.url}")

    @property
    def image(self) -> str:
        return self.page.locator("#image").inner_text()

    @property
    def phrases(self) -> list[str]:
        return self.page.locator("#caption .phrase").all_inner_texts()

    @property
    def message(self) -> str:
        return self.page.locator("#message").inner_text()

    def press(self, *keys: str) -> None:
        for key in keys:
            self.page.keyboard.press(key)

    def wait_for_message(self, text: str) -> None:
        script = "text => document.getElementById('message').textContent.includes(text)"
        self.page.wait_for_function(script, arg=text)

    def act(self, key: str, text: str) -> None:
        """Press a key, and wait for the message that follows."""
        self.press(key)
        self.wait_for_message(text)

    def select_text(self, text: str) -> None:
        """Select characters in the text field, as with the mouse."""
        script = """(field, text) => {
          const start = field.value.indexOf(text);
          field.focus();
          field.setSelectionRange(start, start + text.length);
        }"""
        self.page.locator("#text").evaluate(script, text)

    def type_at(self, text: str, typed: str, *, replace: bool = False) -> None:
        """Type behind some characters of the text field, or instead of them."""
        self.select_text(text)
        if not replace:
            self.press("ArrowRight")
        self.page.keyboard.type(typed)

    def draw(self, x0: float, y0: float, x1: float, y1: float) -> None:
        """Drag a box, in shares of the image's sides."""
        frame = self.page.locator(".stage svg").bounding_box()
        mouse = self.page.mouse
        mouse.move(frame["x"] + x0 * frame["width"], frame["y"] + y0 * frame["height"])
        mouse.down()
        mouse.move(frame["x"] + x1 * frame["width"], frame["y"] + y1 * frame["height"], steps=3)
        mouse.up()

    def region(self, number: int) -> Any:
        return self.page.locator(f"#regions button[data-region='{number}']")


@pytest.fixture
def reviewer(browser: Any, client: ReviewClient) -> Iterator[Callable[..., Reviewer]]:
    people: list[Reviewer] = []

    def new(author: str = "ann", anchor: str = "") -> Reviewer:
        people.append(Reviewer(browser, client, author, anchor))
        return people[-1]

    yield new
    for person in people:
        person.context.close()
        assert not person.problems


def reviewed(client: ReviewClient, name: str) -> GrandRecord:
    return next(record for image, record in export_items(client.run) if image.image_id == name)


def dense_phrases(record: GrandRecord) -> list[tuple[str, tuple[int, ...]]]:
    assert record.dense_caption is not None
    text = record.dense_caption.caption
    return [(text[slice(*x.span)], x.object_ids) for x in record.dense_caption.groundings if x.span]


def ordered(client: ReviewClient) -> list[str]:
    _, _, data = client.send("GET", "/api/list?state=all&offset=0&limit=10")
    return [item["image"] for item in data["items"]]


def test_approve_discard_and_undo_by_keys_in_the_order_of_confidence(
    client: ReviewClient, reviewer: Callable[..., Reviewer]
) -> None:
    order = ordered(client)
    ann = reviewer()
    assert ann.image == order[0]
    ann.act("a", f"Approved: {order[0]}")
    assert ann.image == order[1]
    ann.act("d", f"Discarded: {order[1]}")
    assert ann.image == order[2]
    assert ann.page.locator("#reviewed").inner_text() == "2 of 6 reviewed"
    ann.press("n")
    ann.page.wait_for_function("name => document.title.startsWith(name)", arg=order[3])
    ann.press("p")
    ann.page.wait_for_function("name => document.title.startsWith(name)", arg=order[2])
    ann.act("u", f"The last decision about {order[1]} was taken back.")
    assert ann.image == order[1]
    assert ann.page.locator("#image-state").is_hidden()
    ann.act("Control+z", f"The last decision about {order[0]} was taken back.")
    assert [(x["image"], x["action"], x["author"]) for x in client.decisions()] == [
        (order[0], "approve", "ann"),
        (order[1], "discard", "ann"),
        (order[1], "undo", "ann"),
        (order[0], "undo", "ann"),
    ]
    assert ann.page.locator("#reviewed").inner_text() == "0 of 6 reviewed"
    # Only images in the chosen state follow.
    ann.act("d", "Discarded")
    ann.page.locator("#state").select_option("discarded")
    ann.page.wait_for_function("name => document.title.startsWith(name)", arg=order[0])
    assert ann.page.locator("#image-state").inner_text() == "discarded by ann"
    ann.act("n", "There are no other images in this state.")


def test_the_spans_follow_an_edited_caption(
    client: ReviewClient, reviewer: Callable[..., Reviewer]
) -> None:
    ann = reviewer()
    name, before = ann.image, ann.phrases
    text = ann.page.locator("#text").input_value()
    first, second = before[:2]
    ids = [number for _, number in dense_phrases(reviewed(client, name))]
    ann.press("e", "Control+Home")
    ann.page.keyboard.type("\N{DOG FACE} ")
    ann.type_at(first, "s")
    ann.type_at(second, "a tower", replace=True)
    assert ann.phrases == [f"{first}s", "a tower", *before[2:]]
    ann.press("Escape")
    assert ann.page.locator("#approve").inner_text().startswith("Save correction")
    ann.act("a", f"Saved: {name}")
    record = reviewed(client, name)
    assert record.dense_caption is not None
    expected = "\N{DOG FACE} " + text.replace(first, f"{first}s", 1).replace(second, "a tower", 1)
    assert record.dense_caption.caption == expected
    assert dense_phrases(record) == list(
        zip([f"{first}s", "a tower", *before[2:]], ids, strict=True)
    )
    assert record.dense_source == "reviewer"


def test_deleted_text_takes_its_phrase_away_until_undo(
    client: ReviewClient, reviewer: Callable[..., Reviewer]
) -> None:
    ann = reviewer()
    before = ann.phrases
    ann.select_text(before[0])
    ann.act("Delete", f"Removed with its text: the phrase \u201c{before[0]}\u201d")
    assert ann.phrases == before[1:]
    ann.press("Escape")
    ann.act("u", "The last edit was undone.")
    assert ann.phrases == before
    assert ann.page.locator("#approve").inner_text().startswith("Approve")
    assert client.decisions() == []


def test_a_phrase_moves_and_a_new_one_is_linked(
    client: ReviewClient, reviewer: Callable[..., Reviewer]
) -> None:
    ann = reviewer()
    name, before = ann.image, dense_phrases(reviewed(client, ann.image))
    first, ids = before[0]
    noun = first.rpartition(" ")[2]
    ann.press("1")
    ann.select_text(noun)
    ann.page.locator("#move-phrase").click()
    assert ann.phrases[0] == noun
    ann.press("Escape", "Shift+ArrowLeft")
    assert ann.phrases[0] == " ".join(first.split(" ")[-2:])
    ann.press("Shift+ArrowRight")
    assert ann.phrases[0] == noun
    # The two ends of the last phrase, and a new phrase with another region.
    ann.select_text("there")
    ann.page.locator("#new-phrase").click()
    assert "there" in ann.phrases
    assert ann.page.locator(".phrase.unlinked").all_inner_texts() == ["there"]
    ann.press("Escape")
    number = before[1][1][0]
    ann.region(number).click()
    ann.act("l", f"Region {number} is linked to the phrase.")
    ann.act("a", f"Saved: {name}")
    phrases = dense_phrases(reviewed(client, name))
    assert (noun, ids) in phrases
    assert ("there", (number,)) in phrases
    assert (first, ids) not in phrases
    assert reviewed(client, name).dense_source == "llm"


def test_regions_are_linked_and_unlinked(
    client: ReviewClient, reviewer: Callable[..., Reviewer]
) -> None:
    ann = reviewer()
    name, before = ann.image, dense_phrases(reviewed(client, ann.image))
    own, other = before[0][1][0], before[1][1][0]
    ann.press("1")
    assert ann.page.locator("#regions .linked").count() == len(before[0][1])
    # A click on the region in the image selects it.
    ann.page.locator(f".stage g[data-region='{other}'] .tag").click()
    ann.page.locator("#link").click()
    ann.region(own).click()
    ann.act("l", f"Region {own} is not linked to the phrase any more.")
    ann.act("a", f"Saved: {name}")
    assert dense_phrases(reviewed(client, name))[0] == (before[0][0], (*before[0][1][1:], other))


def test_rename_and_remove_regions(client: ReviewClient, reviewer: Callable[..., Reviewer]) -> None:
    ann = reviewer()
    name = ann.image
    numbers = [item.id for item in reviewed(client, name).objects]
    ann.press("]", "r")
    ann.page.keyboard.type('<img src=x onerror="alert(1)">')
    ann.page.locator("#attributes").fill("a \u202ebidi\u202c text\nsecond")
    ann.press("Escape", "]", "x")
    ann.act("a", f"Saved: {name}")
    record = reviewed(client, name)
    assert [item.id for item in record.objects] == [numbers[0], *numbers[2:]]
    assert record.objects[0].label == '<img src=x onerror="alert(1)">'
    assert record.objects[0].attributes == ("a \u202ebidi\u202c text", "second")
    (line,) = client.decisions()
    assert line["correction"]["removed"] == [numbers[1]]
    ann.page.locator("#state").select_option("corrected")
    ann.page.wait_for_function("name => document.title.startsWith(name)", arg=name)
    assert '<img src=x onerror="alert(1)">' in ann.region(numbers[0]).inner_text()
    assert ann.page.locator("main img").count() == 1


def test_a_box_is_drawn_again_and_its_mask_computed(
    client: ReviewClient, reviewer: Callable[..., Reviewer]
) -> None:
    ann = reviewer()
    name = ann.image
    item = reviewed(client, name).objects[0]
    # Around the centre of the object, where the oracle finds it.
    x0, y0, x1, y1 = (edge / 128 for edge in item.box)
    ann.region(item.id).click()
    ann.press("b")
    ann.draw(max(x0 - 0.02, 0), max(y0 - 0.02, 0), min(x1 + 0.02, 1), min(y1 + 0.02, 1))
    ann.wait_for_message(f"The mask of region {item.id} is that of hq-sam.")
    ann.act("a", f"Saved: {name}")
    record = reviewed(client, name)
    new = record.objects[0]
    assert new.mask_source == "segmenter"
    assert new.mask is not None
    expected = [max(x0 - 0.02, 0), max(y0 - 0.02, 0), min(x1 + 0.02, 1), min(y1 + 0.02, 1)]
    assert new.box == pytest.approx(tuple(128 * edge for edge in expected), abs=0.5)
    columns = np.flatnonzero(rle.decode(new.mask).any(0))
    assert new.box[0] <= columns.min() + 1
    assert columns.max() <= new.box[2] + 1
    assert record.dense_caption is not None
    boxes = [box for x in record.dense_caption.groundings for box in x.boxes]
    assert new.box in boxes
    assert item.box not in boxes


def test_a_box_is_typed(client: ReviewClient, reviewer: Callable[..., Reviewer]) -> None:
    ann = reviewer()
    name = ann.image
    item = reviewed(client, name).objects[0]
    ann.region(item.id).click()
    right = ann.page.get_by_label("right", exact=True)
    right.fill("500")
    right.press("Tab")
    ann.wait_for_message("A box is left < right and top < bottom, inside of 128 x 128 pixels.")
    right.fill("127.5")
    right.press("Tab")
    ann.wait_for_message(f"The mask of region {item.id} is that of hq-sam.")
    assert ann.page.evaluate("document.activeElement.getAttribute('aria-label')") == "bottom"
    assert ann.page.locator("#mask option").first.inner_text() == "of segmenter"
    ann.press("Escape")
    # A warning about unsaved edits does not cover later ones.
    ann.act("n", "There are edits that are not saved")
    ann.press("1", "l")
    ann.act("n", "There are edits that are not saved")
    ann.act("a", f"Saved: {name}")
    new = reviewed(client, name).objects[0]
    assert new.box == (*item.box[:2], 127.5, item.box[3])
    assert new.mask_source == "segmenter"


def test_a_new_region_gets_a_label_and_a_mask(
    client: ReviewClient, reviewer: Callable[..., Reviewer]
) -> None:
    ann = reviewer()
    name = ann.image
    ann.press("g")
    ann.draw(0.1, 0.1, 0.4, 0.4)
    ann.wait_for_message("is that of hq-sam")
    assert ann.page.evaluate("document.activeElement.id") == "label"
    ann.page.keyboard.type("poster")
    ann.act("Control+Enter", f"Saved: {name}")
    item = reviewed(client, name).objects[-1]
    assert (item.label, item.labels, item.reviewed) == ("poster", ("poster",), True)
    assert item.box == pytest.approx((12.8, 12.8, 51.2, 51.2), abs=0.5)
    assert item.mask is not None


def test_without_a_segmenter_a_region_may_take_another_mask(
    browser: Any, review_run: AnnotationRun
) -> None:
    with review_server(review_run, has_segmenter=False) as client:
        ann = Reviewer(browser, client)
        name = ann.image
        first, second = reviewed(client, name).objects[:2]
        ann.region(first.id).click()
        ann.press("b")
        ann.draw(0.1, 0.1, 0.4, 0.4)
        ann.wait_for_message("has no mask: there is no segmenter (--roles)")
        assert ann.page.locator("#mask").input_value() == "now"
        ann.page.locator("#mask").select_option(str(second.id))
        ann.act("a", f"Saved: {name}")
        item = reviewed(client, name).objects[0]
        assert (item.box, item.mask) == (second.box, second.mask)
        ann.region(reviewed(client, ann.image).objects[0].id).click()
        ann.press("b")
        ann.draw(0.1, 0.1, 0.4, 0.4)
        ann.wait_for_message("has no mask")
        other = ann.image
        ann.act("a", f"Saved: {other}")
        item = reviewed(client, other).objects[0]
        assert (item.mask, item.mask_source) == (None, None)
        ann.context.close()
        assert not ann.problems


def test_two_reviewers_do_not_overwrite_each_other(
    client: ReviewClient, reviewer: Callable[..., Reviewer]
) -> None:
    ann, bob = reviewer("ann"), reviewer("bob")
    assert ann.image != bob.image
    name = ann.image
    eve = reviewer("eve", f"#{name}")
    assert eve.image == name
    eve.wait_for_message("Another reviewer has this image open.")
    ann.press("]", "r")
    ann.page.keyboard.type("first")
    ann.press("Escape")
    ann.act("a", f"Saved: {name}")
    eve.press("]", "r")
    eve.page.keyboard.type("second")
    eve.press("Escape")
    eve.act("a", "ann corrected it at 20")
    assert len(client.decisions()) == 1
    assert eve.region(reviewed(client, name).objects[0].id).inner_text().endswith("second")
    eve.page.get_by_role("button", name="Show the newer version").click()
    eve.page.wait_for_selector("#image-state:not([hidden])")
    assert eve.region(reviewed(client, name).objects[0].id).inner_text().endswith("first")
    eve.act("a", f"Approved: {name}")
    assert [(x["author"], x["action"]) for x in client.decisions()] == [
        ("ann", "correct"),
        ("eve", "approve"),
    ]
    assert reviewed(client, name).objects[0].label == "first"


def test_unsaved_edits_are_left_only_on_request(
    client: ReviewClient, reviewer: Callable[..., Reviewer]
) -> None:
    ann = reviewer()
    name = ann.image
    ann.press("1", "x")
    ann.act("n", "There are edits that are not saved")
    assert ann.image == name
    ann.press("n")
    ann.page.wait_for_function("name => !document.title.startsWith(name)", arg=name)
    assert client.decisions() == []
    # Without a name nothing is decided.
    ann.page.locator("#author").fill("")
    ann.page.locator("#author").blur()
    ann.act("a", "Enter your name first")
    assert client.decisions() == []
    # The keys can be turned off.
    ann.press("Escape", "?")
    ann.page.locator("#shortcuts").uncheck()
    ann.page.locator("#close-help").click()
    name = ann.image
    ann.press("d", "n")
    assert ann.image == name
    assert client.decisions() == []


def test_texts_are_text_whatever_they_contain(
    browser: Any, annotated_folder: Path, tmp_path: Path
) -> None:
    """Markup in ids, labels, captions and errors is shown, and nothing of it runs."""
    evil = "<img src=x onerror=alert(1)>'\"&\u2028\N{PILE OF POO}\r\n<script>alert(2)</script>"
    shutil.copytree(annotated_folder, tmp_path / "run")
    for path in (tmp_path / "run").glob("stages/annotations/*/chunk-*.jsonl"):
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        for line in lines:
            record = line["section"]["record"]
            record["objects"][0] |= {"label": evil, "labels": [evil], "attributes": [evil]}
            caption = f"{evil} and a star"
            start = len(evil) + len(" and ")
            detail = {"phrase": "a star", "tokens_positive": [start, start + 6], "ids": [0]}
            detail["bbox"] = [record["objects"][0]["bbox"]]
            record["dense_caption"] = {"caption": caption, "details": [detail]}
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    run = AnnotationRun.open(tmp_path / "run")
    with review_server(run) as client:
        ann = Reviewer(browser, client, "<b>ann</b>")
        name = ann.image
        assert ann.phrases == ["a star"]
        shown = ann.page.locator("#caption").evaluate("e => e.textContent")
        assert "<script>alert(2)</script>" in shown
        assert ann.page.locator("#approve").inner_text().startswith("Approve")  # not changed
        ann.press("e", "Control+Home")
        ann.page.keyboard.type("X")
        ann.press("Escape")
        ann.act("a", f"Saved: {name}")
        record = reviewed(client, name)
        assert record.dense_caption is not None
        assert record.dense_caption.caption == "X" + evil.replace("\r\n", "\n") + " and a star"
        assert dense_phrases(record) == [("a star", (0,))]
        ann.page.locator("#state").select_option("corrected")
        ann.page.wait_for_selector("#image-state:not([hidden])")
        assert ann.page.locator("#image-state").inner_text() == "corrected by <b>ann</b>"
        ann.press("i")
        ann.page.wait_for_selector("#rows button")
        assert ann.page.locator("main img, main script").count() == 1
        ann.context.close()
        assert not ann.problems


def test_text_has_contrast_and_elements_have_names(browser: Any, client: ReviewClient) -> None:
    for scheme in ("light", "dark"):
        context = browser.new_context(color_scheme=scheme, viewport={"width": 400, "height": 900})
        page = context.new_page()
        page.goto(client.url)
        page.wait_for_selector(".stage svg g")
        page.locator("#regions button").first.click()
        low = [item for item in page.evaluate(CONTRASTS) if item[1] < 4.5]
        assert low == []
        unnamed = page.evaluate("""() => [...document.querySelectorAll(
            "button, input, select, textarea, [role=button]")].filter((e) => !(e.textContent.trim()
            || e.getAttribute("aria-label") || (e.labels && e.labels.length))).map((e) => e.id)""")
        assert unnamed == []
        assert page.evaluate("document.documentElement.scrollWidth") <= 400
        context.close()


RANDOM_EDITS = """async () => {
  const { characters, movePhrases, toCodePoints } = await import("/editing.js");
  let seed = 7;
  const draw = (limit) => {
    seed = (seed * 1103515245 + 12345) % 2147483648;
    return Math.floor((seed / 2147483648) * limit);
  };
  const letters = ["a", "b", " ", "\\u{1F436}", "e\\u0301", "\\u4E2D", "\\n"];
  const text = (length) => Array.from({ length }, () => letters[draw(letters.length)]).join("");
  const wrong = [];
  let untouched = 0;
  for (let round = 0; round < 3000; round += 1) {
    const old = characters(text(4 + draw(20)));
    const phrases = [0, 1, 2].map(() => {
      const start = draw(old.length - 1);
      return { start, end: start + 1 + draw(old.length - start), ids: [0] };
    }).map((phrase) => ({ ...phrase, end: Math.min(phrase.end, old.length) }));
    const from = draw(old.length + 1);
    const to = from + draw(old.length - from + 1);
    const added = characters(text(draw(4)));
    const edited = [...old.slice(0, from), ...added, ...old.slice(to)];
    const caret = from + added.length;
    const { moved, lost } = movePhrases(phrases, old.join(""), edited.join(""), caret);
    const valid = moved.every(({ start, end }) => 0 <= start && start < end
      && end <= edited.length);
    if (!valid || moved.length + lost.length !== phrases.length) wrong.push([old, edited, moved]);
    // A phrase with a character between it and the edit has the same text, at its place.
    const shift = added.length - (to - from);
    for (const { start, end } of phrases) {
      const place = end < from ? start : start > to ? start + shift : null;
      if (place === null) continue;
      untouched += 1;
      if (!moved.some((p) => p.start === place && p.end === place + end - start)) {
        wrong.push([old, edited, start, end]);
      }
    }
    const index = draw(edited.length + 1);
    const units = edited.slice(0, index).join("").length;
    if (toCodePoints(edited.join(""), units) !== index) wrong.push(index);
  }
  return [wrong.slice(0, 3), untouched];
}"""


def test_spans_are_correct_after_random_edits(client: ReviewClient, browser: Any) -> None:
    page = browser.new_page()
    page.goto(client.url)
    wrong, untouched = page.evaluate(RANDOM_EDITS)
    assert wrong == []
    assert untouched > 1000
    page.close()


def test_a_caption_is_written_where_there_is_none(
    browser: Any, annotated_folder: Path, tmp_path: Path
) -> None:
    """As in the human annotation of GranD-f: text, phrases, links; it is exported."""
    shutil.copytree(annotated_folder, tmp_path / "run")
    for path in (tmp_path / "run").glob("stages/annotations/*/chunk-*.jsonl"):
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        for line in lines:
            for key in ("dense_caption", "short_captions", "checks"):
                line["section"]["record"].pop(key, None)
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    run = AnnotationRun.open(tmp_path / "run")
    with review_server(run) as client:
        ann = Reviewer(browser, client)
        name = ann.image
        number = reviewed(client, name).objects[0].id
        ann.press("e")
        ann.page.keyboard.type("A shape on the wall.")
        ann.press("Escape")
        ann.region(number).click()
        ann.select_text("A shape")
        ann.page.locator("#new-phrase").click()
        ann.press("Escape")
        ann.act("a", f"Saved: {name}")
        ann.context.close()
        assert not ann.problems
    record = reviewed(client, name)
    assert dense_phrases(record) == [("A shape", (number,))]
    assert record.dense_source == "reviewer"
    assert filter_record(record, NO_FILTERS, Counter()) == record
