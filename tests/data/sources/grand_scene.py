"""A scene of GranD as released, with all of the irregularities that occur in the data."""

from __future__ import annotations

from typing import Any

from tests.data.sources.small_datasets import block


def scene() -> dict[str, Any]:
    """Objects with ids 0, 3 and 7, a floating object 9, two short captions, a dense one.

    Object 0 has attributes in a list, object 3 one in a text, object 7 none and no mask.
    """
    return {
        "objects": [
            {
                "id": 0,
                "bbox": [1.0, 1.0, 7.0, 6.0],
                "labels": ["person", "baseball_player"],
                "label": "person",
                "score": 0.9,
                "attributes": ["Assistant: a tall baseball player in white", "something else"],
                "depth": 3.5,
                "segmentation": block(1, 1, 7, 6),
                "segmentation_source": "SAM",
            },
            {
                "id": 3,
                "bbox": [8.0, 2.0, 12.0, 10.0],
                "labels": ["tree"],
                "attributes": "a green tree",
                "segmentation": block(8, 2, 12, 10),
            },
            {"id": 7, "bbox": [0.0, 8.0, 20.0, 12.0], "labels": ["grass"], "attributes": None},
        ],
        "floating_objects": [
            {"id": 9, "bbox": [14.0, 2.0, 18.0, 6.0], "segmentation": block(14, 2, 18, 6)}
        ],
        "floating_attributes": [{"bbox": [0, 0, 1, 1], "attributes": ["a spot"]}],
        "landmark": {"category": "Outdoor scene", "fine_category": "Rural landscape"},
        "affordances": {},
        "relationships": {"grounding": []},
        "short_captions": [
            {"caption": "A player stands by a tree.", "details": []},
            {"caption": "a baseball player"},
        ],
        "dense_caption": {
            "caption": "A players bat is up, a tree and a kite are behind.",
            "details": [
                {"phrase": "A player's bat", "tokens_positive": [0, 14], "ids": [0]},
                {"phrase": "a tree", "tokens_positive": [22, 28], "ids": [3]},
                {"phrase": "a kite", "tokens_positive": None, "ids": [9]},
            ],
        },
        "additional_context": "Baseball is a game.",
    }
