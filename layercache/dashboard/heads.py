"""The shown model and its heads in the store: reads them repeatedly, and does what an operator asks."""

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

#: A model that has answered nothing for so long gives way to another model that answers.
_SILENT_MS = 30_000
#: The page reports at most so many other models, and so many unreadable versions.
_MAX_OTHERS, _MAX_UNREADABLE = 20, 10


class ModelChoice:
    """Chooses which of the models that answer on the predictions topic the dashboard shows.

    It shows the first model that answers, for as long as that one answers. ``wanted`` limits the choice to fingerprints
    that begin with it. Thread-safe.

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
        """How many predictions of other models were left out, by fingerprint; of a few models only."""
        self._heard_ms = 0
        self._lock = threading.Lock()

    def is_shown(self, fingerprint: str, now_ms: int) -> bool:
        """Whether the dashboard counts a prediction of this model."""
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

    def adopt(self, fingerprint: str) -> None:
        """Shows this model, the only one in the store, until predictions say otherwise."""
        with self._lock:
            if self.fingerprint is None and fingerprint.startswith(self.wanted):
                self.fingerprint = fingerprint


@dataclass(frozen=True)
class StoreState:
    """What the store held when it last answered."""

    heads: Heads
    manifests: tuple[Manifest, ...] = ()
    """Newest first."""
    alarms: tuple[Alarm, ...] = ()

    @property
    def live(self) -> Manifest | None:
        """The manifest of the version in force, where the store has it."""
        return next((manifest for manifest in self.manifests if manifest.version == self.heads.live), None)


_NOTHING = StoreState(Heads())


class HeadsView:
    """Reads the heads of the shown model. Its actions are those of ``layercache heads``, on the same store.

    It does not load the model: predictions and manifests carry the fingerprint, and the model's folder ends in it.
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
        """Reads the store once. If it does not answer, the board gets a problem and :attr:`seen` stays as it was."""
        try:
            with self._look_lock:
                self._look()
        except StoreError as error:
            self._board.put("store", "look", str(error))
        else:
            self._board.clear("store", "look")

    def roll_back(self, version: str | None = None, reason: str = "") -> str:
        """See :meth:`layercache.dashboard.backend.Backend.roll_back`."""
        store = self._require_store()
        return self._confirm(store, f"rolled back to {store.rollback(version)}", reason)

    def pin(self, version: str | None = None, reason: str = "") -> str:
        """See :meth:`layercache.dashboard.backend.Backend.pin`."""
        store = self._require_store()
        version = version or store.live().version
        if version is None:
            raise StoreError(f"{store.url} has no version in use to pin: name one, or close all exits")
        store.pin(version, reason)
        return self._confirm(store, f"pinned {version}", reason)

    def unpin(self, reason: str = "") -> str:
        """See :meth:`layercache.dashboard.backend.Backend.unpin`."""
        store = self._require_store()
        store.unpin()
        return self._confirm(store, "unpinned", reason)

    def close_exits(self, reason: str = "") -> str:
        """See :meth:`layercache.dashboard.backend.Backend.close_exits`."""
        store = self._require_store()
        store.close(reason)
        return self._confirm(store, "closed all exits", reason)

    def _confirm(self, store: HeadStore, action: str, reason: str) -> str:
        # The store keeps no record of a rollback, so the reason goes into the log.
        log.info("%s: %s by the dashboard%s", store.url, action, f": {reason!r}" if reason else "")
        sentence = heads_view.sentence(store)
        self.look()
        return sentence

    def _require_store(self) -> HeadStore:
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
        self._report_unreadable(list(unreadable.values())[:_MAX_UNREADABLE])
        # Read pin and latest version once: object stores bill every request, and a page may be open for weeks.
        pin, latest = store.pin_state(), store.latest()
        live = in_force(pin, latest)
        sentence = heads_view.describe_state(live, pin, latest)
        heads = versions.heads(manifests, live, latest, pin, store.attempts(), store.url, sentence)
        if heads != self.seen.heads:
            self.seen = StoreState(heads, tuple(manifests), versions.alarms(manifests, live.version))

    def _report_unreadable(self, unreadable: Sequence[StoreError]) -> None:
        """Reports versions that the store has but that cannot or must not be used."""
        for number in range(_MAX_UNREADABLE):
            if number < len(unreadable):
                self._board.put("store", f"version {number}", str(unreadable[number]))
            else:
                self._board.clear("store", f"version {number}")

    def _open(self, fingerprint: str | None) -> None:
        """Opens the model's folder; before any prediction, the store's only folder."""
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
            self._choice.adopt(manifests[0].model)
            fingerprint = manifests[0].model
        self._store, self._fingerprint = store, fingerprint


def model_name_of(manifests: Sequence[Manifest]) -> str | None:
    """The model's name, as its versions have it."""
    return manifests[0].model_name if manifests else None
