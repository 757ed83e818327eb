"""What can be done with an object: 39 categories of affordances and their labels.

    find_affordances([GrandObject(0, box, ("bench",))])["Sit"]["object_ids"]        # [0]

The names of the categories, and the labels under `labels`, are those that the recordings of the
released code show; the labels under `more` are ours. The table is `data/affordances.json`.

Source: GranD/utils/affordances.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from glamm_jax.grand.record import GrandObject
from glamm_jax.json_files import JSONObject, read_json

TABLE = Path(__file__).parent / "data" / "affordances.json"


@cache
def _categories_of_labels(complete: bool) -> dict[str, list[tuple[str, str]]]:
    """Return label -> name and description of its categories, in the order of the table."""
    categories: dict[str, list[tuple[str, str]]] = {}
    for i, value in enumerate(read_json(TABLE)):
        entry = JSONObject(value, f"{TABLE}: [{i}]")
        labels = entry.array("labels") + (entry.array("more", []) if complete else [])
        for label in dict.fromkeys(labels):
            categories.setdefault(label, []).append((entry.text("name"), entry.text("description")))
    return categories


def affordance_categories() -> tuple[str, ...]:
    """Return the names of all categories."""
    return tuple(JSONObject(value, str(TABLE)).text("name") for value in read_json(TABLE))


def affordance_labels() -> tuple[str, ...]:
    """Return all labels, in the order of the table."""
    return tuple(_categories_of_labels(complete=True))


def find_affordances(
    objects: Sequence[GrandObject], *, normalize: bool = True, complete: bool = True
) -> Mapping[str, Any]:
    """Return the affordances of objects by their labels.

    Args:
        objects: objects, then floating objects.
        normalize: compare labels without case and with blanks for underscores.
        complete: also use the labels that the released table lacks.

    Returns:
        Name of a category -> "description", "object_ids", "labels", in order of appearance.
    """
    categories = _categories_of_labels(complete)
    result: dict[str, dict[str, Any]] = {}
    for item in objects:
        for label in item.labels:
            key = label.lower().replace("_", " ") if normalize else label
            for name, description in categories.get(key, ()):
                entry = result.get(name)
                if entry is None:
                    entry = {"description": description, "object_ids": [], "labels": []}
                    result[name] = entry
                if item.id not in entry["object_ids"]:
                    entry["object_ids"].append(item.id)
                if label not in entry["labels"]:
                    entry["labels"].append(label)
    return result
