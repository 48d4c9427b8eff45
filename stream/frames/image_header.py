"""What the first bytes of a picture say, read before anything is decoded: its kind and its size."""

import io
import struct
from typing import NamedTuple

import numpy as np

JPEG, PNG, WEBP, NPY = "image/jpeg", "image/png", "image/webp", "application/x-npy"

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_NPY_MAGIC = b"\x93NUMPY"

#: Start-of-frame markers of JPEG; C4, C8 and CC in their midst mean something else.
_START_OF_FRAME = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
#: Markers that no length follows: SOI, TEM and the restarts.
_BARE = frozenset(range(0xD0, 0xD9)) | {0x01}
_START_OF_SCAN, _END_OF_IMAGE = 0xDA, 0xD9
_WEBP_ANIMATED = 0x02


class HeaderError(ValueError):
    """A header that does not say what it must."""


class Unsupported(HeaderError):
    """A header that is in order, of something that is not decoded here."""


class NpyHeader(NamedTuple):
    """What an array file says of itself; its values start at byte ``start``."""

    shape: tuple[int, ...]
    fortran_order: bool
    dtype: np.dtype[np.generic]
    start: int


def sniff(value: bytes) -> str | None:
    """The content type that the first bytes show, None for none of ours."""
    if value.startswith(b"\xff\xd8\xff"):
        return JPEG
    if value.startswith(PNG_SIGNATURE):
        return PNG
    if value.startswith(b"RIFF") and value[8:12] == b"WEBP":
        return WEBP
    if value.startswith(_NPY_MAGIC):
        return NPY
    return None


def picture_size(kind: str, value: bytes) -> tuple[int, int]:
    """(height, width) of a JPEG, PNG or WebP. Raises :class:`HeaderError` where the header does not say."""
    try:
        height, width = _SIZES[kind](value)
    except (struct.error, IndexError) as error:
        raise HeaderError("it ends within its header") from error
    if height < 1 or width < 1:
        raise HeaderError(f"it says it is {width} x {height} pixels")
    return height, width


def npy_header(value: bytes) -> NpyHeader:
    """The header of an array file, formats 1 and 2. Raises :class:`HeaderError`; never unpickles."""
    stream = io.BytesIO(value)
    try:
        version = np.lib.format.read_magic(stream)
        if version not in ((1, 0), (2, 0)):
            raise Unsupported(f".npy format {version[0]}.{version[1]}: write format 1.0 or 2.0")
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran_order, dtype = read(stream)
    except HeaderError:
        raise
    except Exception as error:  # numpy evaluates the header as a literal, which fails in a dozen ways
        raise HeaderError(f"its .npy header cannot be read: {error}") from error
    return NpyHeader(tuple(shape), fortran_order, dtype, stream.tell())


def _png_size(value: bytes) -> tuple[int, int]:
    length, name, width, height = struct.unpack_from(">I4sII", value, len(PNG_SIGNATURE))
    if name != b"IHDR" or length != 13:
        raise HeaderError("its first chunk is no IHDR")
    return height, width


def _jpeg_size(value: bytes) -> tuple[int, int]:
    at = 2
    while True:
        # As libjpeg does: whatever is no marker is passed over, and a marker may be padded with 0xFF.
        at = value.find(b"\xff", at)
        if at < 0:
            raise HeaderError("it has no frame header")
        while value[at] == 0xFF:
            at += 1
        marker = value[at]
        at += 1
        if marker in _START_OF_FRAME:
            height, width = struct.unpack_from(">HH", value, at + 3)
            return height, width
        if marker in (_START_OF_SCAN, _END_OF_IMAGE):
            raise HeaderError("it has no frame header before its data")
        if marker and marker not in _BARE:
            at += max(2, struct.unpack_from(">H", value, at)[0])


def _webp_size(value: bytes) -> tuple[int, int]:
    name = value[12:16]
    if name == b"VP8X":
        if value[20] & _WEBP_ANIMATED:
            raise Unsupported("animated WebP: send its pictures as frames")
        return int.from_bytes(value[27:30], "little") + 1, int.from_bytes(value[24:27], "little") + 1
    if name == b"VP8L":
        if value[20] != 0x2F:
            raise HeaderError("its VP8L signature is wrong")
        (packed,) = struct.unpack_from("<I", value, 21)
        return (packed >> 14 & 0x3FFF) + 1, (packed & 0x3FFF) + 1
    if name == b"VP8 ":
        if value[23:26] != b"\x9d\x01\x2a":
            raise HeaderError("its VP8 start code is wrong")
        width, height = struct.unpack_from("<HH", value, 26)
        return height & 0x3FFF, width & 0x3FFF
    raise HeaderError("it holds no picture")


_SIZES = {PNG: _png_size, JPEG: _jpeg_size, WEBP: _webp_size}
