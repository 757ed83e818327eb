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
from glamm_jax.text.special_tokens import RESERVED_TOKENS
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
        (
            "masks/text.png",
            "masks/text.png is damaged, or in none of the formats PNG, BMP, PPM, TIFF",
        ),
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


# ---------------------------------------------------------------- texts that training drops


@pytest.mark.parametrize("token", RESERVED_TOKENS)
@pytest.mark.parametrize(
    ("place", "fields"),
    [
        ("captions[0]", {"captions": ["A dog X."]}),
        ("expressions[0]", {"expressions": [{"text": "the X dog", "masks": [SQUARE]}]}),
        ("regions[0]", {"regions": [{"box": [1, 2, 30, 40], "description": "a X dog"}]}),
        ("conversations[0]", {"conversations": [["Is this HTML?", "It has a X tag."]]}),
        (
            "grounded_captions[0]",
            {
                "grounded_captions": [
                    {"text": "A dog X.", "phrases": [{"phrase": "A dog", "masks": [SQUARE]}]}
                ]
            },
        ),
    ],
)
def test_a_text_that_training_drops_is_a_defect_of_its_line(
    folder: Path, token: str, place: str, fields: Any
) -> None:
    result = read(folder, **json.loads(json.dumps(fields).replace("X", token)))
    if token == "<image>" and "conversations" in fields:  # LLaVA's marker; reported, removed
        assert only_defect(result) == "conversations[0][1] (image token in a later turn)"
        return
    assert result.record is None
    assert only_defect(result).startswith(f"{place}: ")
    assert only_defect(result).endswith(
        f" contains {token}, a token of the model; remove or rename it (reserved token)"
    )


def test_expressions_are_compared_as_training_writes_them(folder: Path) -> None:
    result = read(folder, captions=["</S>"], expressions=[{"text": "a </S>", "masks": [SQUARE]}])
    assert only_defect(result).startswith("expressions[0]: the text contains </s>")
    assert result.record is not None
    assert len(result.record.annotations) == 1


@pytest.mark.parametrize("question", ["<image>\nWhat is it?", "What is it?\n<image>"])
@pytest.mark.parametrize("form", ["texts", "LLaVA", "LLaVA in a list", "roles"])
def test_conversations_of_llava_are_read(folder: Path, question: str, form: str) -> None:
    texts = [question, "A dog."]
    turns: Any = texts
    if form == "roles":
        roles = ("user", "assistant")
        turns = [{"role": x, "content": y} for x, y in zip(roles, texts, strict=True)]
    elif form != "texts":
        turns = [{"from": x, "value": y} for x, y in zip(("human", "gpt"), texts, strict=True)]
    result = read(folder, conversations=turns if form == "LLaVA" else [turns])
    assert result.defects == ()
    assert result.record is not None
    assert [item.turns for item in result.record.annotations] == [("What is it?", "A dog.")]


def test_a_question_about_two_images_is_a_defect(folder: Path) -> None:
    result = read(folder, conversations=[["<image><image> Compare them.", "Equal."]])
    assert only_defect(result) == (
        "conversations[0][0]: 2 times <image>; one image is supported "
        "(question about several images)"
    )


# ---------------------------------------------------------------- layouts and encodings

DOG: dict[str, Any] = {"image": "photos/dog.jpg", "captions": ["A dog."]}
CAT: dict[str, Any] = {"image": "photos/cat.png", "captions": ["\u4e00\u53ea\u732b\u3002"]}


def dump(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)


@pytest.mark.parametrize(
    "text",
    [
        f"{dump(DOG)}\n{dump(CAT)}",
        f"\n\r\n {dump(DOG)}\r\n\r\n\t{dump(CAT)} \r\n",
        f"{dump(DOG)},\n{dump(CAT)},\n",
        f"{dump(DOG)}\r{dump(CAT)}",
        dump([DOG, CAT]),
        dump([DOG, CAT], 2),
        f"[\n{dump(DOG)},\n{dump(CAT)},\n]\n",
        f"{dump(DOG, 2)}\n{dump(CAT, 2)}\n",
        f"{dump(DOG, 2)},\n{dump(CAT, 2)}",
    ],
)
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_objects_are_read_in_every_layout(folder: Path, text: str, mark: bytes) -> None:
    lines_source = source(folder, mark + text.encode())
    assert lines_source.keys == ["photos/dog.jpg", "photos/cat.png"]
    for key, entry in zip(lines_source.keys, (DOG, CAT), strict=True):
        record, problems = lines_source.read(key)
        assert problems == ()
        assert record is not None
        assert record.annotations == (Annotation("caption", entry["captions"][0]),)


def test_the_line_of_an_element_of_a_list_is_named(folder: Path) -> None:
    text = dump([DOG, CAT | {"regions": [7]}], 1).encode()
    result = source(folder, text).read("photos/cat.png")
    assert defects(result) == ["own.jsonl line 8: regions[0]: 7 is not an object (broken entry)"]


LINES = "\n".join([dump(CAT)] * 3)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (LINES.encode("utf-16"), "UTF-16 text; save it as UTF-8 (iconv -f UTF-16"),
        (LINES.encode("utf-16-le"), "UTF-16LE text; save it as UTF-8 (iconv -f UTF-16LE"),
        (LINES.encode("utf-16-be"), "UTF-16BE text; save it as UTF-8"),
        (LINES.encode("utf-32"), "UTF-32 text; save it as UTF-8"),
        (LINES.encode("gb18030"), "3 lines, the first of them line 1, are not UTF-8; save the "),
        (dump([CAT], 2).encode("gb18030"), "is not UTF-8; save it as UTF-8 (for Chinese text "),
        (dump([DOG, CAT])[:-1].encode(), "line 1, column 104: not valid JSON: "),
        (dump(DOG, 1)[:-1].encode(), "line 6, column 1: not valid JSON: Expecting ',' delimiter"),
        (b"[" * 100_000, "column 2: not valid JSON: nested too deeply"),
        (b"[1, 2]\n[3, 4]", "line 2, column 1: not valid JSON: more text behind the list"),
        (b"image,caption\na.jpg,A dog.\n", "none of 2 entries can be read; line 1: not valid"),
        (b'{"file": "a.jpg"}\n{"file": "b.jpg"}', "line 1: image: missing; the fields are file;"),
        (b'{"image": "a.jpg", "split": "training"}', "has split 'train'; available: training"),
        (b"\x1f\x8b\x08\x00", "a gzip file; unpack it first"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_file_that_cannot_be_read_gives_one_message(
    folder: Path, data: bytes, message: str
) -> None:
    with pytest.raises(SourceError, match=re.escape(message)) as error:
        source(folder, data)
    assert str(error.value).startswith(str(folder / "own.jsonl"))


def test_the_layout_of_coco_is_named(folder: Path) -> None:
    (defect,) = source(folder, {"images": [], "annotations": []}).read("line 1").defects
    assert defect.where.startswith("own.jsonl line 1: COCO's layout; ")


@pytest.mark.parametrize("image", ["https://a.b/c.jpg", "s3://a/b.jpg", "data:image/png;base64,x"])
def test_an_image_that_is_no_file_is_named(folder: Path, image: str) -> None:
    assert "is no path; save the image as a file" in only_defect(read(folder, image=image))
    assert "write / in paths" in only_defect(read(folder, image="photos\\dog.jpg"))


# ---------------------------------------------------------------- masks in files


def save_mask(folder: Path, values: Any, name: str = "mask.png", **options: Any) -> str:
    """Save a mask whose rows have these values, one after the other."""
    pixels = np.resize(np.array(values, np.uint8)[:, None], (HEIGHT, WIDTH))
    pixels = np.ascontiguousarray(np.broadcast_to(np.resize(values, HEIGHT)[:, None], pixels.shape))
    Image.fromarray(pixels.astype(np.uint8)).save(folder / "masks" / name, **options)
    return f"masks/{name}"


def area_of(folder: Path, mask: Any) -> int | str:
    """The pixels of a mask, or its defect."""
    result = read(folder, captions=["A dog."], expressions=[{"text": "it", "masks": [mask]}])
    if result.defects:
        return only_defect(result)
    assert result.record is not None
    return area(result.record.regions[0].mask)


HALF = HEIGHT * WIDTH // 2


@pytest.mark.parametrize("value", [1, 7, 255])
def test_a_mask_file_has_one_value_beside_zero(folder: Path, value: int) -> None:
    assert area_of(folder, save_mask(folder, [0, value])) == HALF
    rgb = Image.open(folder / "masks/mask.png").convert("RGB")
    rgb.save(folder / "masks/rgb.png")
    assert area_of(folder, "masks/rgb.png") == HALF
    rgb.convert("RGBA").save(folder / "masks/rgba.png")
    assert area_of(folder, "masks/rgba.png") == HALF


@pytest.mark.parametrize(
    ("values", "fields", "rows"),
    [
        ([0, 1, 2, 255], {"values": [1]}, 1),
        ([0, 1, 2, 255], {"values": [1, 2]}, 2),
        ([0, 1, 2, 255], {"threshold": 2, "ignore": 255}, 1),
        ([0, 100, 128, 255], {"threshold": 128}, 2),
        ([0, 9, 9, 255], {"ignore": 255}, 2),
        ([0, 9, 9, 255], {"ignore": [255], "values": 255}, 0),
    ],
)
def test_the_foreground_of_a_file_with_several_values_is_named(
    folder: Path, values: list[int], fields: Any, rows: int
) -> None:
    name = save_mask(folder, values)
    assert "has the values" in str(area_of(folder, name))
    count = area_of(folder, {"file": name, **fields})
    assert count == rows * HEIGHT * WIDTH // 4 or (rows == 0 and "empty mask" in str(count))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"values": ["x"]}, "values: ['x'] are not whole numbers (bad mask)"),
        ({"threshold": 0.5}, "threshold: 0.5 is not a whole number above 0 (bad mask)"),
        ({"threshold": 5, "values": [1]}, "values and threshold: give one of them (bad mask)"),
        ({"value": 1}, "value: no such field; available: file, values, threshold, ignore"),
        ({"file": 3}, "file: must be a path, not 3 (bad mask)"),
    ],
)
def test_a_wrong_choice_of_values_is_named(folder: Path, fields: Any, message: str) -> None:
    assert message in str(area_of(folder, {"file": save_mask(folder, [0, 1]), **fields}))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("mask.jpg", {"quality": 95}, "is a JPEG file, whose pixels are changed by compression"),
        ("jpeg.png", {"format": "JPEG"}, "is a JPEG file"),
        ("mask.webp", {}, "is a WEBP file"),
        ("mask.gif", {}, "is a GIF file"),
        ("mask.tif", {"compression": "jpeg"}, "is a TIFF file, whose pixels are changed"),
    ],
)
def test_a_lossy_mask_is_refused(folder: Path, name: str, options: Any, message: str) -> None:
    assert message in str(area_of(folder, save_mask(folder, [0, 255], name, **options)))


@pytest.mark.parametrize("name", ["mask.png", "mask.bmp", "mask.pgm", "mask.tif"])
def test_lossless_masks_are_read(folder: Path, name: str) -> None:
    assert area_of(folder, save_mask(folder, [0, 255], name)) == HALF


def test_masks_that_are_probably_not_meant_are_named(folder: Path) -> None:
    image = Image.new("RGBA", (WIDTH, HEIGHT), (9, 9, 9, 0))
    image.save(folder / "masks/alpha.png")
    assert "has transparent pixels" in str(area_of(folder, "masks/alpha.png"))
    runs = rle.encode(np.eye(HEIGHT, WIDTH, dtype=bool))
    as_bytes = str(runs["counts"].encode())
    hint = "the counts are bytes printed by Python"
    assert hint in str(area_of(folder, {**runs, "counts": as_bytes}))
    turned = rle.encode(np.eye(WIDTH, HEIGHT, dtype=bool))
    assert "size is [height, width] of the upright image" in str(area_of(folder, turned))
    assert "fractions of the image" in str(area_of(folder, [[0.1, 0.1, 0.9, 0.1, 0.5, 0.9]]))
    region = {"box": [0.1, 0.2, 0.5, 0.5], "description": "a dog"}
    assert "fractions of the image" in only_defect(read(folder, regions=[region]))
    region["box"] = ["1", "2", "30.5", "40"]
    assert read(folder, regions=[region]).defects == ()


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


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threshold": 0}, "threshold: 0 is not a whole number above 0"),
        ({"threshold": 128}, "no pixel of the file is selected by"),
        ({"values": [7]}, "no pixel of the file is selected by"),
        ({"values": []}, "values: an empty list"),
    ],
)
def test_options_that_select_nothing_or_everything(
    folder: Path, options: dict[str, Any], message: str
) -> None:
    masks = [{"file": "masks/dog.png", **options}]
    assert message in only_defect(read(folder, expressions=[{"text": "dog", "masks": masks}]))


def test_palette_with_black_behind_white_is_not_inverted(folder: Path) -> None:
    dog = np.ones((HEIGHT, WIDTH), np.uint8)
    dog[10:20, 5:25] = 0
    image = Image.frombytes("P", (WIDTH, HEIGHT), dog.tobytes())
    image.putpalette([255, 255, 255, 0, 0, 0])
    image.save(folder / "masks/bright_first.png")
    name = "masks/bright_first.png"
    result = read(folder, expressions=[{"text": "dog", "masks": [name]}])
    assert "palette whose black is not index 0" in only_defect(result)
    masks = [{"file": name, "values": [0]}]
    record = read(folder, expressions=[{"text": "dog", "masks": masks}]).record
    assert record is not None
    assert area(record.regions[0].mask) == 200


def test_size_of_run_lengths_may_be_texts(folder: Path) -> None:
    runs = {"size": [str(HEIGHT), str(WIDTH)], "counts": [100, 20, 2952]}
    record = read(folder, expressions=[{"text": "dog", "masks": [runs]}]).record
    assert record is not None
    assert area(record.regions[0].mask) == 20
