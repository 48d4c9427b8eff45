"""The store of heads: can it be read and written, does exclusive create work, and is there room?"""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from time import perf_counter
from urllib.parse import urlsplit
from uuid import uuid4

from layercache.doctor.checks import Area, Finding
from layercache.doctor.machine import existing, room
from layercache.early_exit.store.blobs import Blobs, StoreError, without_password
from layercache.schemas.settings import Settings

AREA = Area("store")


def local_folder(url: str) -> Path | None:
    """Where a ``file://`` URL or a plain path leads; None for every other store.

    >>> local_folder("file:///srv/heads"), local_folder("s3://bucket/heads")
    (PosixPath('/srv/heads'), None)
    """
    if "://" not in url:
        return Path(url)
    parts = urlsplit(url)
    return Path(f"{parts.netloc}{parts.path}") if parts.scheme in ("file", "local") else None


def check(settings: Settings) -> Iterator[Finding]:
    """Reads, and writes a probe that it removes. A local folder that is not there yet is not made."""
    store, shown = settings.store, without_password(settings.store.url)
    folder = local_folder(store.url)
    if store.url.startswith("memory://"):
        yield AREA.warning("place", f"{shown} is seen by one process alone", "use file://, s3://, … for a service")
    if folder is not None and not folder.is_dir():
        yield _not_there(folder)
        return
    try:
        yield from _probed(Blobs(store.url, ".", store.options) if folder is None else Blobs(str(folder), "."), shown)
    except StoreError as error:
        what, _, advice = str(error).partition("; ")
        yield AREA.error("reach", what, advice or "check store.url and store.options")
        return
    if folder is not None:
        yield room(AREA, "room", folder, str(folder.absolute()))


def _probed(blobs: Blobs, shown: str) -> Iterator[Finding]:
    began = perf_counter()
    folders = [name for name in blobs.list() if not name.startswith(".")]
    spent = (perf_counter() - began) * 1000
    yield AREA.ok("read", f"{shown} answers in {spent:.0f} ms; heads of {len(folders)} models")
    probe = f".doctor-{uuid4().hex}"
    try:
        first = blobs.create(probe, b"a probe of layercache doctor")
        second = blobs.create(probe, b"another")
    except StoreError as error:
        what, _, advice = str(error).partition("; ")
        yield AREA.warning("write", what, f"the trainer needs to write there, workers do not. {advice}".strip())
        return
    finally:
        _remove(blobs, probe)
    yield AREA.ok("write", "a probe file was written and removed")
    if first and not second:
        yield AREA.ok("exclusive create", "of two who create a file one is refused")
    else:
        yield AREA.error(
            "exclusive create", "two could create the same file: two trainers might take the same attempt",
            "use a store that honours If-None-Match (S3, Google Cloud Storage, versitygw, a file system)",
        )  # fmt: skip


def _remove(blobs: Blobs, probe: str) -> None:
    with suppress(StoreError):  # what could not be written need not be there
        blobs.remove(probe)


def _not_there(folder: Path) -> Finding:
    above = existing(folder)
    if os.access(above, os.W_OK):
        return AREA.ok("place", f"{folder} is not there yet; it can be made in {above}")
    return AREA.error(
        "place", f"{folder} is not there, and {above} cannot be written to", "make it, or let this user in"
    )
