"""Damaged annotations: reading never raises, and undamaged entries are read as before."""

from __future__ import annotations

import functools
import json
import pickle
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import lmdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glamm_jax.data.record import DatasetSource, Record
from glamm_jax.data.sources import (
    coco_captions,
    grandf,
    llava_instruct,
    refcoco,
    region_captions,
    semantic_segmentation,
)
from glamm_jax.data.sources.defects import SourceError
from glamm_jax.data.sources.grand import GrandFiles
from glamm_jax.data.sources.grand_lmdb import CAPTIONS, EXPRESSIONS, GrandLMDB
from tests.data.sources.damaged_json import Place, damaged
from tests.data.sources.grand_scene import scene
from tests.data.sources.small_datasets import FIXTURES, image_bytes, read_all, write

pytestmark = pytest.mark.usefixtures("unchecked")  # most of the time would be type checks


class Family(NamedTuple):
    """A dataset of the fixtures and one of its files; `owner` gives the key of a place in it."""

    make: Callable[[Path, str], DatasetSource]
    file: str
    owner: Callable[[Any, Place], str | None]


def in_list(tree: Any, place: Place) -> str | None:
    """The key in a list of entries with `file_name`."""
    return tree[place[0]]["file_name"] if place else None


def in_named_list(tree: Any, place: Place) -> str | None:
    """The key in a list of entries with `image`."""
    return tree[place[0]]["image"] if place else None


def in_wrapped_list(tree: Any, place: Place) -> str | None:
    """The key in a list of {id: entry}."""
    return next(iter(tree[place[0]].values()))["img_file_name"] if place else None


def in_lists(tree: Any, place: Place) -> str | None:
    """The key, a file name, in COCO's lists of images and annotations."""
    if len(place) < 2 or place[0] not in ("images", "annotations"):
        return None
    entry = tree[place[0]][place[1]]
    image_id = entry["id" if place[0] == "images" else "image_id"]
    return next(image["file_name"] for image in tree["images"] if image["id"] == image_id)


def in_instances(tree: Any, place: Place) -> str | None:
    """The key, an id, in COCO's lists of images and annotations."""
    if len(place) < 2 or place[0] not in ("images", "annotations"):
        return None
    return str(tree[place[0]][place[1]]["id" if place[0] == "images" else "image_id"])


def in_refs(tree: Any, place: Place) -> str | None:
    """The key in a list of references."""
    return str(tree[place[0]]["image_id"]) if place else None


GRANDF = "GranDf/annotations/train"
FAMILIES = {
    "human": Family(grandf.GranDfHumanAnnotated, f"{GRANDF}/GranDf_HA_GCG_train.json", in_list),
    "psg": Family(grandf.GranDfOpenPSG, f"{GRANDF}/OpenPsgGCG_train.json", in_list),
    "refcocog captions": Family(
        grandf.GranDfRefCOCOg, f"{GRANDF}/RefCOCOg_GCG_train.json", in_wrapped_list
    ),
    "flickr": Family(
        grandf.GranDfFlickr30k,
        f"{GRANDF}/flickr_mergedGT_GCG_train.json",
        in_lists,
    ),
    "refcoco objects": Family(
        refcoco.DATASETS["refcoco"], "Refer_Segm/refcoco/instances.json", in_instances
    ),
    "refclef objects": Family(
        refcoco.DATASETS["refclef"], "Refer_Segm/refclef/instances.json", in_instances
    ),
    "parts of pascal": Family(
        semantic_segmentation.PASCALPart, "Semantic_Segm/pascal_part/train.json", in_lists
    ),
    "parts of paco": Family(
        semantic_segmentation.PACO,
        "Semantic_Segm/paco_lvis/annotations/paco_lvis_v1_train.json",
        in_lists,
    ),
    "refcoco regions": Family(
        region_captions.RefCOCORegions,
        "RefCoco_Reg/mdetr_annotations/finetune_refcoco_train.json",
        in_lists,
    ),
    "visual genome": Family(region_captions.VisualGenome, "visual_genome/train.json", in_lists),
    "flickr regions": Family(
        region_captions.FlickrRegions,
        "flikcr_30k/mdetr_annotations/final_flickr_mergedGT_train.json",
        in_lists,
    ),
    "captions": Family(
        coco_captions.COCOCaptions, "coco_2017/annotations/captions_train2017.json", in_lists
    ),
    "conversations": Family(
        llava_instruct.LLaVAInstruct150k, "llava_dataset/llava_instruct_150k.json", in_named_list
    ),
    "refcoco references": Family(
        refcoco.DATASETS["refcoco"], "Refer_Segm/refcoco/refs(unc).p", in_refs
    ),
}


def records(source: DatasetSource) -> dict[str, Record | None]:
    """All records by key."""
    return {key: result.record for key, result in read_all(source).items()}


def load(path: Path) -> Any:
    data = path.read_bytes()
    return pickle.loads(data) if path.suffix == ".p" else json.loads(data)


@functools.cache
def undamaged(name: str) -> tuple[Any, dict[str, Record | None]]:
    """The file and the records of a family."""
    family = FAMILIES[name]
    return load(FIXTURES / family.file), records(family.make(FIXTURES, "train"))


@contextmanager
def with_file(family: Family, content: Any) -> Iterator[Path]:
    """The fixtures, with one of the files replaced."""
    with tempfile.TemporaryDirectory() as folder:
        for path in FIXTURES.iterdir():
            (Path(folder) / path.name).symlink_to(path)
        top = Path(family.file).parts[0]
        (Path(folder) / top).unlink()
        shutil.copytree(FIXTURES / top, Path(folder) / top)  # no links out of it
        path = Path(folder) / family.file
        path.unlink()
        is_pickle = path.suffix == ".p" and not isinstance(content, bytes)
        write(path, pickle.dumps(content) if is_pickle else content)
        yield Path(folder)


@pytest.mark.parametrize("name", list(FAMILIES))
@settings(max_examples=25)
@given(data=st.data())
def test_damage_in_one_entry_never_raises_and_costs_no_other_picture(name, data):
    family = FAMILIES[name]
    tree, expected = undamaged(name)
    place, changed = data.draw(damaged(tree))
    owner = family.owner(tree, place)
    with with_file(family, changed) as root:
        try:
            results = records(family.make(root, "train"))
        except SourceError:
            assert owner is None  # the damage is not inside of one entry
            return
    if owner is not None:
        for key, record in expected.items():
            assert key == owner or results[key] == record


@pytest.mark.parametrize("name", list(FAMILIES))
@settings(max_examples=12)
@given(data=st.data())
def test_a_file_cut_anywhere_is_an_error_that_names_it(name, data):
    family = FAMILIES[name]
    content = (FIXTURES / family.file).read_bytes()
    cut = content[: data.draw(st.integers(0, len(content.rstrip()) - 1))]
    with (
        with_file(family, cut) as root,
        pytest.raises(SourceError, match="is the file complete") as error,
    ):
        family.make(root, "train")
    assert Path(family.file).name in str(error.value)


def annotations_of(record: Record | None) -> list[Any]:
    """The annotations of a record, with regions instead of their indices."""
    return [
        (
            item.task,
            item.text,
            [(record.regions[link.region], link.start, link.end) for link in item.links],
        )
        for item in (record.annotations if record else ())
    ]


@settings(max_examples=60)
@given(damaged(scene()))
def test_damage_in_a_scene_costs_what_hangs_on_it(damage):
    place, changed = damage
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write(root / "images" / "sa_1.jpg", image_bytes())
        write(root / "sa_1.json", {"sa_1.jpg": scene()})
        before = annotations_of(GrandFiles(root, "train").read("sa_1").record)
        write(root / "sa_1.json", {"sa_1.jpg": changed})
        (result,) = read_all(GrandFiles(root, "train")).values()
    remaining = annotations_of(result.record)
    field = place[0] if place else ""
    lost = {
        "": ("region", "referring", "caption", "gcg"),
        "objects": ("region", "referring", "gcg"),
        "floating_objects": ("gcg",),
        "short_captions": ("caption",),
        "dense_caption": ("gcg",),
    }.get(str(field), ())
    assert all(item in remaining for item in before if item[0] not in lost)
    if field == "objects" and len(place) > 1:
        other = "a green tree" if place[1] == 0 else "a tall baseball player in white"
        assert sum(item[1] == other for item in remaining) >= 2
    if field in ("objects", "floating_objects") and len(place) > 1:
        assert "gcg" in {item[0] for item in remaining}


@settings(max_examples=50)
@given(st.sampled_from(["A dog", "the grass", "a red ball"]), st.data())
def test_damage_in_one_grounding_leaves_the_other_phrases(phrase, data):
    entry = load(FIXTURES / GRANDF / "GranDf_HA_GCG_train.json")[0]
    place, changed = data.draw(damaged(entry["groundings"][phrase]))
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "GranDf_HA_images").symlink_to(FIXTURES / "GranDf" / "GranDf_HA_images")
        file = root / GRANDF / "GranDf_HA_GCG_train.json"
        write(file, [entry])
        (before,) = annotations_of(
            grandf.GranDfHumanAnnotated(root, "train").read("sa_0.jpg").record
        )
        entry["groundings"][phrase] = changed
        write(file, [entry])
        (result,) = read_all(grandf.GranDfHumanAnnotated(root, "train")).values()
    ((task, text, links),) = annotations_of(result.record)
    assert (task, text) == before[:2]
    assert all(link in links for link in before[2] if text[link[1] : link[2]] != phrase), place


@settings(max_examples=25)
@given(st.sampled_from([EXPRESSIONS, CAPTIONS]), st.data())
def test_damage_in_one_database_leaves_the_other_and_the_other_pictures(name, data):
    trees = {
        database: load(FIXTURES / "GranD_Data" / f"{database}.as_json_for_readers.json")
        for database in (EXPRESSIONS, CAPTIONS)
    }
    _, changed = data.draw(damaged(trees[name]["sa_0.jpg"]))
    expected = records(GrandLMDB(FIXTURES, "train"))
    trees[name]["sa_0.jpg"] = changed
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "GranD_Data"
        root.mkdir()
        (root / "images").symlink_to(FIXTURES / "GranD_Data" / "images")
        for database, values in trees.items():
            (root / database).mkdir()
            path = str(root / database)
            with lmdb.open(path) as opened, opened.begin(write=True) as transaction:
                for key, value in values.items():
                    transaction.put(key.encode(), json.dumps(value).encode())
        results = records(GrandLMDB(Path(folder), "train"))
    assert results["sa_1.jpg"] == expected["sa_1.jpg"]
    undamaged_tasks = ("caption",) if name == EXPRESSIONS else ("region", "referring")
    before = annotations_of(expected["sa_0.jpg"])
    after = annotations_of(results["sa_0.jpg"])
    assert all(item in after for item in before if item[0] in undamaged_tasks)
