"""Curves show the course of a number, however long it was watched."""

from __future__ import annotations

import re

import numpy as np

from glamm_jax.report.curve import HEIGHT, POINTS, WIDTH, curve_svg
from glamm_jax.report.html import Page


def points(svg: str) -> np.ndarray:
    places = re.search(r'points="([^"]*)"', svg)
    assert places is not None
    return np.array([place.split(",") for place in places[1].split()], float)


def test_the_line_spans_the_drawing_and_falls_with_the_values() -> None:
    drawn = points(curve_svg([4.0, 2.0, 1.0]))
    np.testing.assert_array_equal(drawn[:, 0], [0, WIDTH / 2, WIDTH])
    assert (np.diff(drawn[:, 1]) > 0).all()  # y points down
    assert (drawn[:, 1] < HEIGHT).all()


def test_many_values_are_averaged() -> None:
    svg = curve_svg(np.linspace(1, 0, 5000).tolist())
    assert len(points(svg)) == POINTS
    assert "highest 0.99" in svg


def test_what_is_not_finite_is_left_out_and_too_little_draws_nothing() -> None:
    assert len(points(curve_svg([1.0, float("nan"), 0.5]))) == 2
    assert curve_svg([1.0]) == curve_svg([]) == ""


def test_a_page_shows_curves_by_name() -> None:
    page = Page("a run")
    page.curves({"loss": [2.0, 1.0], "once": [1.0]})
    made = page.html()
    assert made.count("<polyline") == 1
    assert "loss" in made
    assert "once" not in made
