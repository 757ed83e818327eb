"""`glamm-jax ask --images`: the same questions about every image of a folder."""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tqdm import tqdm

from glamm_jax.cli.program import printable, this_machine
from glamm_jax.errors import ConfigError
from glamm_jax.grand.export.filters import ExportFilters
from glamm_jax.grand.export.formats import find_exporter
from glamm_jax.image_answers.grand_items import grand_items
from glamm_jax.image_answers.questions import (
    TASKS,
    FolderQuestions,
    file_questions,
    folder_questions,
)
from glamm_jax.image_answers.run import AnswerRun, write_answer_lines
from glamm_jax.inference.chat import Assistant
from glamm_jax.training.fingerprint import fingerprint

LINES = "jsonl"
EXPORTS = ("coco", "label-studio", "grand-json", "parquet", "fiftyone")
FORMATS = (LINES, *EXPORTS)
RUN_SUFFIX = ".run"
# Captions of an answer are not verified by another model.
_FILTERS = ExportFilters(unverified_captions=True)
_NUM_SHOWN = 3


def add_folder_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of a folder."""
    add = parser.add_argument_group("all images of a folder").add_argument
    add("--images", type=this_machine, metavar="FOLDER", help="instead of --image")
    add("--task", choices=TASKS, default="gcg", help="what to ask (default: %(default)s)")
    add(
        "--expression",
        action="append",
        default=[],
        metavar="TEXT",
        help="what to segment, for --task refer; repeat the option for several",
    )
    add(
        "--questions",
        type=this_machine,
        metavar="FILE",
        help="JSON lines with the images, and the expressions or boxes of each",
    )
    add("--format", nargs="+", choices=FORMATS, default=[LINES], help="default: jsonl")
    add("--batch", type=int, default=8, help="rows of a batch (%(default)s)")


def check_folder_options(options: argparse.Namespace) -> None:
    """Check that no option of a single question is given.

    Raises:
        ConfigError: one is.
    """
    single = {
        "--image": options.image,
        "--box": options.box,
        "--temperature": options.temperature,
        "--scene": options.scene,
    }
    if given := [name for name, value in single.items() if value]:
        raise ConfigError(f"{given[0]} is for a single image, not for --images")
    if options.batch < 1:
        raise ConfigError(f"--batch {options.batch}: at least 1")
    if not options.images.is_dir():
        raise ConfigError(f"{options.images}: no such folder")
    if options.questions and options.expression:
        raise ConfigError("--questions has the expressions of each image; leave out --expression")
    if not isinstance(options.out, Path):
        raise ConfigError(f"{options.out}: the answers about a folder are written to this machine")


def read_questions(options: argparse.Namespace, is_shipped: bool) -> FolderQuestions:
    """Make the questions.

    Args:
        options: the parsed command line.
        is_shipped: whether the model is the shipped one, which knows this project's prompts.

    Raises:
        QuestionsError, PromptTemplateError: the questions or the prompt cannot be used.
    """
    style = options.prompt or ("ours" if is_shipped else "original")
    prompt = TASKS[options.task].prompt_template(style)
    if options.questions:
        questions = file_questions(options.images, options.task, prompt, options.questions)
    else:
        questions = folder_questions(options.images, options.task, prompt, options.expression)
    print(f"{len(questions.items)} questions about {len(questions.names)} images", flush=True)
    _print_some("not taken", questions.refused)
    return questions


def answer_folder(
    options: argparse.Namespace, questions: FolderQuestions, assistant: Assistant
) -> None:
    """Answer the questions and write all formats.

    Args:
        options: the parsed command line.
        questions: to be answered.
        assistant: the model.

    Raises:
        QuestionsError: the folder of the run has answers of another configuration.
    """
    base = options.out.with_suffix("") if options.out.suffix == f".{LINES}" else options.out
    folder = base.with_name(base.name + RUN_SUFFIX)
    run = AnswerRun(folder, questions, _config(options, questions, assistant))
    with run.lock():
        run.answer(assistant, options.batch, options.tokens)
        lines = base.with_name(f"{base.name}.{LINES}")
        failed = write_answer_lines(lines, run)
        print(f"wrote {lines}: {len(questions.items) - len(failed)} answers, {len(failed)} failed")
        _print_some("failed", failed)
        for name in options.format:
            if name != LINES:
                _export(run, options, name, base.with_name(f"{base.name}-{name}"))
    print(f"the same command resumes or adds formats; its answers are in {folder}")


def _print_some(what: str, reasons: Mapping[str, str]) -> None:
    for name, reason in [*reasons.items()][:_NUM_SHOWN]:
        print(f"{what}: {printable(f'{name}: {reason}')}")
    if len(reasons) > _NUM_SHOWN:
        print(f"{what}: {len(reasons) - _NUM_SHOWN} more")


def _config(
    options: argparse.Namespace, questions: FolderQuestions, assistant: Assistant
) -> dict[str, Any]:
    """Return what the answers depend on, besides the images."""
    content = options.questions.read_bytes() if options.questions else b""
    return {
        "task": options.task,
        "prompt": questions.prompt,
        "expressions": options.expression,
        "questions": hashlib.sha256(content).hexdigest() if content else None,
        "max_tokens": options.tokens,
        "weights": fingerprint(assistant.generator.state),
        "dtype": assistant.config.compute_dtype,
    }


def _export(run: AnswerRun, options: argparse.Namespace, name: str, out: Path) -> None:
    predictions = {item.id: prediction for item, prediction in run.predictions()}
    with tqdm(total=len(run.questions.names), unit=" images", disable=None) as bar:
        summary = find_exporter(name)(
            grand_items(run.questions, options.task, predictions),
            out,
            filters=_FILTERS,
            overwrite=True,
            on_image=lambda: bar.update() and None,
        )
    print(f"wrote {out}: {name}")
    print("\n".join(summary.lines()))
