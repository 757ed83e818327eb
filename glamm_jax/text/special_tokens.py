"""Names of the tokens that GLaMM adds to LLaMA's vocabulary, and two ids that are no tokens."""

from __future__ import annotations

from glamm_jax.config import TokenConfig

IGNORE_ID = -100
IMAGE_ID = -200
IMAGE_PLACEHOLDER = "<image>"

IMAGE_START = "<im_start>"
IMAGE_END = "<im_end>"
REGION = "<bbox>"
POINT = "<point>"
SEG = "[SEG]"
PHRASE_START = "<p>"
PHRASE_END = "</p>"

# The order gives the ids: they follow the sentencepiece vocabulary one by one (trap 24).
ADDED_TOKENS = (IMAGE_START, IMAGE_END, REGION, POINT, SEG, PHRASE_START, PHRASE_END)

# Field of `TokenConfig` that holds the id of each added token.
TOKEN_CONFIG_FIELDS = {
    IMAGE_START: "image_start",
    IMAGE_END: "image_end",
    REGION: "region",
    POINT: "point",
    SEG: "seg",
    PHRASE_START: "phrase_start",
    PHRASE_END: "phrase_end",
}


def token_config(ids: dict[str, int], pad: int, bos: int, eos: int) -> TokenConfig:
    """The model's view of a tokenizer: ids of the added and the control tokens."""
    added = {TOKEN_CONFIG_FIELDS[token]: ids[token] for token in ADDED_TOKENS}
    return TokenConfig(pad=pad, bos=bos, eos=eos, **added)
