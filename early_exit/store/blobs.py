"""Small files on a disk or in an object store, each written whole or not at all."""

import errno
import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import fsspec
from fsspec.implementations.local import LocalFileSystem

log = logging.getLogger(__name__)


#: The most bytes of a file that is created exclusively: an attempt's claim or outcome.
_CREATED_BYTES = 10_000


class StoreError(RuntimeError):
    """Shared storage failed; the message names the place, what was wrong and what to do."""


class TooLarge(StoreError):
    """A file is larger than its limit."""


class Blobs:
    """Files under a folder of any ``fsspec`` URL, named by paths relative to it.

    Every method raises :class:`StoreError` if it fails; :meth:`read` returns None for a file that is not there.

    >>> blobs = Blobs("memory://example", "model")
    >>> blobs.put("LATEST", b"v1")
    >>> blobs.create("attempts/1", b""), blobs.create("attempts/1", b"")
    (True, False)
    >>> blobs.list(), blobs.read("LATEST", max_bytes=100), blobs.read("PIN", max_bytes=100)
    (['LATEST', 'attempts'], b'v1', None)
    """

    def __init__(self, url: str, folder: str, options: dict[str, Any] | None = None) -> None:
        shown = without_password(url)
        self.url = f"{shown.rstrip('/')}/{folder}"
        try:
            self._fs, root = fsspec.core.url_to_fs(url, **(options or {}))
        except ImportError as error:
            raise StoreError(f"store {shown}: {error} (for s3:// install layercache[s3])") from error
        except Exception as error:  # file systems check their options in their own ways
            raise StoreError(
                f"store {shown} cannot be opened: {_reason(error).replace(url, shown)}; "
                "use file://, s3://, … and fitting options"
            ) from error
        self._root = f"{str(root).rstrip('/')}/{folder}"
        self._local = isinstance(self._fs, LocalFileSystem)

    def read(self, path: str, max_bytes: int) -> bytes | None:
        """The file's bytes; None where it is not there. Never reads more than ``max_bytes`` and one byte.

        Raises :class:`TooLarge` for a file larger than ``max_bytes``.
        """
        with self._as_store_error("read", path):
            try:
                data: bytes = self._fs.cat_file(self._at(path), start=0, end=max_bytes + 1)
            except (FileNotFoundError, NotADirectoryError):
                return None
            if len(data) > max_bytes:
                raise TooLarge(f"{self.url}/{path} has more than {max_bytes:,} bytes, which none of ours has")
            return data

    def put(self, path: str, data: bytes) -> None:
        """Writes or replaces a file: a reader sees the old bytes or the new ones, also after a crash."""
        with self._as_store_error("write", path):
            if self._local:
                _replace(Path(self._at(path)), data)
            else:
                self._fs.pipe_file(self._at(path), data)

    def create(self, path: str, data: bytes) -> bool:
        """Writes a file unless there is one; False if there is. Of several processes that try, one succeeds.

        That holds on a disk, on S3 and Google Cloud Storage, and on S3 look-alikes that honour ``If-None-Match``.
        """
        with self._as_store_error("create", path):
            try:
                if self._local:
                    _create_whole(Path(self._at(path)), data)
                else:
                    self._fs.pipe_file(self._at(path), data, mode="create")
            except FileExistsError:
                return False
            except Exception:  # every object store refuses in its own way: if the file is there, this one refused
                if self.read(path, _CREATED_BYTES) is None:
                    raise
                return False
            return True

    def list(self, path: str = "") -> list[str]:
        """Names of the files and folders in a folder, sorted; empty if there is no such folder."""
        with self._as_store_error("list", path):
            self._fs.invalidate_cache()
            try:
                found = self._fs.ls(self._at(path), detail=False)
            except (FileNotFoundError, NotADirectoryError):
                return []
            return sorted({str(name).rstrip("/").rpartition("/")[2] for name in found} - {""})

    def remove(self, path: str) -> None:
        """Removes a file or an empty folder, if it is there."""
        with self._as_store_error("remove", path):
            with suppress(FileNotFoundError):
                if self._local and Path(self._at(path)).is_dir():
                    Path(self._at(path)).rmdir()
                else:
                    self._fs.rm_file(self._at(path))
            self._fs.invalidate_cache()

    def modified(self, path: str) -> datetime | None:
        """When a file was last written; None if it is not there or the store does not say."""
        with self._as_store_error("look at", path):
            try:
                time: datetime = self._fs.modified(self._at(path))
            except (FileNotFoundError, NotImplementedError):
                return None
            return time if time.tzinfo else time.replace(tzinfo=UTC)

    def _at(self, path: str) -> str:
        return f"{self._root}/{path}".rstrip("/")

    @contextmanager
    def _as_store_error(self, what: str, path: str) -> Iterator[None]:
        try:
            yield
        except StoreError:
            raise
        except Exception as error:  # every object store has its own
            raise StoreError(f"cannot {what} {self.url}/{path}: {_reason(error)}; {_advice(error)}") from error


def without_password(url: str) -> str:
    """The URL without user, password and parameters, which may hold secrets.

    >>> without_password("ftp://me:secret@host/heads?token=secret")
    'ftp://host/heads'
    """
    return re.sub(r"(?<=://)[^/]*@", "", url.partition("?")[0])


def _replace(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}-{uuid4().hex}.tmp")
    try:
        _create(temporary, data)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def _create_whole(path: Path, data: bytes) -> None:
    """Raises ``FileExistsError`` where the file is there. A full disk or a crash leaves no part of it behind."""
    temporary = path.with_name(f".{path.name}-{uuid4().hex}.tmp")
    try:
        _create(temporary, data)
        try:
            os.link(temporary, path)
        except FileExistsError:
            raise
        except OSError:  # a file system without hard links; there a reader may find the file half-written
            _create(path, data)
        else:
            _sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _create(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Makes a rename survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _reason(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


def _advice(error: Exception) -> str:
    name = type(error).__name__
    if "Credentials" in name or "Token" in name:
        return "give credentials, by the environment (AWS_ACCESS_KEY_ID, …) or in [store.options]"
    if isinstance(error, PermissionError) or getattr(error, "errno", None) == errno.EROFS:
        return "let this user in there, or choose another store.url"
    if getattr(error, "errno", None) == errno.ENOSPC:
        return "free some space there, or choose another store.url"
    if isinstance(error, (FileExistsError, NotADirectoryError)):
        return "a file stands where a folder is needed: move it away, or choose another store.url"
    return "check store.url and store.options"
