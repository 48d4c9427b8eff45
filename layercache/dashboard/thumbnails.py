"""Turns a frame's bytes into a small picture that every browser shows."""

import io

import PIL.Image

from layercache.dashboard.state import Picture
from layercache.stream.frames import image_header
from layercache.stream.frames.decoding import (
    DecodeError,
    Limits,
    check_size,
    checked_kind,
    npy_pixels,
    upright,
)

#: The longer side of a thumbnail, in pixels: sharp on a phone's dense screen, and some kilobytes.
SIDE = 192
#: Pictures up to this side are encoded without loss.
_LOSSLESS = 64
_QUALITY = 82
_FORMATS = {image_header.JPEG: "JPEG", image_header.PNG: "PNG", image_header.WEBP: "WEBP"}


class NoPicture(ValueError):
    """There is no picture to show; the message says why."""


def thumbnail(value: bytes | None, limits: Limits) -> Picture:
    """The picture in a frame's bytes (JPEG, PNG, WebP or ``.npy``), at most :data:`SIDE` pixels wide and high.

    The dashboard always encodes it anew: a browser gets a PNG or JPEG of ours, never a stranger's bytes. Sizes are
    checked against ``limits`` before anything is decoded. Raises :class:`NoPicture`, and nothing else.
    """
    try:
        kind, value = checked_kind(value, None, limits)
        if kind == image_header.NPY:
            return _encoded(PIL.Image.fromarray(npy_pixels(value, limits)))
        check_size(*image_header.picture_size(kind, value), limits)
        with PIL.Image.open(io.BytesIO(value), formats=(_FORMATS[kind],)) as opened:
            opened.draft("RGB", (SIDE, SIDE))  # a large JPEG is decoded small, in a fraction of the time
            return _encoded(upright(opened))
    except DecodeError as error:
        raise NoPicture(str(error)) from error
    except Exception as error:  # decoders raise what they like
        raise NoPicture("it does not decode") from error


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
