"""The difference of two arrays, in the measure of a tolerance.

A *sampled* array is recorded as values at some flat positions, its shape, and mean, standard
deviation, L2 norm, minimum and maximum of the complete array.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np

from tools.parity.tolerances import Tolerance

SAMPLED = ("__val", "__idx", "__shape", "__stats")


def sampled_difference(
    sampled: Mapping[str, np.ndarray], actual: np.ndarray, tolerance: Tolerance
) -> tuple[float | None, str | None]:
    """Compute the `difference` to a sampled array, including its statistics.

    Args:
        sampled: the four recorded arrays by suffix.
        actual: the computed array, complete.
        tolerance: measure and limits.
    """
    if problem := _inconsistency(sampled):
        return None, problem
    shape = tuple(int(n) for n in sampled["__shape"])
    if actual.shape != shape:
        return None, f"shape {actual.shape}, recorded {shape}"
    flat = actual.reshape(-1)
    if not np.isfinite(flat.astype(np.float64)).all():
        return None, "the computed array has numbers that are not finite"
    stats = sampled["__stats"]
    values, index = sampled["__val"], sampled["__idx"]
    error, problem = difference(values, flat[index], tolerance, scale=float(stats[1]))
    if problem is None and error is not None:
        moments, extremes = _stats_errors(stats, flat, tolerance)
        if not tolerance.kinks:
            return max(error, moments, extremes), None
        error = max(error, moments)
        if tolerance.entry is not None and extremes > tolerance.entry:
            problem = f"the minimum or maximum is off by {extremes:.1e} of std"
    return error, problem


def _inconsistency(sampled: Mapping[str, np.ndarray]) -> str | None:
    """Return what is contradictory in a sampled array itself, as if a number had been changed."""
    values, index, shape, stats = (np.asarray(sampled[suffix]) for suffix in SAMPLED)
    if index.dtype.kind not in "iu" or shape.dtype.kind not in "iu":
        return "recorded positions or shape are not integers"
    if values.shape != index.shape or stats.shape != (5,) or shape.ndim != 1:
        return "recorded values, positions and statistics have shapes that do not match"
    size = int(np.prod(shape))
    if index.size and (index.min() < 0 or index.max() >= size):
        return "a recorded position is outside the array"
    mean, std, norm, low, high = (float(x) for x in stats)
    if not np.isfinite(stats).all() or not np.isfinite(values.astype(np.float64)).all():
        return "recorded numbers are not finite"
    # norm^2 = n (mean^2 + std^2), to the rounding of float64
    if abs(np.sqrt(size * (mean**2 + std**2)) - norm) > 1e-9 * max(norm, 1e-30):
        return "recorded mean, standard deviation and norm contradict each other"
    if values.size and (values.min() < low - 1e-6 * std or values.max() > high + 1e-6 * std):
        return "a recorded value is beyond the recorded minimum or maximum"
    return None


def _stats_errors(stats: np.ndarray, flat: np.ndarray, tolerance: Tolerance) -> tuple[float, float]:
    """Return the largest error of mean, standard deviation and L2 norm, and of the extremes."""
    x = flat.astype(np.float64)
    actual = np.array([x.mean(), x.std(), np.sqrt((x * x).sum()), x.min(), x.max()])
    error = np.abs(actual - stats)
    std = max(float(stats[1]), 1e-30)
    scale = np.array([std, std, max(float(stats[2]), std), std, std])
    error = error if tolerance.measure == "absolute" else error / scale
    return float(error[:3].max()), float(error[3:].max())


def difference(
    recorded: Any, actual: Any, tolerance: Tolerance, scale: float | None = None
) -> tuple[float | None, str | None]:
    """Compare a recorded value with a computed one.

    Args:
        recorded: the complete recorded value: numbers or text.
        actual: the computed one.
        tolerance: measure and limits.
        scale: standard deviation to divide by; None: that of `recorded`.

    Returns:
        The error in the tolerance's measure, and a problem in words. With a problem the values
        differ, whatever the error is.
    """
    if tolerance.measure == "exact" or not _numeric(recorded):
        same = _plain(recorded) == _plain(actual)
        return (
            (0.0, None) if same else (None, f"recorded {_short(recorded)}, actual {_short(actual)}")
        )
    x, y = np.asarray(recorded, np.float64), np.asarray(actual, np.float64)
    if x.shape != y.shape:
        return None, f"shape {y.shape}, recorded {x.shape}"
    if x.size == 0:
        return 0.0, None
    if not np.array_equal(np.isnan(x), np.isnan(y)):
        return None, "not-a-number at different places"
    if tolerance.bfloat16 and not np.array_equal(x, x.astype(ml_dtypes.bfloat16)):
        return None, "a recorded number is not a bfloat16"
    error = np.abs(np.nan_to_num(x) - np.nan_to_num(y))
    worst = float(error.max())
    if tolerance.measure == "absolute":
        over = tolerance.mean is not None and float(error.mean()) > tolerance.mean
        return worst, f"mean error {error.mean():.2e} above {tolerance.mean}" if over else None
    if tolerance.measure == "relative":
        return float((error / np.maximum(np.abs(x), 1e-30)).max()), None
    std = x.std() if scale is None else scale
    if tolerance.measure == "norm":
        return _norm_difference(x, error, std, tolerance)
    same = float(((x > 0) == (y > 0)).mean())
    if tolerance.pixels is not None and same < tolerance.pixels:
        return worst / max(std, 1e-30), f"only {same:.3%} of the thresholded pixels agree"
    if x.size < 100:
        if worst <= 1e-5:
            return worst, None
        std = max(std, float(np.sqrt((x * x).mean())))
    rms = float(np.sqrt((error * error).mean())) / max(std, 1e-30)
    over = tolerance.mean is not None and rms > tolerance.mean
    return worst / max(std, 1e-30), f"rms error {rms:.2e} above {tolerance.mean}" if over else None


def _norm_difference(
    recorded: np.ndarray, error: np.ndarray, std: float, tolerance: Tolerance
) -> tuple[float, str | None]:
    """Return the L2 norm of the error over that of the array, and a problem if an entry is off."""
    norm = float(np.linalg.norm(error) / max(float(np.linalg.norm(recorded)), 1e-30))
    worst = float(error.max()) / max(std, 1e-30)
    over = tolerance.entry is not None and worst > tolerance.entry
    return norm, f"an entry is off by {worst:.1e} of std" if over else None


def _numeric(value: Any) -> bool:
    try:
        return np.asarray(value).dtype.kind in "fiub"
    except ValueError:
        return False


def _plain(value: Any) -> Any:
    """Convert arrays and tuples to lists, so that `==` compares the content."""
    if isinstance(value, np.ndarray | np.generic) or hasattr(value, "__array__"):
        return np.asarray(value).tolist()
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return value


def _short(value: Any) -> str:
    text = repr(_plain(value))
    return text if len(text) <= 80 else text[:77] + "..."
