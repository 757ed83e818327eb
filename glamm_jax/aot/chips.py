"""Accelerators: peak FLOPS and memory.

Sources: cloud.google.com/tpu/docs/v4, .../v5e, .../v5p, .../v6e; NVIDIA's data sheets of L4, A100,
H100, H200 (SXM) and DGX B200 (a system of eight: 36 PFLOPS dense and 1,440 GB). Of NVIDIA's numbers
those without sparsity are used, which are half of the ones that are printed. A100 and H100 are also
sold with other memory sizes; the larger one of SXM is used.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from glamm_jax.parallel import GIB


class Chip(NamedTuple):
    """An accelerator.

    Attributes:
        peak_flops: bfloat16 FLOPs per second, by the data sheet.
        memory_gib: of one chip.
    """

    peak_flops: float
    memory_gib: float


CHIPS = {
    "v4": Chip(275e12, 32),
    "v5e": Chip(197e12, 16),
    "v5p": Chip(459e12, 95),
    "v6e": Chip(918e12, 32),
    "L4": Chip(121e12, 24e9 / GIB),
    "A100": Chip(312e12, 80e9 / GIB),
    "H100": Chip(989e12, 80e9 / GIB),
    "H200": Chip(989e12, 141e9 / GIB),
    "B200": Chip(2250e12, 180e9 / GIB),
}

# Part of jax's device kind -> chip; the first that matches, with no digit behind it, counts.
_DEVICE_KINDS = {
    "TPU v4": "v4",
    "TPU v5 lite": "v5e",
    "TPU v5": "v5p",
    "TPU v6 lite": "v6e",
    "L4": "L4",
    "A100": "A100",
    "H100": "H100",
    "H200": "H200",
    "B200": "B200",
}


def chip_of(device_kind: str) -> Chip | None:
    """Return the chip of a jax `device_kind`; None if it is not in `CHIPS`."""
    for kind, name in _DEVICE_KINDS.items():
        if re.search(rf"{kind}(?!\d)", device_kind):  # L4 is not L40
            return CHIPS[name]
    return None
