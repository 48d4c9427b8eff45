"""How a consumer stays a member of its group: by the classic protocol, or by KIP-848's heartbeats."""

from __future__ import annotations

import struct
from functools import partial
from typing import TYPE_CHECKING

from confluent_kafka import KafkaError

from tests.simulation.classic_group import (
    FENCED_INSTANCE,
    ILLEGAL_GENERATION,
    MEMBER_ID_REQUIRED,
    REBALANCING,
    UNKNOWN_MEMBER,
    ClassicGroup,
)

if TYPE_CHECKING:
    from tests.simulation.consumer import SimulatedConsumer

_REJOIN_S = 0.1
#: How librdkafka's metadata of a member begin; the generation follows, as a 32-bit integer of this machine.
_MAGIC = b"CGMDv2:"
FENCED_EPOCH = int(KafkaError.FENCED_MEMBER_EPOCH)


def group_metadata(member: str, generation: int, instance: str | None) -> bytes:
    """Of a member, for a producer; what follows the generation is the simulation's own."""
    return _MAGIC + struct.pack("=i", generation) + f"{member}|{instance or ''}".encode()


def read_group_metadata(metadata: bytes) -> tuple[str, int, str | None]:
    """The member's id, generation and ``group.instance.id``."""
    (generation,) = struct.unpack_from("=i", metadata, len(_MAGIC))
    member, instance = metadata[len(_MAGIC) + 4 :].decode().rsplit("|", 1)
    return member, generation, instance or None


class Membership:
    """What both protocols have in common. ``id`` and ``generation`` are what commits are made with (KIP-447)."""

    def __init__(self, consumer: SimulatedConsumer) -> None:
        self.consumer = consumer
        self.instance: str | None = consumer.config.get("group.instance.id")
        self.id = ""
        self.generation = -1
        self.left = False
        #: the session, as its own clock sees it
        self._heard_s = 0.0

    def join(self) -> None:
        """Becomes a member."""
        raise NotImplementedError

    def lose(self, why: str) -> None:
        """The membership is over, and with it the assignment; begins anew."""
        consumer = self.consumer
        consumer.world.tell(consumer.process.name, "lost its membership:", why)
        consumer.drop_operations()
        if consumer.assigned:
            consumer.operate("lost", frozenset(consumer.assigned), self.join)
        else:
            self.join()

    def fence(self) -> None:
        """Another has this member's group.instance.id."""
        self.left = True
        self.consumer.fail(
            KafkaError(
                KafkaError._FATAL,
                "Fatal error: static consumer fenced by other consumer with same group.instance.id",
                fatal=True,
            )
        )

    def leave(self) -> None:
        """LeaveGroup; a static member of the classic protocol does not."""
        self.left = True
        if self.id and not self.instance:
            self._send_leave()
        self.id = ""

    def drop_out(self) -> None:
        """The application did not poll: leaves, and joins anew when it polls again."""
        if not self.id:
            return
        if not self.instance:  # KIP-345
            self._send_leave()
            self.forsake()
        self.lose("not polled")

    def forsake(self) -> None:
        """Goes on without its id."""
        group = self.consumer.broker.group
        if isinstance(group, ClassicGroup):
            group.forsake(self.id)
        self.id, self.generation = "", -1

    def _send_leave(self) -> None:
        self.consumer.connection.send("LeaveGroup", partial(self.consumer.broker.leave, self.id), lambda *_: None)


class ClassicMembership(Membership):
    """JoinGroup whenever the group rebalances; heartbeats tell that it does."""

    def __init__(self, consumer: SimulatedConsumer) -> None:
        super().__init__(consumer)
        self._joining = 0
        self._is_joining = False  # a JoinGroup is under way: answers to heartbeats are discarded
        self._beating = False

    def join(self) -> None:
        """JoinGroup, with what is owned."""
        consumer = self.consumer
        if self.left or consumer.closed:
            return
        self._joining += 1
        self._is_joining = True
        owned = frozenset(consumer.assigned)
        call = partial(consumer.broker.join, self.id, self.instance, owned, self.generation, consumer.process)
        consumer.connection.send("JoinGroup", call, partial(self._joined, self._joining))
        consumer.process.later(consumer.max_poll_s + 1.0, partial(self._again, self._joining))  # its time-out
        if not self._beating:
            self._beating = True
            self._beat()

    def _joined(self, attempt: int, error: int, value: tuple[str, int, frozenset[int]]) -> None:
        consumer = self.consumer
        if attempt != self._joining or self.left:
            return
        if error == FENCED_INSTANCE:
            return self.fence()
        if error:
            if error == MEMBER_ID_REQUIRED:
                self.id = str(value)
                if consumer.assigned:  # static members never come here, and so are not told (KIP-345)
                    self._joining += 1
                    return self.lose("it joins as another member")
                return self._again(attempt)
            if error == UNKNOWN_MEMBER:  # nothing is revoked: rd_kafka_cgrp_handle_JoinGroup
                self.id = ""
            consumer.process.later(_REJOIN_S, partial(self._again, attempt))
            return None
        # From here on it commits in the new generation, though it knows nothing of its assignment yet.
        self.id, self.generation, _ = value
        self._joining += 1  # answers to older attempts are void
        self._heard_s = consumer.world.now
        call = partial(consumer.broker.sync, self.id, self.generation)
        consumer.connection.send("SyncGroup", call, partial(self._synced, self._joining))
        return None

    def _synced(self, attempt: int, error: int, assigned: frozenset[int]) -> None:
        consumer = self.consumer
        if attempt != self._joining or self.left:
            return None
        if error == FENCED_INSTANCE:
            return self.fence()
        if error:
            if error == UNKNOWN_MEMBER:
                self.id = ""
            consumer.process.later(_REJOIN_S, partial(self._again, attempt))
            return None
        self._is_joining = False
        self._joining += 1
        self._heard_s = consumer.world.now
        owned = frozenset(consumer.assigned)
        revoked, added = owned - assigned, assigned - owned
        if revoked:
            consumer.operate("revoke", revoked, lambda: None if added else self.join())
            if added:
                consumer.operate("assign", added, self.join)
        else:
            consumer.operate("assign", added, lambda: None)
        return None

    def _again(self, attempt: int) -> None:
        if attempt == self._joining:
            self.join()

    def _beat(self) -> None:
        consumer = self.consumer
        if self.left or consumer.closed:
            return None
        world, broker = consumer.world, consumer.broker
        consumer.process.later(world.uniform(0.2, 1.0) * broker.heartbeat_s, self._beat)
        if not self.id:
            return None
        if consumer.process.silent or broker.away("group"):
            if world.now - self._heard_s > broker.session_s and consumer.process.silent:
                self._time_out()
            return None
        expired = world.now - self._heard_s > broker.session_s
        if expired and world.random.random() < 0.5:  # after a SIGCONT the own clock speaks first, or the broker does
            return self._time_out()
        self._heard_s = world.now
        if self._is_joining:
            return None
        assert isinstance(broker.group, ClassicGroup)
        error = broker.group.heartbeat(self.id, self.generation)
        if error == REBALANCING and not consumer.rebalancing:
            self.join()
        elif error == UNKNOWN_MEMBER:
            self.id, self.generation = "", -1
            self._joining += 1
            self.lose("unknown member")
        elif error == ILLEGAL_GENERATION and not consumer.rebalancing:
            self.generation = -1
            self._joining += 1
            self.lose("illegal generation")
        elif error == FENCED_INSTANCE:
            self._joining += 1
            self.fence()
        return None

    def _time_out(self) -> None:
        self.forsake()
        self._heard_s = self.consumer.world.now
        self._joining += 1
        self.lose("its session timed out")


class ConsumerMembership(Membership):
    """KIP-848: heartbeats carry what is owned, and bring what is assigned."""

    def __init__(self, consumer: SimulatedConsumer) -> None:
        super().__init__(consumer)
        self._beats = 0
        self._names = 0

    def join(self) -> None:
        """Heartbeats begin, with epoch 0."""
        if self.left or self.consumer.closed:
            return
        self._names += 1
        # The member makes its id itself, and keeps it; another only so that traces can be read.
        self.id = self.id or f"{self.consumer.process.name}-m{self._names}"
        self.generation = 0
        self._beats += 1
        self._heard_s = self.consumer.world.now
        self._beat(self._beats)

    def _beat(self, beats: int) -> None:
        consumer = self.consumer
        if self.left or consumer.closed or beats != self._beats:
            return
        if consumer.world.now - self._heard_s > consumer.broker.session_s and consumer.process.silent:
            self._heard_s = consumer.world.now
            return self._begin_anew("its session timed out")
        reported = None if consumer.rebalancing else frozenset(consumer.assigned)
        call = partial(consumer.broker.heartbeat, self.id, self.instance, self.generation, reported, consumer.process)
        consumer.connection.send("ConsumerGroupHeartbeat", call, partial(self._answered, beats))
        return None

    def _answered(self, beats: int, error: int, value: tuple[int, frozenset[int]]) -> None:
        consumer = self.consumer
        if beats != self._beats or self.left:
            return
        wait_s = consumer.world.uniform(0.2, 1.0) * consumer.broker.heartbeat_s
        if error in (UNKNOWN_MEMBER, FENCED_EPOCH):
            return self._begin_anew("fenced by its group")
        if error == FENCED_INSTANCE:
            return self.fence()
        if not error:
            self._heard_s = consumer.world.now
            self.generation, assigned = value
            owned = frozenset(consumer.assigned)
            if not consumer.rebalancing and assigned != owned:
                if revoked := owned - assigned:
                    consumer.operate("revoke", revoked, lambda: None)
                if added := assigned - owned:
                    consumer.operate("assign", added, lambda: None)
                wait_s = 0.02
        consumer.process.later(wait_s, partial(self._beat, beats))
        return None

    def _begin_anew(self, why: str) -> None:
        self._beats += 1
        self.generation = 0
        self.lose(why)


def membership(consumer: SimulatedConsumer) -> Membership:
    """By the protocol that the consumer's configuration asks for."""
    kip848 = consumer.config.get("group.protocol") == "consumer"
    return (ConsumerMembership if kip848 else ClassicMembership)(consumer)
