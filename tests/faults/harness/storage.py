"""The store of heads: versions whose exit gives the right answer, and the ways in which storage fails."""

import errno
import os
import shutil
import subprocess
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

from layercache.early_exit.cutting import cuts
from layercache.early_exit.heads.families import PooledHead, build_head
from layercache.early_exit.heads.loading import tensor_names
from layercache.early_exit.model import loading
from layercache.early_exit.store.head_store import LATEST, HeadStore, StoreError, open_store
from layercache.schemas.manifest import Exit, HeadSpec, Manifest
from layercache.schemas.settings import Settings
from tests.support.manifests import certified
from tests.support.tiny_model import CLASSES

#: Of the file system that is to run full.
_DISK_BYTES = 4 << 20
_AUDIT_RATE = 0.02


@dataclass
class Storage:
    """A folder for heads; on a small file system of its own where this user may mount one (:attr:`is_small_disk`)."""

    folder: Path
    is_small_disk: bool = field(init=False)

    def __post_init__(self) -> None:
        self._mount = self.folder / "disk"
        self._mount.mkdir(parents=True)
        self.is_small_disk = _mounted(self._mount)
        self._heads = self._mount / "heads"
        self._heads.mkdir()
        self._number = 0

    @property
    def url(self) -> str:
        return f"file://{self._heads}"

    def open(self, settings: Settings) -> None:
        """Gets ready to publish heads for the settings' model."""
        classifier = loading.load(settings.model)
        self._model = classifier
        self._cut = cuts.trace(classifier).proposed[0]
        self._store: HeadStore = open_store(settings.store, classifier.name, classifier.fingerprint)

    def publish(self) -> str:
        """Publishes the next version, whose exit is right about every picture; returns its name."""
        self._number += 1
        version = f"v{self._number:05d}"
        spec = HeadSpec(family="pooled", features=self._cut.shape, classes=len(CLASSES))
        head = _colour_head(spec)
        manifest = Manifest(
            version=version,
            model=self._model.fingerprint,
            model_name=self._model.name,
            created=f"2026-01-01T{self._number // 3600:02d}:{self._number // 60 % 60:02d}:{self._number % 60:02d}Z",
            reason="better",
            predecessor=None,
            exits=(
                Exit(cut=self._cut.name, head=spec, temperature=1.0, threshold=0.5, flops_share=0.3, time_share=0.3),
            ),
            audit_rate=_AUDIT_RATE,
            certificate=certified(),
            expected=None,
        )
        self._store.publish(manifest, tensor_names(self._cut.name, head))
        return version

    def publish_on_a_full_disk(self) -> str:
        """Fills the disk, asserts that publishing fails with :class:`StoreError`; returns why it did."""
        assert self.is_small_disk, "this would fill the disk of the whole machine"
        ballast = self._mount / "ballast"
        before = self._store.latest()
        try:
            with suppress(OSError), ballast.open("wb", buffering=0) as file:
                while True:
                    file.write(bytes(1 << 16))
            with suppress(OSError), ballast.open("ab", buffering=0) as file:
                while True:
                    file.write(bytes(64))
            try:
                self.publish()
            except StoreError as error:
                assert isinstance(error.__cause__, OSError)
                assert error.__cause__.errno == errno.ENOSPC, str(error)
                said = os.strerror(errno.ENOSPC)
            else:
                raise AssertionError("heads were published on a full disk")
            assert self._store.latest() == before, "a publish that failed changed the latest version"
        finally:
            ballast.unlink()
        return said

    def break_(self) -> None:
        """Every access to the store fails from now on (ELOOP: true for any user, root included)."""
        os.rename(self._heads, self._away)
        os.symlink(self._heads.name, self._heads)

    def vanish(self) -> None:
        """The folder is gone, as where a network share is not mounted."""
        os.rename(self._heads, self._away)

    def mend(self) -> None:
        """Ends :meth:`break_` and :meth:`vanish`."""
        if self._heads.is_symlink():
            self._heads.unlink()
        os.rename(self._away, self._heads)

    def hang(self) -> None:
        """Whoever reads ``LATEST`` waits for ever from now on, as on a network share whose server is away."""
        latest = self._latest()
        os.rename(latest, self._aside)
        os.mkfifo(latest)

    def go_on(self) -> None:
        """Ends :meth:`hang`: those who wait find the file empty, later ones find it as it was."""
        latest = self._latest()
        waker = os.open(latest, os.O_RDWR)  # lets the waiting ``open`` return; closing it ends their ``read``
        os.rename(self._aside, latest)
        os.close(waker)

    def close(self) -> None:
        """Unmounts what was mounted."""
        if self.is_small_disk:
            subprocess.run(["umount", "-l", self._mount], check=True, capture_output=True)

    @property
    def _away(self) -> Path:
        return self._mount / "away"

    @property
    def _aside(self) -> Path:
        return self._mount / "aside"

    def _latest(self) -> Path:
        (found,) = self._heads.glob(f"*/{LATEST}")
        return found


def _colour_head(spec: HeadSpec) -> nn.Module:
    """The first channels of the tiny model's map are the colours: class c is the mean of channel c."""
    head = build_head(spec)
    assert isinstance(head, PooledHead)
    cells = head.flat.size // spec.features[0]
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.zero_()
        weight = head.classify.weight
        assert isinstance(weight, nn.Parameter)
        for label in range(len(CLASSES)):
            weight[label, label * cells : (label + 1) * cells] = 20.0 / cells
    return head


def _mounted(folder: Path) -> bool:
    """A small file system in memory at ``folder``; False where this user may not mount."""
    if shutil.which("mount") is None:
        return False
    command = ["mount", "-t", "tmpfs", "-o", f"size={_DISK_BYTES}", "tmpfs", str(folder)]
    return subprocess.run(command, check=False, capture_output=True).returncode == 0
