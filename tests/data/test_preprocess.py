"""Images of any format are decoded alike, and both encoders get the original's pixels."""

from __future__ import annotations

import io
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import ExifTags, Image, ImageOps

from glamm_jax.data import preprocess
from glamm_jax.data.preprocess import ImageError, open_image, with_end_marker
from tools.parity.preprocessing import clip_pixels, grounding_pixels

GOLDENS = sorted((Path(__file__).parents[1] / "goldens" / "preprocessing").glob("*.npz"))


def _random_image(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


@pytest.mark.parametrize("path", GOLDENS, ids=lambda path: path.stem)
def test_resized_pictures_are_the_recorded_ones_without_error(path):
    with np.load(path) as recorded:
        image = recorded["in/image_u8"]
        clip = clip_pixels(image, 48).transpose(2, 0, 1)
        np.testing.assert_allclose(clip, recorded["clip48/pixel_values"], atol=1e-6)
        sam = preprocess.resize_longest(image, 128)
        np.testing.assert_array_equal(sam, recorded["sam128/resized_u8"])
        normal = grounding_pixels(image, 1024)
        flat = normal.transpose(2, 0, 1).reshape(-1)[recorded["sam/pixels__idx"]]
        np.testing.assert_allclose(flat, recorded["sam/pixels__val"], atol=1e-6)


def test_both_pictures_are_those_made_one_by_one():
    image = _random_image(97, 131)
    clip, grounding = preprocess.clip_and_grounding_images(image, 48, 64)
    np.testing.assert_array_equal(clip, preprocess.clip_image(image, 48))
    alone = preprocess.grounding_image(image, 64)
    np.testing.assert_array_equal(grounding.pixels, alone.pixels)
    assert grounding[1:] == alone[1:] == ((47, 64), (97, 131))


def test_of_a_long_picture_only_the_middle_is_made():
    image = np.repeat(
        _random_image(2, 1, seed=1), 200_000, axis=1
    )  # 33 million pixels at full length
    clip = preprocess.clip_image(image, 336)
    assert clip.shape == (336, 336, 3)
    assert (clip == clip[:, :1]).all()


def test_a_picture_that_pillow_keeps_in_several_pieces_is_read(tmp_path):
    image = np.zeros((2100, 2100, 3), np.uint8)  # above 16 MB
    image[1000:1100] = 200
    image[:, 50] = (1, 2, 3)
    Image.fromarray(image).save(tmp_path / "picture.png", compress_level=1)
    np.testing.assert_array_equal(open_image(tmp_path / "picture.png"), image)


def test_padding_is_below_and_to_the_right_and_stays_zero():
    padded = preprocess.grounding_image(_random_image(30, 60), 64)
    assert padded.resized_size == (32, 64)
    assert padded.original_size == (30, 60)
    assert (padded.pixels[32:] == 0).all()
    normal = grounding_pixels(_random_image(30, 60), 64)
    assert (normal[32:] == 0).all()
    assert (normal[:32] != 0).any()


@given(st.integers(1, 30_000), st.integers(1, 30_000), st.sampled_from([48, 128, 336, 1024]))
def test_sizes_keep_the_proportions_and_are_never_zero(height, width, size):
    resized = preprocess.grounding_size(height, width, size)
    assert max(resized) == size
    assert min(resized) == max(1, int(size * min(height, width) / max(height, width) + 0.5))
    assert min(preprocess.clip_size(height, width, size)) == size


def test_every_way_of_naming_a_picture_gives_the_same_pixels(tmp_path):
    image = _random_image(5, 7)
    path = tmp_path / "picture.png"
    Image.fromarray(image).save(path)
    content = path.read_bytes()
    sources = [path, str(path), content, io.BytesIO(content), Image.fromarray(image), image]
    for source in sources:
        np.testing.assert_array_equal(open_image(source), image)


def test_the_limit_of_pixels_is_pillows(tmp_path, monkeypatch):
    path = tmp_path / "picture.png"
    Image.fromarray(_random_image(10, 10)).save(path)
    for limit in (99, 49):  # Pillow warns up to twice its limit, above it raises
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        with pytest.raises(ImageError, match=r"picture.png: too large \(100 pixels"):
            open_image(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert open_image(path).shape == (10, 10, 3)


def test_a_palette_with_a_transparent_colour_is_blended(tmp_path):
    image = Image.new("P", (2, 2), 1)
    image.putpalette([0, 0, 0, 200, 0, 0])
    image.save(tmp_path / "picture.png", transparency=1)
    assert open_image(tmp_path / "picture.png")[0, 0].tolist() == [255, 255, 255]
    green = open_image(tmp_path / "picture.png", background=(0, 255, 0))
    assert green[0, 0].tolist() == [0, 255, 0]


@given(st.binary(max_size=200))
def test_bytes_that_are_no_picture_are_a_clear_error(content):
    with pytest.raises(ImageError, match=f"{len(content)} bytes: not a readable image"):
        open_image(content)


def jpeg(image: Image.Image, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "JPEG", **options)
    return stream.getvalue()


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("size", [(1, 1), (5, 7), (16, 16), (47, 33), (130, 99)])
def test_a_jpeg_is_decoded_to_pillows_very_pixels(
    size: tuple[int, int], subsampling: int, progressive: bool
) -> None:
    rng = np.random.default_rng(size)
    coarse = rng.integers(0, 256, (size[1] // 6 + 2, size[0] // 6 + 2, 3), np.uint8)
    image = Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)
    for quality in (30, 92):
        data = jpeg(image, quality=quality, subsampling=subsampling, progressive=progressive)
        expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
        np.testing.assert_array_equal(open_image(data), expected)


def test_a_damaged_jpeg_is_what_pillow_makes_of_it() -> None:
    rng = np.random.default_rng(0)
    data = jpeg(Image.fromarray(rng.integers(0, 256, (60, 80, 3), np.uint8)), quality=90)
    refused = 0
    for cut in (*rng.integers(300, len(data) - 1, 20), len(data)):
        damaged = bytearray(data[:cut])
        damaged[int(rng.integers(250, cut - 2))] = int(rng.integers(256))
        try:
            expected = np.asarray(Image.open(io.BytesIO(damaged)).convert("RGB"))
        except Exception:
            refused += 1
            with pytest.raises(ImageError):
                open_image(bytes(damaged))
        else:
            np.testing.assert_array_equal(open_image(bytes(damaged)), expected)
    assert refused > 10


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("orientation", [1, 6])
def test_a_jpeg_that_lacks_only_its_end_marker_is_used(
    mode: str, progressive: bool, orientation: int
) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    image = Image.fromarray(_random_image(40, 50)).convert(mode)
    data = jpeg(image, progressive=progressive, exif=exif)
    for lacking in (data[:-2], data[:-1]):
        assert with_end_marker(lacking) == data
        np.testing.assert_array_equal(open_image(lacking), open_image(data))
    assert with_end_marker(data) is data
    assert with_end_marker(data + b"\0") == data + b"\0"
    for incomplete in (data[:-40], data[: len(data) // 2]):
        assert with_end_marker(incomplete) is incomplete
        with pytest.raises(ImageError, match="the file ends too early"):
            open_image(incomplete)


def chunk(kind: bytes, content: bytes) -> bytes:
    checksum = zlib.crc32(kind + content).to_bytes(4, "big")
    return len(content).to_bytes(4, "big") + kind + content + checksum


@pytest.mark.parametrize("is_behind", [False, True])
@pytest.mark.parametrize(
    "large",
    [
        chunk(b"zTXt", b"prompt\0\0" + zlib.compress(bytes(2 << 20))),
        chunk(b"iTXt", b"workflow\0\1\0\0\0" + zlib.compress(bytes(2 << 20))),
        chunk(b"iCCP", b"profile\0\0" + zlib.compress(bytes(2 << 20))),
        chunk(b"tEXt", b"prompt\0" + b"x" * (2 << 20)),
    ],
    ids=["zTXt", "iTXt", "iCCP", "tEXt"],
)
def test_a_png_with_a_large_text_is_read(large: bytes, is_behind: bool) -> None:
    stream, pixels = io.BytesIO(), _random_image(20, 30)
    Image.fromarray(pixels).save(stream, "PNG")
    data = stream.getvalue()
    position = len(data) - 12 if is_behind else 33  # before IEND, or behind IHDR
    turned = chunk(b"iTXt", b'XML:com.adobe.xmp\0\0\0\0\0<x tiff:Orientation="3"/>')
    np.testing.assert_array_equal(open_image(data[:position] + large + data[position:]), pixels)
    with_both = data[:33] + turned + data[33:position] + large + data[position:]
    np.testing.assert_array_equal(open_image(with_both), pixels[::-1, ::-1])


@pytest.mark.parametrize("orientation", [None, 1, 3, 6])
@pytest.mark.parametrize("in_front", [b"", b"\xff\xfe\x00\x06note"], ids=["first", "behind a note"])
def test_a_jpeg_is_upright_wherever_it_says_how_it_lies(orientation: int | None, in_front: bytes):
    exif = Image.Exif()
    if orientation is not None:
        exif[ExifTags.Base.Orientation] = orientation
    stream = io.BytesIO()
    Image.fromarray(_random_image(20, 30)).save(stream, "JPEG", exif=exif)
    start, rest = stream.getvalue()[:2], stream.getvalue()[2:]
    data = start + in_front + rest
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    np.testing.assert_array_equal(open_image(data), np.asarray(expected))


def test_a_jpeg_over_the_limit_is_refused(monkeypatch: pytest.MonkeyPatch):
    stream = io.BytesIO()
    Image.fromarray(_random_image(20, 30)).save(stream, "JPEG")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)
    with pytest.raises(ImageError, match=r"too large \(600 pixels; the limit"):
        open_image(stream.getvalue())
