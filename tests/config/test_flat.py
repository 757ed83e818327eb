"""Dotted names of a configuration in JSON form."""

from __future__ import annotations

from glamm_jax.config.flat import changed_fields, flatten_config


def test_a_configuration_is_flattened_to_dotted_names() -> None:
    config = {
        "seed": 0,
        "data": {"mixture": [{"weight": 2}, {"weight": 1}], "sizes": [3, 4], "cache": None},
        "empty": {},
        "none": [],
    }
    assert flatten_config(config) == {
        "seed": 0,
        "data.mixture.0.weight": 2,
        "data.mixture.1.weight": 1,
        "data.sizes": [3, 4],
        "data.cache": None,
        "none": [],
    }


def test_only_fields_that_differ_and_are_not_ignored_are_reported() -> None:
    old = {"mesh.data": 1, "optim.lr": 0.1, "seed": 0, "removed": 5}
    new = {"mesh.data": 2, "optim.lr": 0.2, "seed": 0, "added": 6}
    assert list(changed_fields(old, new, ignored=("mesh.", "data."))) == [
        ("optim.lr", 0.1, 0.2),
        ("removed", 5, None),
        ("added", None, 6),
    ]
    assert len(list(changed_fields(old, new, ignored=()))) == 4
