"""`python -m demo`: the tiny golden checkpoint answers about a photograph.

Its weights are the golden rule's random numbers, the very ones with which the original was
recorded, so the words and masks mean nothing; but every part runs (CLIP, regions, decoder with
cache, SAM, [SEG] to mask), and the numbers are those that `make parity` shows to be the original's.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np

from glamm_jax.config import GLaMMConfig, tiny
from glamm_jax.data.boxes import BoxError, check_boxes, to_unit
from glamm_jax.data.pack import pack
from glamm_jax.data.preprocess import ImageError, clip_image, grounding_image, open_image
from glamm_jax.data.sample import Row, Sample
from glamm_jax.inference.generate import Generator
from glamm_jax.parity.golden_model import golden_glamm
from glamm_jax.report.paint import Layer, paint
from glamm_jax.text.answers import ParsedAnswer, match_masks, parse_answer
from glamm_jax.text.prompt import Prompt, PromptError, build_prompt
from glamm_jax.text.special_tokens import IGNORE_ID
from glamm_jax.text.tokenizer import Tokenizer, TokenizerError, load_tokenizer

TOKENIZER = Path(__file__).parents[1] / "tests" / "goldens" / "tokenizer"
QUESTION = "Where are <p> the roof </p> [SEG] and <p> the sky </p> [SEG]?"


def main() -> int:
    """Answer, print, write the picture; 2 when the picture, boxes or prompt cannot be used."""
    options = parse()
    try:
        show(options)
    except (ImageError, BoxError, PromptError, TokenizerError) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 2
    return 0


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m demo", description=__doc__)
    parser.add_argument("--image", type=Path, help="a picture; a photograph of China otherwise")
    parser.add_argument("--prompt", default=QUESTION, help="each [SEG] in it gives a mask, too")
    parser.add_argument(
        "--box",
        nargs=4,
        type=float,
        action="append",
        default=[],
        metavar=("X0", "Y0", "X1", "Y1"),
        help="a region in pixels of the picture, one for each <bbox> of the prompt, in order",
    )
    parser.add_argument("--tokens", type=int, default=24, help="length of the answer, at most")
    parser.add_argument("--out", type=Path, default=Path("out/demo.png"))
    options = parser.parse_args()
    if options.tokens < 1:
        parser.error("--tokens: at least one")
    return options


def show(options: argparse.Namespace) -> None:
    """Check everything, then draw the model, let it answer, and paint."""
    image = open_image(options.image or _photograph())
    boxes = check_boxes(options.box, *image.shape[:2])
    tokenizer = load_tokenizer(TOKENIZER)
    config = tiny(base_vocab_size=tokenizer.tokens.image_start)
    prompt = build_prompt(
        options.prompt,
        tokenizer,
        num_regions=len(boxes),
        num_image_tokens=config.clip.num_patches,
        context=config.llama.max_positions,
    )
    sample = _sample(image, boxes, prompt, config)
    print("1/3 drawing the tiny checkpoint by the golden rule ...", flush=True)
    generator = Generator(golden_glamm(config, salt=""))
    print("2/3 answering (the first answer compiles) ...", flush=True)
    started = time.perf_counter()
    words, masks = answer(generator, tokenizer, sample, min(options.tokens, prompt.room))
    parsed, asked = parse_answer(words), parse_answer(options.prompt)
    names = phrases_of_masks(asked, parsed, len(masks))
    layers = [Layer(name, mask) for name, mask in zip(names, masks, strict=True)]
    seconds = time.perf_counter() - started
    print(f"    question  {options.prompt}\n    answer    {parsed.text!r}  ({seconds:.1f} s)")
    for layer in layers:
        print(f"    mask      {layer.phrase}: {layer.mask.mean():.0%} of the picture")
    print("3/3 painting ...")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    paint(image, parsed.text, layers, question=options.prompt).save(options.out)
    print(f"wrote {options.out}. The weights are random: equal to the original's, but no wiser.")


def answer(
    generator: Generator, tokenizer: Tokenizer, sample: Sample, tokens: int
) -> tuple[str, np.ndarray]:
    """The answer's words, and the masks, bool[m, h, w], of the prompt's [SEG] and the answer's."""
    batch = pack([sample], generator.config)
    decoding = generator.decode(generator.prefill(batch, tokens), tokens)
    masks = generator.finish(batch, decoding).of_row(0)
    return tokenizer.decode(generator.answers(decoding)[0]), masks


def phrases_of_masks(asked: ParsedAnswer, answered: ParsedAnswer, num_masks: int) -> list[str]:
    """What each mask is called: the phrase its [SEG] stands behind, or its number."""
    names = [f"[SEG] {i + 1}" for i in range(num_masks)]
    places, problems = match_masks(answered, num_masks)
    for problem in problems:
        print(f"    problem   {problem}")
    asked_places = tuple(range(num_masks - len(places)))  # the prompt's come first
    for parsed, masks in ((asked, asked_places), (answered, places)):
        for phrase in parsed.phrases:
            for seg in phrase.segs:
                place = masks[seg] if seg < len(masks) else None
                if place is not None:
                    names[place] = phrase.text
    return names


def _photograph() -> Path:
    """The photograph that scikit-learn carries."""
    import sklearn.datasets

    return Path(sklearn.datasets.__file__).parent / "images" / "china.jpg"


def _sample(image: np.ndarray, boxes: np.ndarray, prompt: Prompt, config: GLaMMConfig) -> Sample:
    grounding = grounding_image(image, config.sam.image_size)
    return Sample(
        rows=(Row(prompt.ids, np.full_like(prompt.ids, IGNORE_ID)),),
        image=clip_image(image, config.clip.image_size),
        grounding_image=grounding.pixels,
        resized_size=grounding.resized_size,
        original_size=grounding.original_size,
        boxes_xyxy_unit=to_unit(boxes, *image.shape[:2]) if len(boxes) else None,
    )


if __name__ == "__main__":
    sys.exit(main())
