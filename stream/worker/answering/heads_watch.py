"""New heads, fetched, built and warmed up in the background, and swapped in between two micro-batches."""

import gc
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

import msgspec
from torch import Tensor

from layercache.early_exit.cutting.cuts import TracedModel
from layercache.early_exit.engine import Engine
from layercache.early_exit.heads.families import HeadsError
from layercache.early_exit.heads.loading import load_heads
from layercache.early_exit.store.head_store import Live, SignatureError, StoreError
from layercache.schemas.manifest import Certificate, Manifest
from layercache.schemas.settings import Promise

log = logging.getLogger(__name__)

#: A store or a version that fails is asked again after up to this many times the polling interval.
_MAX_BACKOFF = 30


class VersionStore(Protocol):
    """What is asked of :class:`layercache.early_exit.store.head_store.HeadStore`."""

    def live(self) -> Live: ...
    def latest(self) -> str | None: ...
    def load(self, version: str) -> tuple[Manifest, dict[str, Tensor]]: ...


@dataclass(frozen=True)
class Serving:
    """What to run: ``engine``, or ``closed`` once the engine exceeds its budget.

    ``closed`` still scores the exits without serving them: the trainer must see how often they disagree.
    """

    engine: Engine
    closed: Engine
    budget: float
    """The disagreement that the version may have."""
    overload: Engine | None = None
    """What to run while the worker is behind; None where nothing was certified for what may be then."""

    @property
    def version(self) -> str | None:
        return self.engine.version


class HeadWatch:
    """Keeps :attr:`serving` at what the store says is live. It swaps one attribute, so that no frame waits for it.

    :meth:`look` is one look, by one thread at a time; :meth:`start` looks again and again in a thread.
    """

    def __init__(
        self,
        store: VersionStore,
        traced: TracedModel,
        mode: Literal["serve", "shadow"],
        max_batch: int,
        promise: Promise,
        on_error: Callable[[], None] = lambda: None,
        on_refused: Callable[[], None] = lambda: None,
    ) -> None:
        """Calls ``on_error`` at every look that fails, ``on_refused`` once for heads that must not be used."""
        self._store = store
        self._traced = traced
        self._mode = mode
        self._max_batch = max_batch
        self._promise = promise
        self._on_error = on_error
        self._on_refused = on_refused
        self._seen: tuple[str | None, bool] | None = None
        self._trouble: str | None = None
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._looking = threading.Lock()
        full = Engine(traced, None, mode)
        full.warm_up(max_batch)
        self._full = Serving(full, full, promise.max_disagreement)
        self.serving = self._full

    def start(self, poll_s: float) -> None:
        """Looks every ``poll_s`` seconds, less often while looking fails."""
        self._thread = threading.Thread(target=self._watch, args=(poll_s,), name="heads", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread; does not wait for one that hangs in a slow store."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(1.0)

    def look(self) -> bool:
        """Asks the store once and takes up what it says; False where that failed and nothing has changed."""
        with self._looking:
            return self._look()

    def _look(self) -> bool:
        try:
            live = self._store.live()
            version = live.version or (self._store.latest() if live.closed else None)
            if (version, live.closed) != self._seen:
                self._take_up(version, live.closed)
                self._seen = (version, live.closed)
                gc.collect()  # old segments are reference cycles that hold weights, and the hot thread collects seldom
        except (StoreError, HeadsError) as error:
            self._on_error()
            if isinstance(error, SignatureError):
                self.serving = self._full  # another party writes to the store: what it said before is in doubt, too
                self._seen = None
            if str(error) != self._trouble:
                self._trouble = str(error)
                if isinstance(error, (SignatureError, HeadsError)):
                    self._on_refused()
                log.warning("%s; still serving %s", error, _named(self.serving))
            return False
        if self._trouble is not None:
            self._trouble = None
            log.info("the store of heads answers again; serving %s", _named(self.serving))
        return True

    def _take_up(self, version: str | None, closed: bool) -> None:
        if version is None:
            if self.serving is not self._full:
                log.info("the store has no heads any more: serving the full path")
            self.serving = self._full
            return
        manifest, tensors = self._store.load(version)
        own = self._traced.classifier.fingerprint
        if manifest.model != own:
            log.warning(
                "heads %s were trained for model %s, this worker runs %s; serving the full path",
                version, manifest.model[:12], own[:12],
            )  # fmt: skip
            self.serving = self._full
            return
        allowed = self._mode == "shadow" or not manifest.exits or self._is_allowed(manifest.certificate)
        if closed or not allowed:
            manifest = msgspec.structs.replace(manifest, exits=(), overload=None)
        heads = load_heads(manifest, tensors, self._traced)
        engine = Engine(self._traced, heads, self._mode)
        scoring = Engine(self._traced, heads, "shadow")
        engine.warm_up(self._max_batch)
        budget = manifest.certificate.max_disagreement if manifest.certificate else self._promise.max_disagreement
        self.serving = Serving(engine, scoring, budget, engine.overloaded() if self._may_overload(manifest) else None)
        if closed or allowed:
            log.info("serving %s%s", _named(self.serving), ", all exits kept closed by the operator" if closed else "")
            return
        self._on_refused()
        promise = self._promise
        log.warning(
            "heads %s are %s, and this worker's settings promise %s: keeping their exits closed; give the trainer and "
            "this worker the same promise",
            version,
            _promised(manifest.certificate) if manifest.certificate else "not certified",
            _promised(promise),
        )  # fmt: skip

    def _is_allowed(self, certificate: Certificate | None) -> bool:
        """Whether the everyday thresholds were certified for what this worker's settings promise."""
        promise = self._promise
        return certificate is not None and certificate.covers(
            promise.max_disagreement, promise.confidence, promise.max_class_disagreement
        )

    def _may_overload(self, manifest: Manifest) -> bool:
        """Whether the version's thresholds for overload were certified for what this worker's settings allow."""
        promise, overload = self._promise, manifest.overload
        if promise.overload_max_disagreement is None or overload is None or self._mode == "shadow":
            return False
        return overload.certificate.covers(
            promise.overload_max_disagreement, promise.confidence, promise.max_class_disagreement
        )

    def _watch(self, poll_s: float) -> None:
        failures = 0
        while True:
            try:
                failures = 0 if self.look() else failures + 1
            except Exception:  # this thread must outlive an unforeseen error: frames are answered meanwhile
                log.exception("looking for heads failed; still serving %s", _named(self.serving))
                self._on_error()
                failures += 1
            if self._stop.wait(poll_s * min(2**failures, _MAX_BACKOFF)):
                return


def _promised(limits: Certificate | Promise) -> str:
    """The limits that a version was certified for, or that a worker promises."""
    by_class = limits.max_class_disagreement
    within = f", {by_class:.2%} within a class" if by_class else ""
    sure = f"at most {limits.max_disagreement:.2%} disagreement{within}, {limits.confidence:.0%} sure"
    return f"certified for {sure}" if isinstance(limits, Certificate) else sure


def _named(serving: Serving) -> str:
    if serving.version is None:
        return "the full path, without heads"
    exits = ", ".join(serving.engine.exits)
    wider = ", wider under overload" if serving.overload else ""
    return f"heads {serving.version} ({f'exits at {exits}{wider}' if exits else 'no exit open'})"
