"""What a group's member is: whom it tells of rebalances, and what the user's options mean to it."""

from dataclasses import dataclass
from typing import Protocol

from confluent_kafka import Consumer

from layercache.stream.kafka.clients import Config, is_kip848, poll_budget_s, session_ms

#: The options that a :class:`layercache.stream.worker.consuming.consumer.FrameConsumer` needs, whatever the user's say.
#: An offset may be out of range, since the log was cut short or begins again: the client then goes to the log's
#: beginning, where the consumer notices it; the end would hide frames. The client tells of a log's end, since nothing
#: else says of the markers there, which no consumer gets, that they are no frames.
READER: Config = {"auto.offset.reset": "earliest", "enable.partition.eof": True}

#: The user's choice for partitions without a commit, as librdkafka spells it.
_FROM_END, _FAILS = frozenset({"latest", "largest", "end"}), frozenset({"error", "none"})


class RebalanceListener(Protocol):
    """The worker, which must know which partitions are its own.

    Its methods are called within :meth:`layercache.stream.worker.consuming.consumer.FrameConsumer.fetch`,
    ``keep_membership`` and ``close``.
    """

    def assigned(self, partitions: set[int], kept: set[int]) -> None:
        """These, perhaps none, come to this worker, at the end of a rebalance; the others, ``kept``, it had before."""

    def begins(self, partition: int, offset: int, began: int, takes_over: bool) -> None:
        """The partition's frames come now, from ``offset`` on.

        ``began`` is as :class:`layercache.stream.worker.consuming.positions.PartitionReport` has it. ``takes_over`` is
        False where this member has the partition already, and only went back to the last commit.
        """

    def revoked(self, partitions: set[int], kept: set[int]) -> None:
        """These go to another worker, ``kept`` stay: commit what was done, forget the rest."""

    def lost(self, partitions: set[int]) -> None:
        """Nothing done on these since the last commit may be committed.

        Go back to that commit by :meth:`layercache.stream.worker.consuming.consumer.FrameConsumer.rewind`.
        """

    def rejoins(self, client: Consumer) -> None:
        """``client`` is the group's member from now on; the one before had its partitions revoked, and is closed."""


@dataclass(frozen=True)
class MemberOptions:
    """What the user's options mean to a consumer of frames."""

    poll_budget_s: float = float("inf")
    from_end: bool = False
    """Where the group has committed nothing, read what comes from now on."""
    fails_without_commit: bool = False
    static_session_s: float = 0.0
    """After so long without a heartbeat the group has forgotten a static member, which cannot leave (KIP-345)."""
    is_incremental: bool = True
    """Partitions come and go one by one (KIP-429, KIP-848), not all at once."""

    @classmethod
    def of(cls, config: Config) -> "MemberOptions":
        """From a consumer's configuration.

        >>> options = MemberOptions.of({"auto.offset.reset": "latest", "partition.assignment.strategy": "range"})
        >>> options.poll_budget_s, options.from_end, options.fails_without_commit, options.is_incremental
        (150.0, True, False, False)
        """
        reset = config.get("auto.offset.reset", "latest")
        return cls(
            poll_budget_s=poll_budget_s(config),
            from_end=reset in _FROM_END,
            fails_without_commit=reset in _FAILS,
            static_session_s=session_ms(config) / 1000 if "group.instance.id" in config else 0.0,
            is_incremental=is_kip848(config) or "cooperative" in str(config.get("partition.assignment.strategy")),
        )
