"""Conversations with a LLaMA, without images.

    chat = TextChat("vicuna-13b")                     # a model folder of LLaMA or of GLaMM
    answers = chat.answer([[("user", "Name three animals.")]], max_tokens=64)

An answer depends on its own conversation and seed alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from flax import nnx

from glamm_jax.config import DType, GLaMMConfig, LlamaConfig, LoRAConfig, TokenConfig
from glamm_jax.data.collate import bucket
from glamm_jax.errors import FolderError, GLaMMError
from glamm_jax.inference.generate import Generator
from glamm_jax.inference.sampling import Sampling
from glamm_jax.models.llama import Llama
from glamm_jax.models.text_model import TextModel, TextModelConfig
from glamm_jax.storage import AnyPath
from glamm_jax.text.chat_template import ChatTemplate, chat_template
from glamm_jax.text.tokenizer import load_tokenizer
from glamm_jax.types import Batch
from glamm_jax.weights.folder import ModelFolder

# The template of models that were trained on ChatML, such as SmolLM2 and Qwen.
CHATML = ChatTemplate(
    "<|im_start|>system\nYou are a helpful assistant.",
    ("<|im_start|>user\n", "<|im_start|>assistant\n"),
    "mpt",
    "<|im_end|>\n",
)
SYSTEM_START = "<|im_start|>system\n"

Messages = Sequence[tuple[str, str]]  # role ("system", "user", "assistant") and text


class ConversationError(GLaMMError):
    """A conversation that cannot be answered. Says why."""


class TextAnswer(NamedTuple):
    """An answer; `finish` is "end" after the end token, "length" at the limit."""

    text: str
    finish: str


class TextChat:
    """A language model and its tokenizer.

    Args:
        path: a model folder of LLaMA or of GLaMM.
        dtype: of the weights and of the computation; None: as stored.

    Raises:
        FolderError, ConfigError, TensorFileError, TokenizerError: the folder cannot be used.
    """

    def __init__(self, path: str | AnyPath, dtype: DType | None = None):
        folder = ModelFolder(path)
        self.tokenizer = load_tokenizer(folder.path)
        llama, lora, prefix = _part(folder)
        tokenizer = self.tokenizer
        tokens = TokenConfig(
            pad=max(tokenizer.pad, 0), bos=max(tokenizer.bos, 0), eos=tokenizer.eos
        )
        graph, state = nnx.split(nnx.eval_shape(lambda: Llama(llama, lora, rngs=nnx.Rngs(0))))
        layers = nnx.merge(graph, folder.fill(state, dtype, prefix))
        config = TextModelConfig(llama, tokens, dtype or "float32")
        self.generator = Generator(TextModel(config, layers))
        self.context = llama.max_positions

    def encode(self, messages: Messages, template: ChatTemplate) -> list[int]:
        """Return the ids of a conversation that ends where the answer begins.

        Args:
            messages: a system message may be the first.
            template: how they become a text.

        Raises:
            ConversationError: the messages after the system's do not alternate, the user's first
                and last.
        """
        turns = list(messages)
        if turns and turns[0][0] == "system":
            start = SYSTEM_START if template.style == "mpt" else ""
            template, turns = replace(template, system=start + turns[0][1]), turns[1:]
        roles = [role for role, _ in turns]
        if not turns or roles != [("user", "assistant")[i % 2] for i in range(len(turns))]:
            raise ConversationError(f"messages of {', '.join(roles) or 'nobody'} do not alternate")
        if len(turns) % 2 == 0:
            raise ConversationError("the last message is the assistant's")
        return self.tokenizer.encode(template.render([*(text for _, text in turns), None]))

    def answer(
        self,
        conversations: Sequence[Messages],
        *,
        template: str = "vicuna_v1",
        max_tokens: int = 512,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seeds: Sequence[int] = (),
    ) -> list[TextAnswer | ConversationError]:
        """Answer conversations together; one that cannot be answered has its error.

        Args:
            conversations: messages of each.
            template: name of the chat template, "chatml" or one of `glamm_jax.text.chat_template`.
            max_tokens: longest answer.
            temperature: of the sampling; 0 is greedy.
            top_p: sample from the most likely tokens that together reach this.
            seeds: one for each conversation, in [0, 2**32); empty: 0.

        Raises:
            SamplingError: temperature or top_p is out of range.
            TemplateError: there is no such template.
        """
        own_template = text_template(template)
        results: list[Any] = [None] * len(conversations)
        ids: dict[int, list[int]] = {}
        for index, messages in enumerate(conversations):
            try:
                ids[index] = self._encode_within(messages, own_template, max_tokens)
            except ConversationError as error:
                results[index] = error
        if not ids:
            return results
        own_seeds = [seeds[index] if seeds else 0 for index in ids]
        rows = bucket(len(ids), 1)
        padded = [*ids.values(), *[[self.generator.tokens.eos]] * (rows - len(ids))]
        sampling = Sampling.create(
            rows, temperature, top_p, [*own_seeds, *[0] * (rows - len(own_seeds))]
        )
        limits = [max_tokens] * len(ids) + [1] * (rows - len(ids))
        state = self.generator.prefill(_text_batch(padded), limits, sampling)
        state = self.generator.decode(state, max_tokens)
        for index, tokens in zip(ids, self.generator.answer_token_ids(state), strict=False):
            finished = tokens[-1:] == [self.generator.tokens.eos]
            valid = [i for i in tokens if i < self.tokenizer.size]
            text = self.tokenizer.decode(valid, skip_control=True)
            text = text.removeprefix(self.tokenizer.continuation).strip()
            results[index] = TextAnswer(text, "end" if finished else "length")
        return results

    def _encode_within(
        self, messages: Messages, template: ChatTemplate, max_tokens: int
    ) -> list[int]:
        """Return `encode`, if the answer fits behind it."""
        ids = self.encode(messages, template)
        if len(ids) + max_tokens > self.context:
            raise ConversationError(
                f"the conversation has {len(ids)} tokens; with an answer of {max_tokens} that is "
                f"more than the {self.context} positions of the model"
            )
        return ids


def text_template(name: str) -> ChatTemplate:
    """Return the template of this name, "chatml" or one of `glamm_jax.text.chat_template`.

    Raises:
        TemplateError: there is none.
    """
    return CHATML if name == "chatml" else chat_template(name)


def _part(folder: ModelFolder) -> tuple[LlamaConfig, LoRAConfig | None, str]:
    """Return the configuration of the language model, and the prefix of its leaves."""
    if isinstance(folder.config, GLaMMConfig):
        return folder.config.llama, folder.config.lora, "llama."
    if isinstance(folder.config, LlamaConfig):
        return folder.config, None, ""
    raise FolderError(f"{folder.path}: has no LLaMA; give a model folder of LLaMA or of GLaMM")


def _text_batch(ids: Sequence[Sequence[int]]) -> Batch:
    """Pad conversations on the right; the fields of images and regions are empty."""
    length = bucket(max(map(len, ids)))
    token_ids = np.full((len(ids), length), -1, np.int32)
    for row, tokens in enumerate(ids):
        token_ids[row, : len(tokens)] = tokens
    none, no_source = np.zeros(0, np.int32), np.full(token_ids.shape, -1, np.int32)
    positions = np.broadcast_to(np.arange(length, dtype=np.int32), token_ids.shape)
    fields = dict.fromkeys(Batch._fields) | {
        "token_ids": token_ids,
        "token_valid": token_ids >= 0,
        "positions": positions,
        "images": np.zeros((0, 1, 1, 3), np.uint8),
        "image_source": no_source,
        "region_images": none,
        "boxes_xyxy_unit": np.zeros((0, 4), np.float32),
        "box_image": none,
        "region_source": no_source,
    }
    return Batch(**fields)
