"""JSON lines of a user: their meaning, and the defects of invalid lines."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from glamm_jax.data import rle
from glamm_jax.data.record import Annotation, Link, ReadResult, check_record
from glamm_jax.data.sources.defects import SourceError
from glamm_jax.data.sources.jsonl import JsonlSource
from tests.conftest import ROOT

HEIGHT, WIDTH = 48, 64
SQUARE = [[40, 30, 52, 30, 52, 42, 40, 42]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """photos/dog.jpg, photos/cat.png and masks/dog.png."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "photos").mkdir()
    (folder / "masks").mkdir()
    image = Image.new("RGB", (WIDTH, HEIGHT), "green")
    image.save(folder / "photos/dog.jpg")
    image.save(folder / "photos/cat.png")
    image.save(folder / "masks/colours.png")
    dog = np.zeros((HEIGHT, WIDTH), np.uint8)
    dog[10:20, 5:25] = 1
    Image.fromarray(dog).save(folder / "masks/dog.png")
    Image.fromarray(dog[:20]).save(folder / "masks/small.png")
    (folder / "masks/text.png").write_text("not an image")
    return folder


def source(folder: Path, *lines: Any, split: str = "train") -> JsonlSource:
    """Write a file of these lines, those that are not bytes as JSON, and open it."""
    path = folder / "own.jsonl"
    raw = [line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines]
    path.write_bytes(b"\n".join(raw))
    return JsonlSource(path, split)


def read(folder: Path, **fields: Any) -> ReadResult:
    """Read one line about dog.jpg."""
    lines_source = source(folder, {"image": "photos/dog.jpg", **fields})
    (key,) = lines_source.keys
    result = lines_source.read(key)
    if result.record is not None:
        check_record(result.record)
    return result


def defects(result: ReadResult) -> list[str]:
    return [f"{where} ({kind})" for kind, where in result.defects]


def only_defect(result: ReadResult) -> str:
    """The only defect of line 1, without the name of the file."""
    (defect,) = defects(result)
    return defect.removeprefix("own.jsonl line 1: ")


def area(mask: bytes | None) -> int:
    """The number of pixels of a mask of this size."""
    return int(rle.decode({"size": [HEIGHT, WIDTH], "counts": mask}).sum())


# ---------------------------------------------------------------- valid lines


def test_the_documented_example_is_read_whole(folder: Path) -> None:
    page = (ROOT / "docs/your-data.md").read_text("utf-8")
    example = re.search(r"```json\n(.*?)```", page, re.DOTALL)
    assert example is not None
    lines_source = source(folder, json.loads(example[1]))
    record, problems = lines_source.read("dog-1")
    assert problems == ()
    assert record is not None
    assert [item.task for item in record.annotations] == [
        *("caption", "gcg", "gcg", "referring", "region", "vqa")
    ]
    assert (record.height, record.width, record.source) == (HEIGHT, WIDTH, "own")
    assert record.image == (folder / "photos/dog.jpg").read_bytes()
    assert [area(region.mask) for region in record.regions if region.mask is not None] == [
        *(200, 144, 200, 144, 20)
    ]


def test_marks_become_spans(folder: Path) -> None:
    text = "<p> A brown dog </p> [SEG] chases <p>two balls</p> [SEG][SEG]."
    result = read(folder, grounded_captions=[{"text": text, "masks": [SQUARE] * 3}])
    assert result.record is not None
    assert result.record.annotations == (
        Annotation(
            "gcg",
            "A brown dog chases two balls.",
            (Link(0, 0, 11), Link(1, 19, 28), Link(2, 19, 28)),
        ),
    )


def test_phrases_are_found_by_their_words_or_their_span(folder: Path) -> None:
    phrases = [
        {"phrase": "a dog", "masks": [SQUARE]},
        {"phrase": "a dog", "masks": [SQUARE]},
        {"span": [16, 21], "masks": [SQUARE]},
        {"span": [0, 1], "phrase": "A", "masks": [SQUARE]},
    ]
    text = "A cat, a dog on a mat, a dog"
    result = read(folder, grounded_captions=[{"text": text, "phrases": phrases}])
    assert result.record is not None
    links = result.record.annotations[0].links
    assert sorted((link.region, text[link.start : link.end]) for link in links) == [
        *((0, "a dog"), (1, "a dog"), (2, "a mat"), (3, "A"))
    ]
    assert len({link.start for link in links}) == 4
    assert result.defects == ()


@pytest.mark.parametrize(
    "mask",
    [
        "masks/dog.png",
        [[5, 10, 25, 10, 25, 20, 5, 20]],
        [[5, 10, 15, 10, 15, 20, 5, 20], [15, 10, 25, 10, 25, 20, 15, 20]],
        {"size": [HEIGHT, WIDTH], "counts": [5 * 48 + 10, *[10, 38] * 19, 10, 39 * 48 + 28]},
    ],
)
def test_a_mask_is_the_same_however_it_is_written(folder: Path, mask: Any) -> None:
    result = read(folder, expressions=[{"text": "the dog", "masks": [mask]}])
    assert result.record is not None
    inside = np.zeros((HEIGHT, WIDTH), bool)
    inside[10:20, 5:25] = True
    runs = {"size": [HEIGHT, WIDTH], "counts": result.record.regions[0].mask}
    assert (rle.decode(runs) == inside).all()
    assert result.defects == ()


def test_lines_of_one_id_become_one_record(folder: Path) -> None:
    lines_source = source(
        folder,
        {"image": "photos/dog.jpg", "captions": ["One."]},
        {"image": "photos/cat.png", "id": 7, "captions": ["A cat."]},
        b"",
        {"image": "photos/dog.jpg", "captions": ["Two."]},
    )
    assert lines_source.keys == ["photos/dog.jpg", "7"]
    record, problems = lines_source.read("photos/dog.jpg")
    assert record is not None
    assert [item.text for item in record.annotations] == ["One.", "Two."]
    assert problems == ()


def test_one_id_for_two_pictures_is_a_defect(folder: Path) -> None:
    lines_source = source(
        folder,
        {"image": "photos/dog.jpg", "id": "x", "captions": ["A dog."]},
        {"image": "photos/cat.png", "id": "x", "captions": ["A cat."]},
    )
    result = lines_source.read("x")
    assert result.record is not None
    assert [item.text for item in result.record.annotations] == ["A dog."]
    assert defects(result) == ["own.jsonl line 2: id: x is already photos/dog.jpg (duplicate id)"]


def test_splits_are_kept_apart(folder: Path) -> None:
    lines = [
        {"image": "a.jpg", "split": "val"},
        {"image": "b.jpg"},
        {"image": "c.jpg", "split": "train"},
    ]
    assert source(folder, *lines).keys == ["b.jpg", "c.jpg"]
    assert source(folder, *lines, split="val").keys == ["a.jpg"]


def test_a_file_that_is_not_there_is_said(folder: Path) -> None:
    with pytest.raises(SourceError, match="a file of JSON lines is expected"):
        JsonlSource(folder, "train")


# ---------------------------------------------------------------- invalid lines


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"{", "not valid JSON: Expecting property name"),
        (b"\xff\xfd\xfd", "byte 0 is not UTF-8; save it as UTF-8"),
        (b"[" * 100_000, "nested too deeply"),
        (b"[1, 2]", "must be an object, not [1, 2]"),
        ({}, "image: missing; the fields are none"),
        ({"image": 3}, "image: must be a path, not 3"),
        ({"image": "a.jpg", "id": []}, "id: must be a text or number, not []"),
        ({"image": "a.jpg", "split": 1}, "split: must be a name, not 1"),
    ],
)
def test_a_broken_line_is_named_and_costs_no_other(folder: Path, line: Any, message: str) -> None:
    lines_source = source(folder, {"image": "photos/dog.jpg", "captions": ["A dog."]}, line)
    assert lines_source.keys == ["photos/dog.jpg", "line 2"]
    assert lines_source.read("photos/dog.jpg").record is not None
    record, (defect,) = lines_source.read("line 2")
    assert record is None
    assert defect.kind == "broken line"
    assert defect.where.startswith(f"own.jsonl line 2: {message}")


@pytest.mark.parametrize(
    ("image", "message"),
    [
        ("photos/none.jpg", "(missing image)"),
        ("photos", "(missing image)"),
        ("photos/\0.jpg", "(missing image)"),
        ("masks/text.png", "(unreadable image)"),
        ("own.jsonl", "(unreadable image)"),
    ],
)
def test_a_picture_that_cannot_be_read_is_named(folder: Path, image: str, message: str) -> None:
    result = read(folder, image=image, captions=["A dog."])
    assert result.record is None
    assert only_defect(result).endswith(message)


CAPTION = {"captions": ["A dog."]}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "none of captions, grounded_captions, expressions, regions, conversations "),
        ({**CAPTION, "expresions": []}, "expresions: no such field; did you mean expressions? "),
        ({"captions": "A dog."}, "captions: A dog. is not a list"),
        ({"captions": [5]}, "captions[0]: 5 (empty text)"),
        ({"captions": ["..."]}, "captions[0]: ... (empty text)"),
        ({"regions": [3]}, "regions[0]: 3 is not an object"),
        ({"regions": [{"box": [1, 2, 3], "description": "x"}]}, "regions[0].box: [1, 2, 3] "),
        ({"regions": [{"box": [9, 2, 3, 4], "description": "x"}]}, "regions[0].box: "),
        ({"regions": [{"box": [1, 2, 3, 4]}]}, "regions[0].description: None (empty text)"),
        (
            {"regions": [{"box": [1, 2, 3, 4], "description": "x", "boxes": 1}]},
            "regions[0].boxes: no such field; did you mean box? (unknown field)",
        ),
        ({"conversations": [["Hi"]]}, "conversations[0]: 1 turns; the first must be the user's"),
        ({"conversations": [[]]}, "conversations[0]: 0 turns"),
        ({"conversations": [["Hi", None]]}, "conversations[0][1]: None (empty text)"),
        ({"expressions": [{"text": "it"}]}, "expressions[0].masks: must be a list of masks"),
    ],
)
def test_a_wrong_field_is_named(folder: Path, fields: dict[str, Any], message: str) -> None:
    result = read(folder, **fields)
    assert only_defect(result).startswith(message)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        ("masks/none.png", "no file masks/none.png (missing mask)"),
        ("masks/text.png", "masks/text.png: UnidentifiedImageError"),
        (
            "masks/colours.png",
            "masks/colours.png has several channels; one channel of whole numbers is expected "
            "(bad mask)",
        ),
        ("masks/small.png", "20 x 64 in an image of 48 x 64 (wrong mask size)"),
        (SQUARE[0], "a polygon must be in a list of polygons, [[x, y, ...], ...] (bad mask)"),
        ([[1, 1, 2, 2]], "a polygon of 4 numbers: [1, 1, 2, 2] (bad mask)"),
        ([[1, 1, 2, 2, float("nan"), 2]], "neither run lengths nor a polygon"),
        ({"size": [48, 64], "counts": [1]}, "the runs cover 1 pixels"),
        (None, "expressions[0].masks[0] (missing mask)"),
        (7, "neither run lengths nor a polygon"),
    ],
)
def test_a_wrong_mask_is_named_and_costs_its_expression(
    folder: Path, mask: Any, message: str
) -> None:
    result = read(folder, captions=["A dog."], expressions=[{"text": "it", "masks": [mask]}])
    assert message in only_defect(result)
    assert result.record is not None
    assert [item.task for item in result.record.annotations] == ["caption"]


@pytest.mark.parametrize(
    ("caption", "message"),
    [
        ({"text": "<p> A dog </p> runs.", "masks": [SQUARE]}, "<p> at 0 of <p> A dog </p> runs."),
        ({"text": "A dog [SEG] runs.", "masks": [SQUARE]}, "[SEG] at 6 of"),
        ({"text": "<p> A <p> dog </p> [SEG]", "masks": [SQUARE]}, "<p> at 0 of"),
    ],
)
def test_marks_that_do_not_fit_are_named(folder: Path, caption: Any, message: str) -> None:
    result = read(folder, **CAPTION, grounded_captions=[caption])
    assert message in only_defect(result)
    assert result.record is not None
    assert [item.task for item in result.record.annotations] == ["caption"]


def test_a_caption_whose_masks_are_too_many_or_few_stays_a_plain_one(folder: Path) -> None:
    caption = {"text": "<p> A dog </p> [SEG]", "masks": [SQUARE] * 2}
    result = read(folder, grounded_captions=[caption])
    assert defects(result)[0].endswith(
        "grounded_captions[0]: 1 [SEG] and 2 masks (labels and masks differ in number)"
    )
    assert result.record is not None
    assert result.record.annotations == (Annotation("caption", "A dog"),)


@pytest.mark.parametrize(
    ("phrase", "message"),
    [
        ({"phrase": "a cat", "masks": [SQUARE]}, "a cat (phrase not in its caption)"),
        ({"span": [0, 99], "masks": [SQUARE]}, "span [0, 99] (bad span)"),
        ({"masks": [SQUARE]}, "phrases[1]: neither phrase nor span (broken entry)"),
        ({"phrase": "runs"}, "phrases[1].masks: must be a list of masks (missing mask)"),
    ],
)
def test_a_wrong_phrase_is_named_and_costs_itself(folder: Path, phrase: Any, message: str) -> None:
    good = {"phrase": "A dog", "masks": [SQUARE]}
    result = read(folder, grounded_captions=[{"text": "A dog runs.", "phrases": [good, phrase]}])
    assert message in only_defect(result)
    assert result.record is not None
    assert result.record.annotations == (Annotation("gcg", "A dog runs.", (Link(0, 0, 5),)),)


@pytest.mark.parametrize("mark", ["<p>", "</p>", "[SEG]", "<p> a </p> [SEG] ", "<p></p>[SEG]", " "])
def test_a_text_of_nothing_but_marks_does_not_hang(folder: Path, mark: str) -> None:
    text = "A dog " + mark * 20_000
    result = read(folder, **CAPTION, grounded_captions=[{"text": text, "masks": [SQUARE]}])
    assert result.record is not None


# ---------------------------------------------------------------- random lines

_LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-5, 99)
    | st.floats()
    | st.sampled_from(
        ["A dog", "<p> A dog </p> [SEG]", "photos/dog.jpg", "masks/dog.png", "\ud800"]
    )
)
_NAMES = st.sampled_from(
    [
        *("image", "id", "split", "captions", "grounded_captions", "expressions", "regions"),
        *("conversations", "text", "masks", "phrases", "phrase", "span", "box", "description"),
        *("size", "counts", "oddity"),
    ]
)
_ANYTHING = st.recursive(
    _LEAVES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_NAMES, inner, max_size=4),
    max_leaves=15,
)
_LINES = st.dictionaries(_NAMES, _ANYTHING, max_size=6)


@settings(max_examples=100)
@given(st.lists(_LINES, max_size=2), st.data())
def test_anything_is_read_or_named(folder: Path, lines: list[Any], data: st.DataObject) -> None:
    raw = [json.dumps({"image": "photos/dog.jpg", **line}).encode() for line in lines]
    raw_file = bytearray(b"\n".join(raw))
    if raw_file and data.draw(st.booleans()):
        raw_file[data.draw(st.integers(0, len(raw_file) - 1))] = data.draw(st.integers(0, 255))
    try:
        lines_source = source(folder, bytes(raw_file))
    except SourceError:  # nothing in the file can be read
        return
    for key in lines_source.keys:
        record, problems = lines_source.read(key)
        assert record is not None or problems
        if record is not None:
            check_record(record)
