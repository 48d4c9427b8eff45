"""From a frame's bytes to the picture that the model sees, or to the reason why there is none."""

import io
from dataclasses import dataclass

import numpy as np
import PIL.Image
import PIL.ImageOps
import torch
from PIL.PngImagePlugin import ChunkStream
from torch import Tensor
from torchvision.io import ImageReadMode, decode_jpeg, decode_webp

from layercache.early_exit.machine import MachineFailed, is_the_machines
from layercache.early_exit.model.preprocessing import Preprocessing
from layercache.schemas.dead_letter import Reason
from layercache.schemas.frame import CONTENT_TYPES
from layercache.schemas.settings import Worker
from layercache.stream.frames import image_header

# Pillow's own guard against large pictures knows one limit for the whole process; ours is checked before it is asked.
PIL.Image.MAX_IMAGE_PIXELS = None

Pixels = np.ndarray[tuple[int, ...], np.dtype[np.uint8]]

_MORE_MEMORY = "give the worker more, or lower worker.max_frame_pixels or worker.decode_threads"


@dataclass(frozen=True)
class Limits:
    """What a frame may be at most; larger ones are not decoded."""

    max_bytes: int
    max_pixels: int

    @classmethod
    def of(cls, settings: Worker) -> "Limits":
        """The worker's."""
        return cls(settings.max_frame_bytes, settings.max_frame_pixels)


class Unanswerable(ValueError):
    """Why a frame becomes a dead letter: ``reason`` for machines, the message for people."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class DecodeError(Unanswerable):
    """A frame without a picture."""


def decode_frame(value: bytes | None, content_type: str | None, preprocessing: Preprocessing, limits: Limits) -> Tensor:
    """The frame's picture, uint8 ``[C, h, w]``, resized and cropped for the model.

    JPEG, PNG, WebP or ``.npy`` (uint8, H x W or H x W x 3), told by the first bytes; a ``content_type`` of one of these
    must agree. Size in bytes and in pixels is checked before anything is decoded. Raises :class:`DecodeError`, and
    nothing else, whatever the bytes are; :class:`~layercache.early_exit.machine.MachineFailed` where there is no
    memory for it.
    """
    kind, value = checked_kind(value, content_type, limits)
    try:
        picture = (
            channels_first(npy_pixels(value, limits, preprocessing.resize))
            if kind == image_header.NPY
            else _picture(kind, value, preprocessing, limits)
        )
        return preprocessing.fit(picture)
    except DecodeError:
        raise
    except image_header.Unsupported as error:
        raise DecodeError(Reason.UNKNOWN_FORMAT, str(error)) from error
    except Exception as error:  # decoders raise what they like, and none of it may stop the stream
        if is_the_machines(error):
            raise MachineFailed(
                f"no memory to decode a frame of {len(value):,} bytes ({error}): {_MORE_MEMORY}"
            ) from error
        said = str(error).partition("\n")[0] or type(error).__name__
        raise DecodeError(Reason.CORRUPT, f"{kind} that does not decode: {said}") from error


def checked_kind(value: bytes | None, content_type: str | None, limits: Limits) -> tuple[str, bytes]:
    """The content type of a frame's bytes, and these, once they are few enough. Raises :class:`DecodeError`."""
    if not value:
        raise DecodeError(Reason.EMPTY, "the frame has no bytes")
    if len(value) > limits.max_bytes:
        raise DecodeError(Reason.TOO_MANY_BYTES, f"{len(value):,} bytes, at most {limits.max_bytes:,} are decoded")
    kind = image_header.sniff(value)
    if kind is None:
        raise DecodeError(
            Reason.UNKNOWN_FORMAT, f"none of {', '.join(CONTENT_TYPES)}: the frame starts with {value[:12]!r}"
        )
    claimed = (content_type or "").partition(";")[0].strip().lower()
    if claimed in CONTENT_TYPES and claimed != kind:
        raise DecodeError(Reason.WRONG_CONTENT_TYPE, f"content-type says {claimed}, the bytes are {kind}")
    return kind, value


def _picture(kind: str, value: bytes, preprocessing: Preprocessing, limits: Limits) -> Tensor:
    check_size(*image_header.picture_size(kind, value), limits, preprocessing.resize)
    if kind == image_header.PNG:
        return _png(value)
    data = torch.frombuffer(bytearray(value), dtype=torch.uint8)
    if kind == image_header.WEBP:
        picture: Tensor = decode_webp(data, ImageReadMode.RGB)
        return picture
    mode = ImageReadMode.GRAY if preprocessing.channels == 1 else ImageReadMode.RGB
    picture = decode_jpeg(data, mode, apply_exif_orientation=True)
    return picture


def _png(value: bytes) -> Tensor:
    """By Pillow: torchvision 0.29's decoder ends the process with a segmentation fault on some damaged PNGs."""
    stream = io.BytesIO(value)
    _check_png_chunks(stream)
    stream.seek(0)
    with PIL.Image.open(stream, formats=("PNG",)) as opened:
        return from_pillow(opened)


def _check_png_chunks(stream: io.BytesIO) -> None:
    """All chunks are there to the last and their checksums fit; Pillow's decoder alone would be content with less."""
    stream.seek(len(image_header.PNG_SIGNATURE))
    chunks = ChunkStream(stream)
    chunks.verify(b"IEND")
    chunks.crc(b"IEND", b"")  # verify() ends before the last chunk's own checksum


def from_pillow(image: PIL.Image.Image) -> Tensor:
    """A picture of Pillow's, turned as its EXIF says: uint8 ``[1, H, W]`` for grey, else ``[3, H, W]``.

    >>> from_pillow(PIL.Image.new("RGBA", (4, 2))).shape
    torch.Size([3, 2, 4])
    """
    return channels_first(np.array(upright(image)))


def upright(image: PIL.Image.Image) -> PIL.Image.Image:
    """The picture turned as its EXIF says, in 8 bits: grey (mode L), or RGB without its transparency."""
    picture = PIL.ImageOps.exif_transpose(image)
    if picture.mode.startswith("I"):  # 16 bits of grey
        return PIL.Image.fromarray((np.asarray(picture).astype(np.uint32) >> 8).astype(np.uint8))
    return picture.convert("L" if picture.mode in ("1", "L", "LA") else "RGB")


def npy_pixels(value: bytes, limits: Limits, resize: int | None = None) -> Pixels:
    """An array file as H x W or H x W x 3, its size checked by :func:`check_size`. Raises :class:`DecodeError`."""
    header = image_header.npy_header(value)
    shape = header.shape
    if header.dtype.hasobject:
        raise DecodeError(Reason.PICKLED, "an .npy of Python objects: nothing is ever unpickled")
    if header.dtype != np.uint8:
        raise DecodeError(Reason.WRONG_DTYPE, f"an .npy of {header.dtype}, only uint8 is a picture")
    if (len(shape) != 2 and not (len(shape) == 3 and shape[2] == 3)) or min(shape) < 1:
        raise DecodeError(Reason.WRONG_SHAPE, f"an .npy of shape {shape}, a picture is H x W or H x W x 3")
    check_size(shape[0], shape[1], limits, resize)
    expected, found = int(np.prod(shape)), len(value) - header.start
    if expected != found:
        raise DecodeError(Reason.CORRUPT, f"an .npy of shape {shape} with {found:,} bytes of values, not {expected:,}")
    flat = np.frombuffer(bytearray(value[header.start :]), np.uint8)
    return flat.reshape(shape, order="F" if header.fortran_order else "C")


def check_size(height: int, width: int, limits: Limits, resize: int | None = None) -> None:
    """Raises :class:`DecodeError` for too many pixels, as sent or once the shorter side is resized to ``resize``."""
    if height * width > limits.max_pixels:
        raise DecodeError(
            Reason.TOO_MANY_PIXELS,
            f"{width} x {height} = {height * width:,} pixels, at most {limits.max_pixels:,} are decoded",
        )
    if resize is not None:
        # The shorter side is brought to a given length: a picture of one row would become as long as memory.
        fitted = max(height, width) * resize / min(height, width) * resize
        if fitted > max(limits.max_pixels, resize**2):
            raise DecodeError(
                Reason.TOO_MANY_PIXELS,
                f"{width} x {height} would be {fitted:,.0f} pixels once its shorter side is {resize}, "
                f"at most {limits.max_pixels:,} are decoded",
            )


def channels_first(pixels: Pixels) -> Tensor:
    """uint8 ``[C, H, W]`` of H x W or H x W x C; shares its memory."""
    picture = torch.from_numpy(pixels)
    return picture[None] if picture.ndim == 2 else picture.permute(2, 0, 1)
