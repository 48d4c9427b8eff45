"""The frames: numbered, each of a colour that its number tells, so that every answer can be judged by number alone."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tests.support.pictures import coloured, encode
from tests.support.tiny_model import CLASSES, SIZE

#: Cameras, the frames' keys; frame n comes from camera n mod KEYS.
KEYS = 61
#: Every so often a frame that nobody can read: dead letters are answers too.
BAD_EVERY = 50
BAD = b"no picture"

#: Pictures of each colour, to take turns.
_VARIANTS = 8


@dataclass(frozen=True)
class Frames:
    """Their bytes, made once; a few hundred bytes each, half of them JPEG and half ``.npy``."""

    pictures: tuple[tuple[bytes, ...], ...]

    @classmethod
    def make(cls) -> "Frames":
        """Of the tiny model's size and three colours."""
        return cls(
            tuple(
                tuple(
                    encode(coloured(colour, SIZE, SIZE, noise), "JPEG" if noise % 2 else "NPY")
                    for noise in range(_VARIANTS)
                )
                for colour in CLASSES
            )
        )

    def value(self, number: int) -> bytes:
        """What frame ``number`` carries."""
        return BAD if is_bad(number) else self.pictures[number % len(CLASSES)][number // 3 % _VARIANTS]


def key(number: int) -> str:
    """The camera."""
    return f"camera-{number % KEYS}"


def is_bad(number: int) -> bool:
    """Whether the frame ends as a dead letter."""
    return number % BAD_EVERY == 0


def expected(numbers: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The right label of each, -1 for those that are to be dead letters."""
    return np.where(numbers % BAD_EVERY == 0, -1, numbers % len(CLASSES))
