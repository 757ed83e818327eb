"""GranD's LMDBs: the three tasks whose classes fail in the original, grouped by image."""

from __future__ import annotations

import json

import lmdb
import pytest

from glamm_jax.data.record import Link
from glamm_jax.data.sources.defects import (
    BAD_BOX,
    BROKEN_ENTRY,
    MISSING_ENTRY,
    MISSING_IMAGE,
    MISSING_MASK,
    SourceError,
)
from glamm_jax.data.sources.grand_lmdb import CAPTIONS, EXPRESSIONS, GrandLMDB
from tests.data.sources.small_datasets import (
    FIXTURES,
    block,
    image_bytes,
    kinds,
    read_all,
    read_single,
    tasks,
    texts,
    write,
)

EXPRESSION = {
    "attribute": "a red ball",
    "id": 0,
    "bbox": [1.0, 1.0, 7.0, 6.0],
    "segmentation": block(1, 1, 7, 6),
}


@pytest.fixture
def root(tmp_path):
    for name in ("sa_1.jpg", "sa_2.jpg"):
        write(tmp_path / "GranD_Data" / "images" / name, image_bytes())
    return tmp_path


def database(root, name, values):
    """An LMDB of JSON values, or of bytes."""
    folder = root / "GranD_Data" / name
    folder.mkdir(parents=True)
    with (
        lmdb.open(str(folder), map_size=1 << 20) as environment,
        environment.begin(write=True) as t,
    ):
        for key, value in values.items():
            data = value if isinstance(value, bytes) else json.dumps({key: value}).encode()
            t.put(key.encode(), data)
    return folder


def test_both_databases_speak_of_one_picture(root):
    database(root, EXPRESSIONS, {"sa_1.jpg": [EXPRESSION]})
    database(root, CAPTIONS, {"sa_1.jpg": [{"caption": "A ball."}], "sa_2.jpg": [{"caption": "B"}]})
    results = read_all(GrandLMDB(root, "train"))
    assert list(results) == ["sa_1.jpg", "sa_2.jpg"]
    assert tasks(results["sa_1.jpg"].record) == {"region": 1, "referring": 1, "caption": 1}
    assert tasks(results["sa_2.jpg"].record) == {"caption": 1}


def test_quirk_38_referring_segmentation_of_grand_has_expressions_with_their_masks():
    results = read_all(GrandLMDB(FIXTURES, "train"))
    record = results["sa_0.jpg"].record
    assert texts(record, "referring") == [f"attribute phrase 0{i}" for i in range(3)]
    twin = json.loads(
        (FIXTURES / "GranD_Data" / f"{EXPRESSIONS}.as_json_for_readers.json").read_text()
    )
    for i, item in enumerate(twin["sa_0.jpg"]["sa_0.jpg"]):
        assert record.regions[i].mask.decode() == item["segmentation"]["counts"]
    assert [a.links for a in record.annotations if a.task == "referring"] == [
        (Link(i),) for i in range(3)
    ]


def test_quirk_38_short_captions_of_grand_are_captions_without_masks():
    record = GrandLMDB(FIXTURES, "train").read("sa_1.jpg").record
    assert texts(record, "caption") == ["Short caption 1.", "Another short caption 1."]
    assert not any(a.links for a in record.annotations if a.task == "caption")


def test_quirk_38_the_number_of_pictures_is_that_of_the_list():
    assert len(GrandLMDB(FIXTURES, "train").keys) == 2
    assert len(GrandLMDB(FIXTURES, "val").keys) == 2


def test_the_lists_of_names_decide_and_without_them_everything_is_there(root):
    folder = database(root, EXPRESSIONS, {"sa_1.jpg": [EXPRESSION], "sa_2.jpg": [EXPRESSION]})
    assert list(GrandLMDB(root, "train").keys) == ["sa_1.jpg", "sa_2.jpg"]
    write(folder / f"{EXPRESSIONS}_Train.txt", b"sa_2.jpg\n\n sa_9.jpg \n")
    assert list(GrandLMDB(root, "train").keys) == ["sa_2.jpg", "sa_9.jpg"]
    with pytest.raises(SourceError, match=r"_Val.txt: no such file"):
        GrandLMDB(root, "val")


def test_a_name_that_is_listed_but_not_there_is_named(root):
    folder = database(root, EXPRESSIONS, {"sa_2.jpg": [EXPRESSION]})
    write(folder / f"{EXPRESSIONS}_Train.txt", b"sa_1.jpg\nsa_2.jpg\nsa_3.jpg\n")
    results = read_all(GrandLMDB(root, "train"))
    assert kinds(results["sa_1.jpg"]) == {MISSING_ENTRY: 1}
    assert results["sa_2.jpg"].record is not None
    assert kinds(results["sa_3.jpg"]) == {MISSING_IMAGE: 1}


def test_an_expression_without_mask_or_box_keeps_what_it_has(root):
    items = [
        EXPRESSION | {"attribute": "one", "segmentation": None},
        EXPRESSION | {"attribute": "two", "bbox": [1, 1, 1, 6]},
        EXPRESSION | {"attribute": None},
        None,
        EXPRESSION,
    ]
    database(root, EXPRESSIONS, {"sa_1.jpg": items})
    result = read_single(GrandLMDB, root)
    assert texts(result.record, "region") == ["one", "a red ball"]
    assert texts(result.record, "referring") == ["two", "a red ball"]
    assert kinds(result)[MISSING_MASK] == kinds(result)[BAD_BOX] == kinds(result)[BROKEN_ENTRY] == 1


@pytest.mark.parametrize(
    "value", [b"", b"{", b"[]", b"\xff", b'{"sa_9.jpg": []}', b'{"sa_1.jpg": 7}']
)
def test_a_broken_value_leaves_the_other_pictures_and_the_other_database(root, value):
    database(root, EXPRESSIONS, {"sa_1.jpg": value, "sa_2.jpg": [EXPRESSION]})
    database(root, CAPTIONS, {"sa_1.jpg": [{"caption": "A ball."}]})
    results = read_all(GrandLMDB(root, "train"))
    assert tasks(results["sa_1.jpg"].record) == {"caption": 1}
    assert tasks(results["sa_2.jpg"].record) == {"region": 1, "referring": 1}


def test_no_database_and_a_damaged_one_are_errors(root):
    with pytest.raises(
        SourceError, match=f"no {EXPRESSIONS} and no {CAPTIONS}; use the dataset grand "
    ):
        GrandLMDB(root, "train")
    write(root / "GranD_Data" / EXPRESSIONS / "data.mdb", b"not a database" * 1000)
    with pytest.raises(SourceError, match="not an LMDB file"):
        GrandLMDB(root, "train")
    with pytest.raises(SourceError, match="no split 'test'"):
        GrandLMDB(root, "test")
