"""A question on its way through the engine, the limits of the engine, and its refusals."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

from glamm_jax.data.encode import Sample
from glamm_jax.errors import GLaMMError
from glamm_jax.inference.answer import Answer, ScoredMask
from glamm_jax.inference.answer_rows import AnswerRow


class EngineError(RuntimeError):
    """The engine failed at a question, which may be right."""


class QueueFullError(EngineError):
    """As many questions wait as may wait."""


class NotReadyError(EngineError):
    """The engine takes no questions: not yet, or no more."""


class CancelledError(EngineError):
    """The caller has given the question up."""


class TooLateError(EngineError):
    """The question was not answered in time."""


class TooLongError(GLaMMError):
    """A prompt or an answer is longer than the engine has room for."""


@dataclass(frozen=True)
class EngineOptions:
    """Limits of the engine.

    Attributes:
        slots: rows that are decoded together.
        max_queue: questions that wait for a slot.
        max_answer: longest answer in tokens; None: as long as the context.
        max_prompt: longest prompt in tokens, image patches included; None: the context.
        prefill_rows: questions whose prompts are run together.
        mask_images: images that are encoded together for masks.
        decode_steps: tokens that are decoded before the texts are read.
        warm_up_size: height and width of the image that the first programs are compiled for; None:
            they are compiled for the first questions.
    """

    slots: int = 8
    max_queue: int = 64
    max_answer: int | None = None
    max_prompt: int | None = None
    prefill_rows: int = 4
    mask_images: int = 4
    decode_steps: int = 8
    warm_up_size: tuple[int, int] | None = (480, 640)

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if isinstance(value, int) and value < 1:
                raise GLaMMError(f"{name} is {value}; it must be at least 1")


@dataclass(eq=False)
class AnswerJob:
    """A question that the engine has accepted.

    Attributes:
        row: the question, tokenized, and the tokens of its answer.
        sample: the input of the model.
        deadline: of `time.monotonic`, after which the question is given up; None: never.
        on_text: called in the engine's thread with new text of the answer; None: not streamed.
        future: of the answer.
        submitted: when the engine accepted it; of `time.monotonic`, as all times.
        started: when its prompt was run; None: it waits.
        first_token: when its first token was read.
        slot: its row of the running state, while it is decoded.
        prompt_segs: positions of the hidden states of the [SEG]s of its prompt.
        masks: decoded so far: the step of each [SEG], -1 for one of the prompt, and the mask.
    """

    row: AnswerRow
    sample: Sample
    deadline: float | None = None
    on_text: Callable[[str], None] | None = None
    future: Future[Answer] = field(default_factory=Future)
    submitted: float = field(default_factory=time.monotonic)
    started: float | None = None
    first_token: float | None = None
    slot: int | None = None
    prompt_segs: Sequence[int] = ()
    masks: list[tuple[int, ScoredMask]] = field(default_factory=list)
    _cancelled: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        # A future that runs cannot be cancelled: the engine alone decides how it ends.
        self.future.set_running_or_notify_cancel()

    @property
    def has_regions(self) -> bool:
        """Whether the question has boxes."""
        return len(self.row.boxes) > 0

    def cancel(self) -> None:
        """Give the question up; its slot becomes free at the end of the current step."""
        self._cancelled.set()

    def abandoned(self) -> EngineError | None:
        """Return why the engine should not go on with this question; None: it should."""
        if self._cancelled.is_set():
            return CancelledError("the request was cancelled")
        if self.deadline is not None and time.monotonic() > self.deadline:
            seconds = self.deadline - self.submitted
            return TooLateError(f"not answered within {seconds:.0f} seconds")
        return None
