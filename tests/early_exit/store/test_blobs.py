"""A file is written whole or not at all, whoever is reading it and whenever the writer ends."""

import errno
import os
from pathlib import Path

import pytest

from layercache.early_exit.store.blobs import Blobs, StoreError


@pytest.fixture
def blobs(tmp_path: Path) -> Blobs:
    found = Blobs(f"file://{tmp_path}", "model")
    found.put("LATEST", b"the old version")
    return found


def test_a_reader_that_has_begun_reads_the_old_bytes_to_their_end(blobs: Blobs, tmp_path: Path) -> None:
    with (tmp_path / "model" / "LATEST").open("rb", buffering=0) as reader:
        begun = reader.read(8)
        blobs.put("LATEST", b"another, of other length")
        assert begun + reader.read() == b"the old version"
    assert blobs.read("LATEST", max_bytes=100) == b"another, of other length"


def test_bytes_that_a_disk_did_not_take_replace_none(
    blobs: Blobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreError, match="free some space"):
        blobs.put("LATEST", b"another, of other length")
    assert blobs.read("LATEST", max_bytes=100) == b"the old version"
    assert [path.name for path in (tmp_path / "model").iterdir()] == ["LATEST"]


def test_a_file_that_a_disk_did_not_take_is_not_created(
    blobs: Blobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(StoreError, match="free some space"):
            blobs.create("attempts/1", b"claimed")
    assert list((tmp_path / "model" / "attempts").iterdir()) == []
    assert blobs.create("attempts/1", b"claimed")
    assert not blobs.create("attempts/1", b"claimed again")
    assert blobs.read("attempts/1", max_bytes=100) == b"claimed"
    assert [path.name for path in (tmp_path / "model" / "attempts").iterdir()] == ["1"]


def test_a_file_is_created_once_where_there_are_no_hard_links(blobs: Blobs, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", unknown)
    assert blobs.create("attempts/1", b"claimed")
    assert not blobs.create("attempts/1", b"claimed again")
    assert blobs.read("attempts/1", max_bytes=100) == b"claimed"
