"""The store of heads: versions that readers see whole or not at all, and an operator's pin.

``<folder>/<version>/heads.safetensors``, ``manifest.json`` and ``manifest.sig``, ``<folder>/attempts/<n>`` and
``<n>.outcome``, ``<folder>/LATEST``, which is written last and at once, and ``<folder>/PIN``. Compiled graphs, which
versions share, are ``<folder>.graphs/<sha256>.safetensors``: beside the folder, since a trainer that knows no graphs
cleans up in it.
"""

import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import msgspec
from torch import Tensor

from layercache.early_exit.store.blobs import Blobs, StoreError, TooLarge
from layercache.early_exit.store.signing import SignatureError, Signer, signer
from layercache.early_exit.store.version_files import VersionFiles, check_name, graphs_of
from layercache.schemas import attempt as attempt_schema
from layercache.schemas import manifest as schema
from layercache.schemas.attempt import AttemptClaim, AttemptOutcome
from layercache.schemas.manifest import Manifest, Pin
from layercache.schemas.settings import Store

__all__ = [
    "HeadStore",
    "Live",
    "SignatureError",
    "StoreError",
    "in_force",
    "model_folder",
    "model_folders",
    "open_folder",
    "open_store",
]

log = logging.getLogger(__name__)

LATEST, PIN, ATTEMPTS = "LATEST", "PIN", "attempts"
_OUTCOME = ".outcome"

#: The largest of these files; see :mod:`layercache.early_exit.store.version_files` for the others.
_MAX_LATEST_BYTES, _MAX_PIN_BYTES, _MAX_ATTEMPT_BYTES = 1_000, 100_000, 10_000

#: Remains of a crash are deleted at this age: no publish takes so long.
_ABANDONED = timedelta(hours=1)

_Decoded = TypeVar("_Decoded")


@dataclass(frozen=True)
class Live:
    """The version that workers should use now; None if there is none or an operator closed all exits."""

    version: str | None
    closed: bool
    pinned: bool


def in_force(pin: Pin | None, latest: str | None) -> Live:
    """The answer of :meth:`HeadStore.live` for an operator's ``pin`` (None without one) and the ``latest`` version.

    >>> in_force(None, "v7"), in_force(Pin(version=None), "v7")
    (Live(version='v7', closed=False, pinned=False), Live(version=None, closed=True, pinned=True))
    """
    if pin is not None:
        return Live(pin.version, closed=pin.version is None, pinned=True)
    return Live(latest, closed=False, pinned=False)


def model_folder(name: str, fingerprint: str) -> str:
    """The folder of a model's heads: readable, and unique also among models of the same name.

    >>> model_folder("torchvision:resnet18", "3f9a" * 16)
    'torchvision-resnet18-3f9a3f9a3f9a'
    """
    readable = re.sub(r"[^A-Za-z0-9_.-]+", "-", name).strip("-.")[:60] or "model"
    return f"{readable}-{fingerprint[:12]}"


def _now() -> datetime:
    return datetime.now(UTC)


def open_store(settings: Store | str, name: str, fingerprint: str) -> "HeadStore":
    """The store of one model's heads, at the place in the settings or at a URL.

    Raises :class:`StoreError` for a URL of an unknown file system, and for unusable signing keys.

    >>> store = open_store("memory://heads", "fashion-mnist", "3f9a" * 16)
    >>> store.url, store.live()
    ('memory://heads/fashion-mnist-3f9a3f9a3f9a', Live(version=None, closed=False, pinned=False))
    """
    settings = Store(url=settings) if isinstance(settings, str) else settings
    return open_folder(settings, model_folder(name, fingerprint))


def open_folder(settings: Store, folder: str) -> "HeadStore":
    """The store of the heads in a folder that :func:`model_folders` has found. Raises as :func:`open_store` does.

    >>> open_folder(Store(url="memory://seen"), "fashion-mnist-3f9a3f9a3f9a").live().version is None
    True
    """
    return HeadStore(settings.url, folder, settings.options, settings.keep_last, signer=signer(settings))


def model_folders(settings: Store, fingerprint: str = "") -> list[str]:
    """The folders of models that have heads; with ``fingerprint`` only of models whose fingerprint begins with it.

    For readers that know a model from its predictions and need not load it. Raises :class:`StoreError`.

    >>> model_folders(Store(url="memory://no-heads-yet"), "3f9a" * 16)
    []
    """
    ending = rf".*-{re.escape(fingerprint[:12])}[0-9a-f]{{{12 - len(fingerprint[:12])}}}"
    return [name for name in Blobs(settings.url, "", settings.options).list() if re.fullmatch(ending, name)]


class HeadStore:
    """Versions of one model's heads under ``url``, any ``fsspec`` URL, in ``folder`` (see :func:`model_folder`).

    Every method raises :class:`StoreError` if the store cannot be reached, read or written, or has no such version. The
    store keeps ``keep_last`` versions, at least 2. With a ``signer`` it signs versions as it publishes them, and raises
    :class:`SignatureError` for versions without a valid signature, before it looks at their content.

    Most programs get theirs from :func:`open_store`, or as the ``store`` of a :class:`layercache.EarlyExitModel`. What
    a trainer publishes is live at once; an operator's :meth:`pin`, :meth:`close` and :meth:`rollback` reach every
    worker that serves from the store within seconds.

    >>> from layercache.early_exit.heads.loading import tensor_names
    >>> store = HeadStore("memory://example", "fashion-mnist-eb575f920e07")
    >>> _ = store.publish(heads.manifest, tensor_names("layer2", heads.modules[0]))
    >>> store.live()
    Live(version='v1', closed=False, pinned=False)
    >>> store.close("looks odd")
    >>> store.live()
    Live(version=None, closed=True, pinned=True)
    >>> store.unpin()
    >>> [(manifest.version, [exit_.cut for exit_ in manifest.exits]) for manifest in store.versions()]
    [('v1', ['layer2'])]
    """

    def __init__(
        self,
        url: str,
        folder: str,
        options: dict[str, Any] | None = None,
        keep_last: int = 10,
        now: Callable[[], datetime] = _now,
        signer: Signer | None = None,
    ) -> None:
        self._blobs = Blobs(url, folder, options)
        self._files = VersionFiles(self._blobs, Blobs(url, f"{folder}.graphs", options), signer)
        self._keep_last = max(2, keep_last)
        self._now = now

    @property
    def url(self) -> str:
        """The URL of the model's versions."""
        return self._blobs.url

    def check_writable(self) -> None:
        """Writes and removes a probe, so that a trainer learns at its start if it cannot publish."""
        self._blobs.put(".probe", b"")
        self._blobs.remove(".probe")

    def publish(self, manifest: Manifest, tensors: Mapping[str, Tensor]) -> Manifest:
        """Stores a version and makes it the latest; returns the manifest as stored, with the heads' hash.

        An interrupted publish can be repeated; another version of the same name is an error.
        """
        check_name(manifest.version)
        manifest = self._files.write(manifest, tensors)
        self._blobs.put(LATEST, manifest.version.encode())
        try:
            self._clean()
        except StoreError as error:
            log.warning("%s is published, but old versions could not be deleted: %s", manifest.version, error)
        return manifest

    def live(self) -> Live:
        """What workers should use now. A pin takes precedence over the latest version."""
        pin = self.pin_state()
        return in_force(pin, self.latest() if pin is None else None)

    def latest(self) -> str | None:
        """The version published or rolled back to last; None before the first."""
        name = self._blobs.read(LATEST, _MAX_LATEST_BYTES)
        if name is None:
            return None
        try:
            return check_name(name.decode().strip())
        except (UnicodeDecodeError, StoreError) as error:
            raise StoreError(f"{self.url}/{LATEST} names no version ({name[:40]!r}); roll back to one") from error

    def load(self, version: str) -> tuple[Manifest, dict[str, Tensor]]:
        """A version's manifest and tensors, checked against the manifest's hash."""
        return self._files.load(version)

    def sign(self, version: str) -> None:
        """Signs a version that is there: one from before there was a key, or one that shall outlive a change of keys.

        Its heads are checked against the manifest's hash; whether it is the trainer's is for the caller to know.
        """
        self._files.sign(version)

    def versions(self) -> list[Manifest]:
        """The manifests of all whole versions, newest first; unreadable ones are left out with a warning."""
        manifests, unreadable = self.look({})
        for error in unreadable.values():
            log.warning("%s", error)
        return manifests

    def look(self, known: Mapping[str, Manifest]) -> tuple[list[Manifest], dict[str, StoreError]]:
        """The manifests of all whole versions, newest first, and why others that are there cannot be read.

        Versions never change: those that are ``known``, by name, are not read again.
        """
        manifests: list[Manifest] = []
        unreadable: dict[str, StoreError] = {}
        for version in self._folders():
            try:
                manifests.append(known.get(version) or self._files.manifest(version))
            except StoreError as error:
                if self._files.exists(version):
                    unreadable[version] = error
        return sorted(manifests, key=lambda one: (one.created, one.version), reverse=True), unreadable

    def pin(self, version: str, reason: str = "") -> None:
        """Holds ``version`` for all workers, whatever is published, until :meth:`unpin`."""
        self.load(version)
        self._put_pin(Pin(version=version, reason=reason, created=self._now().isoformat(timespec="seconds")))

    def close(self, reason: str = "") -> None:
        """Keeps every exit closed, whatever is published, until :meth:`unpin`."""
        self._put_pin(Pin(version=None, reason=reason, created=self._now().isoformat(timespec="seconds")))

    def unpin(self) -> None:
        """Removes the pin: workers follow the latest version again."""
        self._blobs.remove(PIN)

    def pin_state(self) -> Pin | None:
        """The operator's pin; None without one."""
        data = self._blobs.read(PIN, _MAX_PIN_BYTES)
        if data is None:
            return None
        try:
            return schema.pin_decoder.decode(data)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise StoreError(f"{self.url}/{PIN} is corrupt: {error}; pin, close or unpin again") from error

    def rollback(self, version: str | None = None) -> str:
        """Makes an older version the latest, by default the live one's predecessor; returns its name.

        The next publish replaces it as the latest; a :meth:`pin` stays.
        """
        if version is None:
            version = self._before_latest()
        self.load(version)
        self._blobs.put(LATEST, version.encode())
        return version

    def claim_attempt(self, describe: Callable[[int], AttemptClaim] | None = None, after: int = 0) -> int:
        """Claims the next attempt to certify and returns its number, from 1; no other caller gets the same.

        It is beyond ``after``, too: a caller that has made more attempts than a store knows, which was emptied, say,
        counts on from its own.

        ``describe`` gives the claim for a number; it is called again where another caller took that number. Without it
        only the time is written, as trainers of earlier versions did: such an attempt passes no error on.

        >>> store = HeadStore("memory://example", "attempts-are-counted")
        >>> store.claim_attempt(), store.claim_attempt(), store.attempts()
        (1, 2, 2)
        """
        number = max(self.attempts(), after) + 1
        while True:
            data = attempt_schema.encoder.encode(describe(number)) if describe else self._now().isoformat().encode()
            if self._blobs.create(f"{ATTEMPTS}/{number}", data):
                return number
            number += 1

    def attempt_claim(self, number: int) -> AttemptClaim | None:
        """What an attempt claimed; None where nobody has claimed it, or the claim cannot be read."""
        return self._attempt_file(f"{number}", attempt_schema.decode_claim)

    def finish_attempt(self, number: int, outcome: AttemptOutcome) -> bool:
        """Writes an attempt's outcome, once and for all; False if there is one already.

        It stands beside the claim: trainers of earlier versions count the files there whose names are numbers, and
        take folders that they do not know for remains of crashes.
        """
        return self._blobs.create(f"{ATTEMPTS}/{number}{_OUTCOME}", attempt_schema.encoder.encode(outcome))

    def attempt_outcome(self, number: int) -> AttemptOutcome | None:
        """How an attempt ended; None where it has not, or the outcome cannot be read."""
        return self._attempt_file(f"{number}{_OUTCOME}", attempt_schema.decode_outcome)

    def attempts(self) -> int:
        """How many attempts have been claimed."""
        return max((int(name) for name in self._blobs.list(ATTEMPTS) if name.isdecimal()), default=0)

    def _attempt_file(self, name: str, decode: Callable[[bytes], _Decoded | None]) -> _Decoded | None:
        try:
            data = self._blobs.read(f"{ATTEMPTS}/{name}", _MAX_ATTEMPT_BYTES)
        except TooLarge:
            return None
        return None if data is None else decode(data)

    def _put_pin(self, pin: Pin) -> None:
        self._blobs.put(PIN, schema.encoder.encode(pin))

    def _folders(self) -> list[str]:
        """Names of folders that may be versions."""
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
        """Deletes versions beyond ``keep_last`` that no worker will be told to use, and remains of crashes."""
        pin, latest, versions = self.pin_state(), self.latest(), self.versions()
        keep: set[str | None] = {manifest.version for manifest in versions[: self._keep_last]}
        keep |= {latest} | {manifest.predecessor for manifest in versions if manifest.version == latest}
        keep |= {pin.version} if pin else set()
        for manifest in versions:
            if manifest.version not in keep:
                self._files.delete(manifest.version)
        for name in set(self._folders()) - {manifest.version for manifest in versions}:
            paths = [f"{name}/{file}" for file in self._blobs.list(name)] or [name]
            if not self._files.exists(name) and all(map(self._is_abandoned, paths)):
                self._files.delete(name)
        self._clean_graphs()
        for name in self._blobs.list():
            if name.startswith(".") and self._is_abandoned(name):
                self._blobs.remove(name)

    def _clean_graphs(self) -> None:
        """Deletes graphs that no version names, unless one that is being published may soon."""
        graphs = self._files.graphs()
        if not graphs:
            return
        versions, unreadable = self.look({})
        if unreadable:  # they may name any of them
            return
        for digest in set(graphs).difference(*map(graphs_of, versions)):
            if self._is_old(self._files.graph_written(digest)):
                self._files.delete_graph(digest)

    def _is_abandoned(self, path: str) -> bool:
        return self._is_old(self._blobs.modified(path))

    def _is_old(self, written: datetime | None) -> bool:
        return written is not None and self._now() - written > _ABANDONED
