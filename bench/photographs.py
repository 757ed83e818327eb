"""Pictures as hard to decode as photographs, for the loader's benchmark.

A photograph's amplitudes fall with the frequency, and things have outlines. `detail` sets how fast
they fall, chosen so that a file is as large as real ones are: 0.16 MB of a COCO picture, 1.1 MB of
one of SA-1B.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image

from glamm_jax.data import rle
from glamm_jax.data.conversion import SourceReader, write_shard
from glamm_jax.data.record import Annotation, Link, ReadResult, Record, Region

QUALITY = 90
NUM_REGIONS = 6
CAPTION = "A brown dog chases a red ball across the wet grass of a park."
PHRASES = ("A brown dog", "a red ball", "the wet grass")


class PhotographSource:
    """A source of drawn photographs with masks, expressions and a grounded caption."""

    name = "photographs"

    def __init__(self, size: tuple[int, int], detail: float, num_pictures: int):
        self._size, self._detail = size, detail
        self.keys: Sequence[str] = [str(number) for number in range(num_pictures)]

    def read(self, key: str) -> ReadResult:
        """The picture of a key, always the same."""
        rng = np.random.default_rng(int(key))
        outlines = [_outline(rng, *self._size) for _ in range(NUM_REGIONS)]
        stream = io.BytesIO()
        picture = _photograph(rng, outlines, self._detail)
        Image.fromarray(picture).save(stream, "JPEG", quality=QUALITY)
        regions = [
            Region(mask=rle.encode(outline)["counts"].encode("ascii")) for outline in outlines
        ]
        links = [
            Link(i, start, start + len(phrase))
            for i, phrase in enumerate(PHRASES)
            for start in (CAPTION.index(phrase),)
        ]
        said = (
            Annotation("gcg", CAPTION, tuple(links)),
            *(Annotation("referring", f"thing {i}", (Link(i),)) for i in range(NUM_REGIONS)),
        )
        made = Record(stream.getvalue(), key, self.name, "train", *self._size, tuple(regions), said)
        return ReadResult(made)


def write_shards(pictures: PhotographSource, out: Path) -> Path:
    """The folder of the shards that hold the pictures' records, under `out`."""
    reading = SourceReader(lambda root, split: pictures, out, "train", 1)
    target = reading.target(out)
    target.begin(reading.description())
    write_shard(reading, target, 0)
    target.publish(target.summarize(len(reading.keys)))
    return next(out.glob("*/*/dataset_info.json")).parent


def _outline(rng: np.random.Generator, height: int, width: int) -> Bool[np.ndarray, "h w"]:
    """A thing with a wavy edge, somewhere."""
    down, across = np.mgrid[:height, :width].astype(np.float32)
    top, left = rng.uniform(0.3, 0.7, 2)
    down, across = down / height - top, across / width - left
    angle, radius = np.arctan2(down, across), rng.uniform(0.08, 0.3)
    edge = np.full_like(angle, radius)
    for waves in (2, 3, 5, 13, 41):
        edge += radius / waves * rng.uniform(0, 0.5) * np.cos(waves * angle + rng.uniform(0, 6))
    return np.hypot(down, across) < edge


def _photograph(
    rng: np.random.Generator, outlines: Sequence[Bool[np.ndarray, "h w"]], detail: float
) -> UInt8[np.ndarray, "h w 3"]:
    """Noise with a photograph's spectrum, most of it gray, with every thing in its own colour."""
    shape = outlines[0].shape
    light = _spectral_noise(rng, shape, detail)
    levels = np.empty((*shape, 3), np.float32)
    for channel in range(3):
        tint = _spectral_noise(rng, shape, detail - 0.3)
        levels[..., channel] = 128 + 45 * light + 18 * tint
        for outline in outlines:
            levels[..., channel] += rng.uniform(-30, 30) * outline
    return levels.clip(0, 255).astype(np.uint8)


def _spectral_noise(
    rng: np.random.Generator, shape: tuple[int, ...], detail: float
) -> Float[np.ndarray, "h w"]:
    """Of mean 0 and deviation 1; amplitudes go with frequency ** detail."""
    down, across = np.fft.fftfreq(shape[0])[:, None], np.fft.rfftfreq(shape[1])[None, :]
    frequency = np.hypot(down, across)
    frequency[0, 0] = 1
    waves = rng.normal(size=(2, *frequency.shape))
    noise = np.fft.irfft2((waves[0] + 1j * waves[1]) * frequency**detail, s=shape)
    return (noise - noise.mean()) / noise.std()
