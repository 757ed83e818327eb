"""Functions of the page's events. What they return goes to the components that `page` names."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from functools import wraps
from pathlib import Path
from typing import Any

import gradio as gr  # pyright: ignore[reportMissingImports]  # an extra
import numpy as np

from glamm_jax.app.asking import answer_question
from glamm_jax.app.conversation import Conversation, open_picture, picture_of
from glamm_jax.app.downloads import AnswerFiles, write_files
from glamm_jax.app.inpainting import inpaint
from glamm_jax.app.page_settings import PageSettings
from glamm_jax.app.presets import preset_question
from glamm_jax.app.regions import add_mention, remove_mention
from glamm_jax.app.views import Pending, mask_choices, stage_html, transcript_html
from glamm_jax.errors import GLaMMError

NUM_FILES = len(AnswerFiles._fields)
SKIP: Any = gr.skip()  # a component stays as it is


def show_errors(handler: Callable[..., Any]) -> Callable[..., Any]:
    """Return a handler whose errors are shown in a corner of the page; nothing else changes."""

    @wraps(handler)
    def wrapper(*arguments: Any, **options: Any) -> Any:
        try:
            return handler(*arguments, **options)
        except GLaMMError as error:
            raise gr.Error(str(error), title="", print_exception=False) from error

    return wrapper


class Handlers:
    """The events of one page. All sessions share it, so it has no state but the settings.

    "The four" are: state, image, transcript, question.
    """

    def __init__(self, settings: PageSettings):
        self._settings = settings

    def open_upload(self, path: str | None, conversation: Conversation) -> tuple[Any, ...]:
        """Begin a conversation about an uploaded file: the four, the upload, files and masks."""
        if path is None:
            return (SKIP,) * (6 + NUM_FILES)
        try:
            opened = Conversation(open_picture(Path(path)))
        except (GLaMMError, OSError) as error:
            # The conversation so far stays. The upload is emptied, so that another file can follow.
            failed = Pending("", error=f"The file cannot be used: {error}")
            transcript = transcript_html(conversation, failed)
            return SKIP, SKIP, transcript, SKIP, None, *(SKIP,) * (NUM_FILES + 1)
        return *_opened(opened), None, *_no_files()

    def open_example(self, index: int) -> tuple[Any, ...]:
        """Begin a conversation about an example: the four, files and masks."""
        example = self._settings.examples[index]
        conversation = Conversation(picture_of(example.pixels), example.boxes)
        return *_opened(conversation, example.question), *_no_files()

    def restart(self, conversation: Conversation) -> tuple[Any, ...]:
        """Forget the questions and answers about the image: the four, files and masks."""
        return *_opened(conversation.without_exchanges()), *_no_files()

    def show(self, conversation: Conversation) -> tuple[str, str]:
        """Show the answers that are complete: image and transcript."""
        return stage_html(conversation), transcript_html(conversation)

    def use_preset(self, name: str, conversation: Conversation) -> str:
        """Return the question of a preset."""
        return preset_question(name, len(conversation.boxes))

    @show_errors
    def draw_box(
        self, conversation: Conversation, question: str, event: gr.EventData
    ) -> tuple[Any, ...]:
        """Add the box that was drawn, in shares of the image's sides: state, image, question."""
        return _with_box(conversation, question, event._data.get("box"))

    @show_errors
    def add_box(
        self, conversation: Conversation, question: str, *percent: float | None
    ) -> tuple[Any, ...]:
        """Add the box of four numbers: state, image, question."""
        return _with_box(conversation, question, [(side or 0.0) / 100 for side in percent])

    def remove_box(
        self, conversation: Conversation, question: str, event: gr.EventData
    ) -> tuple[Any, ...]:
        """Remove a box, and what the question says about it: state, image, question."""
        index, count = event._data.get("index"), len(conversation.boxes)
        if not isinstance(index, int) or not 0 <= index < count:
            return (SKIP,) * 3  # it has been removed already
        conversation = conversation.without_box(index)
        return conversation, stage_html(conversation), remove_mention(question, index + 1, count)

    def ask(
        self, conversation: Conversation, question: str, *options: float | None
    ) -> Iterator[tuple[Any, ...]]:
        """Ask the server, and show the answer while it is generated: the four and the masks."""
        max_tokens, temperature, top_p, seed = (option or 0 for option in options)
        request = {
            "max_tokens": int(max_tokens),
            "temperature": temperature,
            "top_p": top_p,
            "seed": int(seed),
        }
        for update in answer_question(self._settings.client, conversation, question, request):
            if isinstance(update, Pending):
                yield SKIP, SKIP, transcript_html(conversation, update), SKIP, SKIP
            else:
                yield update, *self.show(update), "", _mask_dropdown(update)

    @show_errors
    def write_files(self, conversation: Conversation, folder: str | None) -> tuple[Any, ...]:
        """Write the files of the last answer: their folder and the download buttons."""
        if not conversation.exchanges:
            return (SKIP,) * (1 + NUM_FILES)
        folder = folder or tempfile.mkdtemp(dir=self._settings.folder)
        paths = write_files(conversation.last_answer(), Path(folder))
        return folder, *(gr.DownloadButton(value=str(path), interactive=True) for path in paths)

    @show_errors
    def paint(
        self, conversation: Conversation, index: int | None, prompt: str, is_inverted: bool
    ) -> np.ndarray:
        """Paint into a mask of the last answer, or into everything else."""
        assert self._settings.pipeline is not None
        image, mask = conversation.mask(-1 if index is None else index)
        return inpaint(self._settings.pipeline, image, mask ^ is_inverted, prompt)


def remove_folder(folder: str | None) -> None:
    """Remove the files of a session that has ended."""
    if folder is not None:
        shutil.rmtree(folder, ignore_errors=True)


def _opened(conversation: Conversation, question: str = "") -> tuple[Any, ...]:
    """A conversation without answers: the four."""
    return conversation, stage_html(conversation), transcript_html(conversation), question


def _no_files() -> tuple[Any, ...]:
    """Download buttons and masks before there is an answer."""
    buttons = (gr.DownloadButton(value=None, interactive=False) for _ in range(NUM_FILES))
    return *buttons, _mask_dropdown(Conversation())


def _mask_dropdown(conversation: Conversation) -> gr.Dropdown:
    masks = list(mask_choices(conversation))
    return gr.Dropdown(choices=masks, value=masks[0][1] if masks else None)


def _with_box(conversation: Conversation, question: str, box_xyxy_unit: Any) -> tuple[Any, ...]:
    conversation = conversation.with_box(box_xyxy_unit)
    question = add_mention(question, len(conversation.boxes))
    return conversation, stage_html(conversation), question
