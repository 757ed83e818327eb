"""The engine: answers are those of `chat`, whoever shares the batch, and nothing is lost."""

from __future__ import annotations

import time
from concurrent.futures import wait

import numpy as np
import pytest

from glamm_jax.errors import GLaMMError
from glamm_jax.inference.answer import Answer
from glamm_jax.inference.answer_rows import Question
from glamm_jax.inference.chat import Assistant, load
from glamm_jax.serving.engine import Engine
from glamm_jax.serving.jobs import (
    AnswerJob,
    CancelledError,
    EngineError,
    EngineOptions,
    NotReadyError,
    QueueFullError,
    TooLateError,
    TooLongError,
)
from glamm_jax.text.questions import GCG_QUESTIONS
from tests.serving.conftest import MODEL, OPTIONS, Gate, running, scene

PHRASES = "Where are <p> the star </p> [SEG] and <p> the circle </p> [SEG]?"
ANSWERED = ("Where is region1 <bbox> [SEG]?", "It is <p> a red star </p> [SEG] .")


def mixed() -> list[Question]:
    """16 questions of different lengths, tasks and settings."""
    kinds = [
        {"prompt": GCG_QUESTIONS[0], "max_tokens": 60},
        {"prompt": PHRASES, "max_tokens": 5},
        {"prompt": "Segment the red star in this image.", "max_tokens": 30},
        {"prompt": GCG_QUESTIONS[1], "max_tokens": 25, "temperature": 1.2, "top_p": 0.9},
        {"prompt": "What is in region1 <bbox>?", "regions": [[4, 4, 40, 50]], "max_tokens": 12},
        {"prompt": "And now?", "history": [ANSWERED], "regions": [[1, 1, 30, 30]], "max_tokens": 9},
        {"prompt": "Is it red?", "max_tokens": 1},
        {"prompt": GCG_QUESTIONS[2], "max_tokens": 40, "temperature": 0.7},
    ]
    return [Question(scene(n), **kinds[n % 8], seed=n) for n in range(16)]


def assert_same(ours: Answer, theirs: Answer) -> None:
    assert (ours.raw, ours.finish, ours.problems) == (theirs.raw, theirs.finish, theirs.problems)
    assert len(ours.history) == len(theirs.history)
    pairs = [(ours, theirs), (ours.question, theirs.question)]
    for one, other in (*pairs, *zip(ours.history, theirs.history, strict=True)):
        assert one.text == other.text
        for mine, yours in zip(one.groundings, other.groundings, strict=True):
            assert (mine.phrase, mine.start, mine.end) == (yours.phrase, yours.start, yours.end)
            assert (mine.mask is None) == (yours.mask is None)
            if mine.mask is not None and yours.mask is not None:
                assert mine.mask.shape == yours.mask.shape
                assert (mine.mask != yours.mask).mean() < 0.001
                assert mine.score == pytest.approx(yours.score, abs=1e-5)


def test_answers_are_those_of_chat(engine: Engine, assistant: Assistant) -> None:
    """Three times as many questions as slots, which join at different times."""
    questions = mixed()
    expected = assistant.chat_many(questions)
    pieces: list[list[str]] = [[] for _ in questions]
    jobs: list[AnswerJob] = []
    for index, question in enumerate(questions):
        jobs.append(engine.submit(engine.prepare(question), on_text=pieces[index].append))
        time.sleep(0.02 * (index % 3))
    answers = [job.future.result(120) for job in jobs]
    for answer, other in zip(answers, expected, strict=True):
        assert_same(answer, other)
    assert ["".join(heard) for heard in pieces] == [answer.text for answer in answers]
    assert {answer.finish for answer in answers} == {"end", "length"}
    assert sum(x.mask is not None for a in answers for x in a.groundings) > 5
    assert len(answers[1].prompt_groundings) == 2
    assert engine.num_open == 0
    alone = assistant.chat(questions[8].image, questions[8].prompt, max_tokens=60)
    assert_same(answers[8], alone)


def test_a_cancelled_question_frees_its_slot(engine: Engine, gate: Gate) -> None:
    """All slots are given up while they are decoded; those that wait take them."""
    question = Question(scene(0), GCG_QUESTIONS[0], max_tokens=60, temperature=10.0)
    with gate.closed():
        jobs = [engine.submit(engine.prepare(question)) for _ in range(8)]
        for job in (*jobs[:4], jobs[5]):
            job.cancel()
    done, _ = wait([job.future for job in jobs], 120)
    assert len(done) == 8
    for index, job in enumerate(jobs):
        if index < 4 or index == 5:
            with pytest.raises(CancelledError):
                job.future.result()
        else:
            assert job.future.result().raw
    assert engine.num_open == 0
    assert not engine._active


def test_a_question_is_given_up_while_it_is_decoded(engine: Engine) -> None:
    """The second piece of text never comes."""
    job = engine.prepare(Question(scene(0), GCG_QUESTIONS[0], max_tokens=60))
    pieces: list[str] = []

    def hear(piece: str) -> None:
        pieces.append(piece)
        raise RuntimeError("the listener has left")

    engine.submit(job, on_text=hear)
    with pytest.raises(CancelledError):
        job.future.result(60)
    assert len(pieces) == 1


def test_more_questions_than_may_wait_are_refused(engine: Engine, gate: Gate) -> None:
    question = Question(scene(0), "Is it red?", max_tokens=1)
    with gate.closed():
        jobs = [engine.submit(engine.prepare(question)) for _ in range(OPTIONS.max_queue)]
        with pytest.raises(QueueFullError, match="20 requests wait already"):
            engine.submit(engine.prepare(question))
    assert all(job.future.result(60).raw for job in jobs)


def test_a_question_that_takes_too_long_is_given_up(engine: Engine, gate: Gate) -> None:
    question = Question(scene(0), GCG_QUESTIONS[0], max_tokens=60)
    with gate.closed():
        late = engine.submit(engine.prepare(question), timeout=0.05)
        job = engine.submit(engine.prepare(question), timeout=60)
        time.sleep(0.1)
    with pytest.raises(TooLateError, match="not answered within 0 seconds"):
        late.future.result(60)
    assert job.future.result(60).raw


def test_lengths_are_limited(assistant: Assistant) -> None:
    limited = Engine(assistant, EngineOptions(max_prompt=80, max_answer=10, warm_up_size=None))
    with pytest.raises(TooLongError, match="at most 10 tokens on this server, not 11"):
        limited.prepare(Question(scene(0), "Is it?", max_tokens=11))
    with pytest.raises(TooLongError, match="takes at most 80"):
        limited.prepare(Question(scene(0), "Is it red? " * 9, max_tokens=10))
    with pytest.raises(GLaMMError, match="slots is 0"):
        EngineOptions(slots=0)
    with pytest.raises(NotReadyError, match="shutting down"):
        limited.submit(limited.prepare(Question(scene(0), "Is it?", max_tokens=1)))


def test_a_failure_of_the_device_fails_what_is_on_it_alone(
    engine: Engine, gate: Gate, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    question = Question(scene(0), "Is it red?", max_tokens=2)
    decode = engine.assistant.generator.decode
    failures = iter([MemoryError("out of memory")])

    def failing(*arguments: object) -> object:
        for error in failures:
            raise error
        return decode(*arguments)  # pyright: ignore

    monkeypatch.setattr(engine.assistant.generator, "decode", failing)
    with gate.closed():
        jobs = [engine.submit(engine.prepare(question)) for _ in range(6)]
    wait([job.future for job in jobs], 60)
    failed = [job for job in jobs if job.future.exception()]
    assert 1 <= len(failed) <= 4
    for job in failed:
        with pytest.raises(EngineError, match="MemoryError: out of memory"):
            job.future.result()
    assert "goes on with an empty state" in caplog.text


def test_what_was_accepted_is_answered_before_the_end(assistant: Assistant) -> None:
    with running(assistant) as engine:
        gate = Gate(engine)
        question = Question(scene(0), "Is it red?", max_tokens=2)
        with gate.closed():
            jobs = [engine.submit(engine.prepare(question)) for _ in range(5)]
            assert not engine.drain(0.05)
            with pytest.raises(NotReadyError):
                engine.submit(engine.prepare(question))
        assert engine.drain(60)
        assert all(job.future.done() for job in jobs)
    assert not engine.is_alive


def test_what_is_not_answered_at_the_end_fails(assistant: Assistant) -> None:
    with running(assistant) as engine:
        gate = Gate(engine)
        with gate.closed():
            job = engine.submit(engine.prepare(Question(scene(0), GCG_QUESTIONS[0])))
            engine._stopping = True
    with pytest.raises(NotReadyError, match="shut down"):
        job.future.result(1)


def test_programs_of_usual_questions_are_compiled_at_the_start(assistant: Assistant) -> None:
    options = EngineOptions(slots=2, prefill_rows=1, warm_up_size=(64, 64))
    with running(assistant, options) as engine:
        assert engine.num_open == 0
        assert b"glamm_answer_tokens_total 0.0" in engine.metrics.text()
        job = engine.submit(engine.prepare(Question(scene(0), "Where is <p> it </p> [SEG]?")))
        assert isinstance(job.future.result(60), Answer)


@pytest.mark.slow
def test_any_mesh_gives_the_answers_of_one_device(assistant: Assistant) -> None:
    questions = mixed()[:6]
    expected = assistant.chat_many(questions)
    for mesh in ("fsdp=4,tensor=2", "data=8"):
        with running(load(MODEL, mesh=mesh)) as engine:
            jobs = [engine.submit(engine.prepare(question)) for question in questions]
            for job, answer in zip(jobs, expected, strict=True):
                assert_same(job.future.result(300), answer)


def test_masks_of_one_image_are_decoded_in_parts(
    engine: Engine, assistant: Assistant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("glamm_jax.serving.mask_parts.MASK_PIXELS", 64 * 64)
    question = mixed()[1]
    answer = engine.submit(engine.prepare(question)).future.result(60)
    assert_same(answer, assistant.chat_many([question])[0])
    assert all(np.any(x.mask) for x in answer.prompt_groundings)
