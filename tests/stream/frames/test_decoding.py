"""Every kind of picture becomes what the model sees; whatever else comes is a dead letter, with its reason."""

import io
import zlib

import numpy as np
import PIL.Image
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from layercache.early_exit.machine import MachineFailed
from layercache.early_exit.model.preprocessing import Preprocessing
from layercache.schemas.dead_letter import Reason
from layercache.stream.frames.decoding import DecodeError, Limits, decode_frame
from tests.support.pictures import COLOURS, coloured, encode, png

RGB = Preprocessing(size=(16, 16), mean=(0.0,) * 3, std=(1.0,) * 3)
GREY = Preprocessing(size=(16, 16), mean=(0.0,), std=(1.0,))
LIMITS = Limits(max_bytes=100_000, max_pixels=10_000)

KINDS = ("JPEG", "PNG", "WEBP", "NPY")
TYPES = {"JPEG": "image/jpeg", "PNG": "image/png", "WEBP": "image/webp", "NPY": "application/x-npy"}
PICTURE = coloured("green")
ENCODED = {kind: encode(PICTURE, kind) for kind in KINDS}


def reason(value: bytes | None, content_type: str | None = None, preprocessing: Preprocessing = RGB) -> Reason:
    with pytest.raises(DecodeError) as caught:
        decode_frame(value, content_type, preprocessing, LIMITS)
    assert str(caught.value)
    return caught.value.reason


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("colour", COLOURS)
def test_every_kind_keeps_its_colour(kind: str, colour: str) -> None:
    picture = decode_frame(encode(coloured(colour), kind), TYPES[kind], RGB, LIMITS)
    assert picture.dtype is torch.uint8
    assert tuple(picture.shape) == (3, 16, 16)
    assert picture.float().mean((1, 2)) == pytest.approx(COLOURS[colour], abs=6)


@pytest.mark.parametrize("kind", KINDS)
def test_a_grey_model_gets_the_luma(kind: str) -> None:
    picture = decode_frame(ENCODED[kind], None, GREY, LIMITS)
    red, green, blue = COLOURS["green"]
    assert tuple(picture.shape) == (1, 16, 16)
    assert picture.float().mean().item() == pytest.approx(0.299 * red + 0.587 * green + 0.114 * blue, abs=4)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "I;16", "CMYK"])
@pytest.mark.parametrize("preprocessing", [RGB, GREY], ids=["rgb", "grey"])
def test_other_pixel_formats_are_converted(mode: str, preprocessing: Preprocessing) -> None:
    grey = np.full((20, 20), 255, np.uint8)
    image = PIL.Image.fromarray(np.full((20, 20), 0xFF00, np.uint16)) if mode == "I;16" else PIL.Image.fromarray(grey)
    stream = io.BytesIO()
    image.convert("RGB").convert(mode).save(stream, "JPEG") if mode == "CMYK" else (
        image if mode == "I;16" else image.convert(mode)
    ).save(stream, "PNG")
    picture = decode_frame(stream.getvalue(), None, preprocessing, LIMITS)
    assert picture.float().mean().item() == pytest.approx(255, abs=1)


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_a_turned_picture_is_turned_back(kind: str) -> None:
    pixels = np.concatenate([coloured("red", 24, 24), coloured("blue", 24, 24)], axis=1)  # red on the left
    exif = PIL.Image.Exif()
    exif[0x0112] = 6  # shown after a quarter turn clockwise: red at the top
    picture = decode_frame(encode(pixels, kind, exif=exif.tobytes()), None, RGB, LIMITS).float()
    assert picture[0, :4].mean() > 150
    assert picture[2, -4:].mean() > 150


def test_a_picture_of_the_models_size_is_not_touched() -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (16, 16, 3), np.uint8)
    for kind in ("PNG", "NPY"):
        assert np.array_equal(decode_frame(encode(pixels, kind), None, RGB, LIMITS).permute(1, 2, 0).numpy(), pixels)


def test_an_array_may_be_grey_or_in_fortran_order() -> None:
    pixels = np.random.default_rng(2).integers(0, 256, (16, 16), np.uint8)
    assert np.array_equal(decode_frame(encode(pixels, "NPY"), None, GREY, LIMITS)[0].numpy(), pixels)
    turned = np.asfortranarray(pixels)
    assert np.array_equal(decode_frame(encode(turned, "NPY"), None, GREY, LIMITS)[0].numpy(), pixels)


def test_no_bytes() -> None:
    assert reason(None) is Reason.EMPTY
    assert reason(b"") is Reason.EMPTY


@pytest.mark.parametrize("value", [b"hello, world", b"\x00" * 100, b"GIF89a" + bytes(40), b"{}", b"\xff\xd8"])
def test_what_is_no_picture(value: bytes) -> None:
    assert reason(value) is Reason.UNKNOWN_FORMAT
    assert reason(value, "text/plain") is Reason.UNKNOWN_FORMAT


def test_a_content_type_that_contradicts_the_bytes() -> None:
    assert reason(ENCODED["PNG"], "image/jpeg") is Reason.WRONG_CONTENT_TYPE
    assert reason(ENCODED["JPEG"], "Application/X-NPY; version=1") is Reason.WRONG_CONTENT_TYPE


@pytest.mark.parametrize("content_type", ["application/octet-stream", "IMAGE/PNG", "image/png; q=1", "", None])
def test_a_content_type_that_does_not(content_type: str | None) -> None:
    assert tuple(decode_frame(ENCODED["PNG"], content_type, RGB, LIMITS).shape) == (3, 16, 16)


def test_too_many_bytes() -> None:
    assert reason(ENCODED["PNG"] + bytes(100_000)) is Reason.TOO_MANY_BYTES


@pytest.mark.parametrize("kind", KINDS)
def test_too_many_pixels_are_not_even_decoded(kind: str) -> None:
    assert reason(encode(np.zeros((101, 100, 3), np.uint8), kind)) is Reason.TOO_MANY_PIXELS
    assert tuple(decode_frame(encode(np.zeros((100, 100, 3), np.uint8), kind), None, RGB, LIMITS).shape) == (3, 16, 16)


def test_a_bomb_is_told_by_its_header() -> None:
    assert reason(png(2**30, 2**30)) is Reason.TOO_MANY_PIXELS
    lossless = encode(np.zeros((120, 120, 3), np.uint8), "WEBP", lossless=True)
    extended = encode(np.zeros((120, 120, 4), np.uint8), "WEBP", exif=PIL.Image.Exif().tobytes() + b"Exif\0\0")
    assert (lossless[12:16], extended[12:16]) == (b"VP8L", b"VP8X")
    assert reason(lossless) is reason(extended) is Reason.TOO_MANY_PIXELS


def test_a_sliver_that_would_grow_without_bound() -> None:
    cropped = Preprocessing(size=(224, 224), mean=(0.0,) * 3, std=(1.0,) * 3, resize=256)
    limits = Limits(max_bytes=100_000, max_pixels=1_000_000)
    with pytest.raises(DecodeError) as caught:
        decode_frame(encode(np.zeros((1, 9_000, 3), np.uint8), "PNG"), None, cropped, limits)
    assert caught.value.reason is Reason.TOO_MANY_PIXELS
    assert tuple(decode_frame(ENCODED["PNG"], None, cropped, limits).shape) == (3, 224, 224)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9, 0.99])
def test_truncated_pictures(kind: str, share: float) -> None:
    value = ENCODED[kind]
    assert reason(value[: int(len(value) * share)]) is Reason.CORRUPT


@pytest.mark.parametrize("kind", KINDS)
def test_a_picture_without_its_last_byte(kind: str) -> None:
    assert reason(ENCODED[kind][:-1]) is Reason.CORRUPT


def test_a_progressive_jpeg_without_its_end() -> None:
    assert reason(encode(PICTURE, "JPEG", progressive=True)[:-2]) is Reason.CORRUPT


def test_corrupt_pictures() -> None:
    damaged = bytearray(ENCODED["PNG"])
    damaged[len(damaged) // 2] ^= 0xFF
    assert reason(bytes(damaged)) is Reason.CORRUPT
    jpeg = ENCODED["JPEG"]
    tables = jpeg.index(b"\xff\xc4")  # Huffman tables
    assert reason(jpeg[: tables + 6] + b"\xff" * 12 + jpeg[tables + 18 :]) is Reason.CORRUPT
    webp = ENCODED["WEBP"]
    assert reason(webp[:23] + b"\0\0\0" + webp[26:]) is Reason.CORRUPT


def test_a_png_whose_checksums_fit_its_nonsense() -> None:
    assert reason(png(20, 20, data=b"no zlib stream")) is Reason.CORRUPT
    assert reason(png(20, 20, data=zlib.compress(bytes(30)))) is Reason.CORRUPT
    assert reason(png(20, 20, data=zlib.compress(b"\x07" * 20 * 61))) is Reason.CORRUPT  # no such filter
    assert reason(png(0, 20)) is Reason.CORRUPT


def test_an_animation_is_refused() -> None:
    frames = [PIL.Image.fromarray(coloured(colour)) for colour in COLOURS]
    stream = io.BytesIO()
    frames[0].save(stream, "WEBP", save_all=True, append_images=frames[1:])
    assert reason(stream.getvalue()) is Reason.UNKNOWN_FORMAT


class Evil:
    """Would leave a trace where it was unpickled."""

    unpickled = False

    def __setstate__(self, _: object) -> None:
        Evil.unpickled = True


def test_pickles_are_never_read() -> None:
    stream = io.BytesIO()
    objects = np.empty((16, 16), object)
    objects[:] = Evil()
    np.save(stream, objects, allow_pickle=True)
    assert reason(stream.getvalue()) is Reason.PICKLED
    assert not Evil.unpickled


@pytest.mark.parametrize("dtype", ["uint16", "float32", "int8", "bool", "S1", "M8[s]", "u1,u1"])
def test_arrays_of_another_type(dtype: str) -> None:
    stream = io.BytesIO()
    np.save(stream, np.zeros((16, 16), dtype), allow_pickle=False)
    assert reason(stream.getvalue()) is Reason.WRONG_DTYPE


@pytest.mark.parametrize(
    "shape", [(), (16,), (16, 16, 1), (16, 16, 4), (3, 16, 16), (1, 16, 16, 3), (0, 16), (16, 0, 3)]
)
def test_arrays_of_another_shape(shape: tuple[int, ...]) -> None:
    assert reason(encode(np.zeros(shape, np.uint8), "NPY")) is Reason.WRONG_SHAPE


def test_an_array_with_more_than_its_values() -> None:
    assert reason(ENCODED["NPY"] + b"\0") is Reason.CORRUPT


@pytest.mark.parametrize(
    "header", [b"(" * 5_000, b"{'descr': '|u1'", b"\xff" * 40, b"{'descr':'|u1','shape':(9**9**9,2)}"]
)
def test_arrays_whose_header_is_nonsense(header: bytes) -> None:
    assert reason(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header) is Reason.CORRUPT


def fits_or_says_why(value: bytes) -> None:
    for preprocessing in (RGB, GREY):
        try:
            picture = decode_frame(value, None, preprocessing, LIMITS)
        except DecodeError as error:
            assert error.reason in Reason
            assert str(error)
        else:
            assert tuple(picture.shape) == (preprocessing.channels, 16, 16)


@given(
    st.binary(max_size=200),
    st.sampled_from([b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF\0\0\0\0WEBP", b"\x93NUMPY"]),
)
@settings(max_examples=300, deadline=None, derandomize=True)
def test_any_bytes_give_a_picture_or_a_reason(value: bytes, start: bytes) -> None:
    fits_or_says_why(start + value)


@given(st.sampled_from(KINDS), st.data())
@settings(max_examples=500, deadline=None, derandomize=True)
def test_any_damage_gives_a_picture_or_a_reason(kind: str, data: st.DataObject) -> None:
    value = bytearray(ENCODED[kind])
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(value) - 1))
        value[at : at + data.draw(st.integers(0, 30))] = data.draw(st.binary(max_size=30))
        if not value:
            break
    fits_or_says_why(bytes(value))


@given(st.sampled_from(KINDS), st.floats(0, 1, exclude_max=True))
@settings(max_examples=200, deadline=None, derandomize=True)
def test_any_truncation_gives_a_reason(kind: str, share: float) -> None:
    value = ENCODED[kind]
    reason(value[: int(len(value) * share)])


def test_where_there_is_no_memory_no_frame_is_blamed(monkeypatch: pytest.MonkeyPatch) -> None:
    def decode(*_: object, **__: object) -> torch.Tensor:
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr("layercache.stream.frames.decoding.decode_jpeg", decode)
    with pytest.raises(MachineFailed, match="no memory to decode a frame of"):
        decode_frame(ENCODED["JPEG"], None, RGB, LIMITS)
