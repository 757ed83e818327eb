"""Chat templates: how a system line and the turns of a conversation become one string.

First the class with the rendering, then the templates as data, then the lookup by name. The strings
are a protocol that checkpoints were trained on, so they must not change by a character.

Quirk 33: in the original the default conversation is another template until a script selects
`llava_v1`. Here `llava_v1`, the template of the released checkpoints, is the default everywhere.

Source: model/llava/conversation.py. Differs: a template is immutable and holds no turns. So the
example turns that two of the original's templates carry, and images inside messages, are absent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from glamm_jax.errors import GLaMMError

SeparatorStyle = Literal["single", "two", "mpt", "plain", "llama_2"]


class TemplateError(GLaMMError):
    """Turns that a template cannot render, or a template that does not exist."""


@dataclass(frozen=True)
class ChatTemplate:
    """A system line, the names of the two speakers, and the separators of turns.

    Attributes:
        system: the system line.
        roles: names of the user and of the assistant.
        style: how turns are joined.
        separator: follows the system line and a user's turn.
        second_separator: follows an assistant's turn; None in the styles with one separator.
        version: the original's label of the template.
    """

    system: str
    roles: tuple[str, str]
    style: SeparatorStyle
    separator: str
    second_separator: str | None = None
    version: str = "Unknown"

    def render(self, turns: Sequence[str | None]) -> str:
        """Render turns that alternate, the user's first, as one string.

        An empty or None turn is an open one, which the model is to write. Quirk 33: an open
        assistant turn ends in "ASSISTANT:", without a space.

        Raises:
            TemplateError: the style cannot render these turns.
        """
        if self.style == "llama_2":
            return self._render_llama_2(turns)
        if self.style == "plain":
            return self._render_plain(turns)
        separators = (self.separator, self._answer_separator)
        text = self.system + self.separator
        for i, turn in enumerate(turns):
            name = self.roles[i % 2]
            if self.style == "mpt":
                text += name + turn + self.separator if turn else name
            else:
                text += f"{name}: {turn}{separators[i % 2]}" if turn else f"{name}:"
        return text

    def rounds(self, turns: Sequence[str]) -> list[tuple[str, str]]:
        """Return (text up to the answer, answer with its end mark) of each pair of turns.

        For style "two". `render` joins the two with a space, and the rounds with nothing.
        """
        first, second = self.separator, self._answer_separator
        user, assistant = self.roles
        prompts = [f"{user}: {turn}{first}{assistant}:" for turn in turns[::2]]
        prompts[0] = self.system + first + prompts[0]
        return [(text, turn + second) for text, turn in zip(prompts, turns[1::2], strict=True)]

    @property
    def _answer_separator(self) -> str:
        """The string behind an assistant's turn: the only separator, unless the style is "two"."""
        if self.style != "two":
            return self.separator
        if self.second_separator is None:
            raise TemplateError("a template of style two needs a second separator")
        return self.second_separator

    @property
    def answer_mark(self) -> str:
        """The string between a user's turn and the answer."""
        return f"{self.separator}{self.roles[1]}: "

    def _render_plain(self, turns: Sequence[str | None]) -> str:
        separators = (self.separator, self.second_separator)
        text = self.system
        try:
            for i, turn in enumerate(turns):
                # A missing separator makes the addition fail, as in the original. Its error
                # message is part of the golden data; hence the ignored type.
                text += turn + separators[i % 2] if turn else ""  # type: ignore[operator]  # above
        except TypeError as error:
            raise TemplateError(
                "a plain template without a second separator cannot render an answer"
            ) from error
        return text

    def _render_llama_2(self, turns: Sequence[str | None]) -> str:
        if not turns or not turns[0]:
            raise TemplateError("a llama_2 conversation starts with a turn of the user")
        first = f"<<SYS>>\n{self.system}\n<</SYS>>\n\n{turns[0]}"
        text = ""
        for i, turn in enumerate((first, *turns[1:])):
            if turn and i % 2 == 0:
                text += f"{self.separator}[INST] {turn} [/INST]"
            elif turn:
                text += f" {turn} {self.second_separator}"
        return text.removeprefix(self.separator)


_ASSISTANT = "The assistant gives helpful, detailed, and polite answers to the {}'s questions."
_HUMAN_CHAT = (
    "A chat between a curious human and an artificial intelligence assistant. "
    + _ASSISTANT.format("human")
)
_USER_CHAT = (
    "A chat between a curious user and an artificial intelligence assistant. "
    + _ASSISTANT.format("user")
)
# The missing space before "The visual" is part of the protocol.
_TAGGED_CHAT = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant is able to understand the visual content that the user provides, and assist "
    "the user with a variety of tasks using natural language."
    "The visual content will be provided with the following format: "
    "<Image>visual content</Image>."
)
_VISION_CHAT = (
    "You are a helpful language and vision assistant. You are able to understand the visual "
    "content that the user provides, and assist the user with a variety of tasks using natural "
    "language."
)
_LLAMA_2_CHAT = (
    "You are a helpful, respectful and honest assistant. Always answer as helpfully as possible, "
    "while being safe.  Your answers should not include any harmful, unethical, racist, sexist, "
    "toxic, dangerous, or illegal content. Please ensure that your responses are socially "
    "unbiased and positive in nature.\n\nIf a question does not make any sense, or is not "
    "factually coherent, explain why instead of answering something not correct. If you don't "
    "know the answer to a question, please don't share false information."
)
_MPT_CHAT = (
    "<|im_start|>system\nA conversation between a user and an LLM-based AI assistant. "
    "The assistant gives helpful and honest answers."
)


def _single(system: str, version: str = "Unknown") -> ChatTemplate:
    return ChatTemplate(system, ("Human", "Assistant"), "single", "###", version=version)


def _two(system: str, version: str = "v1") -> ChatTemplate:
    return ChatTemplate(system, ("USER", "ASSISTANT"), "two", " ", "</s>", version)


def _llama_2(system: str) -> ChatTemplate:
    return ChatTemplate(system, ("USER", "ASSISTANT"), "llama_2", "<s>", "</s>", "llama_v2")


TEMPLATES: dict[str, ChatTemplate] = {
    "default": _single(_HUMAN_CHAT),
    "v0": _single(_HUMAN_CHAT),
    "v1": _two(_USER_CHAT),
    "vicuna_v1": _two(_USER_CHAT),
    "llama_2": _llama_2(_LLAMA_2_CHAT),
    "plain": ChatTemplate("", ("", ""), "plain", "\n"),
    "v0_plain": ChatTemplate("", ("", ""), "plain", "\n"),
    "llava_v0": _single(_HUMAN_CHAT),
    "v0_mmtag": _single(_TAGGED_CHAT, "v0_mmtag"),
    "llava_v1": _two(_HUMAN_CHAT),
    "v1_mmtag": _two(_TAGGED_CHAT, "v1_mmtag"),
    "llava_llama_2": _llama_2(_VISION_CHAT),
    "mpt": ChatTemplate(
        _MPT_CHAT,
        ("<|im_start|>user\n", "<|im_start|>assistant\n"),
        "mpt",
        "<|im_end|>",
        version="mpt",
    ),
}

RELEASED_TEMPLATE = TEMPLATES["llava_v1"]


def chat_template(name: str) -> ChatTemplate:
    """Return the template of this name.

    Raises:
        TemplateError: there is none; the message lists the names.
    """
    if name not in TEMPLATES:
        raise TemplateError(f"no chat template {name!r}; there are {', '.join(TEMPLATES)}")
    return TEMPLATES[name]
