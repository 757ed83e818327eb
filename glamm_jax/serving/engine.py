"""Continuous batching: one thread that owns the device, and questions that join and leave it.

    engine = Engine(load(MODEL), EngineOptions(slots=8))
    engine.start()
    engine.ready.wait()
    job = engine.submit(engine.prepare(Question(image, "What is this?")), timeout=60)
    answer = job.future.result()
    engine.stop()

A cycle of the thread: questions that were given up leave their slots; the prompts of waiting
questions are run, a few together, and inserted into free slots; the masks of questions that have
finished are decoded, those of several images together; all slots decode a few tokens. The text of
an answer does not depend on the questions that share the batch.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import jax.numpy as jnp
import numpy as np

from glamm_jax.data import rle
from glamm_jax.data.collate import bucket, build_batch, divisible
from glamm_jax.inference.answer import ScoredMask
from glamm_jax.inference.answer_rows import Question, sampling_of
from glamm_jax.inference.chat import Assistant, on_mesh
from glamm_jax.inference.decode_state import DecodeState, StateShape
from glamm_jax.inference.generate import SegTokens, used_slots
from glamm_jax.inference.mask_programs import DecodedMasks
from glamm_jax.parallel import MeshError, num_processes, num_shards, to_host
from glamm_jax.serving.jobs import (
    AnswerJob,
    EngineError,
    EngineOptions,
    NotReadyError,
    QueueFullError,
    TooLongError,
)
from glamm_jax.serving.mask_parts import MaskPart, SegBatch, mask_inputs, next_parts
from glamm_jax.serving.metrics import EngineMetrics
from glamm_jax.types import BatchShape

logger = logging.getLogger(__name__)
PREFILLS = 2  # batches of prompts in a cycle, so that rows that are decoded do not wait for long
WARM_UP = "Where is <p> it </p> [SEG]?"
WARM_UP_LONG = "This is a question of usual length, for which a program is compiled, too."
MIN_SEGS = 64  # hidden states that are taken from the state together, padding included


class Engine:
    """Answers questions with one model, many at the same time.

    Args:
        assistant: the model.
        options: limits.
        metrics: counters; None: some that nobody reads.

    Raises:
        MeshError: the model is spread over several processes.
    """

    def __init__(
        self,
        assistant: Assistant,
        options: EngineOptions | None = None,
        metrics: EngineMetrics | None = None,
    ):
        self.assistant, self.options = assistant, options or EngineOptions()
        self.metrics = metrics or EngineMetrics()
        context = assistant.config.llama.max_positions
        self.max_prompt = min(self.options.max_prompt or context, context - 1)
        self.max_answer = min(self.options.max_answer or context, context)
        if num_processes(assistant.mesh) > 1:
            raise MeshError(
                "the model is spread over several processes; start a server in each of them, with "
                "a mesh of its own devices, and a load balancer in front"
            )
        with on_mesh(assistant.mesh):
            self._shards = num_shards("batch")
        slots = -(-self.options.slots // self._shards) * self._shards
        self._shape = StateShape(
            slots,
            prompt_slots=bucket(self.max_prompt),
            answer_slots=bucket(self.max_answer),
            cache_slots=max(
                min(self.max_prompt + self.max_answer, context), bucket(self.max_prompt)
            ),
        )
        self._wake = threading.Condition()
        self._waiting: deque[AnswerJob] = deque()
        self._active: dict[int, AnswerJob] = {}  # by slot
        self._masks: deque[SegBatch] = deque()
        self._open: set[AnswerJob] = set()  # accepted, neither answered nor failed
        self._draining = self._stopping = False
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._answers = ThreadPoolExecutor(1, thread_name_prefix="answers")
        self._state: DecodeState | None = None
        self.ready = threading.Event()
        self.failure: Exception | None = None  # that has ended the thread

    # ------------------------------------------------------------- called by other threads

    def start(self) -> None:
        """Start the thread; `ready` is set when its programs are compiled, or if that fails."""
        self._thread.start()

    def prepare(self, question: Question) -> AnswerJob:
        """Check, tokenize and resize a question, whose image is open already.

        Raises:
            BoxError, PromptError, TooLongError: the question cannot be answered.
        """
        row = self.assistant.rows.row(0, question, np.asarray(question.image))
        if row.prompt.length > self.max_prompt:
            raise TooLongError(
                f"the prompt has {row.prompt.length} tokens, those of the image included; this "
                f"server takes at most {self.max_prompt}: shorten the question or the history"
            )
        if question.max_tokens > self.max_answer:
            raise TooLongError(
                f"an answer has at most {self.max_answer} tokens on this server, not "
                f"{question.max_tokens}"
            )
        return AnswerJob(row, self.assistant.rows.sample([row]))

    def submit(
        self,
        job: AnswerJob,
        timeout: float | None = None,
        on_text: Callable[[str], None] | None = None,
    ) -> AnswerJob:
        """Put a question into the queue.

        Args:
            job: as `prepare` returns it.
            timeout: seconds after which the question is given up.
            on_text: called with new text of the answer; the pieces make up `Answer.text`.

        Raises:
            QueueFullError: too many questions wait.
            NotReadyError: the engine takes no questions yet, or no more.
        """
        job.submitted, job.on_text = time.monotonic(), on_text
        job.deadline = None if timeout is None else job.submitted + timeout
        with self._wake:
            if self._draining or not self.is_alive:
                raise NotReadyError("the server is shutting down")
            if not self.ready.is_set():
                raise NotReadyError("the server is starting; try again later")
            if len(self._waiting) >= self.options.max_queue:
                raise QueueFullError(f"{len(self._waiting)} requests wait already; try again later")
            self._waiting.append(job)
            self._open.add(job)
            self.metrics.waiting.set(len(self._waiting))
            self._wake.notify()
        return job

    def drain(self, seconds: float) -> bool:
        """Take no more questions; wait for those that were accepted.

        Returns:
            Whether all of them were answered within these seconds.
        """
        deadline = time.monotonic() + seconds
        with self._wake:
            self._draining = True
            return self._wake.wait_for(
                lambda: not self._open, max(0.0, deadline - time.monotonic())
            )

    def stop(self) -> None:
        """End the thread; questions that are not answered yet fail."""
        with self._wake:
            self._draining = self._stopping = True
            self._wake.notify_all()
        if self._thread.is_alive():
            self._thread.join()
        self._answers.shutdown()

    @property
    def num_open(self) -> int:
        """Questions that were accepted, and are neither answered nor refused."""
        return len(self._open)

    @property
    def is_draining(self) -> bool:
        """Whether no more questions are taken."""
        return self._draining

    @property
    def is_alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    # -------------------------------------------------------------------- the engine's thread

    def _run(self) -> None:
        try:
            with on_mesh(self.assistant.mesh):
                self._state = self.assistant.generator.empty(self._shape)
                self._warm_up()
                self.ready.set()
                while self._wait_for_work():
                    try:
                        self._cycle()
                    except Exception as error:
                        logger.exception("the engine failed, and goes on with an empty state")
                        self._fail_running(error)
        except Exception as error:
            logger.exception("the engine has ended")
            self.failure = error
        finally:
            with self._wake:
                self._draining = True
            for job in tuple(self._open):
                self._fail(job, NotReadyError("the server was shut down"))
            self.ready.set()

    def _warm_up(self) -> None:
        """Compile the programs of usual questions, so that the first users do not wait for them."""
        if self.options.warm_up_size is None:
            return
        metrics, self.metrics = self.metrics, EngineMetrics()
        image = np.zeros((*self.options.warm_up_size, 3), np.uint8)
        box = [0, 0, image.shape[1], image.shape[0]]
        texts = [(WARM_UP, []), (f"{WARM_UP} <bbox>", [box])]
        texts += [(f"{WARM_UP_LONG} {text}", regions) for text, regions in texts]
        warm: set[tuple[int, int]] = set()
        for text, regions in texts:
            job = self.prepare(Question(image, text, regions, max_tokens=2))
            size = bucket(job.row.prompt.length), len(regions)
            for rows in {1, min(self.options.prefill_rows, self.options.slots)}:
                if size not in warm:
                    jobs = [self.prepare(job.row.question) for _ in range(rows)]
                    self._waiting.extend(jobs)
                while self._waiting or self._active or self._masks:
                    self._cycle()
            warm.add(size)
        assert self._state is not None
        used = used_slots(1, self._shape.cache_slots)
        while used < self._shape.cache_slots:  # nothing is decoded: all rows are unused
            used = used_slots(2 * used, self._shape.cache_slots)
            self._state = self.assistant.generator.decode(self._state, 1, used)
        self.metrics = metrics

    def _wait_for_work(self) -> bool:
        """Sleep until there is something to do; False: stop."""
        with self._wake:
            self._wake.wait_for(
                lambda: self._stopping or self._waiting or self._active or self._masks
            )
            return not self._stopping

    def _cycle(self) -> None:
        self._drop_abandoned()
        for _ in range(PREFILLS):
            self._admit()
        self._decode_masks()
        if self._active:
            self._decode()
        self.metrics.active.set(len(self._active))
        self.metrics.waiting.set(len(self._waiting))

    def _drop_abandoned(self) -> None:
        with self._wake:
            waiting = [(job, job.abandoned()) for job in self._waiting]
            self._waiting = deque(job for job, reason in waiting if reason is None)
        freed = [(job, job.abandoned()) for job in self._active.values()]
        for job, reason in (*waiting, *freed):
            if reason is not None:
                self._release(job)
                self._fail(job, reason)

    def _release(self, job: AnswerJob) -> None:
        if job.slot is not None:
            del self._active[job.slot]
            job.slot = None

    def _admit(self) -> None:
        """Run the prompts of waiting questions, and insert them into free slots."""
        free = [slot for slot in range(self.options.slots) if slot not in self._active]
        with self._wake:
            # With regions or without: their encoder would run for all images of the batch.
            alike = [
                job for job in self._waiting if job.has_regions == self._waiting[0].has_regions
            ]
            jobs = alike[: min(len(free), self.options.prefill_rows)]
            for job in jobs:
                self._waiting.remove(job)
            for job, slot in zip(jobs, free, strict=False):
                job.slot = slot
                self._active[slot] = job
        if not jobs:
            return
        generator, rows = self.assistant.generator, [job.row for job in jobs]
        builder = build_batch([job.sample for job in jobs], self.assistant.config)
        shape = self._prefill_shape(builder.required_shape)
        batch = builder.build(shape)
        for index, job in enumerate(jobs):
            own = batch.mask_valid & (batch.mask_rows == index)
            job.prompt_segs = batch.mask_positions[own].tolist()
            job.started = time.monotonic()
            self.metrics.queue_seconds.observe(job.started - job.submitted)
            self.metrics.prompt_tokens.inc(job.row.prompt.length)
        padding = shape.rows - len(rows)
        limits = [row.limit for row in rows] + [1] * padding
        sampling = sampling_of(rows, padding)
        prefilled = generator.prefill(batch, limits, sampling, answer_slots=1)
        assert self._state is not None
        self._state = generator.insert(self._state, [job.slot or 0 for job in jobs], prefilled)

    def _prefill_shape(self, required: BatchShape) -> BatchShape:
        """Round up, so that few programs are compiled."""
        rows = 1 if required.rows == 1 else self.options.prefill_rows
        shape = BatchShape(rows, bucket(required.tokens), images=rows, masks=required.masks)
        if required.regions:
            regions = bucket(max(required.regions, rows), 1)
            shape = shape.union(BatchShape(region_images=rows, regions=regions))
        shape = shape.union(BatchShape(targets=required.targets, grounding_images=rows))
        shape = shape.union(
            BatchShape(mask_height=required.mask_height, mask_width=required.mask_width)
        )
        return divisible(shape, self._shards)

    def _decode(self) -> None:
        """Decode a few tokens of every slot; read them, and collect what has finished."""
        assert self._state is not None
        unused = np.ones(self._shape.rows, bool)
        unused[list(self._active)] = False
        state = self._state._replace(finished=self._state.finished | unused)
        used = max(job.row.prompt.length + len(job.row.ids) for job in self._active.values())
        used = used_slots(used + self.options.decode_steps + 1, self._shape.cache_slots)
        state = self.assistant.generator.decode(state, self.options.decode_steps, used)
        self._state = state
        tokens, counts = to_host(state.tokens), to_host(state.num_tokens)
        finished: list[AnswerJob] = []
        now = time.monotonic()
        for slot, job in self._active.items():
            ids = tokens[slot, : counts[slot]].tolist()
            if job.first_token is None:
                job.first_token = now
                self.metrics.first_token_seconds.observe(now - job.submitted)
            self.metrics.answer_tokens.inc(len(ids) - len(job.row.ids))
            piece = self.assistant.rows.read(job.row, ids, job.on_text is not None)
            if piece and job.on_text is not None:
                try:
                    job.on_text(piece)
                except Exception:  # nobody listens any more
                    job.cancel()
            if job.row.finish is not None:
                finished.append(job)
        if finished:
            self._collect(finished)

    def _collect(self, jobs: list[AnswerJob]) -> None:
        """Take the [SEG]s of finished rows out of the state, and free their slots."""
        seg = self.assistant.config.tokens.seg
        found = []
        for index, job in enumerate(jobs):
            found += [(job.slot, -1, position, index) for position in job.prompt_segs]
            steps = [step for step, token_id in enumerate(job.row.ids) if token_id == seg]
            found += [(job.slot, step, 0, index) for step in steps]
        segs = SegTokens(*np.array(found, np.int32).reshape(-1, 4).T)
        generator = self.assistant.generator
        assert self._state is not None
        if found:
            hidden = to_host(generator.seg_hidden(self._state, segs, MIN_SEGS))[: len(found)]
            probability = generator.token_probability(self._state, segs)
        for index, job in enumerate(jobs):
            self._release(job)
            own = np.flatnonzero(segs.images == index)
            if len(own):
                self._masks.append(SegBatch(job, segs.steps[own], hidden[own], probability[own]))
            else:
                self._answers.submit(self._finish, job)

    def _decode_masks(self) -> None:
        """Decode the masks of some finished questions, those that wait for the longest."""
        for segs in tuple(self._masks):
            reason = segs.job.abandoned()
            if reason is not None:
                self._masks.remove(segs)
                self._fail(segs.job, reason)
        parts = next_parts(self._masks, self.options.mask_images)
        if not parts:
            return
        inputs = mask_inputs([part.segs for part in parts], self.options.mask_images, self._shards)
        decoded = self.assistant.generator.decode_masks(
            jnp.asarray(inputs.hidden), inputs.mask_image, inputs.images, size_steps=1
        )
        self.metrics.masks.inc(sum(len(part.segs.steps) for part in parts))
        self._answers.submit(self._attach, parts, decoded)

    # ------------------------------------------------------------ the thread of the answers

    def _attach(self, parts: list[MaskPart], decoded: DecodedMasks) -> None:
        """Attach masks to their questions; those that have all of theirs are answered."""
        try:
            masks, foreground = to_host(decoded.masks), to_host(decoded.foreground)
            first = 0
            for segs, is_last in parts:
                height, width = segs.job.row.image.shape[:2]
                for k, step in enumerate(segs.steps.tolist()):
                    runs = rle.encode(masks[first + k, :height, :width])
                    score = np.float32(foreground[first + k]) * segs.probability[k]
                    segs.job.masks.append((step, ScoredMask(runs, float(score))))
                first += len(segs.steps)
                if is_last:
                    self._finish(segs.job)
        except Exception as error:
            logger.exception("masks could not be decoded")
            for segs, _ in parts:
                self._fail(segs.job, _internal(error))

    def _finish(self, job: AnswerJob) -> None:
        try:
            in_prompt = [mask for step, mask in job.masks if step < 0]
            in_answer = [mask for step, mask in job.masks if step >= 0]
            answer = self.assistant.rows.answer(job.row, in_prompt, in_answer)
        except Exception as error:
            self._fail(job, _internal(error))
            return
        if self._close(job, "answered"):
            job.future.set_result(answer)

    def _fail(self, job: AnswerJob, error: EngineError) -> None:
        """Fail a question, unless it is answered or has failed already."""
        if self._close(job, type(error).__name__):
            job.future.set_exception(error)

    def _close(self, job: AnswerJob, outcome: str) -> bool:
        with self._wake:
            if job not in self._open:
                return False
            self._open.discard(job)
            self._wake.notify_all()  # `drain` waits for the last one
        self.metrics.observe_end(job, outcome)
        return True

    def _fail_running(self, error: Exception) -> None:
        """Fail what is on the device, whose state may be lost, and go on with an empty one."""
        jobs = [*self._active.values(), *(segs.job for segs in self._masks)]
        self._active.clear()
        self._masks.clear()
        for job in jobs:
            job.slot = None
            self._fail(job, _internal(error))
        self._state = self.assistant.generator.empty(self._shape)


def _internal(error: Exception) -> EngineError:
    failure = EngineError(f"the engine failed: {type(error).__name__}: {error}")
    failure.__cause__ = error
    return failure
