"""A question of a session against a server on the loopback device."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from glamm_jax.app.asking import answer_question
from glamm_jax.app.conversation import Conversation, picture_of
from glamm_jax.app.server_client import ServerClient
from glamm_jax.app.views import Pending
from tests.app.answers import IMAGE, LEFT
from tests.app.loopback_server import LoopbackServer, serve

OPTIONS = {"max_tokens": 16}


@pytest.fixture
def server() -> Iterator[LoopbackServer]:
    with serve(LoopbackServer()) as running:
        yield running


def ask(
    server: LoopbackServer, conversation: Conversation, question: str
) -> list[Pending | Conversation]:
    return list(answer_question(ServerClient(server.url), conversation, question, OPTIONS))


def test_an_answer_and_a_follow_up(server: LoopbackServer) -> None:
    server.seconds_per_word = 0.03
    session = Conversation(picture_of(IMAGE)).with_box([0, 0, 0.5, 1])
    *updates, answered = ask(server, session, "What is region1 <bbox>?")
    assert all(isinstance(update, Pending) for update in updates)
    texts = [update.text for update in updates if isinstance(update, Pending) and update.text]
    assert texts == sorted(texts, key=len)
    assert len(texts) > 2
    assert isinstance(answered, Conversation)
    np.testing.assert_array_equal(answered.mask(0)[1], LEFT)
    again = ask(server, answered, "And <bbox>?")[-1]
    assert isinstance(again, Conversation)
    assert again.exchanges[1].answer.text.endswith("in 2.")
    assert len(server.requests[1]["regions"]) == 2
    assert server.requests[1]["messages"][1]["content"] == answered.exchanges[0].answer.raw


@pytest.mark.parametrize(
    ("question", "message"),
    [
        ("", "question is empty"),
        ("What is <bbox>?", "there is no box"),
        ("fail", "the question <b>fails</b>"),
    ],
)
def test_errors_are_shown_with_the_question(
    server: LoopbackServer, question: str, message: str
) -> None:
    end = ask(server, Conversation(picture_of(IMAGE)), question)[-1]
    assert isinstance(end, Pending)
    assert end.question == question
    assert message in end.error


def test_a_server_that_fails_midway_leaves_the_text(server: LoopbackServer) -> None:
    server.cut_after, server.seconds_per_word = 4, 0.05
    end = ask(server, Conversation(picture_of(IMAGE)), "What?")[-1]
    assert isinstance(end, Pending)
    assert end.text.startswith("A left part")
    assert "before the answer was complete" in end.error


def test_no_server_is_an_error_and_no_exception() -> None:
    client = ServerClient("http://127.0.0.1:9")
    end = list(answer_question(client, Conversation(picture_of(IMAGE)), "What?", OPTIONS))[-1]
    assert isinstance(end, Pending)
    assert "cannot be reached" in end.error
