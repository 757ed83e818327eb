"""Generation of texts: greedy, or sampled with a random generator for each item of a batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from transformers import LogitsProcessor, LogitsProcessorList


class TokenSampling(NamedTuple):
    """How tokens are chosen.

    Attributes:
        max_new_tokens: of an answer.
        temperature: of the probabilities; 0: the most probable token.
        top_p: only the most probable tokens that together have this probability.
    """

    max_new_tokens: int
    temperature: float
    top_p: float


class GeneratedTokens(NamedTuple):
    """An answer: its tokens without the last one that ends it, and whether there was one."""

    tokens: list[int]
    is_complete: bool


class SeededSampling(LogitsProcessor):
    """Add noise so that the largest logit is a sample (Gumbel), drawn for each item by its seed.

    So a sample does not depend on the other items of the batch.
    """

    def __init__(self, sampling: TokenSampling, seeds: Sequence[int], device: torch.device):
        """Create the generators.

        Args:
            sampling: temperature and probability.
            seeds: of the items.
            device: of the logits.
        """
        self._sampling = sampling
        self._generators = [torch.Generator(device).manual_seed(seed) for seed in seeds]

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Return the logits with noise.

        Args:
            input_ids: the tokens so far.
            scores: logits of the next token, (batch, tokens).
        """
        scores = torch.log_softmax(scores.float() / self._sampling.temperature, dim=-1)
        if self._sampling.top_p < 1.0:
            ordered, order = scores.sort(dim=-1, descending=True)
            probabilities = ordered.exp()
            before = probabilities.cumsum(dim=-1) - probabilities
            removed = (before >= self._sampling.top_p).scatter(
                -1, order, before >= self._sampling.top_p
            )
            removed.scatter_(-1, order[:, :1], False)  # the first token always stays
            scores = scores.masked_fill(removed, -torch.inf)
        noise = torch.stack(
            [
                torch.empty(scores.shape[1], device=scores.device).exponential_(generator=generator)
                for generator in self._generators
            ]
        )
        return scores - noise.log()


def generate(
    network: Any,
    inputs: dict[str, torch.Tensor],
    sampling: TokenSampling,
    seeds: Sequence[int],
    pad: int,
) -> list[GeneratedTokens]:
    """Return the answer to each item of a batch.

    Args:
        network: of transformers.
        inputs: its arrays, on its device.
        sampling: how tokens are chosen.
        seeds: of the items.
        pad: token behind the end of shorter answers.
    """
    config = network.config
    text_config = config.get_text_config(decoder=True)
    ends: set[int] = set()
    for value in (network.generation_config.eos_token_id, text_config.eos_token_id):
        ends.update(value if isinstance(value, list | tuple) else [] if value is None else [value])
    # BLIP-2 has the kind of its language model.
    is_encoder_decoder = config.is_encoder_decoder or text_config.is_encoder_decoder
    processors = LogitsProcessorList()
    if sampling.temperature > 0:
        processors.append(SeededSampling(sampling, seeds, network.device))
    rows = network.generate(
        **inputs,
        max_new_tokens=sampling.max_new_tokens,
        max_length=None,
        do_sample=False,
        num_beams=1,
        temperature=None,
        top_p=None,
        top_k=None,
        pad_token_id=pad,
        eos_token_id=sorted(ends) or None,
        logits_processor=processors,
    )
    prompts = inputs.get("input_ids")
    answers = []
    for k, row in enumerate(rows.tolist()):
        prompt = [] if prompts is None else prompts[k].tolist()
        if is_encoder_decoder:
            row = row[1:]  # the token that begins the decoder's text
        elif row[: len(prompt)] == prompt:
            row = row[len(prompt) :]
        end = next((i for i, token in enumerate(row) if token in ends), None)
        answers.append(GeneratedTokens(row[:end], end is not None))
    return answers
