"""Boxes and the `<bbox>` of a question.

    question_boxes("What is region2 <bbox>?", boxes)  ->  (boxes[1],)

A `<bbox>` behind the name `region2` means box 2. One without a name means the box of its place: the
first `<bbox>` of the question box 1, the second one box 2.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from glamm_jax.errors import GLaMMError
from glamm_jax.text.questions import REGION_GROUP_QUESTIONS, REGION_QUESTIONS, format_question
from glamm_jax.text.special_tokens import REGION

Box = tuple[float, float, float, float]  # x0 y0 x1 y1 in pixels
_MENTION = re.compile(rf"(?:region(?P<number>\d{{1,4}})\s*)?{re.escape(REGION)}")


class RegionError(GLaMMError):
    """A question refers to a box that does not exist."""


def question_boxes(question: str, boxes: Sequence[Box]) -> tuple[Box, ...]:
    """Return one box for each `<bbox>` of a question, in their order.

    Raises:
        RegionError: a box is missing.
    """
    numbers = [
        int(match["number"] or place)
        for place, match in enumerate(_MENTION.finditer(question), start=1)
    ]
    if numbers and not boxes:
        raise RegionError(
            f"The question has {REGION}, but there is no box. Draw one on the image, or leave "
            f"{REGION} out."
        )
    for number in numbers:
        if not 1 <= number <= len(boxes):
            raise RegionError(
                f"The question refers to region {number}, but there "
                f"{'is 1 box' if len(boxes) == 1 else f'are {len(boxes)} boxes'}. Draw the box, or "
                f"change the question."
            )
    return tuple(boxes[number - 1] for number in numbers)


def region_question(num_regions: int) -> str:
    """Return the question of the preset about one region or several; "" for none."""
    if not num_regions:
        return ""
    questions = REGION_QUESTIONS if num_regions == 1 else REGION_GROUP_QUESTIONS
    return format_question(questions, 0, num_regions=num_regions)


def add_mention(question: str, number: int) -> str:
    """Return the question with the box of this number, which has just been drawn.

    An empty question, or that of the preset, becomes the preset for all boxes.
    """
    if question.strip() in ("", region_question(number - 1)):
        return region_question(number)
    return f"{question.rstrip()} region{number} {REGION}"


def remove_mention(question: str, number: int, num_regions: int) -> str:
    """Return the question without a box; the boxes behind it are renumbered.

    Args:
        question: as it was written.
        number: of the removed box.
        num_regions: number of boxes before.
    """
    if question.strip() == region_question(num_regions):
        return region_question(num_regions - 1)
    place = 0

    def replacement(match: re.Match[str]) -> str:
        nonlocal place
        place += 1
        mentioned = int(match["number"] or place)
        if mentioned == number:
            return ""
        if match["number"] is None or mentioned < number:
            return match[0]
        return match[0].replace(match["number"], str(mentioned - 1), 1)

    return re.sub(r"  +", " ", _MENTION.sub(replacement, question)).strip()
