"""Whatever format a frame has, a browser gets a small PNG or JPEG, or hears why not."""

import io
import pickle

import numpy as np
import PIL.Image
import pytest

from layercache.dashboard.state import Picture
from layercache.dashboard.thumbnails import SIDE, NoPicture, thumbnail
from layercache.stream.frames.decoding import Limits
from tests.support.pictures import COLOURS, coloured, encode, png

LIMITS = Limits(max_bytes=5_000_000, max_pixels=4_000_000)


def pixels(picture: Picture) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    with PIL.Image.open(io.BytesIO(picture.data)) as opened:
        assert opened.format is not None
        assert picture.content_type == f"image/{opened.format.lower()}"
        assert opened.size == (picture.width, picture.height)
        return np.asarray(opened.convert("RGB"))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "NPY"])
@pytest.mark.parametrize(("height", "width"), [(24, 20), (600, 900)])
def test_every_format_becomes_a_small_picture_of_the_same_colour(kind: str, height: int, width: int) -> None:
    small = thumbnail(encode(coloured("green", height, width), kind), LIMITS)
    assert max(small.width, small.height) == min(SIDE, max(height, width))
    assert small.width / small.height == pytest.approx(width / height, rel=0.02)
    assert np.abs(pixels(small).mean((0, 1)) - COLOURS["green"]).max() < 8


def test_grey_alpha_palettes_and_sixteen_bits_are_shown() -> None:
    grey = np.full((30, 40), 128, np.uint8)
    assert pixels(thumbnail(encode(grey, "NPY"), LIMITS)).mean() == pytest.approx(128, abs=1)
    for mode in ("LA", "RGBA", "P", "1"):
        stream = io.BytesIO()
        PIL.Image.fromarray(coloured("red")).convert(mode).save(stream, "PNG")
        assert thumbnail(stream.getvalue(), LIMITS).width == 20
    deep = io.BytesIO()
    PIL.Image.fromarray(np.full((8, 8), 128 << 8, np.uint16)).save(deep, "PNG")
    assert pixels(thumbnail(deep.getvalue(), LIMITS)).mean() == pytest.approx(128, abs=1)


def test_a_fortran_ordered_array_is_not_turned_over() -> None:
    stream = io.BytesIO()
    picture = coloured("blue", 12, 30)
    np.save(stream, np.asfortranarray(picture))
    np.testing.assert_array_equal(pixels(thumbnail(stream.getvalue(), LIMITS)), picture)


def test_orientation_is_obeyed() -> None:
    stream = io.BytesIO()
    exif = PIL.Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    PIL.Image.fromarray(coloured("red", 20, 60)).save(stream, "JPEG", exif=exif)
    turned = thumbnail(stream.getvalue(), LIMITS)
    assert (turned.width, turned.height) == (20, 60)


def test_what_a_browser_gets_is_encoded_anew() -> None:
    polyglot = encode(coloured("red"), "PNG") + b"<script>alert(1)</script>"
    assert b"script" not in thumbnail(polyglot, LIMITS).data


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (None, "has no bytes"),
        (b"", "has no bytes"),
        (b"GIF89a", "none of image/jpeg, "),
        (encode(coloured("red"), "PNG")[:60], "does not decode"),
        (encode(coloured("red"), "JPEG")[:40], "does not decode"),
        (png(60_000, 60_000), "60000 x 60000 = 3,600,000,000 pixels, at most 4,000,000"),
        (b"x" * 5_000_001, "5,000,001 bytes, at most 5,000,000"),
        (encode(np.zeros((4, 4), np.float32), "NPY"), "an .npy of float32"),
        (encode(np.zeros((4, 4, 7), np.uint8), "NPY"), "an .npy of shape (4, 4, 7)"),
        (encode(np.zeros((4, 4), np.uint8), "NPY")[:-1], "15 bytes of values, not 16"),
    ],
)
def test_what_is_no_picture_says_why(value: bytes | None, why: str) -> None:
    with pytest.raises(NoPicture, match=why.replace("(", r"\(").replace(")", r"\)")):
        thumbnail(value, LIMITS)


def test_pickles_are_never_opened() -> None:
    stream = io.BytesIO()
    np.save(stream, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    assert pickle.dumps({"a": 1})[:2] in stream.getvalue()
    with pytest.raises(NoPicture, match="nothing is ever unpickled"):
        thumbnail(stream.getvalue(), LIMITS)
