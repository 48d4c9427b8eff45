"""What librdkafka logs by itself: through our own log, without what we log already and what no operator needs."""

import logging
import re
from collections.abc import Mapping
from typing import Any

from layercache.stream.kafka.throttle import Throttle

log = logging.getLogger(__name__)

#: librdkafka's syslog level up to which it hands us lines: notices. Session and poll time-outs are warnings.
LEVEL = 5

#: Each attempt to connect, and what ``error_cb`` brings as well; of a client's options those that our other clients
#: need.
_SAID_ELSEWHERE = frozenset({"FAIL", "ERROR", "CONFWARN"})
#: Notices worth reading: a topic has another number of partitions.
_NOTICES = frozenset({"PARTCNT"})

_THREAD = re.compile(r"^\[thrd:[^]]*\]: ")


class KafkaLog:
    """The ``logger`` of a client: lets through, once every few seconds of each kind, what people must see.

    A session that timed out, ``max.poll.interval.ms`` that was exceeded, a fatal error, an assignor or a commit that
    failed, a request that got no answer. ``config`` is the client's: a user who asks for ``debug`` or a ``log_level``
    sees every line. Lines arrive when the client is polled.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        self._debugging = bool(config.get("debug"))
        self._all = self._debugging or "log_level" in config
        self._throttle = Throttle()

    def log(self, level: int, form: str, facility: str, client: str, line: str) -> None:
        """One line, as confluent-kafka hands it to a ``logger``; ``level`` is Python's."""
        if self._all:
            # The user asked for it: our own level must not hide it again.
            log.log(max(level, logging.INFO) if self._debugging else level, form, facility, client, line)
            return
        if (level < logging.WARNING and facility not in _NOTICES) or facility in _SAID_ELSEWHERE:
            return
        if self._throttle.passes(facility):
            log.log(level, "Kafka: %s", _THREAD.sub("", line))
