"""The frames: numbered, each of a colour that its number tells, so that every answer can be judged by number alone."""

import random
from dataclasses import dataclass
from enum import IntEnum, auto

import numpy as np

from tests.faults.harness.history import ONLY_DEAD_LETTER, OR_DEAD_LETTER
from tests.support.pictures import coloured, encode
from tests.support.tiny_model import CLASSES, SIZE

#: Cameras, the frames' keys; frame n comes from camera n mod KEYS.
KEYS = 61
#: Every so often a frame that is a :class:`Bad` one: dead letters are answers too.
BAD_EVERY = 50

#: The dead-letter topic of a poisoned phase takes no larger records than this, and some bad frames are.
LETTERS_AT_MOST_BYTES = 20_000
_LARGE_BYTES = 30_000

#: Pictures of each colour, to take turns.
_VARIANTS = 8


class Bad(IntEnum):
    """What is wrong with a bad frame."""

    NO_PICTURE = 0
    BROKEN = auto()
    BROKEN_AND_LARGE = auto()
    """Larger than the dead-letter topic takes."""
    EMPTY = auto()
    NOT_FINITE = auto()
    """The model's logits are not finite (:mod:`.poison`)."""
    RAISES = auto()
    """The model raises."""
    HEADER_NAME = auto()
    """A good picture, and a header whose name is not UTF-8: a prediction and a dead letter are both right."""


@dataclass(frozen=True)
class Frames:
    """Their bytes, made once; a few hundred bytes each, half of them JPEG and half ``.npy``."""

    pictures: tuple[tuple[bytes, ...], ...]
    bad: dict[Bad, bytes]
    is_poisoned: bool
    """Bad frames are all kinds of :class:`Bad` by turns; else :attr:`Bad.NO_PICTURE` alone."""

    @classmethod
    def make(cls, is_poisoned: bool = False) -> "Frames":
        """Of the tiny model's size and three colours."""
        pictures = tuple(
            tuple(
                encode(coloured(colour, SIZE, SIZE, noise), "JPEG" if noise % 2 else "NPY")
                for noise in range(_VARIANTS)
            )
            for colour in CLASSES
        )
        bad = {
            Bad.NO_PICTURE: b"no picture",
            Bad.BROKEN: pictures[0][1][:40],
            Bad.BROKEN_AND_LARGE: pictures[0][1][:4] + random.Random(0).randbytes(_LARGE_BYTES),
            Bad.EMPTY: b"",
            Bad.NOT_FINITE: encode(np.zeros((SIZE, SIZE, 3), np.uint8), "NPY"),
            Bad.RAISES: encode(np.full((SIZE, SIZE, 3), 255, np.uint8), "NPY"),
        }
        return cls(pictures, bad, is_poisoned)

    def value(self, number: int) -> bytes:
        """What frame ``number`` carries."""
        bad = self.bad_kind(number)
        if bad is None or bad == Bad.HEADER_NAME:
            return self.pictures[number % len(CLASSES)][number // 3 % _VARIANTS]
        return self.bad[bad]

    def bad_kind(self, number: int) -> Bad | None:
        """What is wrong with it; None where nothing is."""
        if number % BAD_EVERY:
            return None
        return Bad(number // BAD_EVERY % len(Bad)) if self.is_poisoned else Bad.NO_PICTURE

    def expected(self, number: int) -> int:
        """The right answer, as :class:`tests.faults.harness.history.Frames` has it."""
        bad = self.bad_kind(number)
        if bad is None:
            return number % len(CLASSES)
        return number % len(CLASSES) + OR_DEAD_LETTER if bad == Bad.HEADER_NAME else ONLY_DEAD_LETTER

    def camera(self, number: int) -> int:
        """Frames whose record another client writes (:mod:`.crooked`) have a camera of their own."""
        return KEYS if self.bad_kind(number) == Bad.HEADER_NAME else number % KEYS


def key(camera: int) -> str:
    """The camera's frames' key."""
    return f"camera-{camera}"
