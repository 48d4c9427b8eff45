"""Which requests of its transactions a producer sent and got no answer to: copies of them may still be under way.

A transaction ends by a request, EndTxn, which names the producer and its epoch, not the transaction. Where its answer
does not come, librdkafka sends it again without telling the caller: when the connection breaks, or after
``socket.timeout.ms``. The first copy may arrive much later. Then it ends the *next* transaction of that epoch: a late
commit commits half of it; a late abort takes back records whose offsets the next commit stores. (KIP-890; Jepsen's
report on Bufstream 0.1.0, 2024.) With EndTxn version 5 brokers raise the epoch at each end and refuse such copies;
librdkafka speaks version 1 (confluentinc/librdkafka #5423). A late TxnOffsetCommit sets the group back in the same way.
Records are numbered, so a late copy of them does nothing (KIP-98).

Only librdkafka's log, with ``debug=protocol``, tells of every request.
"""

import re
from collections import Counter
from collections.abc import Mapping
from typing import Any, Protocol

#: What a late copy of would do something, by librdkafka's names.
TRANSACTIONAL = frozenset({"InitProducerId", "AddPartitionsToTxn", "AddOffsetsToTxn", "TxnOffsetCommit", "EndTxn"})

_SENT = re.compile(r": Sent (\w+)Request \(v")
_RECEIVED = re.compile(r": Received (\w+)Response \(v")


class _Logger(Protocol):
    def log(self, level: int, form: str, facility: str, client: str, text: str, /) -> None: ...


class RequestWatch:
    """The ``logger`` of one transactional producer: counts its requests, and passes every line on.

    ``log`` may be called by any thread: whichever polls the producer.

    >>> watch = RequestWatch()
    >>> options = watch.options({"bootstrap.servers": "localhost:9092"})
    >>> options["debug"], options["logger"] is watch
    ('protocol', True)
    >>> line = "TxnCoordinator/1: Sent EndTxnRequest (v1, 43 bytes @ 0, CorrId 5)"
    >>> watch.log(10, "%s [%s] %s", "SEND", "producer-1", line)
    >>> watch.unanswered()
    ('EndTxn',)
    """

    def __init__(self) -> None:
        self._sent: Counter[str] = Counter()
        self._received: Counter[str] = Counter()
        self._next: _Logger | None = None

    def options(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """``config`` with what makes librdkafka tell of its requests here; its own ``logger`` hears every line, too."""
        users = str(config.get("debug", ""))
        self._next = config.get("logger")
        return {**config, "debug": f"{users},protocol" if users else "protocol", "logger": self}

    def log(self, level: int, form: str, facility: str, client: str, text: str) -> None:
        """One line of librdkafka's, as confluent-kafka hands it to a ``logger``."""
        if facility == "SEND":
            if found := _SENT.search(text):
                self._sent[found[1]] += 1
        elif facility == "RECV" and (found := _RECEIVED.search(text)):
            self._received[found[1]] += 1
        if self._next is not None:
            self._next.log(level, form, facility, client, text)

    def hears(self) -> bool:
        """True once a registration has been heard of, which comes before everything else.

        False afterwards means that this librdkafka words its lines otherwise, and that nothing is known.
        """
        return self._received["InitProducerId"] > 0

    def counts(self) -> dict[str, tuple[int, int]]:
        """How many requests of each kind were sent, and how many answers to them came."""
        return {name: (self._sent[name], self._received[name]) for name in TRANSACTIONAL}

    def unanswered(self) -> tuple[str, ...]:
        """The kinds of requests of which some got no answer. Ask after the producer was polled."""
        return tuple(sorted(name for name in TRANSACTIONAL if self._sent[name] > self._received[name]))
