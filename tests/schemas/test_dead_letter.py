"""Dead letters say what was wrong, in headers beside the frame's own."""

import msgspec
import pytest

from layercache.schemas.dead_letter import DeadLetterHeaders, Reason, headers, headers_without_value


@pytest.mark.parametrize("reason", Reason)
def test_read_undoes_headers(reason: Reason) -> None:
    written = headers(reason, "ends after 17 of 5,120 bytes – 🎒", "frames", 3, 2**62)
    assert DeadLetterHeaders.read([("ce_id", b"\xff"), *written]) == DeadLetterHeaders(
        reason=reason,
        message="ends after 17 of 5,120 bytes – 🎒",
        topic="frames",
        partition="3",
        offset=str(2**62),
    )


def test_a_frame_published_again_from_the_dead_letters_tells_its_latest_reason() -> None:
    first = headers(Reason.CORRUPT, "first", "frames", 0, 1)
    second = headers(Reason.EMPTY, "second", "frames", 0, 9)
    assert DeadLetterHeaders.read(first + second).reason is Reason.EMPTY


@pytest.mark.parametrize("missing", range(5))
def test_a_missing_header_is_named(missing: int) -> None:
    written = headers(Reason.EMPTY, "", "frames", 0, 0)
    (name, _) = written.pop(missing)
    with pytest.raises(msgspec.ValidationError, match=name):
        DeadLetterHeaders.read(written)


def test_headers_of_no_dead_letter_are_refused() -> None:
    with pytest.raises(msgspec.ValidationError):
        DeadLetterHeaders.read(None)


def test_a_value_that_was_left_out_is_told_by_its_size_and_hash() -> None:
    told = DeadLetterHeaders.read([*headers(Reason.CORRUPT, "", "frames", 0, 1), *headers_without_value(b"abc")])
    assert (told.size, told.sha256) == ("3", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad")
    assert DeadLetterHeaders.read(headers(Reason.CORRUPT, "", "frames", 0, 1)).sha256 is None
