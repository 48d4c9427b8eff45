"""Where a frame's reference may lead: the operator's prefixes, and nowhere else.

References are CloudEvents' ``dataref`` (the claim-check pattern): the record names a place, the picture lies there.
Pure text: nothing is opened here.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, unquote_to_bytes

#: Longer references are refused unread.
MAX_CHARACTERS = 4_096

#: File systems that read from somewhere else than their URL says: a prefix of theirs would bound nothing.
_INDIRECT = frozenset(
    {
        "abstract", "async_wrapper", "blockcache", "cached", "data", "dir", "dirfs", "filecache", "generic", "git",
        "github", "gist", "jlab", "jupyter", "lazy", "libarchive", "local", "reference", "simplecache", "tar", "zip",
    }
)  # fmt: skip
#: Schemes whose authority is a host name, in which case does not matter.
_WEB = ("http", "https")

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.\-]*)://([^/]*)((?:/.*)?)", re.DOTALL)
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")


class Refused(ValueError):
    """A reference that is not followed; the message says why, and shows no user and no password."""


class UnusablePrefix(ValueError):
    """A prefix in the settings that bounds nothing or that no file system is known for; the message says what to do."""


@dataclass(frozen=True)
class Location:
    """A URL taken apart: the segments of its path are decoded, each of them a plain name."""

    scheme: str
    authority: str
    segments: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> "Location":
        """Takes ``text`` apart. Raises :class:`Refused` for whatever two readers might read differently.

        That is: anything but ``scheme://authority/path``, users and passwords, queries and fragments, chained URLs,
        backslashes, control characters, empty names, ``.`` and ``..``, and slashes behind an escape.

        >>> Location.parse("s3://cameras/gate%203/17.jpg")
        Location(scheme='s3', authority='cameras', segments=('gate 3', '17.jpg'))
        >>> Location.parse("file:///srv/frames/%2e%2e/secret")
        Traceback (most recent call last):
        layercache.stream.references.prefixes.Refused: its path has the name '..'
        """
        scheme, authority, path = _split(text)
        if not path:
            raise Refused("it names no file")
        return cls(scheme, authority, tuple(_name(part) for part in path[1:].split("/")))

    @property
    def path(self) -> str:
        """The path on a disk: the segments below the root."""
        return "/" + "/".join(self.segments)

    @property
    def plain(self) -> str:
        """As object stores and most file systems of ``fsspec`` take it: nothing is escaped."""
        return f"{self.scheme}://{self.authority}{self.path}"

    def __str__(self) -> str:
        """As a URL."""
        escaped = "/".join(quote(name, safe="!$&'()*+,;=:@~") for name in self.segments)
        return f"{self.scheme}://{self.authority}/{escaped}"


@dataclass(frozen=True)
class Prefix:
    """A place that references may lead into, and the options of its file system, which are never shown."""

    location: Location
    options: Mapping[str, Any] = field(repr=False)

    @classmethod
    def of(cls, text: str, options: Mapping[str, Any] | None = None) -> "Prefix":
        """From the settings. Raises :class:`UnusablePrefix`.

        >>> str(Prefix.of("s3://cameras/frames/"))
        's3://cameras/frames/'
        """
        try:
            scheme, authority, path = _split(text)
            inner = path.removeprefix("/").removesuffix("/")
            names = tuple(_name(part) for part in inner.split("/")) if inner else ()
        except Refused as error:
            raise UnusablePrefix(f"references.prefixes: a prefix cannot be used: {error}; {_EXAMPLE}") from error
        if scheme in _INDIRECT:
            raise UnusablePrefix(f"references.prefixes: {scheme}:// reads from somewhere else; {_EXAMPLE}")
        if scheme == "file" and authority:
            raise UnusablePrefix(f"references.prefixes: {text}: a local folder's path is absolute; {_EXAMPLE}")
        if not authority and not names:
            raise UnusablePrefix(f"references.prefixes: {text} is everything there is; {_EXAMPLE}")
        return cls(Location(scheme, authority, names), dict(options or {}))

    def __str__(self) -> str:
        return f"{self.location}/" if self.location.segments else str(self.location)

    def holds(self, location: Location) -> bool:
        """Whether ``location`` lies below; neither the prefix itself nor its neighbours do.

        >>> frames, paths = Prefix.of("s3://cameras/frames"), ("frames/1.png", "frames", "frames2/1.png")
        >>> [frames.holds(Location.parse(f"s3://cameras/{path}")) for path in paths]
        [True, False, False]
        """
        own = self.location
        return (
            (own.scheme, own.authority) == (location.scheme, location.authority)
            and len(location.segments) > len(own.segments)
            and location.segments[: len(own.segments)] == own.segments
        )

    def below(self, location: Location) -> tuple[str, ...]:
        """The names that lead from the prefix to ``location``."""
        return location.segments[len(self.location.segments) :]

    def child(self, name: str) -> Location:
        """The place of the file ``name`` (``a/b.png``) below. Raises :class:`Refused` where that leads elsewhere."""
        own = self.location
        return Location.parse(str(Location(own.scheme, own.authority, (*own.segments, *name.split("/")))))


class AllowList:
    """The operator's prefixes; where several hold a reference, the longest counts.

    >>> allowed = AllowList({"s3://cameras/frames/": {}, "file:///srv/frames/": {}})
    >>> str(allowed.find("file:///srv/frames/gate-3/17.jpg")[0])
    'file:///srv/frames/'
    >>> allowed.find("s3://cameras/others/17.jpg")
    Traceback (most recent call last):
    layercache.stream.references.prefixes.Refused: s3://cameras/others/17.jpg is under none of references.prefixes
    """

    def __init__(self, prefixes: Mapping[str, Mapping[str, Any]]) -> None:
        found = [Prefix.of(text, options) for text, options in prefixes.items()]
        self.prefixes = sorted(found, key=lambda prefix: len(prefix.location.segments), reverse=True)

    def find(self, reference: str) -> tuple[Prefix, Location]:
        """The prefix that a reference falls under, and where it leads. Raises :class:`Refused`."""
        if not self.prefixes:
            raise Refused("references.prefixes is empty, so that this worker fetches nothing")
        location = Location.parse(reference)
        for prefix in self.prefixes:
            if prefix.holds(location):
                return prefix, location
        raise Refused(f"{str(location)[:200]} is under none of references.prefixes")


_EXAMPLE = "write s3://bucket/folder/, https://host/folder/ or file:///folder/"


def _split(text: str) -> tuple[str, str, str]:
    """Scheme, authority and path of a URL that is nothing more than these."""
    if len(text) > MAX_CHARACTERS:
        raise Refused(f"it is longer than {MAX_CHARACTERS:,} characters")
    if _CONTROL.search(text) or "\\" in text:
        raise Refused("it has a control character or a backslash")
    if "::" in text:
        raise Refused("it is a chain of URLs")
    found = _URL.fullmatch(text)
    if found is None:
        raise Refused("it is not an absolute URL")
    scheme, authority, path = found[1].lower(), found[2], found[3]
    if "@" in authority:
        raise Refused("it names a user")
    if "?" in text or "#" in text:
        raise Refused("it has a query or a fragment")
    if re.search(r"[\s%]", authority):
        raise Refused("its host or bucket has a space or an escape")
    return scheme, authority.lower() if scheme in _WEB else authority, path


def _name(part: str) -> str:
    """One decoded name of a path."""
    if _BAD_ESCAPE.search(part):
        raise Refused("its path has a % that begins no escape")
    try:
        name = unquote_to_bytes(part).decode()
    except UnicodeDecodeError:
        raise Refused("its path is not UTF-8") from None
    if name in ("", ".", ".."):
        raise Refused(f"its path has the name {name!r}")
    if _CONTROL.search(name) or "/" in name or "\\" in name or "::" in name:
        raise Refused("its path hides a slash, a colon pair or a control character behind an escape")
    return name
