"""Pictures of one colour in every format that a frame may have, and ways to spoil them."""

import io
import struct
import zlib
from typing import Any

import numpy as np
import numpy.typing as npt
import PIL.Image

Pixels = npt.NDArray[np.uint8]

COLOURS = {"red": (200, 30, 20), "green": (20, 190, 40), "blue": (10, 40, 210)}


def coloured(colour: str, height: int = 24, width: int = 20, noise: int = 0) -> Pixels:
    """uint8 ``[height, width, 3]``; ``noise`` seeds a little of it, so that no two pictures are the same."""
    rng = np.random.default_rng(noise)
    return np.clip(np.array(COLOURS[colour]) + rng.integers(-9, 10, (height, width, 3)), 0, 255).astype(np.uint8)


def encode(pixels: Pixels, kind: str, **options: Any) -> bytes:
    """As ``JPEG``, ``PNG``, ``WEBP`` or ``NPY``."""
    stream = io.BytesIO()
    if kind == "NPY":
        np.save(stream, pixels, allow_pickle=False)
    else:
        PIL.Image.fromarray(pixels).save(stream, kind, **options)
    return stream.getvalue()


def png(width: int, height: int, depth: int = 8, colour_type: int = 2, data: bytes = b"", **chunks: bytes) -> bytes:
    """A PNG written by hand: right checksums whatever it says. ``chunks`` come before the data."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0)
    parts = [_chunk(b"IHDR", header), *(_chunk(name.encode(), value) for name, value in chunks.items())]
    return b"\x89PNG\r\n\x1a\n" + b"".join([*parts, _chunk(b"IDAT", data), _chunk(b"IEND", b"")])


def _chunk(name: bytes, value: bytes) -> bytes:
    return struct.pack(">I", len(value)) + name + value + struct.pack(">I", zlib.crc32(name + value))
