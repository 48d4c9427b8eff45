"""Publishing by reference: pictures put into a store first, or that lie in one already."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any
from uuid import uuid4

import fsspec

from layercache.stream.publishing.sources import CONTENT_TYPES, Picture, PictureSource, Skipped, SourceError, is_picture
from layercache.stream.references.prefixes import AllowList, Location, Prefix, Refused, UnusablePrefix
from layercache.stream.references.reading import describe_failure

Prefixes = Mapping[str, Mapping[str, Any]]


class Deposited:
    """The pictures of another source, each written below a prefix and then named by its place there.

    >>> fsspec.filesystem("memory").store.clear()
    >>> class Album:
    ...     uri, key, total, live = "album", None, 1, False
    ...     def pictures(self): yield Picture("a b.png", b"picture", "image/png")
    >>> [picture] = Deposited(Album(), "memory://frames/").pictures()
    >>> picture.reference, fsspec.filesystem("memory").cat_file("/frames/a b.png")
    ('memory://frames/a%20b.png', b'picture')
    """

    def __init__(self, source: PictureSource, prefix: str, prefixes: Prefixes | None = None) -> None:
        self._source = source
        self._prefix = _prefix(prefix, prefixes or {})
        self._files = _file_system(self._prefix)
        self.uri, self.key, self.total, self.live = source.uri, source.key, source.total, source.live

    def pictures(self) -> Iterator[Picture | Skipped]:
        """Raises :class:`SourceError` where a picture cannot be written."""
        for item in self._source.pictures():
            if isinstance(item, Skipped):  # sources know of the topic's limit alone, and here it is not the topic's
                yield Skipped(item.name, item.why.replace("topics.max_record_bytes", "worker.max_frame_bytes"))
                continue
            try:
                place = self._prefix.child(item.name)
            except Refused as error:
                yield Skipped(item.name, f"has no place below {self._prefix}: {error}")
                continue
            try:
                self._write(place, item.value)
            except Exception as error:  # file systems raise what they like
                why = describe_failure(error, self._prefix.options)
                raise SourceError(f"{item.name} cannot be written to {place}: {why}") from error
            yield Picture(item.name, b"", item.content_type, item.time, reference=str(place))

    def _write(self, place: Location, value: bytes) -> None:
        if self._prefix.location.scheme != "file":
            self._files.pipe_file(place.plain, value)  # object stores show a whole file or none
            return
        path = Path(place.path)
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{uuid4().hex}.part")
        try:
            part.write_bytes(value)
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)


class Stored:
    """Pictures that lie in a store already: listed, sorted by their path, and never read; hidden ones are left out."""

    key = None
    live = False

    def __init__(self, url: str, prefixes: Prefixes | None = None) -> None:
        folder, name = url, None
        if PurePosixPath(url).suffix.lower() in CONTENT_TYPES:
            folder, _, name = url.rpartition("/")
        self._prefix = _prefix(folder, prefixes or {})
        self.uri = str(self._prefix)
        self._names = [name] if name else self._list()
        self.total = len(self._names)
        if not self._names:
            raise SourceError(f"{url}: holds no pictures ({', '.join(CONTENT_TYPES)})")

    def pictures(self) -> Iterator[Picture | Skipped]:
        for name in self._names:
            try:
                place = self._prefix.child(name)
            except Refused as error:
                yield Skipped(name, f"cannot be referred to: {error}")
                continue
            yield Picture(name, b"", CONTENT_TYPES[PurePosixPath(name).suffix.lower()], reference=str(place))

    def _list(self) -> list[str]:
        files = _file_system(self._prefix)
        web = self._prefix.location.scheme in ("http", "https")
        root = files._strip_protocol(self._prefix.location.plain if not web else str(self._prefix)).rstrip("/")
        try:
            found = files.find(root)
        except Exception as error:  # file systems raise what they like
            raise SourceError(
                f"{self.uri}: cannot be listed: {describe_failure(error, self._prefix.options)}"
            ) from error
        names = (path.removeprefix(root).lstrip("/") for path in found)
        return sorted(name for name in names if is_picture(PurePosixPath(name)))


def _prefix(url: str, prefixes: Prefixes) -> Prefix:
    """Of ``url``, with the options of the setting's prefix that it is or lies under."""
    try:
        wanted = Prefix.of(url)
        for known in AllowList(prefixes).prefixes:
            if known.location == wanted.location or known.holds(wanted.location):
                return Prefix(wanted.location, known.options)
    except UnusablePrefix as error:
        raise SourceError(f"{url}: {str(error).removeprefix('references.prefixes: ')}") from error
    return wanted


def _file_system(prefix: Prefix) -> Any:
    try:
        return fsspec.filesystem(prefix.location.scheme, **prefix.options)
    except Exception as error:  # file systems check their options in their own ways
        why = describe_failure(error, prefix.options)
        raise SourceError(f"{prefix}: {why} (for s3:// install layercache[s3])") from error
