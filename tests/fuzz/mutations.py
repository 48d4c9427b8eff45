"""Inputs that are nearly right: examples with a few edits, of which every one can be made again from its number."""

import random
from collections.abc import Sequence

#: What breaks readers of lengths, counts and signs.
_NUMBERS = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 2**63 - 1, 2**64 - 1)
_TEXTS = (b"\x00", b"\xff\xfe", b"null", b"-1", b"1e999", b"9" * 40, b'"', b"{", b"[" * 2_000, b"../", b"\n", b"NaN")
_LARGEST = 200_000


def mutated(examples: Sequence[bytes], rng: random.Random) -> bytes:
    """One of ``examples`` with up to six edits; now and then no example at all.

    >>> mutated([b"example"], random.Random(3)) == mutated([b"example"], random.Random(3))
    True
    """
    if rng.random() < 0.02:
        return rng.randbytes(rng.randrange(200))
    data = bytearray(rng.choice(examples))
    for _ in range(rng.choice((0, 1, 1, 2, 3, 6))):
        _edit(data, examples, rng)
    return bytes(data[:_LARGEST])


def _edit(data: bytearray, examples: Sequence[bytes], rng: random.Random) -> None:
    at = rng.randrange(len(data) + 1)
    length = min(len(data) - at, 2 ** rng.randrange(10))
    match rng.randrange(9):
        case 0 if at < len(data):
            data[at] ^= 1 << rng.randrange(8)
        case 1 if at < len(data):
            data[at] = rng.randrange(256)
        case 2:
            del data[at : at + length]
        case 3:
            data[at:at] = data[at : at + length]
        case 4:
            width = rng.choice((1, 2, 4, 8))
            number = rng.choice(_NUMBERS) & (256**width - 1)
            data[at : at + width] = number.to_bytes(width, rng.choice(("little", "big")))
        case 5:
            data[at:at] = rng.choice(_TEXTS)
        case 6:
            del data[at:]
        case 7:
            other = rng.choice(examples)
            start = rng.randrange(len(other) + 1)
            data[at : at + length] = other[start : start + length]
        case _:
            data[at : at + length] = rng.randbytes(length)
