"""From whatever a picture is in a user's hands to what a frame's record carries. Loads no torch."""

import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import PIL.Image
import PIL.ImageOps

from layercache.stream.frames.image_header import NPY, PNG, sniff

Array = npt.NDArray[Any]

#: One picture that a client sends: encoded, the path of a file, Pillow's, or a uint8 array H x W or H x W x 3.
Sendable = bytes | str | os.PathLike[str] | PIL.Image.Image | Array


def check_pixels(pixels: Array) -> npt.NDArray[np.uint8]:
    """The array, where it is a picture: uint8, H x W or H x W x 3, not empty. Raises ``ValueError``.

    >>> check_pixels(np.zeros((2, 2)))
    Traceback (most recent call last):
    ValueError: an array must be uint8 of H x W or H x W x 3 to be a picture, not float64 of 2 x 2
    """
    fits = pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] == 3)
    if pixels.dtype != np.uint8 or not fits or 0 in pixels.shape:
        shape = " x ".join(map(str, pixels.shape))
        raise ValueError(f"an array must be uint8 of H x W or H x W x 3 to be a picture, not {pixels.dtype} of {shape}")
    return pixels


def encoded(picture: Sendable) -> tuple[bytes, str]:
    """A picture's bytes as they travel, and their content type: what is encoded stays as it is, pixels as they are.

    Raises ``ValueError`` for what is no JPEG, PNG, WebP, ``.npy``, image or array, ``OSError`` where there is no such
    file. What is inside of encoded pictures is not looked at: workers do, and make dead letters of damaged ones.

    >>> value, kind = encoded(PIL.Image.new("L", (4, 4)))
    >>> value[:4], kind
    (b'\\x89PNG', 'image/png')
    """
    if isinstance(picture, PIL.Image.Image):
        stream, picture = io.BytesIO(), PIL.ImageOps.exif_transpose(picture)
        try:
            picture.save(stream, "PNG")
        except OSError:  # a mode that PNG lacks: CMYK, say
            picture.convert("RGB").save(stream, "PNG")
        return stream.getvalue(), PNG
    if isinstance(picture, np.ndarray):
        stream = io.BytesIO()
        np.save(stream, check_pixels(picture), allow_pickle=False)
        return stream.getvalue(), NPY
    if not isinstance(picture, (bytes, str, os.PathLike)):
        raise ValueError(
            f"a picture is bytes, a path, a PIL image or a uint8 array H x W x 3, not {type(picture).__name__}"
        )
    value = picture if isinstance(picture, bytes) else Path(picture).read_bytes()
    kind = sniff(value)
    if kind is None:
        named = "these bytes are" if isinstance(picture, bytes) else f"{os.fspath(picture)} is"
        raise ValueError(f"{named} no JPEG, PNG, WebP or .npy: workers decode no others")
    return value, kind
