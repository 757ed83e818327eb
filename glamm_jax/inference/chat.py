"""Questions about pictures, answered in words and masks.

    assistant = glamm_jax.load("path/to/model")
    answer = assistant.chat("dog.jpg", "Where is <p> the dog </p> [SEG]?")
    for each in answer.groundings:
        print(each.phrase, each.score, each.mask.mean())
    answer.save_picture("answer.png")

`chat_many` answers several questions in one pass over the device; `chat` is a batch of one. An
answer depends on its own question alone, whatever it shares the batch with.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Float, UInt8

from glamm_jax.config import DType, GLaMMConfig
from glamm_jax.data.boxes import BoxError, check_boxes, to_unit
from glamm_jax.data.collate import bucketed, divisible, fit, pack
from glamm_jax.data.preprocess import (
    ImageError,
    ImageSource,
    clip_image,
    grounding_image,
    open_image,
)
from glamm_jax.data.sample import Row, Sample
from glamm_jax.errors import FolderError, GLaMMError
from glamm_jax.inference.answer import (
    Answer,
    Finish,
    ScoredMask,
    attach_masks,
    attach_masks_to_turns,
)
from glamm_jax.inference.generate import DecodeState, Generator
from glamm_jax.inference.sampling import Sampling
from glamm_jax.models.abstract import abstract_model
from glamm_jax.models.glamm import GLaMM
from glamm_jax.parallel import num_batch_shards, to_host, use_mesh
from glamm_jax.text.answer_parser import parse_answer, stable_text
from glamm_jax.text.prompt import Prompt, PromptError, build_prompt
from glamm_jax.text.questions import MAX_NEW_TOKENS
from glamm_jax.text.special_tokens import IGNORE_ID
from glamm_jax.text.tokenizer import Tokenizer, load_tokenizer
from glamm_jax.types import Batch, BatchShape
from glamm_jax.weights.folder import ModelFolder

NO_ROOM = BatchShape()
SLICE = 8  # tokens between two looks at what has been written


class QuestionError(GLaMMError):
    """An answer cannot have the length that is asked for."""


@dataclass(frozen=True, eq=False)
class Question:
    """One question about one picture, with all that its answer depends on.

    image: a path, bytes, an open file, a PIL image, or uint8[h, w, 3].
    prompt: the words. A `<p> phrase </p> [SEG]` in them is given a mask.
    regions: boxes x0 y0 x1 y1 in pixels of the upright picture, one for each `<bbox>` of the
        history's questions and the prompt, in their order.
    history: earlier (question, answer) pairs about the picture, as `Answer.turn` gives them. Their
        [SEG]s get masks of their own, so a known answer put here is grounded (teacher forcing).
    max_tokens: longest answer; less where the model's context ends.
    temperature: 0 takes the likeliest token; above, tokens are drawn, from the smallest set that
        holds `top_p` of the probability, by `seed`.

    Raises: QuestionError, SamplingError when one of these numbers is out of its range.
    """

    image: ImageSource
    prompt: str
    regions: Any = ()
    history: Sequence[tuple[str, str]] = ()
    max_tokens: int = MAX_NEW_TOKENS
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.max_tokens < 1:
            raise QuestionError(f"max_tokens is {self.max_tokens}; an answer has at least one")
        Sampling.of(1, self.temperature, self.top_p, self.seed)


@dataclass(eq=False)
class _Row:
    """A question on its way to its answer."""

    number: int  # among the questions
    question: Question
    image: UInt8[np.ndarray, "h w 3"]
    boxes: Float[np.ndarray, "r 4"]
    prompt: Prompt
    limit: int  # tokens that the answer may have
    ids: list[int] = field(default_factory=list)
    finish: Finish | None = None
    sent: str = ""

    @property
    def looks_at(self) -> tuple[int, bytes]:
        """Equal for rows that can share the work on one picture."""
        return id(self.image), self.boxes.tobytes()


class PreparedQuestions(NamedTuple):
    """Questions that are answered together, as the model takes them; answering uses them up."""

    batch: Batch
    rows: list[_Row]


class Assistant:
    """A model and its tokenizer, which answer questions; on `mesh` when there is one.

    Raises: TokenizerError when the tokenizer's ids are not the model's.
    """

    def __init__(self, model: GLaMM, tokenizer: Tokenizer, mesh: Mesh | None = None):
        tokenizer.check(model.config.tokens)
        self.mesh = mesh
        self.config: GLaMMConfig = model.config
        self.tokenizer = tokenizer
        self.generator = Generator(model)

    def chat(
        self,
        image: ImageSource,
        prompt: str,
        *,
        regions: Any = (),
        history: Sequence[tuple[str, str]] = (),
        max_tokens: int = MAX_NEW_TOKENS,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int = 0,
        on_text: Callable[[str], bool | None] | None = None,
    ) -> Answer:
        """Answer one question; the arguments are those of `Question`.

        on_text: hears the clean text as it grows; the pieces make up `Answer.text`. Returning
            False ends the answer there, and what has been written is returned.

        Raises: ImageError, BoxError, PromptError, QuestionError, SamplingError when the question
            cannot be used.
        """
        question = Question(image, prompt, regions, history, max_tokens, temperature, top_p, seed)
        hear = None if on_text is None else lambda _, piece: on_text(piece)
        return self.chat_many([question], on_text=hear)[0]

    def chat_many(
        self,
        questions: Sequence[Question],
        *,
        on_text: Callable[[int, str], bool | None] | None = None,
    ) -> list[Answer]:
        """Answer questions together; the answers are those that `chat` gives to each.

        Questions that hold the same image object or path with the same regions share the work of
        encoding it.

        on_text: hears (number of the question, new text), as in `chat`; returning False ends that
            answer, the others go on.

        Raises: ImageError, BoxError, PromptError naming the question that cannot be used.
        """
        return self.answer(self.prepare(questions), on_text)

    def prepare(
        self, questions: Sequence[Question], room: BatchShape = NO_ROOM
    ) -> list[PreparedQuestions]:
        """The first half of `chat_many`, which needs no device: pictures opened and resized.

        A thread can do it while the device answers other questions.

        room: of the batch at the least, so that batches that differ share a program.
        """
        opened: dict[Any, np.ndarray] = {}
        rows = []
        for number, question in enumerate(questions):
            try:
                source = question.image
                key = str(source) if isinstance(source, str | Path) else id(source)
                if key not in opened:
                    opened[key] = _open(source)
                rows.append(self._row(number, question, opened[key]))
            except (ImageError, BoxError, PromptError) as error:
                if len(questions) == 1:
                    raise
                raise type(error)(f"question {number}: {error}") from error
        return [self._prepared(together, room) for together in self._batches(rows)]

    def answer(
        self,
        prepared: Sequence[PreparedQuestions],
        on_text: Callable[[int, str], bool | None] | None = None,
    ) -> list[Answer]:
        """The second half of `chat_many`: what the device does, and reading its answers."""
        answers: dict[int, Answer] = {}
        with _on(self.mesh):
            for batch, rows in prepared:
                decoding = self._write(batch, rows, on_text)
                answers |= self._finish(batch, decoding, rows)
        return [answers[number] for number in sorted(answers)]

    def check(self, question: Question) -> None:
        """Whether a question can be asked; its picture must be open already.

        Raises: ImageError, BoxError, PromptError when it cannot.
        """
        self._row(0, question, _open(question.image))

    def _row(self, number: int, question: Question, image: np.ndarray) -> _Row:
        boxes = check_boxes(question.regions, *image.shape[:2])
        prompt = build_prompt(
            question.prompt,
            self.tokenizer,
            history=question.history,
            num_regions=len(boxes),
            num_image_tokens=self.config.clip.num_patches,
            context=self.config.llama.max_positions,
        )
        limit = min(question.max_tokens, prompt.max_answer_tokens)
        return _Row(number, question, image, boxes, prompt, limit)

    def _prepared(self, rows: list[_Row], room: BatchShape) -> PreparedQuestions:
        samples, ordered = self._samples(rows)
        capacity = bucketed(fit(samples, self.config).union(room))
        with _on(self.mesh):
            capacity = divisible(capacity, num_batch_shards())
        return PreparedQuestions(pack(samples, self.config, capacity), ordered)

    def _batches(self, rows: list[_Row]) -> Iterator[list[_Row]]:
        """Rows whose longest prompt leaves room for the longest answer among them."""
        together: list[_Row] = []
        for row in rows:
            wider = [*together, row]
            longest = max(each.prompt.length for each in wider)
            if longest + max(each.limit for each in wider) > self.config.llama.max_positions:
                yield together
                wider = [row]
            together = wider
        if together:
            yield together

    def _samples(self, rows: list[_Row]) -> tuple[list[Sample], list[_Row]]:
        """One sample a picture, and the rows in the order in which the batch will hold them."""
        groups: dict[tuple[int, bytes], list[_Row]] = {}
        for row in rows:
            groups.setdefault(row.looks_at, []).append(row)
        samples = [self._sample(group) for group in groups.values()]
        return samples, [row for group in groups.values() for row in group]

    def _sample(self, rows: list[_Row]) -> Sample:
        image, boxes = rows[0].image, rows[0].boxes
        grounding = grounding_image(image, self.config.sam.image_size)
        ids = [row.prompt.ids for row in rows]
        return Sample(
            rows=tuple(Row(each, np.full_like(each, IGNORE_ID)) for each in ids),
            image=clip_image(image, self.config.clip.image_size),
            grounding_image=grounding.pixels,
            resized_size=grounding.resized_size,
            original_size=grounding.original_size,
            boxes_xyxy_unit=to_unit(boxes, *image.shape[:2]) if len(boxes) else None,
        )

    def _prefill(self, batch: Batch, rows: list[_Row]) -> DecodeState:
        asked = [row.question for row in rows]
        asked += [asked[0]] * (len(batch.token_ids) - len(rows))  # spare rows draw nothing
        sampling = Sampling.of(
            len(asked),
            [question.temperature for question in asked],
            [question.top_p for question in asked],
            [question.seed for question in asked],
        )
        return self.generator.prefill(batch, max(row.limit for row in rows), sampling)

    def _write(
        self,
        batch: Batch,
        rows: list[_Row],
        on_text: Callable[[int, str], bool | None] | None,
    ) -> DecodeState:
        """Decode slice by slice until every row has ended, was stopped, or is long enough."""
        decoding = self._prefill(batch, rows)
        while True:
            for row, ids in zip(rows, self.generator.answers(decoding), strict=False):
                if row.finish is None:
                    self._read(row, ids, on_text)
            open_rows = [row.finish is None for row in rows]
            if not any(open_rows):
                return decoding
            spare = [False] * (len(decoding.done) - len(rows))
            closed = ~np.array([*open_rows, *spare])
            decoding = decoding._replace(done=decoding.done | closed)
            decoding = self.generator.decode(decoding, SLICE)

    def _read(
        self, row: _Row, ids: list[int], on_text: Callable[[int, str], bool | None] | None
    ) -> None:
        """Take what a row has written so far, and pass on what is new and certain of it."""
        row.ids = ids[: row.limit]
        if row.ids[-1] == self.config.tokens.eos:
            row.finish = "end"
        elif len(row.ids) == row.limit:
            row.finish = "length"
        if on_text is None:
            return
        written, _ = self._decoded(row.ids)
        text = parse_answer(written).text if row.finish else stable_text(written)
        piece, row.sent = text[len(row.sent) :], max(row.sent, text, key=len)
        if piece and on_text(row.number, piece) is False:
            row.finish = row.finish or "stopped"

    def _decoded(self, ids: list[int]) -> tuple[str, tuple[str, ...]]:
        """The words of ids; ids that the tokenizer does not have are left out and named."""
        known = [i for i in ids if i < self.tokenizer.size]
        unknown = tuple(f"no token has the id {i}" for i in ids if i >= self.tokenizer.size)
        return self.tokenizer.decode(known, skip_control=True), unknown

    def _finish(self, batch: Batch, decoding: DecodeState, rows: list[_Row]) -> dict[int, Answer]:
        """The answers by the number of their question, each with its masks."""
        found = self.generator.finish(batch, decoding)
        masks, scores = to_host(found.masks), to_host(found.iou).astype(np.float32)
        answers = {}
        for place, row in enumerate(rows):
            height, width = row.image.shape[:2]
            asked: list[ScoredMask] = []
            said: list[ScoredMask] = []
            for k in np.flatnonzero(found.rows == place):
                if found.steps[k] < len(row.ids):  # the last slice may go on behind the limit
                    # A copy: a view would keep the masks of the whole batch in memory.
                    mask = ScoredMask(masks[k, :height, :width].copy(), float(scores[k]))
                    (asked if found.steps[k] < 0 else said).append(mask)
            answers[row.number] = self._put_together(row, asked, said)
        return answers

    def _put_together(self, row: _Row, asked: list[ScoredMask], said: list[ScoredMask]) -> Answer:
        assert row.finish is not None
        turns = [turn for pair in row.question.history for turn in pair]
        *history, question = attach_masks_to_turns([*turns, row.question.prompt], asked)
        written, unknown = self._decoded(row.ids)
        answer, problems = attach_masks(written, said)
        return Answer(
            answer.raw,
            answer.text,
            answer.groundings,
            question=question[0],
            history=tuple(turn for turn, _ in history),
            image=row.image,
            regions=row.boxes,
            finish=row.finish,
            problems=(*(f"in the question: {x}" for x in question[1]), *problems, *unknown),
        )


def load(path: str | Path, dtype: DType | None = None, mesh: Mesh | None = None) -> Assistant:
    """The model of a folder, its weights read straight onto the devices of `mesh`.

    dtype: of all weights and of the arithmetic; as the folder stores and says it unless given.

    Raises: FolderError, ConfigError, TensorFileError, TokenizerError naming what is wrong with it.
    """
    folder = ModelFolder(path)
    config = folder.config
    if not isinstance(config, GLaMMConfig):
        raise FolderError(f"{path}: holds a part of a model, not a whole GLaMM")
    config = config if dtype is None else replace(config, compute_dtype=dtype)
    tokenizer = load_tokenizer(folder.path, config.tokens)
    graph, state = abstract_model(config)
    with _on(mesh):
        model = nnx.merge(graph, folder.fill(state, dtype))
        return Assistant(model, tokenizer, mesh)


def _on(mesh: Mesh | None) -> AbstractContextManager:
    return nullcontext() if mesh is None else use_mesh(mesh)


def _open(source: ImageSource) -> np.ndarray:
    if source is None:
        raise ImageError("no image: every question is about a picture, so give one")
    return open_image(source)
