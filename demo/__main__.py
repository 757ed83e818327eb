"""`python -m demo`: the tiny golden checkpoint answers about a photograph.

Its weights are the golden rule's random numbers, the very ones with which the original was
recorded, so the words and masks mean nothing; but every part runs (CLIP, decoder with cache, SAM,
[SEG] to mask), and the numbers are those that `make parity` shows to be the original's.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np

from glamm_jax.config import GLaMMConfig, tiny
from glamm_jax.data.pack import Row, Sample, pack
from glamm_jax.data.preprocess import clip_image, grounding_image, open_image
from glamm_jax.inference.generate import Generator
from glamm_jax.parity.golden_model import golden_glamm
from glamm_jax.report.paint import Layer, paint
from glamm_jax.text.answers import parse_answer
from glamm_jax.text.prompt import build_prompt
from glamm_jax.text.special_tokens import IGNORE_ID
from glamm_jax.text.tokenizer import load_tokenizer

TOKENIZER = Path(__file__).parents[1] / "tests" / "goldens" / "tokenizer"
QUESTION = "Where are <p> the roof </p> [SEG] and <p> the sky </p> [SEG]?"


def main() -> int:
    """Answer, print, write the picture."""
    parser = argparse.ArgumentParser(prog="python -m demo", description=__doc__)
    parser.add_argument("--image", type=Path, help="a picture; a photograph of China otherwise")
    parser.add_argument("--prompt", default=QUESTION, help="each [SEG] in it gives a mask, too")
    parser.add_argument("--tokens", type=int, default=24, help="length of the answer, at most")
    parser.add_argument("--out", type=Path, default=Path("out/demo.png"))
    options = parser.parse_args()
    image = open_image(options.image or _photograph())
    print("1/3 drawing the tiny checkpoint by the golden rule ...", flush=True)
    tokenizer = load_tokenizer(TOKENIZER)
    config = tiny(base_vocab_size=tokenizer.tokens.image_start)
    model = golden_glamm(config, salt="")
    print("2/3 answering (the first answer compiles) ...", flush=True)
    started = time.perf_counter()
    prompt = build_prompt(
        options.prompt,
        tokenizer,
        num_image_tokens=config.clip.num_patches,
        context=config.llama.max_positions,
    )
    generator = Generator(model)
    batch = pack([_sample(image, prompt.ids, config)], config)
    decoding = generator.decode(generator.prefill(batch, options.tokens), options.tokens)
    masks = generator.finish(batch, decoding)
    words = tokenizer.decode(generator.answers(decoding)[0])
    seconds = time.perf_counter() - started
    answer, asked = parse_answer(words), parse_answer(options.prompt)
    phrases = [phrase for parsed in (asked, answer) for phrase in parsed.phrases if phrase.segs]
    names = [phrase.text for phrase in phrases for _ in phrase.segs]
    layers = [
        Layer(names[i] if i < len(names) else f"[SEG] {i + 1}", logits > 0)
        for i, logits in enumerate(np.asarray(masks.logits))
    ]
    print(f"    question  {options.prompt}\n    answer    {answer.text!r}  ({seconds:.1f} s)")
    for layer in layers:
        print(f"    mask      {layer.phrase}: {layer.mask.mean():.0%} of the picture")
    print("3/3 painting ...")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    paint(image, answer.text, layers, question=options.prompt).save(options.out)
    print(f"wrote {options.out}. The weights are random: equal to the original's, but no wiser.")
    return 0


def _photograph() -> Path:
    """The photograph that scikit-learn carries."""
    import sklearn.datasets

    return Path(sklearn.datasets.__file__).parent / "images" / "china.jpg"


def _sample(image: np.ndarray, ids: np.ndarray, config: GLaMMConfig) -> Sample:
    grounding = grounding_image(image, config.sam.image_size)
    return Sample(
        rows=(Row(ids, np.full_like(ids, IGNORE_ID)),),
        image=clip_image(image, config.clip.image_size),
        grounding_image=grounding.pixels,
        resized_size=grounding.resized_size,
        original_size=grounding.original_size,
    )


if __name__ == "__main__":
    sys.exit(main())
