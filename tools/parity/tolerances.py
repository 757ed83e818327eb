"""The one table of tolerances: those of the golden README, and the aim we hold ourselves to.

An error is the largest absolute difference over the recorded array's standard deviation, unless
`measure` says otherwise. A tolerance is never widened here to make a case pass.

Gradients are measured by the L2 norm of the difference ("gradients 1e-3 relative"). Those of the
region encoder's pyramid pass five rounds of ReLU on 49,000 cells: an input within rounding of zero
opens or closes, and entries jump. Against the same model in float64, the *recorded* gradient of the
first round's convolution is off by 3e-4 in L2 and by 2.3e-3 of std in its worst entry, ours by
3e-4 and 3.9e-3; in a batch of three images ours differs from the recorded by 1.1e-3. Two float32
programs cannot agree better, so these parameters alone have a kind of their own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Measure = Literal["std", "absolute", "relative", "norm", "exact"]


@dataclass(frozen=True)
class Tolerance:
    """Largest accepted error of one kind of array, and what we aim at.

    measure: std (over the standard deviation; below 100 elements over max(std, rms), or 1e-5
    absolute), absolute, relative (over the recorded magnitude), norm (L2 norm of the difference
    over that of the array) or exact.
    mean: a limit on the root mean square of the error (std) or its mean (absolute), too.
    entry: a limit on every entry over the standard deviation, too (norm).
    pixels: share of numbers whose sign must agree: the pixels of a thresholded mask.
    bfloat16: recorded numbers must be of that type; the wide tolerance would hide a changed one.
    """

    limit: float
    aim: float
    measure: Measure = "std"
    mean: float | None = None
    entry: float | None = None
    pixels: float | None = None
    bfloat16: bool = False


TOLERANCES: dict[str, Tolerance] = {
    # tiny models
    "tiny": Tolerance(1e-4, 1e-5),
    "tiny_encoder": Tolerance(1e-4, 1e-4),
    "loss": Tolerance(1e-5, 1e-5, "absolute"),
    "adamw_loss": Tolerance(1e-4, 1e-5, "absolute"),
    "gap": Tolerance(1e-4, 1e-5, "absolute"),
    "gradient": Tolerance(1e-3, 1e-4, "norm", entry=1e-2),
    "pyramid_gradient": Tolerance(3e-3, 1e-3, "norm", entry=2e-2),
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
    # mean and deviation of all pixels of one picture
    "pixel_statistic": Tolerance(1e-3, 1e-6, "absolute"),
    "input": Tolerance(1e-6, 1e-12),
    "box": Tolerance(1e-6, 0.0, "absolute"),
    "metric": Tolerance(1e-6, 1e-12, "absolute"),
    "exact": Tolerance(0.0, 0.0, "exact"),
}
