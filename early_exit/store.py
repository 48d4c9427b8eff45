"""The store of heads: versions that are seen whole or not at all, and what an operator says about them.

``<folder>/<version>/heads.safetensors`` and ``manifest.json``, ``<folder>/attempts/<n>``, ``<folder>/LATEST``, written
last and in one piece, and ``<folder>/PIN``.
"""

import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any

import msgspec
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from early_exit.blobs import Blobs, StoreError
from schemas import manifest as schema
from schemas.manifest import Manifest, Pin
from schemas.settings import Store

__all__ = ["HeadStore", "Live", "StoreError", "model_folder", "open_store"]

log = logging.getLogger(__name__)

HEADS, MANIFEST, LATEST, PIN, ATTEMPTS = "heads.safetensors", "manifest.json", "LATEST", "PIN", "attempts"

#: What a crash left behind is deleted once it is older than any publish can take.
_ABANDONED = timedelta(hours=1)


@dataclass(frozen=True)
class Live:
    """What workers should use now: ``version``, None where there is none or an operator closed all exits."""

    version: str | None
    closed: bool
    pinned: bool


def model_folder(name: str, fingerprint: str) -> str:
    """The folder of a model's heads: readable, and its own whatever the model is called.

    >>> model_folder("torchvision:resnet18", "3f9a" * 16)
    'torchvision-resnet18-3f9a3f9a3f9a'
    """
    readable = re.sub(r"[^A-Za-z0-9_.-]+", "-", name).strip("-.")[:60] or "model"
    return f"{readable}-{fingerprint[:12]}"


def _now() -> datetime:
    return datetime.now(UTC)


def open_store(settings: Store, name: str, fingerprint: str) -> "HeadStore":
    """The store of the heads of the model of that name and fingerprint, where the settings say.

    Raises :class:`StoreError` for a URL that no file system is known for.

    >>> open_store(Store(url="memory://heads"), "fashion-mnist", "3f9a" * 16).url
    'memory://heads/fashion-mnist-3f9a3f9a3f9a'
    """
    return HeadStore(settings.url, model_folder(name, fingerprint), settings.options, settings.keep_last)


class HeadStore:
    """Versions of one model's heads under ``url``, any ``fsspec`` URL, in ``folder`` (see :func:`model_folder`).

    Every method raises :class:`StoreError` where the store cannot be reached, read or written, and where it has no
    such version. ``keep_last`` versions are kept, 2 at least.

    >>> from early_exit.heads import tensor_names
    >>> store = HeadStore("memory://example", "fashion-mnist-eb575f920e07")
    >>> _ = store.publish(heads.manifest, tensor_names("layer2", heads.modules[0]))
    >>> store.live()
    Live(version='v1', closed=False, pinned=False)
    >>> store.close("looks odd")
    >>> store.live()
    Live(version=None, closed=True, pinned=True)
    """

    def __init__(
        self,
        url: str,
        folder: str,
        options: dict[str, Any] | None = None,
        keep_last: int = 10,
        now: Callable[[], datetime] = _now,
    ) -> None:
        self._blobs = Blobs(url, folder, options)
        self._keep_last = max(2, keep_last)
        self._now = now

    @property
    def url(self) -> str:
        """Where the model's versions lie."""
        return self._blobs.url

    def check_writable(self) -> None:
        """Writes and removes a probe: a trainer should learn at its start that it cannot publish."""
        self._blobs.put(".probe", b"")
        self._blobs.remove(".probe")

    def publish(self, manifest: Manifest, tensors: Mapping[str, Tensor]) -> Manifest:
        """Stores a version and makes it the latest; returns the manifest as stored, with the heads' hash.

        A publish that was interrupted can be repeated; a version of other content under the same name is an error.
        """
        _check_name(manifest.version)
        heads = safetensors.torch.save({name: _plain(tensor) for name, tensor in tensors.items()})
        manifest = msgspec.structs.replace(manifest, heads_sha256=sha256(heads).hexdigest())
        encoded = schema.encoder.encode(manifest)
        there = self._blobs.read(f"{manifest.version}/{MANIFEST}")
        if there is None:
            self._blobs.put(f"{manifest.version}/{HEADS}", heads)
            self._blobs.put(f"{manifest.version}/{MANIFEST}", encoded)
        elif there != encoded:
            raise StoreError(f"{self.url} already has another version {manifest.version}; versions are never changed")
        self._blobs.put(LATEST, manifest.version.encode())
        try:
            self._clean()
        except StoreError as error:
            log.warning("%s is published, but old versions could not be deleted: %s", manifest.version, error)
        return manifest

    def live(self) -> Live:
        """What workers should use now. A pin goes before the latest version."""
        pin = self.pin_state()
        if pin is not None:
            return Live(pin.version, closed=pin.version is None, pinned=True)
        return Live(self.latest(), closed=False, pinned=False)

    def latest(self) -> str | None:
        """The version published or rolled back to last; None before the first."""
        name = self._blobs.read(LATEST)
        if name is None:
            return None
        try:
            return _check_name(name.decode().strip())
        except (UnicodeDecodeError, StoreError) as error:
            raise StoreError(f"{self.url}/{LATEST} names no version ({name[:40]!r}); roll back to one") from error

    def load(self, version: str) -> tuple[Manifest, dict[str, Tensor]]:
        """A version's manifest and tensors, checked against the manifest's hash."""
        manifest = self._manifest(version)
        path = f"{version}/{HEADS}"
        data = self._blobs.read(path)
        if data is None:
            raise StoreError(f"{self.url}/{path} is missing; roll back to another version")
        if manifest.heads_sha256 and sha256(data).hexdigest() != manifest.heads_sha256:
            raise StoreError(
                f"{self.url}/{path} is corrupt: its hash is not the manifest's; roll back, or copy it anew"
            )
        try:
            return manifest, safetensors.torch.load(data)
        except (SafetensorError, ValueError) as error:
            raise StoreError(f"{self.url}/{path} is corrupt: {error}; roll back to another version") from error

    def versions(self) -> list[Manifest]:
        """The manifests of all whole versions, newest first; unreadable ones are left out with a warning."""
        manifests = []
        for version in self._folders():
            try:
                manifests.append(self._manifest(version))
            except StoreError as error:
                if self._blobs.read(f"{version}/{MANIFEST}") is not None:
                    log.warning("%s", error)
        return sorted(manifests, key=lambda manifest: (manifest.created, manifest.version), reverse=True)

    def pin(self, version: str, reason: str = "") -> None:
        """Holds ``version`` for all workers, whatever is published, until :meth:`unpin`."""
        self.load(version)
        self._put_pin(Pin(version=version, reason=reason, created=self._now().isoformat(timespec="seconds")))

    def close(self, reason: str = "") -> None:
        """Keeps every exit closed, whatever is published, until :meth:`unpin`."""
        self._put_pin(Pin(version=None, reason=reason, created=self._now().isoformat(timespec="seconds")))

    def unpin(self) -> None:
        """Lets workers follow the latest version again."""
        self._blobs.remove(PIN)

    def pin_state(self) -> Pin | None:
        """What an operator holds; None for nothing."""
        data = self._blobs.read(PIN)
        if data is None:
            return None
        try:
            return schema.pin_decoder.decode(data)
        except msgspec.MsgspecError as error:
            raise StoreError(f"{self.url}/{PIN} is corrupt: {error}; pin, close or unpin again") from error

    def rollback(self, version: str | None = None) -> str:
        """Makes an older version the latest, by default the live one's predecessor; returns its name.

        The next publish moves on from there; :meth:`pin` outlives it.
        """
        if version is None:
            version = self._before_latest()
        self.load(version)
        self._blobs.put(LATEST, version.encode())
        return version

    def claim_attempt(self) -> int:
        """Takes the next number of an attempt to certify, from 1; no other caller ever gets the same.

        >>> store = HeadStore("memory://example", "attempts-are-counted")
        >>> store.claim_attempt(), store.claim_attempt(), store.attempts()
        (1, 2, 2)
        """
        number = self.attempts() + 1
        while not self._blobs.create(f"{ATTEMPTS}/{number}", self._now().isoformat().encode()):
            number += 1
        return number

    def attempts(self) -> int:
        """How many attempts were claimed."""
        return max((int(name) for name in self._blobs.list(ATTEMPTS) if name.isdecimal()), default=0)

    def _put_pin(self, pin: Pin) -> None:
        self._blobs.put(PIN, schema.encoder.encode(pin))

    def _manifest(self, version: str) -> Manifest:
        path = f"{_check_name(version)}/{MANIFEST}"
        data = self._blobs.read(path)
        if data is None:
            raise StoreError(f"{self.url} has no version {version}; `layercache heads list` shows those that there are")
        try:
            manifest = schema.decoder.decode(data)
        except msgspec.MsgspecError as error:
            raise StoreError(f"{self.url}/{path} is corrupt: {error}; roll back to another version") from error
        if manifest.version != version:
            raise StoreError(f"{self.url}/{path} is version {manifest.version}'s; roll back to another version")
        return manifest

    def _folders(self) -> list[str]:
        """Names that may be versions."""
        return [name for name in self._blobs.list() if name not in (LATEST, PIN, ATTEMPTS) and name[0] != "."]

    def _before_latest(self) -> str:
        latest = self.latest()
        if latest is None:
            raise StoreError(f"{self.url} has no version yet: nothing to roll back")
        versions = self.versions()
        there = [manifest.version for manifest in versions]
        predecessor = next((manifest.predecessor for manifest in versions if manifest.version == latest), None)
        if predecessor in there:
            return str(predecessor)
        older = there[there.index(latest) + 1 :] if latest in there else there
        if not older:
            raise StoreError(f"{self.url} has nothing older than {latest}; `layercache heads close` closes all exits")
        return older[0]

    def _clean(self) -> None:
        """Deletes versions beyond ``keep_last`` that no worker may yet be told to use, and what crashes left."""
        pin, latest, versions = self.pin_state(), self.latest(), self.versions()
        keep: set[str | None] = {manifest.version for manifest in versions[: self._keep_last]}
        keep |= {latest} | {manifest.predecessor for manifest in versions if manifest.version == latest}
        keep |= {pin.version} if pin else set()
        for manifest in versions:
            if manifest.version not in keep:
                self._delete(manifest.version)
        for name in set(self._folders()) - {manifest.version for manifest in versions}:
            files = self._blobs.list(name)
            paths = [f"{name}/{file}" for file in files] or [name]
            if MANIFEST not in files and all(map(self._is_abandoned, paths)):
                self._delete(name)
        for name in self._blobs.list():
            if name.startswith(".") and self._is_abandoned(name):
                self._blobs.remove(name)

    def _is_abandoned(self, path: str) -> bool:
        written = self._blobs.modified(path)
        return written is not None and self._now() - written > _ABANDONED

    def _delete(self, version: str) -> None:
        """The manifest goes first: from then on the version does not exist."""
        files = self._blobs.list(version)
        for file in sorted(files, key=lambda file: file != MANIFEST):
            self._blobs.remove(f"{version}/{file}")
        self._blobs.remove(version)


def _check_name(version: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", version) or version in (LATEST, PIN, ATTEMPTS):
        raise StoreError(f"{version!r} is no name for a version: use letters, digits, '_', '.' and '-'")
    return version


def _plain(tensor: Tensor) -> Tensor:
    """What safetensors can store: on the CPU, and sharing no memory."""
    return tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
