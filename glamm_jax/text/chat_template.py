"""Chat templates: how a system line and turns become one string. Data first, one function after.

The strings are protocol: a checkpoint has seen them letter by letter. The released checkpoints
speak `llava_v1`; the original starts from another template until a script sets that one
(trap 33), here it is the default of every function.

Source: model/llava/conversation.py. Differs: a template is immutable and holds no turns, so the
example turns that two of the original's templates carry, and its pictures in messages, are absent.
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
    """A system line, the names of the two speakers, and what stands between turns.

    `separator` follows a user's turn and `second_separator` an assistant's; the styles that use
    one separator only leave the second None.
    """

    system: str
    roles: tuple[str, str]
    style: SeparatorStyle
    separator: str
    second_separator: str | None = None
    version: str = "Unknown"

    def render(self, turns: Sequence[str | None]) -> str:
        """One string of turns that alternate, the user first. An empty or None turn is still open.

        An open assistant turn ends in "ASSISTANT:", without a space (trap 33).

        Raises: TemplateError when the style cannot render these turns.
        """
        if self.style == "llama_2":
            return self._render_llama_2(turns)
        if self.style == "plain":
            return self._render_plain(turns)
        separators = (self.separator, self._second)
        text = self.system + self.separator
        for i, turn in enumerate(turns):
            name = self.roles[i % 2]
            if self.style == "mpt":
                text += name + turn + self.separator if turn else name
            else:
                text += f"{name}: {turn}{separators[i % 2]}" if turn else f"{name}:"
        return text

    def rounds(self, turns: Sequence[str]) -> list[tuple[str, str]]:
        """(all that asks, the answer with its end mark) of each pair of turns, in style two.

        `render` joins the two with a space, and the rounds with nothing.
        """
        first, second = self.separator, self._second
        user, assistant = self.roles
        asked = [f"{user}: {turn}{first}{assistant}:" for turn in turns[::2]]
        asked[0] = self.system + first + asked[0]
        return [(text, turn + second) for text, turn in zip(asked, turns[1::2], strict=True)]

    @property
    def _second(self) -> str:
        """What follows the assistant's turn: one separator serves both unless the style is two."""
        if self.style != "two":
            return self.separator
        if self.second_separator is None:
            raise TemplateError("a template of style two needs a second separator")
        return self.second_separator

    @property
    def answer_mark(self) -> str:
        """What stands between the user's turn and the answer."""
        return f"{self.separator}{self.roles[1]}: "

    def _render_plain(self, turns: Sequence[str | None]) -> str:
        separators = (self.separator, self.second_separator)
        text = self.system
        try:
            for i, turn in enumerate(turns):
                # A missing separator fails in the sum, as in the original, whose very message is
                # recorded; hence the ignored type.
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
# The missing space before "The visual" is the protocol's.
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
    """The template of this name.

    Raises: TemplateError listing the names when there is none.
    """
    if name not in TEMPLATES:
        raise TemplateError(f"no chat template {name!r}; there are {', '.join(TEMPLATES)}")
    return TEMPLATES[name]
