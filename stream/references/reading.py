"""Reading one referenced file whole, never more of it than allowed: from a local folder, or by ``fsspec``."""

import errno
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

import fsspec

from layercache.stream.references.prefixes import Location, Prefix, Refused, UnusablePrefix

if TYPE_CHECKING:
    import aiohttp


class TooLarge(ValueError):
    """A file of more bytes than are read."""

    def __init__(self, size: int | None, max_bytes: int) -> None:
        super().__init__(f"{'more' if size is None else f'{size:,} bytes'}, at most {max_bytes:,} are fetched")


class Unreadable(RuntimeError):
    """A read that failed; another attempt may succeed. The message shows no option of the file system."""


class _File(Protocol):
    def read(self, length: int, /) -> bytes: ...


class ReferencedFiles(Protocol):
    """Files below one prefix."""

    def read(self, location: Location, max_bytes: int) -> bytes:
        """All bytes. Raises :class:`Refused`, :class:`TooLarge`, or any error of the file system."""


def open_files(prefix: Prefix, timeout_s: float) -> ReferencedFiles:
    """The files below ``prefix``. Connects to nothing yet. Raises :class:`UnusablePrefix`."""
    if prefix.location.scheme == "file":
        return LocalFiles(prefix)
    return RemoteFiles(prefix, timeout_s)


class LocalFiles:
    """A folder on this machine. Symbolic links below it are not followed, even if another process swaps them.

    Each name is opened within the folder before it, so that there is no moment between looking and opening.
    """

    def __init__(self, prefix: Prefix) -> None:
        self._prefix = prefix

    def read(self, location: Location, max_bytes: int) -> bytes:
        with _opened_below(self._prefix.location.path, self._prefix.below(location)) as descriptor:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode):
                raise Refused("it is no regular file")
            with open(descriptor, "rb", buffering=0, closefd=False) as file:
                return read_bounded(file, found.st_size, max_bytes)


class RemoteFiles:
    """An object store or web server, by ``fsspec``; one connection pool for all threads."""

    def __init__(self, prefix: Prefix, timeout_s: float) -> None:
        self._prefix = prefix
        self._web = prefix.location.scheme in ("http", "https")
        self._options = dict(prefix.options)
        if self._web:
            self._options |= _web_options(timeout_s)
        try:
            self._class = fsspec.get_filesystem_class(prefix.location.scheme)
        except (ValueError, ImportError) as error:
            raise UnusablePrefix(
                f"references.prefixes: {prefix}: {error} (for s3:// install layercache[s3])"
            ) from error
        self._files: Any = None

    def read(self, location: Location, max_bytes: int) -> bytes:
        # fsspec's own cache of instances is one per thread. Where two threads are first, each makes one, and one stays.
        self._files = files = self._files or self._class(skip_instance_cache=True, **self._options)
        url = str(location) if self._web else location.plain
        try:
            with files.open(url, "rb", cache_type="none") as file:  # one request for the file, nothing read ahead
                size = getattr(file, "size", None)
                return read_bounded(file, size if isinstance(size, int) else None, max_bytes)
        except FileNotFoundError as error:
            if isinstance(error.__cause__, Refused):  # fsspec's answer to whatever goes wrong with a web server
                raise error.__cause__ from None
            raise


def read_bounded(file: _File, size: int | None, max_bytes: int) -> bytes:
    """All of ``file``, which says that it has ``size`` bytes; None where it does not say.

    Never holds more than ``max_bytes`` and one read more. Raises :class:`TooLarge`, and :class:`Unreadable` where there
    are more or fewer bytes than it said.

    >>> import io
    >>> read_bounded(io.BytesIO(b"picture"), 7, 100)
    b'picture'
    >>> read_bounded(io.BytesIO(b"picture"), 3, 100)
    Traceback (most recent call last):
    layercache.stream.references.reading.Unreadable: its size is given as 3 bytes, but there are more
    """
    if size is not None and size > max_bytes:
        raise TooLarge(size, max_bytes)
    most = max_bytes if size is None else size
    found = _up_to(most + 1, file)
    total = len(found)
    if total <= max_bytes and size in (None, total):
        return found
    del found  # which the error's traceback would keep
    if total > max_bytes:
        raise TooLarge(None, max_bytes)
    there = "more" if total > most else f"{total:,}"
    raise Unreadable(f"its size is given as {size:,} bytes, but there are {there}")


def _up_to(most: int, file: _File) -> bytes:
    parts: list[bytes] = []
    missing = most
    while missing > 0 and (part := file.read(missing)):
        parts.append(part)
        missing -= len(part)
    return b"".join(parts)


def describe_failure(error: Exception, options: Mapping[str, Any]) -> str:
    """What an error says, in one line and without any value of ``options``, among which are passwords.

    >>> describe_failure(PermissionError("key AKIA1234 is not known"), {"key": "AKIA1234"})
    'PermissionError: key *** is not known'
    """
    text = " ".join(str(error).split())
    for secret in sorted(set(_values(options)), key=len, reverse=True):
        text = text.replace(secret, "***")
    return f"{type(error).__name__}: {text[:300]}" if text else type(error).__name__


def _values(options: object) -> Iterator[str]:
    if isinstance(options, Mapping):
        for value in options.values():
            yield from _values(value)
    elif isinstance(options, list | tuple):
        for value in options:
            yield from _values(value)
    elif isinstance(options, str) and len(options) > 2:
        yield options


@contextmanager
def _opened_below(folder: str, names: tuple[str, ...]) -> Iterator[int]:
    """The descriptor of the file that ``names`` lead to from ``folder``, which alone may be a symbolic link."""
    here = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for number, name in enumerate(names, 1):
            last = number == len(names)
            # A pipe that no process writes to would otherwise hold the thread.
            flags = os.O_RDONLY | os.O_NOFOLLOW | (os.O_NONBLOCK if last else os.O_DIRECTORY)
            try:
                there = os.open(name, flags, dir_fd=here)
            except OSError as error:
                if error.errno in (errno.ELOOP, errno.ENOTDIR) and _is_link(name, here):
                    raise Refused("a symbolic link below a prefix is not followed") from None
                raise
            os.close(here)
            here = there
        yield here
    finally:
        os.close(here)


def _is_link(name: str, folder: int) -> bool:
    try:
        return stat.S_ISLNK(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode)
    except OSError:
        return False


def _web_options(timeout_s: float) -> dict[str, Any]:
    """A redirect leads out of the prefix and is an error; paths are sent as they were checked."""

    async def client(**options: Any) -> "aiohttp.ClientSession":
        import aiohttp

        async def refuse_redirects(response: aiohttp.ClientResponse) -> None:
            if 300 <= response.status < 400:
                raise Refused(f"the server answers with a redirect ({response.status}), which is not followed")

        limit = aiohttp.ClientTimeout(total=timeout_s)
        ours: dict[str, Any] = {"timeout": limit, "raise_for_status": refuse_redirects}
        return aiohttp.ClientSession(**ours | options)

    return {"allow_redirects": False, "encoded": True, "get_client": client}
