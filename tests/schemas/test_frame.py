"""Frame headers: what is said is read back, and what cannot be read is absent."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from layercache.schemas.frame import FrameHeaders, default_id, last_text

texts = st.none() | st.text(st.characters(exclude_categories=["Cs"]))
repeatable = settings(derandomize=True, deadline=None)


@repeatable
@given(
    st.builds(
        FrameHeaders, content_type=texts, ce_id=texts, ce_source=texts, ce_time=texts, label=texts, ce_dataref=texts
    )
)
def test_read_undoes_as_kafka(headers: FrameHeaders) -> None:
    assert FrameHeaders.read(headers.as_kafka()) == headers


@repeatable
@given(st.lists(st.tuples(st.text(), st.none() | st.binary())))
def test_no_headers_make_a_frame_unreadable(headers: list[tuple[str, bytes | None]]) -> None:
    assert FrameHeaders.read([*headers, ("ce_id", b"last")]).ce_id == "last"


@pytest.mark.parametrize("headers", [None, [], [("ce_id", None)], [("ce_id", b"\xff\xfe")], [("ID", b"7")]])
def test_what_cannot_be_read_is_absent(headers: list[tuple[str, bytes | None]] | None) -> None:
    assert FrameHeaders.read(headers) == FrameHeaders()


def test_names_on_the_wire() -> None:
    headers = FrameHeaders(content_type="image/png", ce_id="1", ce_source="s", ce_time="t", label="bag")
    assert headers.as_kafka() == [
        ("content-type", b"image/png"),
        ("ce_id", b"1"),
        ("ce_source", b"s"),
        ("ce_time", b"t"),
        ("label", b"bag"),
    ]


def test_of_a_repeated_header_the_last_readable_one_counts() -> None:
    assert FrameHeaders.read([("label", b"a"), ("label", b"b"), ("label", b"\xff")]).label == "b"


def test_a_frame_without_an_id_is_called_by_its_position() -> None:
    assert default_id("frames", 3, 1871) == "frames-3-1871"


HEADERS = st.lists(
    st.tuples(st.sampled_from(["ce_id", "ce_source", "content-type", "other"]), st.none() | st.binary(max_size=4))
)


@repeatable
@given(HEADERS)
def test_one_header_is_read_as_all_of_them_are(headers: list[tuple[str, bytes | None]]) -> None:
    assert last_text(headers, "ce_id") == FrameHeaders.read(headers).ce_id
    assert last_text(headers, "content-type") == FrameHeaders.read(headers).content_type
