"""Language models behind endpoints.

[llm]
class = "endpoint"
url = "http://127.0.0.1:8000/v1"
model = "lmsys/vicuna-13b-v1.5"
temperature = 0.7
"""

from __future__ import annotations

from collections.abc import Sequence

from glamm_jax.grand.adapters.endpoint.client import ChatCall
from glamm_jax.grand.adapters.endpoint.endpoint_role import EndpointRole
from glamm_jax.grand.roles import LLMAnswer, LLMRequest, Results, RoleError


class EndpointLLM(EndpointRole):
    """Answers to conversations; arguments as of `EndpointRole`."""

    def __call__(self, requests: Sequence[LLMRequest]) -> Results[LLMAnswer]:
        results: list[LLMAnswer | RoleError] = [
            RoleError("input", "the request has no message") for _ in requests
        ]
        places, calls = [], []
        for place, request in enumerate(requests):
            if getattr(request, "messages", None):
                messages = tuple({"role": x.role, "content": x.text} for x in request.messages)
                places.append(place)
                calls.append(ChatCall(messages, request.seed))
        for place, answer in zip(places, self._client.chat(calls), strict=True):
            results[place] = answer
        return results
