"""Items to predictions, batch by batch, on the devices of one process.

    for prediction in ask(assistant, records, items, batch_size=16): ...

Pictures are opened and resized by one thread ahead of the device, masks become run lengths in
another behind it. A prediction follows from its item alone: neither the batch nor the number of
devices has a say in it, but for pixels on the edge of rounding.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from functools import partial
from itertools import groupby
from typing import NamedTuple, TypeVar

import numpy as np

from glamm_jax.data import rle
from glamm_jax.data.boxes import BoxError
from glamm_jax.data.preprocess import ImageError, open_image
from glamm_jax.data.record import RecordError
from glamm_jax.data.record_sources import RecordSource
from glamm_jax.evaluation.item import Item, Prediction, RunLengths
from glamm_jax.inference.answer import Answer, Grounding
from glamm_jax.inference.chat import Assistant, PreparedQuestions, Question
from glamm_jax.text.answer_parser import ParsedAnswer, parse_answer
from glamm_jax.text.prompt import PromptError
from glamm_jax.text.questions import MAX_NEW_TOKENS
from glamm_jax.types import BatchShape

FAILED = "failed"
AHEAD = 2  # batches that are prepared while one is answered

Some = TypeVar("Some")
Other = TypeVar("Other")


class _Batch(NamedTuple):
    """Items that are answered together, and predictions for those that cannot be asked."""

    items: list[Item]
    prepared: list[PreparedQuestions]
    failed: list[Prediction]


class _Answered(NamedTuple):
    items: list[Item]
    answers: list[Answer]
    failed: list[Prediction]


def predict(
    assistant: Assistant,
    records: RecordSource,
    items: Iterable[Item],
    batch_size: int = 8,
    max_tokens: int = MAX_NEW_TOKENS,
) -> Iterator[Prediction]:
    """A prediction for each item, in the order in which they are answered.

    records: what `Item.record` counts in. batch_size: rows of a batch; the last one is filled up,
    so that all of them share their programs. max_tokens: of an answer whose item says nothing.
    """
    prepare = partial(_prepare, assistant, records, batch_size, max_tokens)
    with ThreadPoolExecutor(1) as before, ThreadPoolExecutor(1) as behind:
        try:
            yield from _ask(assistant, before, behind, prepare, _batches(items, batch_size))
        finally:  # whoever stops listening does not wait for what is not begun
            before.shutdown(cancel_futures=True)


def _ask(
    assistant: Assistant,
    before: Executor,
    behind: Executor,
    prepare: Callable[[list[Item]], _Batch],
    batches: Iterable[list[Item]],
) -> Iterator[Prediction]:
    told: deque[Future[list[Prediction]]] = deque()
    for batch in _ahead(before, prepare, batches):
        answers = assistant.answer(batch.prepared)
        told.append(behind.submit(_predictions, _Answered(batch.items, answers, batch.failed)))
        while len(told) > 1:
            yield from told.popleft().result()
    while told:
        yield from told.popleft().result()


def _batches(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Those of one length of answer together: a batch is as slow as its longest."""
    ordered = sorted(items, key=lambda item: item.max_tokens or 0)  # stable
    for _, alike in groupby(ordered, key=lambda item: item.max_tokens):
        waiting = [*alike]
        for start in range(0, len(waiting), size):
            yield waiting[start : start + size]


def _ahead(
    pool: Executor, function: Callable[[Some], Other], things: Iterable[Some]
) -> Iterator[Other]:
    """The function of each, some of them computed before they are asked for."""
    waiting: deque[Future[Other]] = deque()
    for thing in things:
        waiting.append(pool.submit(function, thing))
        if len(waiting) > AHEAD:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _prepare(
    assistant: Assistant, records: RecordSource, rows: int, max_tokens: int, items: list[Item]
) -> _Batch:
    """Questions as the model takes them; one that cannot be asked does not spoil the others."""
    opened: dict[int, np.ndarray] = {}
    asked: list[Item] = []
    questions: list[Question] = []
    failed: list[Prediction] = []
    for item in items:
        try:
            if item.record not in opened:
                opened[item.record] = open_image(records[item.record].image)
            question = Question(
                opened[item.record],
                item.prompt,
                np.array(item.regions, np.float64).reshape(-1, 4),
                item.history,
                item.max_tokens or max_tokens,
            )
            assistant.check(question)
        except (ImageError, RecordError, BoxError, PromptError) as error:
            failed.append(_failure(item, str(error)))
        else:
            asked.append(item)
            questions.append(question)
    room = BatchShape(rows=rows, images=rows)
    if any(len(question.regions) for question in questions):
        room = room.union(BatchShape(region_images=rows, regions=rows))
    prepared = assistant.prepare(questions, room) if questions else []
    return _Batch(asked, prepared, failed)


def _failure(item: Item, problem: str) -> Prediction:
    return Prediction(item.id, item.image_id, "", finish=FAILED, problems=(problem,))


def _predictions(answered: _Answered) -> list[Prediction]:
    pairs = zip(answered.items, answered.answers, strict=True)
    return [*(to_prediction(item, answer) for item, answer in pairs), *answered.failed]


def to_prediction(item: Item, answer: Answer) -> Prediction:
    """What was said to an item, its masks as run lengths, those of its history first."""
    parsed = parse_answer(answer.raw)
    owner = {seg: i for i, phrase in enumerate(parsed.phrases) for seg in phrase.segs}
    asked = [each for turn in (*answer.history, answer.question) for each in turn.groundings]
    earlier = [each for each in asked if each.mask is not None]
    said = _by_seg(parsed, [each for each in answer.groundings if each.mask is not None])
    masks: list[RunLengths] = []
    scores: list[float] = []
    for each in (*earlier, *said):
        if each.mask is not None:
            masks.append(rle.encode(each.mask))
            scores.append(0.0 if each.score is None else each.score)
    return Prediction(
        item.id,
        item.image_id,
        answer.text,
        answer.raw,
        phrases=tuple(phrase.text for phrase in parsed.phrases),
        masks=tuple(masks),
        phrase_of=(*[-1] * len(earlier), *(owner.get(seg, -1) for seg in range(len(said)))),
        scores=tuple(scores),
        finish=answer.finish,
        problems=answer.problems,
    )


def _by_seg(parsed: ParsedAnswer, groundings: list[Grounding]) -> list[Grounding]:
    """Those with masks in the order of their [SEG]s; they come in the order of their phrases.

    Where a [SEG] lacks its mask, it is one of the last.
    """
    starts = list(parsed.seg_positions)
    for phrase in parsed.phrases:
        for seg in phrase.segs:
            starts[seg] = phrase.start
    order = sorted(range(len(groundings)), key=lambda seg: (starts[seg], seg))
    return [each for _, each in sorted(zip(order, groundings, strict=True), key=lambda x: x[0])]
