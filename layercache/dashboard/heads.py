"""The model that is shown, and its heads in the store: looked at again and again, and what an operator does to them."""

import logging
import threading
from collections.abc import Sequence
from dataclasses import dataclass

from layercache.dashboard import versions
from layercache.dashboard.board import Board
from layercache.dashboard.heads_state import Alarm, Heads
from layercache.early_exit.store.head_store import HeadStore, StoreError, in_force, model_folders, open_folder
from layercache.presenting import heads_view
from layercache.schemas.manifest import Manifest
from layercache.schemas.settings import Store

log = logging.getLogger(__name__)

#: A model that has answered nothing for so long gives way to another that answers.
_SILENT_MS = 30_000
#: Other models, and unreadable versions, that are told of.
_MAX_OTHERS, _MAX_TOLD = 20, 10


class ModelChoice:
    """Which of the models that answer on the predictions topic is shown.

    The first one that answers, and while it goes on answering no other; ``wanted`` is the beginning of the only
    fingerprint that may be it. Thread-safe.

    >>> choice = ModelChoice()
    >>> choice.is_shown("aa", now_ms=0), choice.is_shown("bb", now_ms=1_000), choice.is_shown("bb", now_ms=60_000)
    (True, False, True)
    >>> choice.fingerprint, choice.others
    ('bb', {'bb': 1})
    """

    def __init__(self, wanted: str = "") -> None:
        self.wanted = wanted
        self.fingerprint: str | None = None
        self.others: dict[str, int] = {}
        """Predictions of other models that were left out, by fingerprint; of a few models."""
        self._heard_ms = 0
        self._lock = threading.Lock()

    def is_shown(self, fingerprint: str, now_ms: int) -> bool:
        """Whether a prediction that this model gave counts."""
        if fingerprint == self.fingerprint:
            self._heard_ms = now_ms
            return True
        with self._lock:
            is_silent = self.fingerprint is None or now_ms - self._heard_ms > _SILENT_MS
            if is_silent and fingerprint.startswith(self.wanted):
                self.fingerprint, self._heard_ms = fingerprint, now_ms
                return True
            if fingerprint in self.others or len(self.others) < _MAX_OTHERS:
                self.others[fingerprint] = self.others.get(fingerprint, 0) + 1
        return False

    def found(self, fingerprint: str) -> None:
        """The store has this model alone, so that it must be it; predictions may say otherwise later."""
        with self._lock:
            if self.fingerprint is None and fingerprint.startswith(self.wanted):
                self.fingerprint = fingerprint


@dataclass(frozen=True)
class Seen:
    """What the store had at the last look that it answered."""

    heads: Heads
    manifests: tuple[Manifest, ...] = ()
    """Newest first."""
    alarms: tuple[Alarm, ...] = ()

    @property
    def live(self) -> Manifest | None:
        """The manifest of the version in force, where the store has it."""
        return next((manifest for manifest in self.manifests if manifest.version == self.heads.live), None)


_NOTHING = Seen(Heads())


class HeadsView:
    """Looks at the heads of the chosen model. The actions are those of ``layercache heads``, on the same store.

    The model is not loaded: predictions and manifests carry its fingerprint, and its folder in the store ends in it.
    """

    def __init__(self, settings: Store, choice: ModelChoice, board: Board) -> None:
        self._settings = settings
        self._choice = choice
        self._board = board
        self._store: HeadStore | None = None
        self._fingerprint: str | None = None
        self._known: dict[str, Manifest] = {}
        self._look_lock = threading.Lock()
        self.seen = _NOTHING

    def look(self) -> None:
        """Asks once. A store that does not answer is a problem on the board, and what was seen stays."""
        try:
            with self._look_lock:
                self._look()
        except StoreError as error:
            self._board.put("store", "look", str(error))
        else:
            self._board.clear("store", "look")

    def roll_back(self, version: str | None = None, reason: str = "") -> str:
        """See :meth:`layercache.dashboard.backend.Backend.roll_back`."""
        store = self._chosen()
        return self._done(store, f"rolled back to {store.rollback(version)}", reason)

    def pin(self, version: str | None = None, reason: str = "") -> str:
        """See :meth:`layercache.dashboard.backend.Backend.pin`."""
        store = self._chosen()
        version = version or store.live().version
        if version is None:
            raise StoreError(f"{store.url} has no version in use to pin: name one, or close all exits")
        store.pin(version, reason)
        return self._done(store, f"pinned {version}", reason)

    def unpin(self, reason: str = "") -> str:
        """See :meth:`layercache.dashboard.backend.Backend.unpin`."""
        store = self._chosen()
        store.unpin()
        return self._done(store, "unpinned", reason)

    def close_exits(self, reason: str = "") -> str:
        """See :meth:`layercache.dashboard.backend.Backend.close_exits`."""
        store = self._chosen()
        store.close(reason)
        return self._done(store, "closed all exits", reason)

    def _done(self, store: HeadStore, what: str, reason: str) -> str:
        # A rollback leaves no trace of its own in the store: the log is where the reason is kept.
        log.info("%s: %s by the dashboard%s", store.url, what, f": {reason!r}" if reason else "")
        said = heads_view.sentence(store)
        self.look()
        return said

    def _chosen(self) -> HeadStore:
        if self._store is None:
            self.look()
        if self._store is None:
            raise StoreError(
                "no heads yet whose versions could be chosen: the store has none for a model that answers; start the "
                "trainer, or check store.url"
            )
        return self._store

    def _look(self) -> None:
        fingerprint = self._choice.fingerprint
        if self._store is None or fingerprint != self._fingerprint:
            self._open(fingerprint)
        store = self._store
        if store is None:
            self.seen = _NOTHING
            return
        manifests, unreadable = store.look(self._known)
        self._known = {manifest.version: manifest for manifest in manifests}
        self._tell(list(unreadable.values())[:_MAX_TOLD])
        # What is in force is read once: object stores bill every request, and a page may be open for weeks.
        pin, latest = store.pin_state(), store.latest()
        live = in_force(pin, latest)
        said = heads_view.describe_state(live, pin, latest)
        heads = versions.heads(manifests, live, latest, pin, store.attempts(), store.url, said)
        if heads != self.seen.heads:
            self.seen = Seen(heads, tuple(manifests), versions.alarms(manifests, live.version))

    def _tell(self, unreadable: Sequence[StoreError]) -> None:
        """Versions that are there and must not or cannot be used."""
        for number in range(_MAX_TOLD):
            if number < len(unreadable):
                self._board.put("store", f"version {number}", str(unreadable[number]))
            else:
                self._board.clear("store", f"version {number}")

    def _open(self, fingerprint: str | None) -> None:
        """The folder of the model; before any prediction that of the only one that there is."""
        folders = model_folders(self._settings, fingerprint or self._choice.wanted)
        self._known = {}
        if not folders or (fingerprint is None and len(folders) > 1):
            self._store, self._fingerprint = None, None
            return
        store = open_folder(self._settings, folders[0])
        if fingerprint is None:
            manifests, _ = store.look({})
            if not manifests:
                return
            self._choice.found(manifests[0].model)
            fingerprint = manifests[0].model
        self._store, self._fingerprint = store, fingerprint


def name_of(manifests: Sequence[Manifest]) -> str | None:
    """The model's, as its versions have it."""
    return manifests[0].model_name if manifests else None
