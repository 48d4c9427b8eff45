"""References lead into the operator's prefixes and nowhere else, however they are spelt."""

import posixpath
from urllib.parse import quote, unquote, urlsplit

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from layercache.stream.references.prefixes import (
    MAX_CHARACTERS,
    AllowList,
    Location,
    Prefix,
    Refused,
    UnusablePrefix,
)

PREFIXES = {
    "file:///srv/frames/": {},
    "s3://cameras/frames": {"secret": "hush-hush"},
    "https://Host.example:8443/f/": {},
}
ALLOWED = AllowList(PREFIXES)


@pytest.mark.parametrize(
    ("reference", "prefix", "plain"),
    [
        ("file:///srv/frames/a.png", "file:///srv/frames/", "file:///srv/frames/a.png"),
        ("FILE:///srv/frames/b/a.png", "file:///srv/frames/", "file:///srv/frames/b/a.png"),
        ("file:///srv/frames/100%25.png", "file:///srv/frames/", "file:///srv/frames/100%.png"),
        ("file:///srv/frames/%252e%252e", "file:///srv/frames/", "file:///srv/frames/%2e%2e"),
        ("file:///srv/fr%61mes/größe.png", "file:///srv/frames/", "file:///srv/frames/größe.png"),
        ("s3://cameras/frames/gate 3/1.png", "s3://cameras/frames/", "s3://cameras/frames/gate 3/1.png"),
        ("s3://cameras/frames/gate%203/1.png", "s3://cameras/frames/", "s3://cameras/frames/gate 3/1.png"),
        ("s3://cameras/frames/~/*.png", "s3://cameras/frames/", "s3://cameras/frames/~/*.png"),
        ("https://hOST.example:8443/f/1.png", "https://host.example:8443/f/", "https://host.example:8443/f/1.png"),
    ],
)
def test_what_is_under_a_prefix_is_found(reference: str, prefix: str, plain: str) -> None:
    found, location = ALLOWED.find(reference)
    assert (str(found), location.plain) == (prefix, plain)


@pytest.mark.parametrize(
    "reference",
    [
        "",
        "a.png",
        "/srv/frames/a.png",
        "//srv/frames/a.png",
        "file:/srv/frames/a.png",
        "file://srv/frames/a.png",
        "file://localhost/srv/frames/a.png",
        "local:///srv/frames/a.png",
        "file:///srv/frames",
        "file:///srv/frames/",
        "file:///srv/frames/b/",
        "file:///srv/framesb/a.png",
        "file:///srv/frames-of-others/a.png",
        "file:///srv/Frames/a.png",
        "file:///srv/frames/../frames/a.png",
        "file:///srv/frames/../secret",
        "file:///srv/frames/%2e%2e/secret",
        "file:///srv/frames/%2E./secret",
        "file:///srv/frames/..%2fsecret",
        "file:///srv/frames/%2e%2e%2fsecret",
        "file:///srv/frames/./a.png",
        "file:///srv/frames//a.png",
        "file:///srv/frames/..\\secret",
        "file:///srv/frames/a%00.png",
        "file:///srv/frames/a\n.png",
        "file:///srv/frames/%0aa.png",
        "file:///srv/frames/%ff.png",
        "file:///srv/frames/50%.png",
        "file:///srv/frames/a.png?x",
        "file:///srv/frames/a.png#x",
        "simplecache::file:///srv/frames/a.png",
        "zip://etc/passwd::file:///srv/frames/a.zip",
        "file:///srv/frames/a.zip::x",
        "file:///srv/frames/a.zip%3A%3Ax",
        "file:///srv/frames/file:///etc/passwd",
        "s3://cameras/other/1.png",
        "s3://Cameras/frames/1.png",
        "s3://cameras.evil/frames/1.png",
        "s3://cameras%2fframes/1.png",
        "s3://key:secret@cameras/frames/1.png",
        "s3a://cameras/frames/1.png",
        "http://host.example:8443/f/1.png",
        "https://host.example/f/1.png",
        "https://host.example:8443@evil.example/f/1.png",
        "https://evil.example/f/1.png",
        "https://host.example:8443.evil.example/f/1.png",
        "https://host.example:8443/f/%2e%2e/admin",
        "https://host.example:8443/f/1.png?redirect=//evil.example",
        "s3://cameras/frames/" + "a" * MAX_CHARACTERS,
    ],
)
def test_nothing_else_is(reference: str) -> None:
    with pytest.raises(Refused):
        ALLOWED.find(reference)


def test_without_prefixes_nothing_is_found_and_the_setting_is_named() -> None:
    with pytest.raises(Refused, match=r"references\.prefixes is empty"):
        AllowList({}).find("file:///srv/frames/a.png")


def test_the_longest_prefix_counts() -> None:
    allowed = AllowList({"s3://cameras/": {"key": "wide"}, "s3://cameras/gate/": {"key": "narrow"}})
    assert [allowed.find(f"s3://cameras/{path}")[0].options["key"] for path in ("gate/1", "gates/1", "gate2")] == [
        "narrow",
        "wide",
        "wide",
    ]


def test_a_user_and_a_password_are_never_repeated() -> None:
    for reference in ("https://me:hunter2@host.example/f/1.png", "https://me:hunter2@host.example/f/../1.png"):
        with pytest.raises(Refused) as caught:
            ALLOWED.find(reference)
        assert "hunter2" not in str(caught.value)
    with pytest.raises(UnusablePrefix) as unusable:
        Prefix.of("https://me:hunter2@host.example/f/")
    assert "hunter2" not in str(unusable.value)
    assert "hush-hush" not in repr(ALLOWED.prefixes)


@pytest.mark.parametrize(
    "prefix",
    [
        "", "/srv/frames", "file:///", "file://./frames", "file://", "memory://", "simplecache::s3://cameras/",
        "zip://a.zip", "reference://x/", "local:///srv/", "dir:///srv", "s3://cameras/../", "s3://cameras//frames",
        "https://me@host/", "https://host/f?x=1",
    ],
)  # fmt: skip
def test_a_prefix_that_bounds_nothing_is_an_error_that_says_what_to_write(prefix: str) -> None:
    with pytest.raises(UnusablePrefix, match=r"references\.prefixes.*write s3://bucket/folder/"):
        AllowList({prefix: {}})


def test_files_below_a_prefix_have_a_reference() -> None:
    prefix = Prefix.of("file:///srv/frames/")
    assert str(prefix.child("gate 3/50%.png")) == "file:///srv/frames/gate%203/50%25.png"
    for name in ("../a", "a/../../b", "", "a//b", "a\\b", "a\nb"):
        with pytest.raises(Refused):
            prefix.child(name)


PIECES = st.sampled_from(
    [
        "file", "s3", "https", ":", "/", "//", "///", "srv", "frames", "framesb", "cameras", "f", "etc", "passwd", "..",
        ".", "%2e", "%2E%2e", "%2f", "%5c", "\\", "%00", "%", "%25", "@", "?", "#", "::", "~", "host.example:8443",
        "evil.example", "localhost", " ", "\t", "*", "a.png", "é", "file:///srv/frames/", "s3://cameras/frames/",
        "https://host.example:8443/f/", "file://srv/frames",
    ]
)  # fmt: skip


@given(st.lists(PIECES, max_size=12).map("".join) | st.text(max_size=40).map("file:///srv/frames/".__add__))
@example("file:///srv/frames/a/../../../etc/passwd")
@settings(max_examples=3_000, deadline=None, derandomize=True)
def test_however_it_is_spelt_what_is_found_lies_under_its_prefix(reference: str) -> None:
    """By another reader of URLs: Python's own, and a normalised path."""
    try:
        prefix, location = ALLOWED.find(reference)
    except Refused as error:
        assert str(error)
        return
    for text in (reference, str(location)):
        parts = urlsplit(text)
        assert (parts.username, parts.password, parts.query, parts.fragment) == (None, None, "", "")
        assert parts.scheme == prefix.location.scheme
        assert parts.netloc.lower() == prefix.location.authority
        path = unquote(parts.path)
        assert posixpath.normpath(path) == path == location.path
        assert path.startswith(prefix.location.path + "/")


CHARACTERS = st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="/\\")
NAMES = st.text(CHARACTERS, min_size=1, max_size=12).filter(lambda name: name not in (".", "..") and "::" not in name)


@given(st.lists(NAMES, min_size=1, max_size=5))
@settings(max_examples=500, deadline=None, derandomize=True)
def test_every_plain_name_below_a_prefix_is_found_again(names: list[str]) -> None:
    path = "/".join(names)
    child = Prefix.of("s3://cameras/frames/").child(path)
    assert ALLOWED.find(str(child))[1] == child == Location("s3", "cameras", ("frames", *names))
    assert ALLOWED.find("s3://cameras/frames/" + quote(path))[1] == child
