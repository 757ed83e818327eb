"""Items to predictions, batch by batch, on the devices of the assistant's mesh.

    for prediction in predict(assistant, item_set.records, item_set.items):
        print(prediction.id, prediction.text)

Order of the data: one thread decodes and resizes images ahead of the device; the model answers a
batch; another thread encodes the masks as run lengths and puts the answers together. A prediction
depends on its item alone: neither the batch nor the number of devices changes it, except for mask
logits close to zero.

On a mesh that has devices of several processes, all of them prepare the same batches and have the
same predictions; that the batches are the same is checked.
"""

from __future__ import annotations

import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from functools import partial
from itertools import groupby
from typing import NamedTuple, TypeVar

import numpy as np
from jax.experimental import multihost_utils

from glamm_jax.data.boxes import BoxError
from glamm_jax.data.preprocess import ImageError, open_image
from glamm_jax.data.record import RecordError
from glamm_jax.data.record_sources import RecordSource
from glamm_jax.errors import GLaMMError
from glamm_jax.evaluation.benchmarks.base import FAILED, Item, Prediction, RunLengths
from glamm_jax.inference.answer import Answer, Grounding
from glamm_jax.inference.chat import Assistant, GeneratedAnswers, PreparedQuestions, Question
from glamm_jax.parallel import num_processes
from glamm_jax.text.answer_parser import ParsedAnswer, parse_answer
from glamm_jax.text.prompt import PromptError
from glamm_jax.text.questions import MAX_NEW_TOKENS
from glamm_jax.types import BatchShape

NUM_PREFETCHED = 2  # batches that are prepared while one is answered

Argument = TypeVar("Argument")
Value = TypeVar("Value")


class DifferentBatchError(GLaMMError):
    """Processes that predict together have prepared different batches."""


class _ItemBatch(NamedTuple):
    """Items that are answered together, and the predictions of items that cannot be."""

    items: list[Item]
    prepared: list[PreparedQuestions]
    failed: list[Prediction]


def predict(
    assistant: Assistant,
    records: RecordSource,
    items: Iterable[Item],
    batch_size: int = 8,
    max_tokens: int = MAX_NEW_TOKENS,
) -> Iterator[Prediction]:
    """Predict every item, in the order in which batches are answered.

    Args:
        assistant: the model.
        records: the images; `Item.record` is an index into them.
        items: to be predicted.
        batch_size: rows of a batch. The last batch is padded, so that all have one shape.
        max_tokens: longest answer to items that do not limit it themselves.

    Raises:
        DifferentBatchError: processes that predict together do not have the same images.
    """
    prepare = partial(_prepare, assistant, records, batch_size, max_tokens)
    with ThreadPoolExecutor(1) as preprocessing, ThreadPoolExecutor(1) as postprocessing:
        pending: deque[Future[list[Prediction]]] = deque()
        try:
            for batch in _prefetch(preprocessing, prepare, _batches(items, batch_size)):
                if num_processes(assistant.mesh) > 1:
                    _check_same(batch)
                generated = assistant.generate(batch.prepared)
                pending.append(postprocessing.submit(_to_predictions, assistant, batch, generated))
                while len(pending) > 1:
                    yield from pending.popleft().result()
            while pending:
                yield from pending.popleft().result()
        finally:  # a consumer that stops does not wait for batches that are not begun
            preprocessing.shutdown(cancel_futures=True)


def _batches(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Group items by their longest answer: a batch takes as long as its longest one."""
    ordered = sorted(items, key=lambda item: item.max_tokens or 0)  # stable
    for _, group in groupby(ordered, key=lambda item: item.max_tokens):
        group_items = [*group]
        for start in range(0, len(group_items), size):
            yield group_items[start : start + size]


def _prefetch(
    pool: Executor, function: Callable[[Argument], Value], arguments: Iterable[Argument]
) -> Iterator[Value]:
    """Map a function over arguments, `NUM_PREFETCHED` calls ahead of the consumer."""
    pending: deque[Future[Value]] = deque()
    for argument in arguments:
        pending.append(pool.submit(function, argument))
        if len(pending) > NUM_PREFETCHED:
            yield pending.popleft().result()
    while pending:
        yield pending.popleft().result()


def _prepare(
    assistant: Assistant, records: RecordSource, rows: int, max_tokens: int, items: list[Item]
) -> _ItemBatch:
    """Preprocess the questions of a batch; an item that fails does not affect the others."""
    images: dict[int, np.ndarray] = {}
    valid_items: list[Item] = []
    questions: list[Question] = []
    failed: list[Prediction] = []
    for item in items:
        try:
            if item.record not in images:
                images[item.record] = open_image(records[item.record].image)
            question = Question(
                images[item.record],
                item.prompt,
                np.array(item.regions, np.float64).reshape(-1, 4),
                item.history,
                item.max_tokens or max_tokens,
            )
            assistant.check(question)
        except (ImageError, RecordError, BoxError, PromptError) as error:
            failed.append(
                Prediction(item.id, item.image_id, "", finish=FAILED, problems=(str(error),))
            )
        else:
            valid_items.append(item)
            questions.append(question)
    shape = BatchShape(rows=rows, images=rows)
    if any(len(question.regions) for question in questions):
        shape = shape.union(BatchShape(region_images=rows, regions=rows))
    prepared = assistant.prepare(questions, shape) if questions else []
    return _ItemBatch(valid_items, prepared, failed)


def _check_same(batch: _ItemBatch) -> None:
    """Check that all processes have prepared the same batch.

    Raises:
        DifferentBatchError: they have not.
    """
    checksum = zlib.crc32(repr([item.id for item in batch.items]).encode())
    for prepared in batch.prepared:
        for array in filter(lambda array: array is not None, prepared.batch):
            checksum = zlib.crc32(repr(array.shape).encode(), checksum)
            checksum = zlib.crc32(np.ascontiguousarray(array).data, checksum)
    checksums = multihost_utils.process_allgather(np.array(checksum, np.uint32))
    if len({*checksums.tolist()}) > 1:
        ids = [item.id for item in batch.items] + [x.id for x in batch.failed]
        problems = "; ".join(f"{x.id}: {x.problems[0]}" for x in batch.failed)
        raise DifferentBatchError(
            f"the processes have different images of the items {', '.join(ids[:3])}, ...: every "
            f"host needs the same data. What cannot be read here: {problems or 'nothing'}"
        )


def _to_predictions(
    assistant: Assistant, batch: _ItemBatch, generated: list[GeneratedAnswers]
) -> list[Prediction]:
    pairs = zip(batch.items, assistant.assemble(generated), strict=True)
    return [*(to_prediction(item, answer) for item, answer in pairs), *batch.failed]


def to_prediction(item: Item, answer: Answer) -> Prediction:
    """Convert an answer to a prediction; the masks of the history come first."""
    parsed = parse_answer(answer.raw)
    phrase_of_seg = {seg: i for i, phrase in enumerate(parsed.phrases) for seg in phrase.segs}
    history = [x for turn in (*answer.history, answer.question) for x in turn.groundings]
    history = [grounding for grounding in history if grounding.runs is not None]
    own = _order_by_seg(parsed, [x for x in answer.groundings if x.runs is not None])
    masks: list[RunLengths] = []
    scores: list[float] = []
    for grounding in (*history, *own):
        if grounding.runs is not None:
            masks.append(grounding.runs)
            scores.append(0.0 if grounding.score is None else grounding.score)
    return Prediction(
        item.id,
        item.image_id,
        answer.text,
        answer.raw,
        phrases=tuple(phrase.text for phrase in parsed.phrases),
        masks=tuple(masks),
        phrase_of=(*[-1] * len(history), *(phrase_of_seg.get(seg, -1) for seg in range(len(own)))),
        scores=tuple(scores),
        finish=answer.finish,
        problems=answer.problems,
    )


def _order_by_seg(parsed: ParsedAnswer, groundings: list[Grounding]) -> list[Grounding]:
    """Reorder groundings from the order of their phrases to the order of their [SEG]s.

    Where a [SEG] lacks its mask, it is one of the last.
    """
    starts = list(parsed.seg_positions)
    for phrase in parsed.phrases:
        for seg in phrase.segs:
            starts[seg] = phrase.start
    order = sorted(range(len(groundings)), key=lambda seg: (starts[seg], seg))
    return [x for _, x in sorted(zip(order, groundings, strict=True), key=lambda pair: pair[0])]
