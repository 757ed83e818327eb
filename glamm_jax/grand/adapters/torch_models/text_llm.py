"""Language models: any causal model of transformers.

The request has the form of the tokenizer's chat template. Without one it has that of Vicuna 1.1:
the system's text, then "USER: ... ASSISTANT: ..." with the end token after each answer.

Source: the documentation of transformers, `AutoModelForCausalLM`; lm-sys/FastChat, vicuna_v1.1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jinja2 import TemplateError

from glamm_jax.grand.adapters.torch_models.adapter import TransformersAdapter, in_range, share
from glamm_jax.grand.adapters.torch_models.generation import TokenSampling, generate
from glamm_jax.grand.roles import ChatMessage, LLMAnswer, LLMRequest, Results, RoleError
from glamm_jax.grand.stages import one_line

MAX_CONTEXT = 1 << 30  # tokenizers without a limit state an enormous one


@dataclass(eq=False, kw_only=True)
class TransformersLLM(TransformersAdapter):
    """Answers to conversations.

    Attributes:
        max_new_tokens: of an answer.
        temperature: of the sampling; 0: the most probable tokens, the same for every seed.
        top_p: sampled are the most probable tokens that together have this probability.
    """

    model: str = "Qwen/Qwen3-8B"
    max_new_tokens: int = in_range(512, 1)
    temperature: float = in_range(0.7, 0.0)
    top_p: float = share(0.95)

    role: ClassVar[str] = "a language model"
    auto_class: ClassVar[str] = "AutoModelForCausalLM"
    processor_class: ClassVar[str] = "AutoTokenizer"

    def _prepare(self) -> None:
        tokenizer = self._processor
        text_config = self._config.get_text_config()
        limit = getattr(text_config, "max_position_embeddings", None) or MAX_CONTEXT
        self._limit = min(limit, tokenizer.model_max_length, MAX_CONTEXT)
        ends = self._network.generation_config.eos_token_id
        end = ends[0] if isinstance(ends, list | tuple) else ends
        pad = tokenizer.pad_token_id
        self._pad = next(token for token in (pad, end, 0) if token is not None)

    def __call__(self, requests: Sequence[LLMRequest]) -> Results[LLMAnswer]:
        """Return the answer to each request."""
        if not requests:
            return []
        self.setup()
        results: list[Any] = [None] * len(requests)
        prompts: list[list[int]] = [[] for _ in requests]
        for i, request in enumerate(requests):
            try:
                prompts[i] = self._tokens(request.messages)
            except TemplateError as error:
                results[i] = RoleError("input", f"the chat template refuses: {one_line(error)}")
                continue
            if len(prompts[i]) + self.max_new_tokens > self._limit:
                results[i] = RoleError(
                    "input",
                    f"a request of {len(prompts[i])} tokens and an answer of "
                    f"{self.max_new_tokens} exceed the model's limit of {self._limit}; lower "
                    "max_new_tokens or the numbers of objects in the scene graph",
                )
        # Neighbours in length, so that little is padded.
        places = [i for i, result in enumerate(results) if result is None]
        places.sort(key=lambda i: len(prompts[i]))
        for at in range(0, len(places), self.batch_size):
            part = places[at : at + self.batch_size]
            answers = self._generate([prompts[i] for i in part], [requests[i].seed for i in part])
            for i, answer in zip(part, answers, strict=True):
                results[i] = answer
        return results

    def _tokens(self, messages: Sequence[ChatMessage]) -> list[int]:
        if self._processor.chat_template is None:
            text = vicuna_text(messages, self._processor.eos_token or "")
            return self._processor(text)["input_ids"]
        try:
            text = self._template_text(messages)
        except TemplateError:  # templates that know no system refuse it
            text = self._template_text(without_system(messages))
        return self._processor(text, add_special_tokens=False)["input_ids"]

    def _template_text(self, messages: Sequence[ChatMessage]) -> str:
        return self._processor.apply_chat_template(
            [{"role": message.role, "content": message.text} for message in messages],
            tokenize=False,
            add_generation_prompt=True,
            enable_thinking=False,  # of templates that have it; others ignore it
        )

    def _generate(self, prompts: Sequence[list[int]], seeds: Sequence[int]) -> list[Any]:
        width = max(map(len, prompts))
        # Padded on the left, so that the answers begin at the same position.
        rows = [[self._pad] * (width - len(prompt)) + prompt for prompt in prompts]
        masks = [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts]
        inputs = {
            "input_ids": self.to_device(torch.tensor(rows)),
            "attention_mask": self.to_device(torch.tensor(masks)),
        }
        sampling = TokenSampling(self.max_new_tokens, self.temperature, self.top_p)
        with torch.inference_mode():
            answers = self.run(
                generate,
                network=self._network,
                inputs=inputs,
                sampling=sampling,
                seeds=seeds,
                pad=self._pad,
            )
        return [
            LLMAnswer(
                self._processor.decode(answer.tokens, skip_special_tokens=True).strip(),
                "stop" if answer.is_complete else "length",
            )
            for answer in answers
        ]


def without_system(messages: Sequence[ChatMessage]) -> list[ChatMessage]:
    """Return a conversation whose first message of the user begins with the system's text."""
    system = "\n\n".join(message.text for message in messages if message.role == "system")
    others = [message for message in messages if message.role != "system"]
    if system and others:
        others[0] = ChatMessage(others[0].role, f"{system}\n\n{others[0].text}")
    return others


def vicuna_text(messages: Sequence[ChatMessage], end: str) -> str:
    """Return a conversation in the form of Vicuna 1.1, which most models without template know.

    Args:
        messages: the conversation.
        end: token behind each answer.
    """
    text = ""
    for message in messages:
        if message.role == "system":
            text += f"{message.text} "
        elif message.role == "user":
            text += f"USER: {message.text} "
        else:
            text += f"ASSISTANT: {message.text}{end}"
    return text + "ASSISTANT:"
