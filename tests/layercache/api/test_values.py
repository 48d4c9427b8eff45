"""What a client makes of the pictures that it is given."""

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from layercache.api.values import encoded
from tests.support.pictures import coloured, encode


@pytest.mark.parametrize(
    ("kind", "content_type"),
    [("JPEG", "image/jpeg"), ("PNG", "image/png"), ("WEBP", "image/webp"), ("NPY", "application/x-npy")],
)
def test_what_is_encoded_stays_as_it_is(kind: str, content_type: str, tmp_path: Path) -> None:
    value = encode(coloured("red"), kind)
    (tmp_path / "picture").write_bytes(value)
    assert (
        encoded(value) == encoded(tmp_path / "picture") == encoded(str(tmp_path / "picture")) == (value, content_type)
    )


def test_pixels_stay_what_they_are() -> None:
    pixels = coloured("blue", noise=3)
    value, kind = encoded(pixels)
    assert kind == "application/x-npy"
    assert np.array_equal(np.load(io.BytesIO(value), allow_pickle=False), pixels)
    value, kind = encoded(PIL.Image.fromarray(pixels))
    assert kind == "image/png"
    assert np.array_equal(np.array(PIL.Image.open(io.BytesIO(value))), pixels)


def test_a_photograph_is_turned_as_its_camera_says() -> None:
    stream, exif = io.BytesIO(), PIL.Image.Exif()
    exif[0x0112] = 6  # lies on its side
    PIL.Image.fromarray(coloured("red", 20, 30)).save(stream, "JPEG", exif=exif)
    value, _ = encoded(PIL.Image.open(stream))
    assert PIL.Image.open(io.BytesIO(value)).size == (20, 30)


def test_an_image_of_inks_is_sent_as_colours() -> None:
    value, kind = encoded(PIL.Image.new("CMYK", (4, 4)))
    assert (kind, PIL.Image.open(io.BytesIO(value)).mode) == ("image/png", "RGB")


@pytest.mark.parametrize(
    ("picture", "said"),
    [
        (b"hello", "these bytes are no JPEG, PNG, WebP or .npy"),
        (Path(__file__), "test_values.py is no JPEG, PNG, WebP or .npy"),
        (np.zeros((4, 4)), "not float64 of 4 x 4"),
        (np.zeros((0, 4), np.uint8), "not uint8 of 0 x 4"),
        (None, "a picture is bytes, a path, a PIL image or a uint8 array H x W x 3, not NoneType"),
    ],
)
def test_what_is_no_picture_is_refused_before_it_travels(picture: object, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        encoded(picture)  # type: ignore[arg-type]


@pytest.mark.process
def test_a_client_needs_no_torch() -> None:
    program = "import sys, layercache; layercache.Client, layercache.AsyncClient; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
