"""A question of a session, from the request to the answer."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from glamm_jax.app.conversation import Conversation
from glamm_jax.app.served_answer import read_answer
from glamm_jax.app.server_client import (
    Completion,
    ServerClient,
    TextPiece,
    Waiting,
)
from glamm_jax.app.views import Pending
from glamm_jax.errors import GLaMMError

UPDATE_SECONDS = 0.1  # between two updates of the page


def answer_question(
    client: ServerClient, conversation: Conversation, question: str, options: dict[str, Any]
) -> Iterator[Pending | Conversation]:
    """Ask the server, and yield what the page shows meanwhile.

    When the iterator is closed, the server stops to generate.

    Args:
        client: of the server.
        conversation: of the session.
        question: in raw form.
        options: max_tokens, temperature, top_p, seed.

    Yields:
        The state of the answer at most every `UPDATE_SECONDS`; at the end the conversation with the
        answer, or a `Pending` with an error.
    """
    text = ""
    try:
        request = conversation.request(question, options)
        yield Pending(question, status="sent to the server ...")
        updated = time.monotonic()
        for event in client.chat(request):
            match event:
                case TextPiece(piece):
                    text += piece
                    if (now := time.monotonic()) - updated >= UPDATE_SECONDS:
                        updated = now
                        yield Pending(question, text, "...")
                case Waiting(seconds, is_queued):
                    reason = "the server is busy, waiting for a place" if is_queued else "working"
                    yield Pending(question, text, f"{reason}, {seconds:.0f} s ...")
                case Completion() as completion:
                    assert conversation.picture is not None
                    size = conversation.picture.size
                    answer = read_answer(text, completion, question, size)
                    yield conversation.with_answer(question, answer)
    except GLaMMError as error:
        yield Pending(question, text, error=str(error))
