"""Which kernel computes attention on which chip, as one table.

    choose_kernel(FAMILIES["A100"], AttentionSize(queries=4096, keys=4096, width=208))  # blockwise

Rules are tried in order; the first that fits decides. Every kernel but `dense` needs memory linear
in the number of tokens; `dense` is for few scores. docs/attention.md has the table for the model's
attentions on each chip.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, cast

import jax

from glamm_jax.parallel import platform

Kernel = Literal["dense", "blockwise", "cudnn", "splash"]
Family = Literal["cpu", "tpu", "hopper", "ampere", "gpu"]

# By the names of glamm_jax/aot/chips.py.
FAMILIES: dict[str, Family] = {
    "cpu": "cpu",
    **dict.fromkeys(("v4", "v5e", "v5p", "v6e"), "tpu"),
    **dict.fromkeys(("H100", "H200", "B200"), "hopper"),
    **dict.fromkeys(("A100", "L4"), "ampere"),
}
# Up to so many scores of one head and row, all are computed at once: windows of SAM, the pixel
# decoder, CLIP on the CPU, decoding.
DENSE_SCORES = 2**19
_NO_LIMIT = 2**31


class AttentionSize(NamedTuple):
    """What the choice depends on.

    Attributes:
        queries: number of a row.
        keys: number of a row.
        width: of a head of queries, keys or values, the largest.
        is_half: bfloat16 or float16.
        is_packed: the rows have segments.
    """

    queries: int
    keys: int
    width: int
    is_half: bool = True
    is_packed: bool = False


class KernelRule(NamedTuple):
    """A kernel, and the attentions that it is used for.

    Attributes:
        family: of the chip.
        kernel: that is used.
        max_width: largest head.
        max_packed: longest packed row; 0: the kernel has no segments.
        min_queries: shortest row.
        min_keys: shortest row of keys.
        half_only: in bfloat16 and float16 only.
    """

    family: Family
    kernel: Kernel
    max_width: int = _NO_LIMIT
    max_packed: int = _NO_LIMIT
    min_queries: int = 1
    min_keys: int = 1
    half_only: bool = False

    def fits(self, family: Family, size: AttentionSize) -> bool:
        """Whether the rule decides for this attention."""
        return (
            family == self.family
            and size.width <= self.max_width
            and (not size.is_packed or size.queries <= self.max_packed)
            and size.queries >= self.min_queries
            and size.keys >= self.min_keys
            and (size.is_half or not self.half_only)
        )


# cuDNN: heads up to 128 on compute capability 8.x, 256 on 9.x and later. It has no segments, but an
# additive mask that all heads share: bfloat16[queries, keys] of a row, 32 MiB at 4,096 tokens.
_MAX_CUDNN_MASK = 4096
KERNELS = (
    KernelRule("tpu", "splash", min_queries=257, min_keys=257),
    KernelRule(
        "hopper", "cudnn", max_width=256, max_packed=_MAX_CUDNN_MASK, min_queries=2, half_only=True
    ),
    KernelRule(
        "ampere", "cudnn", max_width=128, max_packed=_MAX_CUDNN_MASK, min_queries=2, half_only=True
    ),
)


def choose_kernel(family: Family, size: AttentionSize) -> Kernel:
    """Return the kernel of an attention on a chip of a family.

    Args:
        family: of the chip.
        size: of the attention.
    """
    for rule in KERNELS:
        if rule.fits(family, size):
            return rule.kernel
    return "dense" if size.queries * size.keys <= DENSE_SCORES else "blockwise"


def chip_family() -> Family:
    """Return the family of the chip that is compiled for."""
    target = platform()
    if target != "gpu":
        return cast(Family, target)
    # NVIDIA's are numbers such as 8.9; others are names.
    capability = str(getattr(jax.local_devices()[0], "compute_capability", ""))
    major = int(number) if (number := capability.split(".")[0]).isdecimal() else 0
    return "hopper" if major >= 9 else "ampere" if major >= 8 else "gpu"
