"""Synthetic images with the decoding cost of photographs, for the benchmark of the loader.

The amplitudes of a photograph decrease with the frequency, and objects have outlines. `detail` is
the exponent of the amplitudes, chosen so that the files have the sizes of real ones: 0.16 MB for
COCO, 1.1 MB for SA-1B.
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
    """A source of synthetic photographs with masks, expressions and a grounded caption."""

    name = "photographs"

    def __init__(self, size: tuple[int, int], detail: float, num_images: int):
        """Create the keys.

        Args:
            size: height and width in pixels.
            detail: exponent of the amplitudes over the frequency.
            num_images: number of images.
        """
        self._size, self._detail = size, detail
        self.keys: Sequence[str] = [str(number) for number in range(num_images)]

    def read(self, key: str) -> ReadResult:
        """Generate the record of a key, which is its seed."""
        rng = np.random.default_rng(int(key))
        outlines = [_outline(rng, *self._size) for _ in range(NUM_REGIONS)]
        stream = io.BytesIO()
        image = _photograph(rng, outlines, self._detail)
        Image.fromarray(image).save(stream, "JPEG", quality=QUALITY)
        regions = [
            Region(mask=rle.encode(outline)["counts"].encode("ascii")) for outline in outlines
        ]
        links = []
        for i, phrase in enumerate(PHRASES):
            start = CAPTION.index(phrase)
            links.append(Link(i, start, start + len(phrase)))
        annotations = (
            Annotation("gcg", CAPTION, tuple(links)),
            *(Annotation("referring", f"object {i}", (Link(i),)) for i in range(NUM_REGIONS)),
        )
        data, split = stream.getvalue(), "train"
        return ReadResult(
            Record(data, key, self.name, split, *self._size, tuple(regions), annotations)
        )


def write_shards(source: PhotographSource, out: Path) -> Path:
    """Write the records of a source as shards below `out`; returns the folder of the dataset."""
    reader = SourceReader(lambda root, split: source, out, "train", 1)
    target = reader.target(out)
    target.begin(reader.description())
    write_shard(reader, target, 0)
    target.publish(target.summarize(len(reader.keys)))
    return target.folder


def _outline(rng: np.random.Generator, height: int, width: int) -> Bool[np.ndarray, "h w"]:
    """Return the mask of an object with a wavy outline at a random position."""
    y, x = np.mgrid[:height, :width].astype(np.float32)
    centre_y, centre_x = rng.uniform(0.3, 0.7, 2)
    y, x = y / height - centre_y, x / width - centre_x
    angle, radius = np.arctan2(y, x), rng.uniform(0.08, 0.3)
    edge = np.full_like(angle, radius)
    for waves in (2, 3, 5, 13, 41):
        edge += radius / waves * rng.uniform(0, 0.5) * np.cos(waves * angle + rng.uniform(0, 6))
    return np.hypot(y, x) < edge


def _photograph(
    rng: np.random.Generator, outlines: Sequence[Bool[np.ndarray, "h w"]], detail: float
) -> UInt8[np.ndarray, "h w 3"]:
    """Return mostly gray noise with the spectrum of a photograph; every object has a colour."""
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
    """Return noise of mean 0 and standard deviation 1, with amplitudes frequency ** detail."""
    frequency_y, frequency_x = np.fft.fftfreq(shape[0])[:, None], np.fft.rfftfreq(shape[1])[None, :]
    frequency = np.hypot(frequency_y, frequency_x)
    frequency[0, 0] = 1
    waves = rng.normal(size=(2, *frequency.shape))
    noise = np.fft.irfft2((waves[0] + 1j * waves[1]) * frequency**detail, s=shape)
    return (noise - noise.mean()) / noise.std()


if __name__ == "__main__":
    from glamm_jax.cli.program import print_module_help

    print_module_help(__doc__, "python -m bench")
