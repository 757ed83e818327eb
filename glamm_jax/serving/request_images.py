"""Images of requests: data URLs, bounded before they are decoded."""

from __future__ import annotations

import base64
import binascii
import re

import numpy as np
from jaxtyping import UInt8

from glamm_jax.data.preprocess import ImageError, open_image, open_raster
from glamm_jax.serving.api_errors import APIError

DATA_URL = re.compile(r"data:([\w.+-]+/[\w.+-]+)?(?:;[\w.+-]+=[\w.+-]+)*;base64,", re.ASCII)


def decode_data_url(url: str, param: str) -> bytes:
    """Return the bytes of a base64 data URL.

    Args:
        url: data:image/png;base64,...
        param: the field that has it, for the message.

    Raises:
        APIError: it is no such URL, or its content is not base64.
    """
    start = DATA_URL.match(url)
    if start is None:
        raise APIError(
            "the image is not a base64 data URL: send data:image/png;base64,... (http(s) URLs and "
            "paths are not read)",
            param,
            code="invalid_image_url",
        )
    try:
        return base64.b64decode(url[start.end() :], validate=True)
    except (binascii.Error, ValueError) as error:
        raise APIError(
            f"the content of the data URL is not base64: {error}", param, code="invalid_image_url"
        ) from error


def open_bounded(data: bytes, max_pixels: int, param: str) -> UInt8[np.ndarray, "h w 3"]:
    """Decode an image, unless it is too large.

    Args:
        data: of the file.
        max_pixels: largest image; its header is read before it is decoded.
        param: the field that has it, for the message.

    Raises:
        APIError: it is too large or cannot be read.
    """
    try:
        width, height = open_raster(data).size
    except Exception:  # what is wrong is said below, by `open_image`
        width = height = 0
    try:
        if width * height <= max_pixels:
            image = open_image(data)
            if image.shape[0] * image.shape[1] <= max_pixels:
                return image
            height, width = image.shape[:2]
    except ImageError as error:
        raise APIError(str(error), param, code="invalid_image") from error
    raise APIError(
        f"the image has {width} x {height} pixels; this server takes at most {max_pixels}: make it "
        "smaller",
        param,
        code="image_too_large",
    )
