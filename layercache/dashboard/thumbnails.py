"""From a frame's bytes to a small picture that a browser shows, whatever format the frame has."""

import io

import numpy as np
import PIL.Image
import PIL.ImageOps

from layercache.dashboard.state import Picture
from layercache.stream.frames import image_header
from layercache.stream.frames.decoding import Limits

#: The longer side of a thumbnail, in pixels: sharp on a phone's dense screen, and some kilobytes.
SIDE = 192
#: Small pictures stay as they are, without loss.
_LOSSLESS = 64
_QUALITY = 82
_FORMATS = {image_header.JPEG: "JPEG", image_header.PNG: "PNG", image_header.WEBP: "WEBP"}


class NoPicture(ValueError):
    """There is nothing to show; the message says why."""


def thumbnail(value: bytes | None, limits: Limits) -> Picture:
    """The picture in a frame's bytes (JPEG, PNG, WebP or ``.npy``), at most :data:`SIDE` pixels wide and high.

    It is always encoded anew: what a browser gets is a PNG or JPEG of ours, not a stranger's bytes. Sizes are checked
    against ``limits`` before anything is decoded. Raises :class:`NoPicture`, and nothing else.
    """
    if not value:
        raise NoPicture("the frame has no bytes")
    if len(value) > limits.max_bytes:
        raise NoPicture(f"it has {len(value):,} bytes, at most {limits.max_bytes:,} are decoded")
    kind = image_header.sniff(value)
    if kind is None:
        raise NoPicture("its bytes are no picture that is known here")
    try:
        picture = _array(value, limits) if kind == image_header.NPY else _decoded(kind, value, limits)
        return _encoded(picture)
    except NoPicture:
        raise
    except Exception as error:  # decoders raise what they like
        raise NoPicture("it does not decode") from error


def _decoded(kind: str, value: bytes, limits: Limits) -> PIL.Image.Image:
    _check(*image_header.picture_size(kind, value), limits)
    opened = PIL.Image.open(io.BytesIO(value), formats=(_FORMATS[kind],))
    opened.draft("RGB", (SIDE, SIDE))  # a large JPEG is decoded small, in a fraction of the time
    turned = PIL.ImageOps.exif_transpose(opened)
    if turned.mode.startswith("I"):  # 16 bits of grey
        return PIL.Image.fromarray((np.asarray(turned).astype(np.uint32) >> 8).astype(np.uint8))
    return turned.convert("L" if turned.mode in ("1", "L", "LA") else "RGB")


def _array(value: bytes, limits: Limits) -> PIL.Image.Image:
    header = image_header.npy_header(value)
    shape = header.shape
    if header.dtype != np.uint8:
        raise NoPicture(f"an array of {header.dtype}, only uint8 is a picture")
    if (len(shape) != 2 and not (len(shape) == 3 and shape[2] == 3)) or min(shape) < 1:
        raise NoPicture(f"an array of shape {shape}, a picture is H x W or H x W x 3")
    _check(shape[0], shape[1], limits)
    pixels = np.frombuffer(value, np.uint8, offset=header.start)
    return PIL.Image.fromarray(np.ascontiguousarray(pixels.reshape(shape, order="F" if header.fortran_order else "C")))


def _check(height: int, width: int, limits: Limits) -> None:
    if height * width > limits.max_pixels:
        raise NoPicture(f"{width} x {height} pixels, at most {limits.max_pixels:,} are decoded")


def _encoded(picture: PIL.Image.Image) -> Picture:
    picture.thumbnail((SIDE, SIDE))
    is_small = max(picture.size) <= _LOSSLESS
    stream = io.BytesIO()
    if is_small:
        picture.save(stream, "PNG")
    else:
        picture.save(stream, "JPEG", quality=_QUALITY)
    return Picture(
        data=stream.getvalue(),
        content_type="image/png" if is_small else "image/jpeg",
        width=picture.width,
        height=picture.height,
    )
