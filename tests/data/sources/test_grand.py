"""GranD as released: four kinds of annotation from one file, in folders and archives."""

from __future__ import annotations

import io
import json
import random
import tarfile

import pytest

from glamm_jax.data.record import Link
from glamm_jax.data.sources.defects import (
    BAD_BOX,
    BROKEN_ARCHIVE,
    BROKEN_ENTRY,
    DUPLICATE_ID,
    EMPTY_TEXT,
    MASK_SIZE,
    MISSING_ENTRY,
    MISSING_IMAGE,
    MISSING_MASK,
    NO_GROUNDINGS,
    NULL_SPAN,
    PHRASE_NOT_FOUND,
    REPEATED_EXPRESSION,
    STALE_SPAN,
    UNKNOWN_ID,
    UNREADABLE_IMAGE,
    SourceError,
)
from glamm_jax.data.sources.grand import DATASETS, GrandFiles
from glamm_jax.data.sources.grand_lmdb import CAPTIONS
from tests.data.sources.grand_scene import scene
from tests.data.sources.small_datasets import (
    block,
    image_bytes,
    kinds,
    pixels,
    read_all,
    read_single,
    tasks,
    texts,
    write,
)


@pytest.fixture
def root(tmp_path):
    """A data folder with one image; tests write its annotations."""
    write(tmp_path / "GranD_Data" / "images" / "sa_1.jpg", image_bytes())
    return tmp_path


def read_scene(root, changed=None, name="sa_1.jpg"):
    """Read the annotations of one image."""
    write(root / "GranD_Data" / "part_1" / "sa_1.json", {name: changed or scene()})
    return read_single(GrandFiles, root)


def tar(path, files, mode="w"):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as archive:
        for name, content in files.items():
            data = content if isinstance(content, bytes) else json.dumps(content).encode()
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def test_one_file_gives_all_four_tasks(root):
    record = read_scene(root).record
    assert tasks(record) == {"region": 2, "referring": 2, "caption": 2, "gcg": 1}
    assert texts(record, "region") == ["a tall baseball player in white", "a green tree"]
    assert texts(record, "referring") == texts(record, "region")
    assert texts(record, "caption") == ["A player stands by a tree.", "a baseball player"]
    assert (record.image_id, record.source, record.split) == ("sa_1", "grand", "train")
    assert (record.height, record.width, record.image) == (12, 20, image_bytes())


def test_phrases_of_the_dense_caption_get_the_masks_of_their_ids(root):
    result = read_scene(root)
    record = result.record
    (dense,) = (a for a in record.annotations if a.task == "gcg")
    spans = {dense.text[link.start : link.end]: link.region for link in dense.links}
    assert list(spans) == ["A players bat", "a tree", "a kite"]
    boxes = [record.regions[region].box_xyxy_pixel for region in spans.values()]
    assert boxes == [(1.0, 1.0, 7.0, 6.0), (8.0, 2.0, 12.0, 10.0), (14.0, 2.0, 18.0, 6.0)]
    assert [pixels(record, region) for region in spans.values()] == [30, 32, 16]
    # The first span went stale with the apostrophe, the second one with it, the third is null.
    assert kinds(result) == {STALE_SPAN: 2, NULL_SPAN: 1}


def test_attributes_may_be_a_text_and_labels_are_written_with_underscores(root):
    changed = scene()
    changed["objects"][0]["attributes"] = ["first", "a Baseball Player", "a person"]
    changed["objects"][1]["attributes"] = ["first", "second"]
    record = read_scene(root, changed).record
    assert texts(record, "region") == ["a Baseball Player", "a person", "first"]


def test_objects_with_one_attribute_are_one_expression_of_several_regions(root):
    changed = scene()
    changed["objects"][1]["attributes"] = ["A tall baseball player in white"]
    result = read_scene(root, changed)
    assert tasks(result.record)["region"] == 2
    (expression,) = (a for a in result.record.annotations if a.task == "referring")
    assert expression.links == (Link(0), Link(1))
    assert kinds(result)[REPEATED_EXPRESSION] == 1


def test_an_object_without_a_mask_is_described_but_not_segmented(root):
    changed = scene()
    del changed["objects"][0]["segmentation"]
    result = read_scene(root, changed)
    assert texts(result.record, "referring") == ["a green tree"]
    assert len(texts(result.record, "region")) == 2
    (dense,) = (a for a in result.record.annotations if a.task == "gcg")
    assert len(dense.links) == 2
    assert kinds(result)[MISSING_MASK] == 1


def test_an_object_without_a_box_is_segmented_but_not_described(root):
    changed = scene()
    changed["objects"][0]["bbox"] = [7.0, 1.0, 1.0, 6.0]
    result = read_scene(root, changed)
    assert texts(result.record, "region") == ["a green tree"]
    assert len(texts(result.record, "referring")) == 2
    assert kinds(result)[BAD_BOX] == 1


def test_a_mask_of_another_size_costs_its_object_the_mask(root):
    changed = scene()
    changed["objects"][0]["segmentation"] = block(1, 1, 7, 6, height=14)
    result = read_scene(root, changed)
    assert texts(result.record, "referring") == ["a green tree"]
    assert kinds(result)[MASK_SIZE] == 1


def test_ids_that_nobody_has_are_named(root):
    changed = scene()
    changed["dense_caption"]["details"][1]["ids"] = [3, 55, None, "7x", [3]]
    result = read_scene(root, changed)
    (dense,) = (a for a in result.record.annotations if a.task == "gcg")
    assert len(dense.links) == 3
    assert kinds(result)[UNKNOWN_ID] == 4


def test_of_two_objects_with_one_id_the_first_has_it(root):
    changed = scene()
    changed["objects"][1]["id"] = 0
    result = read_scene(root, changed)
    assert len(texts(result.record, "referring")) == 2
    assert kinds(result)[DUPLICATE_ID] == 1
    assert kinds(result)[UNKNOWN_ID] == 1


def test_a_phrase_that_is_not_in_the_caption_is_named(root):
    changed = scene()
    changed["dense_caption"]["details"][2] = {
        "phrase": "a plane",
        "tokens_positive": [31, 37],
        "ids": [9],
    }
    result = read_scene(root, changed)
    (dense,) = (a for a in result.record.annotations if a.task == "gcg")
    assert len(dense.links) == 2
    assert kinds(result)[PHRASE_NOT_FOUND] == 1
    assert len(result.record.regions) == 2  # no annotation refers to the kite any more


def test_a_dense_caption_without_groundings_is_a_caption(root):
    changed = scene()
    changed["dense_caption"]["details"] = None
    result = read_scene(root, changed)
    assert tasks(result.record) == {"region": 2, "referring": 2, "caption": 3}
    assert kinds(result) == {NO_GROUNDINGS: 1}


def test_a_scene_without_anything_to_say_is_no_record(root):
    result = read_scene(root, {"objects": [], "short_captions": []})
    assert result.record is None
    assert kinds(result) == {MISSING_ENTRY: 1}


@pytest.mark.parametrize("field", list(scene()))
@pytest.mark.parametrize("value", [None, "text", 7, [], {}, [None], [7], {"caption": 7}], ids=str)
def test_a_field_of_the_wrong_type_leaves_the_other_tasks(root, field, value):
    changed = scene()
    changed[field] = value
    counts = tasks(read_scene(root, changed).record)
    assert counts["caption"] >= 2 or field == "short_captions"
    assert counts["gcg"] == 1 or field in ("dense_caption", "objects")
    assert counts["region"] == 2 or field == "objects"


def test_an_attribute_that_is_only_a_speaker_is_empty(root):
    changed = scene()
    changed["objects"][1]["attributes"] = "istant: "
    result = read_scene(root, changed)
    assert len(texts(result.record, "referring")) == 1
    assert kinds(result)[EMPTY_TEXT] == 1


def test_a_name_without_an_ending_is_a_jpg(root):
    assert read_scene(root, name="sa_1").record.image_id == "sa_1"


def test_a_file_of_two_pictures_is_named_and_gives_the_first(root):
    write(root / "GranD_Data" / "sa_1.json", {"sa_1.jpg": scene(), "sa_2.jpg": scene()})
    result = read_single(GrandFiles, root)
    assert result.record.image_id == "sa_1"
    assert kinds(result)[BROKEN_ENTRY] == 1


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (None, MISSING_IMAGE),
        (b"", UNREADABLE_IMAGE),
        (image_bytes(kind="JPEG")[:-40], UNREADABLE_IMAGE),
        (b"<html>", UNREADABLE_IMAGE),
    ],
)
def test_a_picture_that_cannot_be_read_is_no_record(root, data, kind):
    path = root / "GranD_Data" / "images" / "sa_1.jpg"
    path.unlink()
    if data is not None:
        write(path, data)
    result = read_scene(root)
    assert result.record is None
    assert kinds(result) == {kind: 1}


def test_a_wrong_ending_of_a_picture_does_not_matter(root):
    write(root / "GranD_Data" / "images" / "sa_1.jpg", image_bytes(kind="WEBP"))
    assert read_scene(root).record is not None


@pytest.mark.parametrize("data", [b"", b"{", b"[1]", b"{}", b'{"sa_1.jpg": 3}', b"[" * 100_000])
def test_a_broken_file_is_named_and_the_others_are_read(root, data):
    write(root / "GranD_Data" / "part_1" / "sa_0.json", data)
    write(root / "GranD_Data" / "part_1" / "sa_1.json", {"sa_1.jpg": scene()})
    results = read_all(GrandFiles(root, "train"))
    assert results["sa_0"].record is None
    assert results["sa_1"].record is not None
    assert kinds(results["sa_0"])[BROKEN_ENTRY] >= 1


@pytest.mark.parametrize(("ending", "mode"), [("tar", "w"), ("tar.gz", "w:gz"), ("tgz", "w:gz")])
def test_archives_give_what_the_folder_gives(root, ending, mode):
    expected = read_scene(root).record
    (root / "GranD_Data" / "part_1" / "sa_1.json").unlink()
    names = [f"part_1/sa_{i}.json" for i in (0, 1, 2)]
    files = {name: {"sa_1.jpg": scene()} for name in names}
    tar(root / "GranD_Data" / f"part_1.{ending}", {**files, "readme.txt": b"no JSON"}, mode)
    source = GrandFiles(root, "train")
    assert list(source.keys) == ["sa_0", "sa_1", "sa_2"]
    for key in ("sa_2", "sa_0", "sa_1"):  # also backwards
        assert source.read(key).record == expected


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_what_stands_before_a_cut_in_an_archive_is_read(root, mode):
    # Random bytes, as a damage loses more of what compresses well.
    rng = random.Random(0)
    files = {
        f"sa_{i}.json": {"sa_1.jpg": {**scene(), "noise": rng.randbytes(20_000).hex()}}
        for i in range(40)
    }
    path = tar(root / "GranD_Data" / "part_1.tar", files, mode)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    results = read_all(GrandFiles(root, "train"))
    complete = [key for key, value in results.items() if value.record is not None]
    assert 10 < len(complete) < 40
    assert complete == [f"sa_{i}" for i in range(len(complete))]
    assert kinds(results["archive part_1.tar"]) == {BROKEN_ARCHIVE: 1}


def test_a_file_that_only_calls_itself_an_archive_is_named(root):
    write(root / "GranD_Data" / "part_1.tar.gz", b"<html>not found</html>")
    write(root / "GranD_Data" / "sa_1.json", {"sa_1.jpg": scene()})
    results = read_all(GrandFiles(root, "train"))
    assert results["sa_1"].record is not None
    assert kinds(results["archive part_1.tar.gz"]) == {BROKEN_ARCHIVE: 1}


def test_of_two_files_with_one_name_the_first_is_read_and_the_other_named(root):
    write(root / "GranD_Data" / "a" / "sa_1.json", {"sa_1.jpg": scene()})
    write(root / "GranD_Data" / "b" / "sa_1.json", {"sa_1.jpg": {}})
    results = read_all(GrandFiles(root, "train"))
    assert len(results) == 2
    assert results["sa_1"].record is not None
    assert sum(kinds(value)[DUPLICATE_ID] for value in results.values()) == 1


def test_the_folder_itself_may_be_given(root):
    record = read_scene(root).record
    assert read_single(GrandFiles, root / "GranD_Data").record == record


def test_no_annotations_and_unknown_splits_are_errors(root):
    with pytest.raises(SourceError, match=r"contains no \.json and no archive with \.json$"):
        GrandFiles(root, "train")
    (root / "GranD_Data" / CAPTIONS).mkdir(parents=True)
    with pytest.raises(SourceError, match="use the dataset grand_lmdb for its LMDBs"):
        GrandFiles(root, "train")
    with pytest.raises(SourceError, match="no split 'val'"):
        GrandFiles(root, "val")


def test_both_forms_have_a_name():
    assert set(DATASETS) == {"grand", "grand_lmdb"}
