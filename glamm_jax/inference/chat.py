"""Questions about images, answered in text and masks.

    assistant = glamm_jax.load("path/to/model")  # or "org/name" of the Hugging Face Hub
    answer = assistant.chat("dog.jpg", "Where is <p> the dog </p> [SEG]?")
    for grounding in answer.groundings:
        print(grounding.phrase, grounding.score, grounding.mask.mean())
    answer.save_overlay("answer.png")

`chat_many` answers several questions in one batch; `chat` is a batch of one. An answer depends on
its own question alone, whatever the other questions of the batch are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Bool, Float32, Int

from glamm_jax.config import DType, GLaMMConfig
from glamm_jax.data import rle
from glamm_jax.data.boxes import BoxError
from glamm_jax.data.collate import bucketed, build_batch, divisible
from glamm_jax.data.preprocess import ImageError, ImageSource, open_image
from glamm_jax.errors import FolderError
from glamm_jax.inference.answer import Answer, ScoredMask
from glamm_jax.inference.answer_rows import AnswerRow, AnswerRows, Question, sampling_of
from glamm_jax.inference.decode_state import DecodeState
from glamm_jax.inference.generate import Generator, used_slots
from glamm_jax.inference.placement import choose_mesh, complete_config
from glamm_jax.models.abstract import abstract_model
from glamm_jax.models.glamm import GLaMM
from glamm_jax.parallel import (
    GIB,
    MeshSizes,
    bytes_on_device,
    memory_limit,
    num_processes,
    num_shards,
    parse_mesh,
    to_host,
    use_mesh,
)
from glamm_jax.storage import AnyPath, to_path
from glamm_jax.text.prompt import PromptError
from glamm_jax.text.questions import MAX_NEW_TOKENS
from glamm_jax.text.tokenizer import Tokenizer, load_tokenizer
from glamm_jax.types import Batch, BatchShape
from glamm_jax.weights.folder import ModelFolder
from glamm_jax.weights.hub import save_pretrained, upload_model

MINIMAL_SHAPE = BatchShape()
DECODE_STEPS = 8  # tokens that are decoded before the texts are read and passed on

# Called with the index of a question and new text of its answer; False stops that answer.
OnText = Callable[[int, str], bool | None]


class PreparedQuestions(NamedTuple):
    """Questions that are answered in one batch, preprocessed. Answering them uses them up."""

    batch: Batch
    rows: list[AnswerRow]


class GeneratedAnswers(NamedTuple):
    """The tokens and masks of a batch, on the host.

    Attributes:
        rows: with their tokens.
        masks: of all [SEG]s, each at the top left of a common size.
        scores: the confidence in each.
        mask_rows: the row of each.
        steps: the token of each: 0 is the first of the answer, those of a prompt are negative.
    """

    rows: list[AnswerRow]
    masks: Bool[np.ndarray, "m h w"]
    scores: Float32[np.ndarray, "m"]
    mask_rows: Int[np.ndarray, "m"]
    steps: Int[np.ndarray, "m"]

    def masks_of(self, row: int) -> tuple[list[ScoredMask], list[ScoredMask]]:
        """Return the masks of the prompt and of the answer of a row."""
        height, width = self.rows[row].image.shape[:2]
        in_prompt: list[ScoredMask] = []
        in_answer: list[ScoredMask] = []
        for k in np.flatnonzero(self.mask_rows == row):
            mask = ScoredMask(rle.encode(self.masks[k, :height, :width]), float(self.scores[k]))
            (in_prompt if self.steps[k] < 0 else in_answer).append(mask)
        return in_prompt, in_answer


class Assistant:
    """A model and its tokenizer, answering questions.

    Args:
        model: the model.
        tokenizer: its tokenizer.
        mesh: that the model is placed on; None: one device.
        folder: that the model was loaded from; None: it exists in memory only.

    Raises:
        TokenizerError: the tokenizer's ids are not those of the model.
    """

    def __init__(
        self,
        model: GLaMM,
        tokenizer: Tokenizer,
        mesh: Mesh | None = None,
        folder: AnyPath | None = None,
    ):
        tokenizer.check(model.config.tokens)
        self.mesh = mesh
        self.folder = folder
        self.config: GLaMMConfig = model.config
        self.tokenizer = tokenizer
        self.rows = AnswerRows(model.config, tokenizer)
        self.generator = Generator(model)

    def placement(self) -> str:
        """Say in one line where the model is placed."""
        size = bytes_on_device(self.generator.state) / GIB
        limit = memory_limit()
        weights = f"{size:.2f} GiB of weights" + (f" of {limit / GIB:.1f}" if limit else "")
        if self.mesh is None:
            return f"1 x {jax.local_devices()[0].device_kind}: {weights}"
        sizes = MeshSizes(*self.mesh.devices.shape)
        kind, processes = self.mesh.devices.flat[0].device_kind, num_processes(self.mesh)
        together = f" of {processes} processes together" if processes > 1 else ""
        return f"{self.mesh.size} x {kind}{together}, {sizes}: {weights} on each"

    def save_pretrained(self, path: str | AnyPath) -> None:
        """Write the model folder that was loaded, with a model card.

        Raises:
            FolderError: `path` exists or cannot be written, or the model exists in memory only.
        """
        save_pretrained(self._loaded_folder(), to_path(str(path)))

    def push_to_hub(self, repository: str, *, private: bool = False) -> str:
        """Upload the model folder that was loaded to the Hugging Face Hub, with a model card.

        Args:
            repository: ORG/NAME.
            private: whether a new repository is private.

        Returns:
            The address of the commit.

        Raises:
            HubError: the Hub refuses it or cannot be reached.
            FolderError: the model exists in memory only.
        """
        return upload_model(self._loaded_folder(), repository, private=private)

    def _loaded_folder(self) -> AnyPath:
        if self.folder is None:
            raise FolderError(
                "the model exists in memory only; write it with "
                "glamm_jax.weights.folder.write_model"
            )
        return self.folder

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
        """Answer one question.

        Args:
            image, prompt, regions, history, max_tokens, temperature, top_p, seed: see `Question`.
            on_text: called with the clean text as it grows; the pieces make up `Answer.text`.
                Returning False ends the answer there.

        Raises:
            ImageError, BoxError, PromptError, QuestionError, SamplingError: the question cannot be
                used.
        """
        question = Question(image, prompt, regions, history, max_tokens, temperature, top_p, seed)
        on_piece = None if on_text is None else lambda _, piece: on_text(piece)
        return self.chat_many([question], on_text=on_piece)[0]

    def chat_many(
        self, questions: Sequence[Question], *, on_text: OnText | None = None
    ) -> list[Answer]:
        """Answer questions together; each answer is the one that `chat` gives.

        Questions with the same image object or path and the same regions share its encoding.

        Args:
            questions: to be answered.
            on_text: called with (index of the question, new text), as in `chat`; returning False
                ends that answer, the others go on.

        Raises:
            ImageError, BoxError, PromptError: a question cannot be used; names its index.
        """
        return self.answer(self.prepare(questions), on_text)

    def prepare(
        self, questions: Sequence[Question], min_shape: BatchShape = MINIMAL_SHAPE
    ) -> list[PreparedQuestions]:
        """The first half of `chat_many`, which needs no device: open and resize the images.

        A thread can do it while the device answers other questions.

        Args:
            questions: to be answered.
            min_shape: smallest shape of the batches, so that different batches share a program.

        Raises:
            ImageError, BoxError, PromptError: as `chat_many`.
        """
        opened: dict[Any, np.ndarray] = {}
        rows = []
        for index, question in enumerate(questions):
            try:
                source = question.image
                key = str(source) if isinstance(source, str | Path) else id(source)
                if key not in opened:
                    opened[key] = _open(source)
                rows.append(self.rows.row(index, question, opened[key]))
            except (ImageError, BoxError, PromptError) as error:
                if len(questions) == 1:
                    raise
                raise type(error)(f"question {index}: {error}") from error
        return [self._prepare_batch(batch_rows, min_shape) for batch_rows in self._batches(rows)]

    def answer(
        self, prepared: Sequence[PreparedQuestions], on_text: OnText | None = None
    ) -> list[Answer]:
        """The second half of `chat_many`: generate the answers and their masks.

        Args:
            prepared: by `prepare`.
            on_text: as in `chat_many`.
        """
        return self.assemble(self.generate(prepared, on_text))

    def generate(
        self, prepared: Sequence[PreparedQuestions], on_text: OnText | None = None
    ) -> list[GeneratedAnswers]:
        """The part of `answer` that needs the device.

        Args:
            prepared: by `prepare`.
            on_text: as in `chat_many`.
        """
        with on_mesh(self.mesh):
            return [
                self._finish(batch, self._generate(batch, rows, on_text), rows)
                for batch, rows in prepared
            ]

    def assemble(self, generated: Sequence[GeneratedAnswers]) -> list[Answer]:
        """The part of `answer` that needs no device: encode masks and attach them to phrases.

        A thread can do it while the device answers other questions.
        """
        answers = {
            row.index: self.rows.answer(row, *batch.masks_of(number))
            for batch in generated
            for number, row in enumerate(batch.rows)
        }
        return [answers[index] for index in sorted(answers)]

    def check(self, question: Question) -> None:
        """Check that a question can be answered; its image must be open already.

        Raises:
            ImageError, BoxError, PromptError: it cannot.
        """
        self.rows.row(0, question, _open(question.image))

    def _batches(self, rows: list[AnswerRow]) -> Iterator[list[AnswerRow]]:
        """Consecutive rows whose longest prompt leaves room for their longest answer."""
        batch: list[AnswerRow] = []
        for row in rows:
            extended = [*batch, row]
            longest_prompt = max(x.prompt.length for x in extended)
            longest_answer = max(x.limit for x in extended)
            if longest_prompt + longest_answer > self.config.llama.max_positions:
                yield batch
                extended = [row]
            batch = extended
        if batch:
            yield batch

    def _prepare_batch(self, rows: list[AnswerRow], min_shape: BatchShape) -> PreparedQuestions:
        """One sample an image; the rows in the order in which the batch has them."""
        groups: dict[tuple[int, bytes], list[AnswerRow]] = {}
        for row in rows:
            groups.setdefault(row.image_key, []).append(row)
        builder = build_batch([self.rows.sample(group) for group in groups.values()], self.config)
        shape = bucketed(builder.required_shape.union(min_shape))
        with on_mesh(self.mesh):
            shape = divisible(shape, num_shards("batch"))
        ordered = [row for group in groups.values() for row in group]
        return PreparedQuestions(builder.build(shape), ordered)

    def _prefill(self, batch: Batch, rows: list[AnswerRow]) -> DecodeState:
        padding = len(batch.token_ids) - len(rows)
        limits = [row.limit for row in rows] + [1] * padding
        return self.generator.prefill(batch, limits, sampling_of(rows, padding))

    def _generate(self, batch: Batch, rows: list[AnswerRow], on_text: OnText | None) -> DecodeState:
        """Decode `DECODE_STEPS` tokens at a time until every row has finished."""
        decoding = self._prefill(batch, rows)
        slots = decoding.cache.valid.shape[1]
        while True:
            for row, ids in zip(rows, self.generator.answer_token_ids(decoding), strict=False):
                if row.finish is not None:
                    continue
                piece = self.rows.read(row, ids, on_text is not None)
                if piece and on_text is not None and on_text(row.index, piece) is False:
                    row.finish = row.finish or "stopped"
            unfinished = [row.finish is None for row in rows]
            if not any(unfinished):
                return decoding
            padding = [False] * (len(decoding.finished) - len(rows))
            finished = ~np.array([*unfinished, *padding])
            decoding = decoding._replace(finished=decoding.finished | finished)
            longest = max(len(row.ids) for row in rows if row.finish is None)
            prompt_slots = decoding.prompt_hidden.shape[1]
            used = used_slots(prompt_slots + longest + DECODE_STEPS + 1, slots)
            decoding = self.generator.decode(decoding, DECODE_STEPS, used)

    def _finish(
        self, batch: Batch, decoding: DecodeState, rows: list[AnswerRow]
    ) -> GeneratedAnswers:
        """Decode the masks."""
        segs = self.generator.finish(batch, decoding)
        scores = to_host(segs.scores).astype(np.float32)
        return GeneratedAnswers(rows, to_host(segs.masks), scores, segs.rows, segs.steps)


def load(
    path: str | AnyPath,
    dtype: DType | None = None,
    mesh: Mesh | MeshSizes | str | None = None,
    devices: Sequence[Any] | None = None,
) -> Assistant:
    """Load the model of a folder, each device reading its own part of the weights.

    Args:
        path: a model folder of this machine or a bucket, or ORG/NAME of the Hugging Face Hub, with
            @REVISION if not the newest; it is downloaded unless the cache has it.
        dtype: of all weights and of the computation; None: as the folder stores them and says.
        mesh: to place the weights on, or its sizes: "fsdp=2,tensor=4"; None: one device if the
            model fits it, else all devices (`glamm_jax.inference.placement`).
        devices: to make the mesh of; None: those of this process.

    Raises:
        FolderError, ConfigError, TensorFileError, TokenizerError: the folder cannot be used; names
            what is wrong with it.
        MeshError: the mesh does not fit the devices or the model, or the model fits no mesh.
    """
    folder = ModelFolder(path)
    config = complete_config(folder)
    config = config if dtype is None else replace(config, compute_dtype=dtype)
    tokenizer = load_tokenizer(folder.path, config.tokens)
    if not isinstance(mesh, Mesh):
        sizes = parse_mesh(mesh) if isinstance(mesh, str) else mesh
        mesh = choose_mesh(folder, dtype, sizes, devices)
    graph, state = abstract_model(config)
    with on_mesh(mesh):
        model = nnx.merge(graph, folder.fill(state, dtype))
        return Assistant(model, tokenizer, mesh, folder.path)


def on_mesh(mesh: Mesh | None) -> AbstractContextManager:
    """Use a mesh inside of a `with` statement; None: one device."""
    return nullcontext() if mesh is None else use_mesh(mesh)


def _open(source: ImageSource) -> np.ndarray:
    if source is None:
        raise ImageError("no image: every question is about an image, so give one")
    return open_image(source)
