"""The tolerances of all comparisons: the accepted error and the error to be reached.

An error is the largest absolute difference over the recorded array's standard deviation, unless
`measure` says otherwise. The limits were fixed with the recorded numbers. A tolerance must never be
widened to make a check pass.

Gradients are measured by the L2 norm of the difference ("gradients 1e-3 relative"). Those of the
region encoder's pyramid pass five rounds of ReLU on 49,000 cells. Where the input of a ReLU is zero
up to rounding, the gradient passes or not, and entries jump. Against the same model in float64, the
*recorded* gradient of the first round's convolution has an error of 3e-4 in L2 and of 2.3e-3 of std
in its worst entry, the gradient of this implementation 3e-4 and 3.9e-3. In a batch of three images
the two differ by 1.1e-3. Two float32 programs cannot agree better, so these parameters alone have a
tolerance of their own: the L2 norm is the measure, and its limit is 3e-3. A single entry may differ
by up to 5e-2 of std, because a ReLU at its kink moves few entries by much. Minimum and maximum of a
sampled array are single entries, too (`kinks`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Measure = Literal["std", "absolute", "relative", "norm", "exact"]


@dataclass(frozen=True)
class Tolerance:
    """Tolerance of one kind of array.

    Attributes:
        limit: largest error that counts as equal.
        aim: the error that this implementation is expected to reach.
        measure: std: over the standard deviation; arrays of fewer than 100 elements over
            max(std, rms), or 1e-5 absolute. absolute. relative: over the recorded magnitude. norm:
            L2 norm of the difference over that of the array. exact: equality.
        mean: additional limit on the root mean square of the error (std) or on its mean (absolute).
        entry: additional limit on every entry, over the standard deviation (norm).
        pixels: smallest share of numbers whose sign must agree: pixels of a thresholded mask.
        kinks: minimum and maximum of a sampled array are limited by `entry`, not by `limit`.
        bfloat16: the recorded numbers must be bfloat16 values. The limit is so wide that it would
            not detect a changed number.
    """

    limit: float
    aim: float
    measure: Measure = "std"
    mean: float | None = None
    entry: float | None = None
    pixels: float | None = None
    kinks: bool = False
    bfloat16: bool = False


TOLERANCES: dict[str, Tolerance] = {
    # tiny models
    "tiny": Tolerance(1e-4, 1e-5),
    "tiny_encoder": Tolerance(1e-4, 1e-4),
    "loss": Tolerance(1e-5, 1e-5, "absolute"),
    "adamw_loss": Tolerance(1e-4, 1e-5, "absolute"),
    "gap": Tolerance(1e-4, 1e-5, "absolute"),
    "gradient": Tolerance(1e-3, 1e-4, "norm", entry=1e-2),
    "pyramid_gradient": Tolerance(3e-3, 1e-3, "norm", entry=5e-2, kinks=True),
    "gradient_norm": Tolerance(1e-3, 1e-4, "relative"),
    "parameter_norm": Tolerance(1e-3, 1e-5, "relative"),
    # full-size modules
    "module": Tolerance(1e-4, 1e-5),
    "encoder": Tolerance(1e-3, 1e-4),
    "mask": Tolerance(3e-4, 2e-5, pixels=0.999),
    # bfloat16 variants: max 6e-2, rms 2e-2
    "bf16": Tolerance(6e-2, 6e-2, mean=2e-2, bfloat16=True),
    "bf16_loss": Tolerance(6e-2, 6e-2, "absolute"),
    # preprocessing
    "resized_uint8": Tolerance(1.0, 0.0, "absolute"),
    "clip_pixels": Tolerance(0.02, 0.0, "absolute", mean=1e-3),
    # mean and standard deviation of all pixels of one image
    "pixel_statistic": Tolerance(1e-3, 1e-6, "absolute"),
    "input": Tolerance(1e-6, 1e-12),
    "box": Tolerance(1e-6, 0.0, "absolute"),
    "metric": Tolerance(1e-6, 1e-12, "absolute"),
    "exact": Tolerance(0.0, 0.0, "exact"),
}
