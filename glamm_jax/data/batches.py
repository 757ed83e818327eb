"""The batch of every step, made on the fly: drawn, prepared, tokenised, packed.

Nothing is remembered between steps: the batch of step n follows from the configuration and n.
"""

from __future__ import annotations

from dataclasses import replace

from glamm_jax.config import GLaMMConfig
from glamm_jax.data.miniworld import EASY, draw_example
from glamm_jax.data.pack import Capacity, pack
from glamm_jax.data.preprocess import clip_image, grounding_image
from glamm_jax.data.sample import Row, Sample
from glamm_jax.experiment import DataConfig
from glamm_jax.text.labels import encode_turns
from glamm_jax.text.questions import with_preamble
from glamm_jax.text.tokenizer import Tokenizer, load_tokenizer
from glamm_jax.types import Batch, Example


class Batches:
    """`batches(n)` is the batch of step n, all of them of one capacity.

    Raises: TokenizerError when the configuration's tokenizer cannot be used with the model.
    """

    def __init__(self, data: DataConfig, model: GLaMMConfig):
        self.data, self.model = data, model
        self.tokenizer = load_tokenizer(data.tokenizer, model.tokens)
        self.capacity = Capacity(
            rows=data.batch_size,
            tokens=data.max_text_tokens - 1 + model.clip.num_patches,
            targets=data.max_text_tokens,
            images=data.batch_size,
            grounding_images=data.batch_size,
            masks=data.batch_size * EASY.max_masks,
            mask_height=data.image_size,
            mask_width=data.image_size,
        )

    def __call__(self, step: int) -> Batch:
        """Raises: CapacityError when a conversation is longer than `max_text_tokens`."""
        first = step * self.data.batch_size
        ids = range(first, first + self.data.batch_size)
        examples = [draw_example(self.data.seed, i, self.data.image_size) for i in ids]
        samples = [prepare(example, self.tokenizer, self.model) for example in examples]
        return pack(samples, self.model, self.capacity)


def prepare(example: Example, tokenizer: Tokenizer, model: GLaMMConfig) -> Sample:
    """Pixels for both encoders and ids for the decoder. SAM sees an image only if it has masks."""
    question, *others = example.turns
    ids, labels = encode_turns([with_preamble(question), *others], tokenizer)
    sample = Sample(
        rows=(Row(ids, labels),),
        image=clip_image(example.image, model.clip.image_size),
        boxes_xyxy_unit=example.boxes_xyxy_unit,
        name=f"{example.source} {example.id}",
    )
    if example.masks is None:
        return sample
    grounding = grounding_image(example.image, model.sam.image_size)
    return replace(
        sample,
        grounding_image=grounding.pixels,
        resized_size=grounding.resized_size,
        original_size=grounding.original_size,
        masks=example.masks,
    )
