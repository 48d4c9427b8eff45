"""From whatever a picture is in a user's hands to what a model takes."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TypeGuard

import numpy as np
import PIL.Image
import torch
from torch import Tensor

from layercache.api.values import Array, check_pixels
from layercache.early_exit.model.preprocessing import Preprocessing
from layercache.schemas.settings import Worker
from layercache.stream.frames.decoding import Limits, channels_first, decode_frame, from_pillow

#: One picture: encoded, the path of a file, Pillow's, an array H x W (x 3), or a tensor ``[C, H, W]``, both uint8.
Picture = bytes | str | os.PathLike[str] | PIL.Image.Image | Array | Tensor

#: The same as a worker's by default: no caller's picture may fill the memory.
_LIMITS = Limits.of(Worker())


def fitted(picture: Picture, preprocessing: Preprocessing) -> Tensor:
    """A picture as the model takes it: uint8 ``[C, h, w]``, resized and cropped.

    Raises ``ValueError`` (for encoded ones its subclass :class:`layercache.stream.frames.decoding.DecodeError`) where
    it is no picture, ``OSError`` where there is no such file.

    >>> grey = Preprocessing(size=(8, 8), mean=(0.5,), std=(0.5,))
    >>> fitted(PIL.Image.new("RGB", (32, 16)), grey).shape, fitted(np.zeros((9, 9), np.uint8), grey).shape
    (torch.Size([1, 8, 8]), torch.Size([1, 8, 8]))
    """
    if isinstance(picture, (str, os.PathLike)):
        picture = Path(picture).read_bytes()
    if isinstance(picture, bytes):
        return decode_frame(picture, None, preprocessing, _LIMITS)
    if isinstance(picture, PIL.Image.Image):
        return preprocessing.fit(from_pillow(picture))
    if isinstance(picture, np.ndarray):
        return preprocessing.fit(channels_first(check_pixels(picture)))
    if isinstance(picture, Tensor):
        return preprocessing.fit(picture)
    raise ValueError(
        f"a picture is bytes, a path, a PIL image, a uint8 array H x W x 3 or a uint8 tensor [3, H, W], "
        f"not {type(picture).__name__}"
    )


def batched(pictures: Picture | Iterable[Picture], preprocessing: Preprocessing) -> Tensor:
    """As a batch, uint8 ``[N, C, h, w]``: one picture, several, a tensor ``[N, C, H, W]``, an array ``[N, H, W, 3]``.

    A tensor that fits already is taken as it is. Raises as :func:`fitted`, and ``ValueError`` for no pictures at all.
    """
    if _fits(pictures, preprocessing):
        return pictures.cpu()
    if isinstance(pictures, (Tensor, np.ndarray)):
        several = list(pictures) if pictures.ndim == 4 else [pictures]
    elif isinstance(pictures, (bytes, str, os.PathLike, PIL.Image.Image)):
        several = [pictures]
    else:
        several = list(pictures)
    if not several:
        raise ValueError("there are no pictures to answer: give at least one")
    return torch.stack([fitted(picture, preprocessing).cpu() for picture in several])


def _fits(pictures: Picture | Iterable[Picture], preprocessing: Preprocessing) -> TypeGuard[Tensor]:
    """Whether it is a batch already."""
    shape = (preprocessing.channels, *preprocessing.size)
    return (
        isinstance(pictures, Tensor)
        and pictures.dtype is torch.uint8
        and tuple(pictures.shape[1:]) == shape
        and pictures.ndim == 4
        and len(pictures) > 0
    )
