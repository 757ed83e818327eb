"""Curves show all finite values in a drawing of limited size."""

from __future__ import annotations

import math
import re

import pytest

from glamm_jax.report.curves import HEIGHT, MAX_POINTS, TOP, WIDTH, curves_svg


def points(svg: str) -> list[list[tuple[float, float]]]:
    return [
        [tuple(map(float, point.split(","))) for point in coordinates.split()]  # type: ignore[misc]  # pairs
        for coordinates in re.findall(r'points="([^"]*)"', svg)
    ]


def test_a_curve_goes_from_left_to_right_and_higher_values_are_higher() -> None:
    [curve] = points(curves_svg({"loss": [(0, 3.0), (10, 1.0), (20, 2.0)]}))
    xs, ys = zip(*curve, strict=True)
    assert list(xs) == sorted(xs)
    assert ys[0] < ys[2] < ys[1]  # down is more
    assert all(0 <= x <= WIDTH for x in xs)
    assert all(TOP <= y <= HEIGHT for y in ys)


def test_many_steps_are_averaged_and_a_first_peak_does_not_flatten_the_rest() -> None:
    [curve] = points(curves_svg({"loss": [(i, 100.0 if i == 0 else i % 2) for i in range(9000)]}))
    assert len(curve) == MAX_POINTS
    [peaked] = points(curves_svg({"loss": [(i, 1e6 if i == 0 else i) for i in range(200)]}))
    assert peaked[100][1] - peaked[199][1] > HEIGHT / 4


def test_several_curves_have_a_legend_and_one_has_none() -> None:
    first, second = [(0, 1.0), (1, 2.0)], [(0, 2.0), (1, 1.0)]
    assert curves_svg({"first": first, "second": second}).count("<text") == 5 + 2 + 2
    assert curves_svg({"first": first}).count("<text") == 5 + 2


@pytest.mark.parametrize("values", [[], [math.nan], [math.inf, math.nan]])
def test_without_a_finite_number_nothing_is_drawn(values: list[float]) -> None:
    assert curves_svg({"loss": list(enumerate(values))}) == ""


def test_a_constant_is_a_level_line() -> None:
    [curve] = points(curves_svg({"loss": [(0, 0.0), (5, 0.0)]}))
    assert curve[0][1] == curve[1][1]
