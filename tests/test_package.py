"""The package offers what an image needs to become masks, and wakes nothing before it is used."""

from __future__ import annotations

import subprocess
import sys

import pytest

import glamm_jax


@pytest.mark.parametrize("name", glamm_jax.__all__)
def test_every_offered_name_exists(name: str) -> None:
    assert getattr(glamm_jax, name).__module__.startswith("glamm_jax.")
    assert name in dir(glamm_jax)


def test_an_unknown_name_is_an_ordinary_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'glam'"):
        _ = glamm_jax.glam  # pyright: ignore


def test_data_workers_do_not_wake_jax() -> None:
    code = (
        "import sys, glamm_jax; from glamm_jax.data import boxes, collate, preprocess, rle; "
        "print({'jax', 'flax', 'torch', 'grain'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
