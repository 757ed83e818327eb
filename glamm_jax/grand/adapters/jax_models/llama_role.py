"""A LLaMA that writes texts: plays `llm` and `checker`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from glamm_jax.grand.adapters.jax_models.model_role import ModelRole
from glamm_jax.grand.roles import LLMAnswer, LLMRequest, Results, RoleError
from glamm_jax.inference.text_chat import ConversationError, TextChat, text_template

FINISH_REASONS = {"end": "stop", "length": "length"}


class LlamaTextLLM(ModelRole[TextChat]):
    """Answers conversations. The defaults are those of the reference's Vicuna.

    Args:
        model: a model folder of LLaMA or of GLaMM.
        name: of the model.
        dtype: of the weights and of the computation; "": as stored.
        batch_size: conversations that are answered together.
        template: name of the chat template; "chatml" or one of `glamm_jax.text.chat_template`.
        temperature: of the sampling; 0 is greedy.
        top_p: sample from the most likely tokens that together reach this.
        max_tokens: longest answer.
    """

    def __init__(
        self,
        model: str,
        name: str = "llama",
        dtype: str = "",
        batch_size: int = 16,
        template: str = "vicuna_v1",
        temperature: float = 0.7,
        top_p: float = 0.95,
        max_tokens: int = 512,
    ):
        text_template(template)  # raises if there is none
        self._settings: dict[str, Any] = {
            "template": template,
            "temperature": temperature,
            "top_p": top_p,
            "max_tokens": max_tokens,
        }
        super().__init__(name, model, dtype, batch_size, **self._settings)

    def load(self) -> TextChat:
        """Return the model."""
        return TextChat(self._path, self.dtype)

    def __call__(self, requests: Sequence[LLMRequest]) -> Results[LLMAnswer]:
        if not requests:
            return []
        answers = self.model.answer(
            [[(message.role, message.text) for message in x.messages] for x in requests],
            seeds=[x.seed % 2**32 for x in requests],
            **self._settings,
        )
        return [
            RoleError("input", str(answer))
            if isinstance(answer, ConversationError)
            else LLMAnswer(answer.text, FINISH_REASONS[answer.finish])
            for answer in answers
        ]
