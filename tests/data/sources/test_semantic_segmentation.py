"""Label maps, and objects with parts: classes, ignored labels, layouts, and defects."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from glamm_jax.data.sources.class_names import ADE20K, COCO_STUFF
from glamm_jax.data.sources.defects import (
    BAD_MASK,
    BROKEN_ENTRY,
    EMPTY_MASK,
    MASK_SIZE,
    MISSING_IMAGE,
    MISSING_MASK,
    NO_ANNOTATION,
    OVERLAPPING_PARTS,
    SIZE_MISMATCH,
    UNKNOWN_CLASS,
    UNKNOWN_ID,
    UNREADABLE_IMAGE,
    SourceError,
)
from glamm_jax.data.sources.semantic_segmentation import DATASETS
from tests.data.sources.small_datasets import (
    FIXTURES,
    HEIGHT,
    WIDTH,
    block,
    image_bytes,
    kinds,
    pixels,
    read_all,
    read_single,
    texts,
    write,
)

POLYGON = [1, 1, 7, 1, 7, 6, 1, 6]
LABEL_MAPS = {
    "ade20k": ("Semantic_Segm/ade20k/annotations/training", "Semantic_Segm/ade20k/images/training"),
    "coco_stuff": ("Semantic_Segm/cocostuff/train2017", "coco_2017/train2017"),
    "mapillary": (
        "Semantic_Segm/mapillary/training/v2.0/labels",
        "Semantic_Segm/mapillary/training/images",
    ),
}
MAPILLARY = "Semantic_Segm/mapillary/config_v2.0.json"
STREETS = {"labels": [{"readable": name} for name in ("Bird", "Curb ", "Traffic Light")]}


def value_image(values, kind="PNG"):
    """The bytes of an image file with these values."""
    stream = io.BytesIO()
    Image.fromarray(np.array(values)).save(stream, kind)
    return stream.getvalue()


def stripes(*numbers, height=HEIGHT, width=WIDTH):
    """A label map whose rows have these labels in turn, from top to bottom."""
    rows = np.resize(np.array(numbers, np.uint8), height)
    return value_image(np.broadcast_to(rows[:, None], (height, width)))


def label_map(root, name, labels, image=None):
    """Read a dataset of one image p with this label map."""
    places = LABEL_MAPS[name]
    if labels is not None:
        write(root / places[0] / "p.png", labels)
    if image is not False:
        write(root / places[1] / "p.jpg", image or image_bytes())
    if name == "mapillary":
        write(root / MAPILLARY, STREETS)
    return read_single(DATASETS[name], root)


def parts(root, annotations, categories=None, name="pascal_part", file="Semantic_Segm/{}", **image):
    """A dataset of one image p.jpg with these annotations."""
    folder = {
        "pascal_part": "Semantic_Segm/pascal_part/VOCdevkit/VOC2010/JPEGImages",
        "paco_lvis": "coco_2017",
    }[name]
    path = {
        "pascal_part": "pascal_part/train.json",
        "paco_lvis": "paco_lvis/annotations/paco_lvis_v1_train.json",
    }[name]
    write(root / folder / "p.jpg", image_bytes())
    layout = {
        "images": [{"id": 9, "file_name": "p.jpg", "height": HEIGHT, "width": WIDTH, **image}],
        "annotations": annotations,
        "categories": categories or [{"id": 1, "name": "dog:head"}, {"id": 2, "name": "bus:wheel"}],
    }
    write(root / file.format(path), layout)
    return DATASETS[name](root, "train")


def part(**more):
    return {"id": 5, "image_id": 9, "category_id": 1, "segmentation": [POLYGON], **more}


# ---------------------------------------------------------------------------- label maps


@pytest.mark.parametrize(
    ("name", "numbers", "expected"),
    [
        ("ade20k", (0, 1, 150), ["wall", "flag"]),
        ("coco_stuff", (255, 0, 181), ["person", "wood"]),
        ("mapillary", (255, 0, 2), ["bird", "traffic light"]),
    ],
)
def test_every_class_is_one_annotation_with_its_mask(tmp_path, name, numbers, expected):
    result = label_map(tmp_path, name, stripes(*numbers))
    record = result.record
    assert texts(record, "semantic") == expected
    assert [pixels(record, item.links[0].region) for item in record.annotations] == [80, 80]
    assert (record.image_id, record.source, record.split) == ("p", name, "train")
    assert not result.defects


def test_quirk_41_ade20k_counts_from_one_and_coco_stuff_leaves_out_names_with_a_hyphen(tmp_path):
    assert label_map(tmp_path / "a", "ade20k", stripes(0)).record is None
    hyphens = [i for i, name in enumerate(COCO_STUFF) if "-" in name]
    assert {COCO_STUFF[i] for i in hyphens} >= {"building-other", "wall-brick", "desk-stuff"}
    result = label_map(tmp_path / "b", "coco_stuff", stripes(*hyphens[:5], 17))
    assert texts(result.record, "semantic") == ["dog"]


def test_names_of_classes_are_whole_and_different():
    assert len(set(ADE20K)) == 150 and ADE20K[149] == "flag" and ADE20K[44] == "chest of drawers"
    assert len(set(COCO_STUFF)) == 182 and COCO_STUFF[90] == "hair brush"


@pytest.mark.parametrize(
    ("name", "number"), [("ade20k", 151), ("coco_stuff", 182), ("mapillary", 3)]
)
def test_a_number_without_a_name_is_counted_and_the_other_classes_are_read(tmp_path, name, number):
    result = label_map(tmp_path, name, stripes(1, number))
    assert len(result.record.annotations) == 1
    assert kinds(result) == {UNKNOWN_CLASS: 1}


def test_a_palette_and_sixteen_bits_are_numbers(tmp_path):
    image = Image.fromarray(np.full((HEIGHT, WIDTH), 13, np.uint8), "L")
    image.putpalette(list(range(256)) * 3)
    stream = io.BytesIO()
    image.save(stream, "PNG")
    wide = value_image(np.full((HEIGHT, WIDTH), 13, np.uint16))
    for folder, data in (("palette", stream.getvalue()), ("wide", wide)):
        result = label_map(tmp_path / folder, "ade20k", data)
        assert texts(result.record, "semantic") == ["person"]


@pytest.mark.parametrize(
    ("labels", "image", "kind"),
    [
        (stripes(1, height=11), None, MASK_SIZE),
        (stripes(1, height=WIDTH, width=HEIGHT), None, MASK_SIZE),
        (image_bytes(), None, BAD_MASK),
        (b"", None, BAD_MASK),
        (stripes(1)[:50], None, BAD_MASK),
        (None, None, MISSING_MASK),
        (stripes(1), False, MISSING_IMAGE),
        (stripes(1), image_bytes()[:60], UNREADABLE_IMAGE),
        (stripes(0), None, NO_ANNOTATION),
    ],
    ids=["other height", "turned", "colours", "empty", "cut", "none", "no image", "cut image", "0"],
)
def test_a_label_map_that_does_not_serve_is_named(tmp_path, labels, image, kind):
    write(tmp_path / LABEL_MAPS["ade20k"][0] / "q.png", stripes(1))
    write(tmp_path / LABEL_MAPS["ade20k"][1] / "q.jpg", image_bytes())
    if labels is not None:
        write(tmp_path / LABEL_MAPS["ade20k"][0] / "p.png", labels)
    if image is not False:
        write(tmp_path / LABEL_MAPS["ade20k"][1] / "p.jpg", image or image_bytes())
    results = read_all(DATASETS["ade20k"](tmp_path, "train"))
    assert results["p"].record is None
    assert kinds(results["p"]) == {kind: 1}
    assert texts(results["q"].record, "semantic") == ["wall"]


def test_pixels_of_fractions_are_no_classes(tmp_path):
    fractions = value_image(np.ones((HEIGHT, WIDTH), np.float32), "TIFF")
    result = label_map(tmp_path, "ade20k", fractions)
    assert kinds(result) == {BAD_MASK: 1} and "fractional" in result.defects[0].where


def test_pictures_of_coco_without_labels_are_not_coco_stuffs(tmp_path):
    write(tmp_path / "coco_2017" / "train2017" / "another.jpg", image_bytes())
    assert label_map(tmp_path, "coco_stuff", stripes(0)).record is not None


@given(st.integers(0, 149), st.binary(max_size=20), st.integers(0, 400))
def test_damaged_label_maps_never_raise_and_cost_no_other_picture(
    tmp_path_factory, number, junk, at
):
    root, (labels, images) = tmp_path_factory.mktemp("labels"), LABEL_MAPS["ade20k"]
    data = stripes(number)
    write(root / labels / "p.png", data[:at] + junk + data[at + len(junk) :])
    write(root / labels / "q.png", data)
    for name in "pq":
        write(root / images / f"{name}.jpg", image_bytes())
    results = read_all(DATASETS["ade20k"](root, "train"))
    assert (results["q"].record is None) == (number == 0)


# ---------------------------------------------------------------------------- layouts


@pytest.mark.parametrize("name", [*LABEL_MAPS, "pascal_part", "paco_lvis"])
@pytest.mark.parametrize("top", ["Semantic_Segm", ""])
def test_quirk_36_folders_lie_where_the_code_or_the_documentation_says(tmp_path, name, top):
    top_folder = {"coco_stuff": "cocostuff"}.get(name, name)
    (tmp_path / top).mkdir(exist_ok=True)
    (tmp_path / top / top_folder).symlink_to(FIXTURES / "Semantic_Segm" / top_folder)
    (tmp_path / "coco_2017").symlink_to(FIXTURES / "coco_2017")
    results = read_all(DATASETS[name](tmp_path, "train"))
    assert len(results) == 2 and all(result.record is not None for result in results.values())


@pytest.mark.parametrize("place", ["Semantic_Segm/coco_stuff", "coco_stuff"])
def test_quirk_36_coco_stuff_is_written_with_and_without_a_bar(tmp_path, place):
    (tmp_path / place).parent.mkdir(exist_ok=True)
    (tmp_path / place).symlink_to(FIXTURES / "Semantic_Segm" / "cocostuff")
    (tmp_path / "coco_2017").symlink_to(FIXTURES / "coco_2017")
    results = read_all(DATASETS["coco_stuff"](tmp_path, "train"))
    assert texts(results["stuff0"].record, "semantic") == ["person", "dog", "bush"]


@pytest.mark.parametrize(
    ("name", "split"),
    [("ade20k", "validation"), ("mapillary", "validation"), ("coco_stuff", "val2017")],
)
def test_val_is_read_from_its_own_folders(tmp_path, name, split):
    training = "train2017" if name == "coco_stuff" else "training"
    for place, file, data in zip(
        LABEL_MAPS[name], ("v.png", "v.jpg"), (stripes(1), image_bytes()), strict=True
    ):
        write(tmp_path / place.replace(training, split) / file, data)
    write(tmp_path / MAPILLARY, STREETS)
    assert list(DATASETS[name](tmp_path, "val").keys) == ["v"]
    assert read_single(DATASETS[name], tmp_path, "val").record.split == "val"


@pytest.mark.parametrize("name", list(DATASETS))
def test_absent_folders_and_splits_are_errors_that_say_where(tmp_path, name):
    with pytest.raises(SourceError, match=r"contains no Semantic_Segm/"):
        DATASETS[name](tmp_path, "train")
    with pytest.raises(SourceError, match="no split 'none'; available: train, val"):
        DATASETS[name](tmp_path, "none")


@pytest.mark.parametrize("config", [b"{", b"[]", b'{"labels": {}}', b"", None], ids=str)
def test_a_broken_list_of_classes_is_an_error_that_names_it(tmp_path, config):
    label_map(tmp_path, "mapillary", stripes(1))
    if config is None:
        (tmp_path / MAPILLARY).unlink()
    else:
        (tmp_path / MAPILLARY).write_bytes(config)
    with pytest.raises(SourceError, match=r"config_v2\.0\.json"):
        DATASETS["mapillary"](tmp_path, "train")


@pytest.mark.parametrize("entry", [None, 7, {}, {"readable": 3}, {"readable": "  "}], ids=str)
def test_a_class_that_has_no_name_is_named_and_keeps_its_number(tmp_path, entry):
    label_map(tmp_path, "mapillary", stripes(0, 1, 2))
    write(tmp_path / MAPILLARY, {"labels": [STREETS["labels"][0], entry, STREETS["labels"][2]]})
    results = read_all(DATASETS["mapillary"](tmp_path, "train"))
    assert texts(results["p"].record, "semantic") == ["bird", "traffic light"]
    assert kinds(results["p"]) == {UNKNOWN_CLASS: 1}
    assert kinds(results["config_v2.0.json label 1"]) == {BROKEN_ENTRY: 1}


# ---------------------------------------------------------------------------- parts


def test_quirk_37_parts_are_found_in_pictures_whose_paths_the_original_joins_wrongly():
    for name, counts in (("pascal_part", [2, 4]), ("paco_lvis", [2, 4])):
        source = DATASETS[name](FIXTURES, "train")
        results = read_all(source)
        assert [len(result.record.regions) for result in results.values()] == counts
        assert not any(result.defects for result in results.values())
    assert source.image_path("train2017/paco_lvis_0.jpg") == (
        FIXTURES / "coco_2017" / "train2017" / "paco_lvis_0.jpg"
    )


@pytest.mark.parametrize(
    ("category", "expected"),
    [
        ("dog:head", ["dog head", "the head of the dog"]),
        (" mug_(drinking) ", ["mug"]),
        ("chair:leg_(furniture)", ["chair leg", "the leg of the chair"]),
        ("mouse_(animal):ear", ["mouse ear", "the ear of the mouse"]),
        ("traffic_light", ["traffic_light"]),
    ],
)
def test_a_part_has_the_two_names_that_the_original_draws_from(tmp_path, category, expected):
    parts(tmp_path, [part()], [{"id": 1, "name": category}])
    record = read_single(DATASETS["pascal_part"], tmp_path).record
    assert texts(record, "semantic") == expected
    assert {item.links[0].region for item in record.annotations} == {0}
    assert pixels(record, 0) == 30 and record.regions[0].box_xyxy_pixel is None


@pytest.mark.parametrize(
    "category",
    [None, 3, {"id": 1}, {"id": None, "name": "dog:head"}]
    + [{"id": 1, "name": name} for name in ("", "dog:", ":head", "a:b:c", None, ["dog"])],
    ids=str,
)
def test_a_broken_category_is_named_and_costs_its_own_annotations(tmp_path, category):
    categories = [category, {"id": 2, "name": "bus:wheel"}]
    results = read_all(parts(tmp_path, [part(), part(category_id=2)], categories))
    assert texts(results["p.jpg"].record, "semantic") == ["bus wheel", "the wheel of the bus"]
    assert kinds(results["p.jpg"]) == {UNKNOWN_CLASS: 1}
    assert kinds(results["train.json category 0"]) == {BROKEN_ENTRY: 1}


@pytest.mark.parametrize(
    ("more", "kind"),
    [
        ({"category_id": 77}, UNKNOWN_CLASS),
        ({"category_id": [1]}, UNKNOWN_CLASS),
        ({"category_id": None}, UNKNOWN_CLASS),
        ({"segmentation": [[1, 2, 3, 4]]}, BAD_MASK),
        ({"segmentation": [[1, 2, 3, 4, 5, float("nan")]]}, BAD_MASK),
        ({"segmentation": "polygon"}, BAD_MASK),
        ({"segmentation": None}, MISSING_MASK),
        ({"segmentation": block(0, 0, 2, 2, 9, 9)}, MASK_SIZE),
    ],
    ids=str,
)
def test_a_broken_annotation_is_named_and_the_others_are_read(tmp_path, more, kind):
    result = read_single(
        lambda root, split: parts(root, [part(**more), part(category_id=2)]), tmp_path
    )
    assert texts(result.record, "semantic") == ["bus wheel", "the wheel of the bus"]
    assert kinds(result) == {kind: 1}


def test_an_annotation_of_no_picture_is_named(tmp_path):
    results = read_all(parts(tmp_path, [part(image_id=8), part()]))
    assert kinds(results["train.json annotation 0"]) == {UNKNOWN_ID: 1}
    assert len(results["p.jpg"].record.annotations) == 2


def test_overlapping_polygons_of_a_part_are_united_as_the_original_does_here(tmp_path):
    result = read_all(parts(tmp_path, [part(segmentation=[POLYGON, POLYGON])]))["p.jpg"]
    assert pixels(result.record, 0) == 30 and result.record.regions[0].overlap is None
    assert kinds(result) == {OVERLAPPING_PARTS: 1}


def test_run_lengths_and_empty_masks_of_parts(tmp_path):
    annotations = [part(segmentation=block(1, 1, 7, 6)), part(category_id=2, segmentation=[])]
    result = read_all(parts(tmp_path, annotations, name="paco_lvis"))["p.jpg"]
    assert [pixels(result.record, i) for i in range(2)] == [30, 0]
    assert kinds(result) == {EMPTY_MASK: 1}


def test_polygons_for_a_picture_of_another_size_are_not_drawn(tmp_path):
    result = read_all(parts(tmp_path, [part()], height=WIDTH, width=HEIGHT))["p.jpg"]
    assert result.record is None
    assert kinds(result) == {SIZE_MISMATCH: 1, BAD_MASK: 1}


def test_a_picture_without_annotations_is_counted(tmp_path):
    assert kinds(read_all(parts(tmp_path, []))["p.jpg"]) == {NO_ANNOTATION: 1}
