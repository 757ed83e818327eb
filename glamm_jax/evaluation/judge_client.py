"""A language model as a judge, at any endpoint with OpenAI's chat completions.

    judge = LLMJudge("http://localhost:8000/v1", "some-model")
    reply = judge.complete("Which answer is better?")
    reply.text, reply.prompt_tokens
    judge.usage.cost(JudgePrices(2.5, 10.0))

The openai client sends the requests. A request that fails is repeated here, so that the rules are
the same for malformed replies, which the client does not repeat.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from glamm_jax.errors import GLaMMError
from glamm_jax.json_files import JSONError, JSONObject, parse_json

if TYPE_CHECKING:
    from openai import OpenAI

KEY_VARIABLE = "OPENAI_API_KEY"
TEMPERATURE, MAX_TOKENS = 0.2, 1024
LONGEST_WAIT = 60.0  # seconds between two attempts
RETRIED_STATUSES = (408, 409, 425, 429)  # and all of 500 and above
MAX_REPLY_BYTES = 1 << 20
MAX_SHOWN = 300  # characters of a refusal
MILLION = 1_000_000
SYSTEM = "You compare the answers of two assistants, precisely and without favour."


class JudgeError(GLaMMError):
    """A judge that does not answer, or a file of reviews that cannot be read."""


@dataclass(frozen=True)
class JudgePrices:
    """Prices of a million tokens, in any currency.

    Attributes:
        prompt: of what the judge reads.
        completion: of what it writes.
    """

    prompt: float
    completion: float


@dataclass
class TokenUsage:
    """What the requests to a judge have used so far.

    Attributes:
        requests: that were answered.
        prompt_tokens: that it read, as the endpoint counts them.
        completion_tokens: that it wrote.
        uncounted: answered requests for which the endpoint reported no tokens.
    """

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    uncounted: int = 0

    def cost(self, prices: JudgePrices) -> float:
        """Return the price of the tokens."""
        prompt, completion = self.prompt_tokens, self.completion_tokens
        return (prompt * prices.prompt + completion * prices.completion) / MILLION

    def describe(self, prices: JudgePrices | None = None) -> str:
        """Return the numbers in one line, with the cost if there are prices."""
        text = (
            f"{self.requests} requests, {self.prompt_tokens} tokens read, "
            f"{self.completion_tokens} written"
        )
        text += f", cost {self.cost(prices):.4f}" if prices is not None else ""
        return text + (f"; no count of {self.uncounted} requests" if self.uncounted else "")


@dataclass(frozen=True)
class JudgeReply:
    """The reply of a judge.

    Attributes:
        text: what it wrote.
        prompt_tokens: that it read; None: the endpoint does not say.
        completion_tokens: that it wrote; None: the endpoint does not say.
    """

    text: str
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


@dataclass(frozen=True)
class LLMJudge:
    """A model at an endpoint.

    Attributes:
        url: of the endpoint, without `/chat/completions`.
        model: its name.
        key_variable: environment variable with the key.
        timeout: of a request, in seconds.
        attempts: for one request.
        wait: seconds before the second attempt; it doubles with every further attempt, unless the
            server says how long to wait.
        usage: of the requests so far.

    Raises:
        JudgeError: the url is not one, or the openai client is not installed.
    """

    url: str
    model: str
    key_variable: str = KEY_VARIABLE
    timeout: float = 120.0
    attempts: int = 6
    wait: float = 1.0
    usage: TokenUsage = field(default_factory=TokenUsage, compare=False)

    def __post_init__(self):
        if not self.url.startswith(("http://", "https://")):
            raise JudgeError(f"{self.url!r} is not a judge's address; use http://HOST:PORT/v1")
        try:
            import openai  # noqa: F401  # takes a second
        except ImportError as error:
            raise JudgeError(
                "a judge needs the openai client: pip install 'glamm-jax[eval]'"
            ) from error

    def complete(self, request: str) -> JudgeReply:
        """Send a request and return the reply.

        Raises:
            JudgeError: the request is refused, or no attempt is answered.
        """
        import openai

        problem = ""
        with self._client() as client:
            for attempt in range(self.attempts):
                pause = self.wait * 2**attempt
                try:
                    reply = self._reply(client, request)
                except openai.APIStatusError as error:
                    body = error.response.text[:MAX_SHOWN].strip()
                    reason = error.response.reason_phrase
                    problem = f"{error.status_code} {reason}: {body}"
                    if error.status_code not in RETRIED_STATUSES and error.status_code < 500:
                        raise JudgeError(self._refusal(error.status_code, problem)) from error
                    delay = error.response.headers.get("Retry-After", "")
                    pause = float(delay) if delay.isdecimal() else pause
                except (openai.APIError, JSONError) as error:
                    cause = error.__cause__ or error
                    problem = f"{type(cause).__name__}: {cause}"
                else:
                    return reply
                if attempt + 1 < self.attempts:
                    time.sleep(min(pause, LONGEST_WAIT))
        raise JudgeError(
            f"{self.url}: no answer in {self.attempts} attempts; the last problem: {problem}. "
            "Reviews so far are saved: run the same command again to resume"
        )

    def _refusal(self, status: int, problem: str) -> str:
        advice = f"; its key is read from ${self.key_variable}" if status in (401, 403) else ""
        return f"{self.url} refuses: {problem}{advice}"

    def _client(self) -> OpenAI:
        from openai import OpenAI

        return OpenAI(
            base_url=self.url.rstrip("/").removesuffix("/chat/completions"),
            api_key=os.environ.get(self.key_variable) or "none",
            timeout=self.timeout,
            max_retries=0,
        )

    def _reply(self, client: OpenAI, request: str) -> JudgeReply:
        """Send a request once.

        Raises:
            JSONError: the reply is not one of chat completions.
        """
        from openai import Omit

        # Without a key none is sent, not even a placeholder.
        has_key = bool(os.environ.get(self.key_variable))
        headers: dict[str, str | Omit] = {} if has_key else {"Authorization": Omit()}
        # The raw response: the client accepts replies of any form.
        response = client.chat.completions.with_raw_response.create(
            model=self.model,
            messages=[
                {"role": "system", "content": SYSTEM},
                {"role": "user", "content": request},
            ],
            temperature=TEMPERATURE,
            max_tokens=MAX_TOKENS,
            extra_headers=headers,
        )
        data = response.http_response.content
        if len(data) > MAX_REPLY_BYTES:
            raise JSONError(f"reply: {len(data)} bytes; at most {MAX_REPLY_BYTES} are read")
        fields = JSONObject(parse_json(data, "reply"), "reply")
        choices = fields.objects("choices")
        if not choices:
            raise JSONError("reply: no choices")
        text = choices[0].object("message").text("content")
        usage = fields.object("usage", None)
        counts: list[int | None] = [None, None]
        if usage is not None:
            names = ("prompt_tokens", "completion_tokens")
            counts = [usage.integer(name, None, minimum=0) for name in names]
        reply = JudgeReply(text, counts[0], counts[1])
        self.usage.requests += 1
        self.usage.prompt_tokens += reply.prompt_tokens or 0
        self.usage.completion_tokens += reply.completion_tokens or 0
        self.usage.uncounted += None in counts
        return reply
