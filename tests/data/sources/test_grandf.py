"""GranD_f: four files of grounded captions with their oddities, and the ground truth."""

from __future__ import annotations

import pytest

from glamm_jax.data.record import Link
from glamm_jax.data.sources.defects import (
    BAD_BOX,
    BAD_MASK,
    BAD_SPAN,
    BROKEN_ENTRY,
    BROKEN_TEXT,
    DUPLICATE_ID,
    EMPTY_TEXT,
    EXTRA_SPANS,
    LABELS_AND_MASKS,
    MISSING_IMAGE,
    NO_GROUNDINGS,
    NULL_GROUNDING,
    OVERLAPPING_PARTS,
    OVERLAPPING_PHRASES,
    PHRASE_NOT_FOUND,
    REPEATED_PHRASE,
    SHORT_CAPTION,
    SIZE_MISMATCH,
    SMALL_BOX,
    SMALL_IMAGE,
    UNKNOWN_ID,
    SourceError,
)
from glamm_jax.data.sources.grandf import (
    DATASETS,
    GranDfFlickr30k,
    GranDfGroundTruth,
    GranDfHumanAnnotated,
    GranDfOpenPSG,
    GranDfRefCOCOg,
)
from tests.data.sources.small_datasets import (
    FIXTURES,
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

TRAIN = "GranDf/annotations/train"
A, B = block(1, 1, 7, 6), block(5, 4, 12, 10)
POLYGON = [1, 1, 7, 1, 7, 6, 1, 6]


def psg(root, *entries):
    """Read the only image of a small OpenPSG file."""
    write(root / "coco_2017" / "train2017" / "p.jpg", image_bytes())
    write(root / TRAIN / "OpenPsgGCG_train.json", list(entries))
    return read_single(GranDfOpenPSG, root)


def entry(caption, groundings, **more):
    return {"file_name": "p.jpg", "caption": caption, "groundings": groundings, **more}


def grounding(span, *masks):
    return {"token_positives": span, "rle_masks": list(masks)}


def refcocog(root, caption, *sentences):
    """Read the only image of a small RefCOCOg file."""
    write(root / "coco_2014" / "train2014" / "p.jpg", image_bytes())
    refs = [{"sentence": text, "segmentation": [POLYGON]} for text in sentences]
    fields = {"img_file_name": "p.jpg", "caption": caption, "refs": refs}
    write(root / TRAIN / "RefCOCOg_GCG_train.json", [{"7": fields}])
    return read_single(GranDfRefCOCOg, root)


def flickr(root, caption, *annotations, images=(), size=(40, 50)):
    """Read a small Flickr file; its first image has id 1."""
    write(root / "flikcr_30k" / "train" / "p.jpg", image_bytes(*size))
    first = {"id": 1, "file_name": "p.jpg", "caption": caption, "height": size[0], "width": size[1]}
    layout = {"images": [first, *images], "annotations": list(annotations)}
    write(root / TRAIN / "flickr_mergedGT_GCG_train.json", layout)
    return read_all(GranDfFlickr30k(root, "train"))


def annotation(span, **more):
    fields = {"id": 5, "image_id": 1, "bbox": [2, 2, 10, 8], "area": 80, "tokens_positive": [span]}
    return {**fields, "sam_mask": block(2, 2, 12, 10, 40, 50), **more}


def phrases(record):
    """(phrase, pixels, pixels counted twice) of the only grounded caption."""
    (caption,) = (item for item in record.annotations if item.task == "gcg")
    return [
        (
            caption.text[link.start : link.end],
            pixels(record, link.region),
            pixels(record, link.region, overlap=True),
        )
        for link in caption.links
    ]


# ------------------------------------------------------- human-annotated and OpenPSG


def test_quotes_and_spaces_around_a_caption_go():
    record = GranDfHumanAnnotated(FIXTURES, "train").read("sa_0.jpg").record
    assert texts(record, "gcg") == ["A dog sits on the grass near a red ball."]


def test_masks_of_one_phrase_are_joined(tmp_path):
    result = psg(tmp_path, entry("A dog.", {"A dog": grounding([0, 5], A, B)}))
    assert phrases(result.record) == [("A dog", 30 + 42 - 4, 4)]
    assert kinds(result) == {OVERLAPPING_PARTS: 1}


def test_a_null_grounding_leaves_the_others(tmp_path):
    groundings = {"A dog": None, "a ball": grounding([8, 14], A)}
    result = psg(tmp_path, entry("A dog, a ball.", groundings))
    assert phrases(result.record) == [("a ball", 30, 0)]
    assert kinds(result)[NULL_GROUNDING] == 1


@pytest.mark.parametrize("groundings", [None, {}, {"A dog": None}])
def test_a_caption_without_groundings_stays_a_caption(tmp_path, groundings):
    result = psg(tmp_path, entry("A dog.", groundings))
    assert tasks(result.record) == {"caption": 1}
    assert kinds(result)[NO_GROUNDINGS] == 1


def test_a_phrase_that_the_file_could_hold_only_once_is_named(tmp_path):
    groundings = {"a dog": grounding([10, 15], A)}
    result = psg(tmp_path, entry("A dog and a dog.", groundings))
    assert phrases(result.record) == [("a dog", 30, 0)]
    assert kinds(result) == {REPEATED_PHRASE: 1}


def test_overlapping_phrases_are_cut_apart(tmp_path):
    groundings = {"a man in a hat": grounding([0, 14], A), "a hat": grounding([9, 14], B)}
    result = psg(tmp_path, entry("a man in a hat", groundings))
    assert phrases(result.record) == [("a man in", 30, 0), ("a hat", 42, 0)]
    assert kinds(result) == {OVERLAPPING_PHRASES: 1}


def test_captions_of_one_picture_are_one_record(tmp_path):
    result = psg(
        tmp_path,
        entry("A dog.", {"A dog": grounding([0, 5], A)}),
        entry("A cat.", {"A cat": grounding([0, 5], B)}),
        entry("Nothing.", {}),
    )
    assert texts(result.record, "gcg") == ["A dog.", "A cat."]
    assert texts(result.record, "caption") == ["Nothing."]
    assert [item.links for item in result.record.annotations] == [
        (Link(0, 0, 5),),
        (Link(1, 0, 5),),
        (),
    ]


def test_a_size_that_disagrees_is_named_and_run_lengths_are_judged_by_their_own(tmp_path):
    groundings = {"A dog": grounding([0, 5], A)}
    result = psg(tmp_path, entry("A dog.", groundings, height=20, width=12))
    assert phrases(result.record) == [("A dog", 30, 0)]
    assert kinds(result) == {SIZE_MISMATCH: 1}


def test_an_entry_without_a_picture_is_named_and_the_others_are_read(tmp_path):
    write(tmp_path / "coco_2017" / "train2017" / "p.jpg", image_bytes())
    good = entry("A dog.", {"A dog": grounding([0, 5], A)})
    bad = [None, 7, {}, {"file_name": 3}, {"file_name": ""}, [good]]
    missing = {**good, "file_name": "q.jpg"}
    strange = [{**good, "file_name": name} for name in ("\0", "x" * 5000, "\ud800.jpg", "..")]
    entries = [*bad, good, missing, *strange]
    write(tmp_path / TRAIN / "OpenPsgGCG_train.json", entries)
    results = read_all(GranDfOpenPSG(tmp_path, "train"))
    assert [key for key, result in results.items() if result.record] == ["p.jpg"]
    assert sum(kinds(result)[BROKEN_ENTRY] for result in results.values()) == len(bad)
    assert sum(kinds(result)[MISSING_IMAGE] for result in results.values()) == 1 + len(strange)


def test_half_a_character_is_replaced_without_moving_spans(tmp_path):
    groundings = {"A dog": grounding([2, 7], A)}
    result = psg(tmp_path, entry("\ud83d A dog.", groundings))
    assert texts(result.record, "gcg") == ["\ufffd A dog."]
    assert phrases(result.record) == [("A dog", 30, 0)]
    assert kinds(result) == {BROKEN_TEXT: 1}


@pytest.mark.parametrize("caption", [None, "", '  "" ', 7, ["A dog."]])
def test_an_entry_without_a_caption_is_no_record(tmp_path, caption):
    result = psg(tmp_path, entry(caption, {"A dog": grounding([0, 5], A)}))
    assert result.record is None
    assert kinds(result)[EMPTY_TEXT] == 1


# ---------------------------------------------------------------------- layouts


@pytest.mark.parametrize("folder", GranDfHumanAnnotated.image_folders)
def test_quirk_36_pictures_lie_where_the_code_looks_or_where_the_documentation_says(
    tmp_path, folder
):
    write(tmp_path / folder / "p.jpg", image_bytes())
    write(tmp_path / TRAIN / "GranDf_HA_GCG_train.json", [entry("A dog.", {})])
    source = GranDfHumanAnnotated(tmp_path, "train")
    assert source.image_path("p.jpg") == tmp_path / folder / "p.jpg"
    assert source.read("p.jpg").record is not None


def test_absent_broken_and_unknown_files_are_errors(tmp_path):
    with pytest.raises(SourceError, match=r"no GranDf/annotations/train/OpenPsgGCG_train\.json"):
        GranDfOpenPSG(tmp_path, "train")
    write(tmp_path / TRAIN / "OpenPsgGCG_train.json", b'[{"file_name": "p.jpg"')
    with pytest.raises(SourceError, match="not valid JSON"):
        GranDfOpenPSG(tmp_path, "train")
    write(tmp_path / TRAIN / "OpenPsgGCG_train.json", {"images": []})
    with pytest.raises(SourceError, match="must hold a list of images"):
        GranDfOpenPSG(tmp_path, "train")
    with pytest.raises(SourceError, match="no split 'test'; available: train, val"):
        GranDfOpenPSG(tmp_path, "test")


# --------------------------------------------------------------------- RefCOCOg


def test_quirk_40_unsorted_references_that_do_not_overlap_are_not_cut():
    record = GranDfRefCOCOg(FIXTURES, "train").read("COCO_train2014_0.jpg").record
    assert texts(record, "gcg") == ["a woman in a red coat holds a small dog."]
    assert [phrase for phrase, _, _ in phrases(record)] == ["woman in a red coat", "a small dog"]


def test_quirk_40_a_capital_does_not_cost_a_phrase_its_place():
    record = GranDfRefCOCOg(FIXTURES, "train").read("COCO_train2014_2.jpg").record
    assert texts(record, "gcg") == ["a zebra near a tree."]
    assert [phrase for phrase, _, _ in phrases(record)] == ["zebra", "a tree"]


def test_quirk_40_references_that_do_overlap_are_cut_as_the_original_means_it(tmp_path):
    result = refcocog(tmp_path, "A woman in a red coat.", "a red coat", "woman in a red coat")
    assert [phrase for phrase, _, _ in phrases(result.record)] == ["woman in", "a red coat"]
    assert kinds(result) == {OVERLAPPING_PHRASES: 1}


def test_a_reference_that_the_caption_does_not_mention_is_named(tmp_path):
    result = refcocog(tmp_path, "A woman.", "a man", "a woman")
    assert [phrase for phrase, _, _ in phrases(result.record)] == ["a woman"]
    assert len(result.record.regions) == 1
    assert kinds(result) == {PHRASE_NOT_FOUND: 1}


def test_two_references_with_one_sentence_take_two_places(tmp_path):
    result = refcocog(tmp_path, "A man and a man.", "a man", "a man")
    assert [phrase for phrase, _, _ in phrases(result.record)] == ["a man", "a man"]


# ----------------------------------------------------------------------- Flickr


def test_an_annotation_belongs_to_its_first_span(tmp_path):
    results = flickr(
        tmp_path, "A dog, a ball.", annotation([0, 5], tokens_positive=[[0, 5], [7, 13]])
    )
    assert phrases(results["p.jpg"].record) == [("A dog", 80, 0)]
    assert kinds(results["p.jpg"]) == {EXTRA_SPANS: 1}


def test_boxes_of_one_phrase_are_regions_with_one_span(tmp_path):
    second = annotation([0, 8], id=6, bbox=[20, 2, 5, 8], sam_mask=block(20, 2, 25, 10, 40, 50))
    results = flickr(tmp_path, "Two dogs run.", annotation([0, 8]), second)
    record = results["p.jpg"].record
    assert record.annotations[0].links == (Link(0, 0, 8), Link(1, 0, 8))
    assert [region.box_xyxy_pixel for region in record.regions] == [(2, 2, 12, 10), (20, 2, 25, 10)]


@pytest.mark.parametrize(
    "more",
    [{"bbox": [2, 2, 0.5, 8]}, {"bbox": [2, 2, 8, 0.9]}, {"area": 0}, {"ignore": 1}],
    ids=str,
)
def test_small_and_ignored_boxes_are_left_out_as_in_the_original(tmp_path, more):
    results = flickr(tmp_path, "A dog, a ball.", annotation([0, 5]), annotation([7, 13], **more))
    assert [phrase for phrase, _, _ in phrases(results["p.jpg"].record)] == ["A dog"]
    assert kinds(results["p.jpg"]) == {SMALL_BOX: 1}


@pytest.mark.parametrize(
    "box", [None, [1, 2], [2, 2, "a", 8], [90, 90, 8, 8], [-30, 2, 9, 9], [2, 2, 1e300, 8]], ids=str
)
def test_a_bad_box_does_not_cost_a_good_mask(tmp_path, box):
    results = flickr(tmp_path, "A dog runs.", annotation([0, 5], bbox=box))
    assert phrases(results["p.jpg"].record) == [("A dog", 80, 0)]
    assert kinds(results["p.jpg"]) == {BAD_BOX: 1}


def test_a_bad_mask_or_span_costs_its_own_phrase(tmp_path):
    broken = annotation([7, 13], sam_mask={"size": [40, 50], "counts": "!!"})
    astray = annotation([7, 99])
    results = flickr(tmp_path, "A dog, a ball.", annotation([0, 5]), broken, astray)
    assert [phrase for phrase, _, _ in phrases(results["p.jpg"].record)] == ["A dog"]
    assert kinds(results["p.jpg"]) == {BAD_MASK: 1, BAD_SPAN: 1}


def test_short_captions_and_small_pictures_are_left_out_by_name(tmp_path):
    assert kinds(flickr(tmp_path / "a", "Too short")["p.jpg"]) == {SHORT_CAPTION: 1}
    small = flickr(tmp_path / "b", "Two dogs run.", size=(31, 50))
    assert kinds(small["p.jpg"]) == {SMALL_IMAGE: 1}


def test_annotations_of_unknown_pictures_and_repeated_ids_are_named(tmp_path):
    stray = [annotation([0, 5], image_id=image) for image in (99, None, [1])]
    again = {"id": 1, "file_name": "q.jpg", "caption": "Another one here."}
    results = flickr(tmp_path, "A dog runs.", annotation([0, 5]), *stray, None, images=[again])
    assert results["p.jpg"].record is not None
    counted = sum((kinds(result) for result in results.values()), kinds(results["p.jpg"]))
    assert counted == {UNKNOWN_ID: 1, BROKEN_ENTRY: 3, DUPLICATE_ID: 1, MISSING_IMAGE: 1}


# ----------------------------------------------------------------- ground truth


def truth(root, labels, masks, caption="A dog and a dog by a ball.", **image):
    folder = root / "GranDf" / "annotations" / "val_test"
    write(root / "GranDf_HA_images" / "val_test" / "sa_1.jpg", image_bytes())
    images = [{"id": "sa_1", "height": 12, "width": 20, **image}]
    captions = [{"id": 0, "image_id": "sa_1", "caption": caption, "labels": labels}]
    segmented = [{"id": 0, "image_id": "sa_1", "segmentation": mask} for mask in masks]
    for name, listed in (("caption", captions), ("mask", segmented)):
        layout = {"images": images, "annotations": listed}
        write(folder / f"val_gcg_coco_{name}_gt.json", layout)
    return read_single(DATASETS["grandf_ha"], root, "val")


def test_labels_and_masks_of_the_ground_truth_belong_together_by_their_order(tmp_path):
    result = truth(tmp_path, ["a ball", "a dog", "a dog"], [A, B, block(0, 0, 2, 2)])
    assert phrases(result.record) == [("A dog", 42, 0), ("a dog", 4, 0), ("a ball", 30, 0)]
    assert (result.record.image_id, result.record.split) == ("sa_1", "val")
    assert not result.defects


def test_labels_without_masks_and_labels_that_are_not_there_are_named(tmp_path):
    result = truth(tmp_path, ["a cat", "a ball", "a dog"], [A, B])
    assert phrases(result.record) == [("a ball", 42, 0)]
    assert kinds(result) == {LABELS_AND_MASKS: 1, PHRASE_NOT_FOUND: 1}


def test_a_mask_that_cannot_be_read_does_not_move_the_others(tmp_path):
    result = truth(tmp_path, ["a ball", "a dog"], [None, B], file_name="sa_1.jpg")
    assert phrases(result.record) == [("A dog", 42, 0)]


def test_every_file_has_a_name_and_a_missing_split_is_an_error(tmp_path):
    assert set(DATASETS) == {"grandf_ha", "grandf_psg", "grandf_refcocog", "grandf_flickr"}
    assert GranDfGroundTruth.name == GranDfHumanAnnotated.name
    with pytest.raises(SourceError, match="no split 'nowhere'"):
        DATASETS["grandf_ha"](tmp_path, "nowhere")
