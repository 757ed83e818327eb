"""Devices are recognized by what jax calls them."""

from __future__ import annotations

import pytest

from glamm_jax.aot.chips import CHIPS, chip_of


@pytest.mark.parametrize(
    ("device_kind", "name"),
    [
        ("TPU v4", "v4"),
        ("TPU v5 lite", "v5e"),
        ("TPU v5", "v5p"),
        ("TPU v5p", "v5p"),
        ("TPU v6 lite", "v6e"),
        ("NVIDIA L4", "L4"),
        ("NVIDIA A100-SXM4-80GB", "A100"),
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA H200", "H200"),
        ("NVIDIA B200", "B200"),
    ],
)
def test_a_device_has_the_numbers_of_its_chip(device_kind: str, name: str) -> None:
    assert chip_of(device_kind) is CHIPS[name]


@pytest.mark.parametrize("device_kind", ["cpu", "NVIDIA L40", "NVIDIA L40S", "TPU v2", ""])
def test_other_devices_have_none(device_kind: str) -> None:
    assert chip_of(device_kind) is None
