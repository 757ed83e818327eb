"""The files of an answer: PNG, JSON and SVG."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from glamm_jax.files import write_atomic
from glamm_jax.inference.answer import Answer
from glamm_jax.report.svg_overlay import svg_overlay


class AnswerFiles(NamedTuple):
    """Paths of the files of an answer."""

    png: Path
    json: Path
    svg: Path


def write_files(answer: Answer, folder: Path) -> AnswerFiles:
    """Write the files, as `Answer.save_overlay` and `Answer.save` do; earlier ones are replaced."""
    files = AnswerFiles(*(folder / f"answer.{suffix}" for suffix in AnswerFiles._fields))
    answer.save_overlay(files.png)
    answer.save(files.json)
    passages = [answer.question.coloured_text(), answer.coloured_text()]
    write_atomic(files.svg, svg_overlay(answer.image, passages, answer.regions))
    return files
