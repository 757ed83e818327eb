"""Accelerators: peak FLOPS and memory."""

from __future__ import annotations

from typing import NamedTuple

GIB = 2**30


class Chip(NamedTuple):
    """An accelerator.

    Attributes:
        peak_flops: bfloat16 FLOPs per second, by the data sheet.
        memory_gib: of one chip.
    """

    peak_flops: float
    memory_gib: float


CHIPS = {
    "v5e": Chip(197e12, 16),
    "v5p": Chip(459e12, 95),
    "v6e": Chip(918e12, 32),
    "H100": Chip(989e12, 80e9 / GIB),
    "H200": Chip(989e12, 141e9 / GIB),
}

# Part of jax's device kind -> chip; the first that matches counts.
_DEVICE_KINDS = {
    "TPU v5 lite": "v5e",
    "TPU v5": "v5p",
    "TPU v6 lite": "v6e",
    "H100": "H100",
    "H200": "H200",
}


def chip_of(device_kind: str) -> Chip | None:
    """Return the chip of a jax `device_kind`; None if it is not in `CHIPS`."""
    return next((CHIPS[name] for kind, name in _DEVICE_KINDS.items() if kind in device_kind), None)
