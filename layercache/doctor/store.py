"""Checks the store of heads: can it be read and written, does exclusive create work, is there enough space?"""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from time import perf_counter
from urllib.parse import urlsplit
from uuid import uuid4

from layercache.doctor.checks import Area, Finding
from layercache.doctor.machine import free_space, nearest_folder
from layercache.early_exit.store.blobs import Blobs, StoreError, without_password
from layercache.schemas.settings import Settings

AREA = Area("store")


def local_folder(url: str) -> Path | None:
    """The folder of a ``file://`` URL or a plain path; None for every other store.

    >>> local_folder("file:///srv/heads"), local_folder("s3://bucket/heads")
    (PosixPath('/srv/heads'), None)
    """
    if "://" not in url:
        return Path(url)
    parts = urlsplit(url)
    return Path(f"{parts.netloc}{parts.path}") if parts.scheme in ("file", "local") else None


def check(settings: Settings) -> Iterator[Finding]:
    """Reads the store, and writes a probe that it removes. Does not create a local folder that is missing."""
    store, shown = settings.store, without_password(settings.store.url)
    folder = local_folder(store.url)
    if store.url.startswith("memory://"):
        yield AREA.warning("place", f"{shown} is seen by one process alone", "use file://, s3://, … for a service")
    if folder is not None and not folder.is_dir():
        yield _missing_folder(folder)
        return
    try:
        yield from _probe(Blobs(store.url, ".", store.options) if folder is None else Blobs(str(folder), "."), shown)
    except StoreError as error:
        what, _, advice = str(error).partition("; ")
        yield AREA.error("reach", what, advice or "check store.url and store.options")
        return
    if folder is not None:
        yield free_space(AREA, "room", folder, str(folder.absolute()))


def _probe(blobs: Blobs, shown: str) -> Iterator[Finding]:
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
    with suppress(StoreError):  # the probe may not exist, if writing it failed
        blobs.remove(probe)


def _missing_folder(folder: Path) -> Finding:
    parent = nearest_folder(folder)
    if os.access(parent, os.W_OK):
        return AREA.ok("place", f"{folder} is not there yet; it can be made in {parent}")
    return AREA.error(
        "place", f"{folder} is not there, and {parent} cannot be written to", "make it, or let this user in"
    )
