"""Single requests held on their connection while all others flow, and what comes of it."""

import struct
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from testbed.kafka_proxy import (
    ADD_OFFSETS_TO_TXN,
    ADD_PARTITIONS_TO_TXN,
    END_TXN,
    TXN_OFFSET_COMMIT,
    HeldRequest,
    KafkaProxy,
    Request,
    ends,
    is_api,
)

PRODUCE = 0
#: Requests of a transaction, other than its end.
WITHIN_TRANSACTIONS = (PRODUCE, ADD_PARTITIONS_TO_TXN, ADD_OFFSETS_TO_TXN, TXN_OFFSET_COMMIT)

#: Longest wait for a request that matches.
_COMES_S = 10.0
_LOOK_S = 0.01


@dataclass(frozen=True)
class Holder:
    """Holds requests on the ways to the brokers."""

    proxies: Sequence[KafkaProxy]
    patience_s: float
    """A transaction's end is held no longer than that."""
    _never: threading.Event = field(default_factory=threading.Event)

    def hold_end(self, commit: bool, reset: bool, linger_s: float, provoke: Callable[[], None]) -> tuple[str, bool]:
        """Holds the end of a transaction until its producer is ``linger_s`` into the next one.

        With ``reset`` the client loses its connection at once, else it waits until it loses patience. Returns what came
        of it, and False where no such end came.
        """
        held, proxy = self._hold(ends(commit), reset, provoke)
        if held is None or held.request is None:
            return "no transaction ended so", False
        mine, until = held.request, time.monotonic() + self.patience_s
        while not (another := _begins_another(proxy, mine)) and time.monotonic() < until:
            self._never.wait(_LOOK_S)
        self._never.wait(linger_s)
        try:
            code = f"error {held.release_end()}"
        except (TimeoutError, struct.error):
            code = "none"
        how = "its connection reset" if reset else "its client kept waiting"
        when = "into the next transaction" if another else "late"
        return f"{how}; released {when}, the broker's answer: {code}", True

    def hold_request(self, api: int, reset: bool, seconds: float) -> bool:
        """Holds one request of that API for so long; False where none came."""
        held, _ = self._hold(is_api(api), reset, lambda: None)
        self._never.wait(seconds)
        if held is not None:
            _let_go(held)
        return held is not None

    def _hold(
        self, matches: Callable[[Request], bool], reset: bool, provoke: Callable[[], None]
    ) -> tuple[HeldRequest | None, KafkaProxy]:
        """The next request that matches, on the way to whichever broker; None where none comes."""
        holds = [(proxy.hold(matches, reset), proxy) for proxy in self.proxies]
        provoke()
        until = time.monotonic() + _COMES_S
        while not any(held.is_held for held, _ in holds) and time.monotonic() < until:
            self._never.wait(_LOOK_S)
        for held, proxy in holds:
            proxy.forget(held)
        come = [(held, proxy) for held, proxy in holds if held.is_held]
        for held, _ in come[1:]:  # came at the same moment on the way to another broker
            _let_go(held)
        return come[0] if come else (None, holds[0][1])


def _begins_another(proxy: KafkaProxy, end: Request) -> bool:
    """Whether the producer of that transaction has begun another one since its end was sent."""
    return any(
        request.api in (ADD_PARTITIONS_TO_TXN, ADD_OFFSETS_TO_TXN) and request.transactional_id == end.transactional_id
        for request in _since(proxy, end)
    )


def _since(proxy: KafkaProxy, sent: Request) -> Iterator[Request]:
    for request in reversed(tuple(proxy.seen)):
        if request is sent:
            return
        yield request


def _let_go(held: HeldRequest) -> None:
    try:
        held.release()
    except TimeoutError:
        assert held.request is not None
        assert held.request.api != END_TXN, "the broker answers no EndTxn"
