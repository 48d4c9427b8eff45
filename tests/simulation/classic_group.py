"""The group coordinator of the classic protocol, with cooperative rebalances (KIP-429) and static members (KIP-345).

JoinGroup and SyncGroup are one request here, and the coordinator assigns. Heartbeats are not sent one by one: a member
whose process the broker does not hear is thrown out after the session's time-out.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from confluent_kafka import KafkaError

from tests.simulation.network import Reply
from tests.simulation.sticky import sticky
from tests.simulation.world import Process, World

UNKNOWN_MEMBER = int(KafkaError.UNKNOWN_MEMBER_ID)
ILLEGAL_GENERATION = int(KafkaError.ILLEGAL_GENERATION)
REBALANCING = int(KafkaError.REBALANCE_IN_PROGRESS)
MEMBER_ID_REQUIRED = int(KafkaError.MEMBER_ID_REQUIRED)
FENCED_INSTANCE = int(KafkaError.FENCED_INSTANCE_ID)


class Member:
    """One member, as the coordinator knows it."""

    __slots__ = ("forsaken", "generation", "id", "instance", "owned", "process", "reply", "silences", "targets")

    def __init__(self, id_: str, instance: str | None, process: Process) -> None:
        self.id = id_
        self.instance = instance
        self.process = process
        self.generation = -1
        self.owned: frozenset[int] = frozenset()
        self.targets: frozenset[int] = frozenset()
        self.reply: Reply | None = None  # of the JoinGroup that waits
        self.silences = 0
        self.forsaken = False


class ClassicGroup:
    """One group over one topic of ``partitions`` partitions."""

    def __init__(self, world: World, partitions: int, session_s: float, heartbeat_s: float, rebalance_s: float) -> None:
        self._world = world
        self._partitions = partitions
        self._session_s = session_s
        self._heartbeat_s = heartbeat_s
        self._rebalance_s = rebalance_s
        self.members: dict[str, Member] = {}
        self._instances: dict[str, str] = {}
        self._fenced: set[str] = set()
        self._promised: set[str] = set()  # ids of who has yet to join (KIP-394)
        self.generation = 0
        self.rebalancing = False
        self._rounds = 0
        self._names = 0
        self.rebalances = 0

    def join(
        self, id_: str, instance: str | None, owned: frozenset[int], generation: int, process: Process, reply: Reply
    ) -> None:
        """JoinGroup; told ``(member id, generation, assigned partitions)`` once all have joined."""
        if id_ in self._fenced:
            return reply(FENCED_INSTANCE, None)
        if id_ and id_ not in self.members and id_ not in self._promised:
            return reply(UNKNOWN_MEMBER, None)
        if not id_ and not instance:
            self._promised.add(id_ := self._new_id(process))
            return reply(MEMBER_ID_REQUIRED, id_)
        if id_ not in self.members:
            self._promised.discard(id_)
            id_ = id_ or self._new_id(process)
            before = self.members.get(self._instances.get(instance, "")) if instance else None
            member = self.members[id_] = Member(id_, instance, process)
            self._watch(member)
            if instance:
                self._instances[instance] = id_
            if before is not None:
                del self.members[before.id]
                self._fenced.add(before.id)
                if before.reply is not None:
                    before.reply(FENCED_INSTANCE, None)
                # Brokers do not ask the second question: partitions that are nobody's wait for the next rebalance.
                if not self.rebalancing and self._all_assigned(before):
                    member.generation, member.targets = self.generation, before.targets
                    return reply(0, (id_, self.generation, member.targets))
        member = self.members[id_]
        member.owned, member.generation = owned, generation
        member.reply = reply
        self._rebalance()
        self._complete_if_all_joined()
        return None

    def sync(self, id_: str, generation: int) -> tuple[int, frozenset[int]]:
        """SyncGroup: an error's code, and what is assigned. Who leads has decided by the time that all have joined."""
        error = self.check(id_, generation, None) or (REBALANCING if self.rebalancing else 0)
        return error, frozenset() if error else self.members[id_].targets

    def leave(self, id_: str) -> None:
        """LeaveGroup."""
        if id_ in self.members:
            self._world.tell("broker:", id_, "leaves")
            self._remove(id_)

    def heartbeat(self, id_: str, generation: int) -> int:
        """What the coordinator answers a member: an error's code, 0 where all is well."""
        if id_ in self._fenced:
            return FENCED_INSTANCE
        member = self.members.get(id_)
        if member is None:
            return UNKNOWN_MEMBER
        if self.rebalancing:
            return REBALANCING if member.reply is None else 0
        return 0 if generation == self.generation else ILLEGAL_GENERATION

    def check(self, id_: str, generation: int, instance: str | None) -> int:
        """Whether this member may commit offsets (KIP-447); whoever names no member may."""
        if not id_ and generation < 0 and not instance:
            return 0
        if id_ in self._fenced:
            return FENCED_INSTANCE
        if id_ not in self.members:
            return UNKNOWN_MEMBER
        return 0 if generation == self.generation else ILLEGAL_GENERATION

    def forsake(self, id_: str) -> None:
        """Its client goes on by another id: no heartbeat comes for this one any more."""
        self._promised.discard(id_)
        member = self.members.get(id_)
        if member is not None:
            member.forsaken = True
            self._heard(member, True)

    def _all_assigned(self, besides: Member) -> bool:
        targets = [*(member.targets for member in self.members.values()), besides.targets]
        return len(frozenset().union(*targets)) == self._partitions

    def _new_id(self, process: Process) -> str:
        self._names += 1
        return f"{process.name}-{self._names}"

    def _watch(self, member: Member) -> None:
        member.process.on_silence.append(partial(self._heard, member))
        if member.process.silent:
            self._heard(member, True)

    def _heard(self, member: Member, silent: bool) -> None:
        if member.forsaken and not silent:
            return
        member.silences += 1
        if silent and self.members.get(member.id) is member:
            left_s = self._session_s - self._world.uniform(0.0, self._heartbeat_s)
            self._world.later(left_s, partial(self._expire, member, member.silences))

    def _expire(self, member: Member, silences: int) -> None:
        if member.silences == silences and self.members.get(member.id) is member:
            self._world.tell("broker:", member.id, "is thrown out: its session timed out")
            self._remove(member.id)

    def _remove(self, id_: str) -> None:
        member = self.members.pop(id_)
        if member.reply is not None:
            member.reply(UNKNOWN_MEMBER, None)
        if member.instance and self._instances.get(member.instance) == id_:
            del self._instances[member.instance]
        self._rebalance()
        self._complete_if_all_joined()

    def _rebalance(self) -> None:
        if not self.rebalancing:
            self.rebalancing = True
            self._rounds += 1
            self._world.later(self._rebalance_s, partial(self._give_up_waiting, self._rounds))

    def _give_up_waiting(self, round_: int) -> None:
        if self.rebalancing and self._rounds == round_:
            for member in [one for one in self.members.values() if one.reply is None]:
                self._world.tell("broker:", member.id, "is thrown out: it did not rejoin")
                del self.members[member.id]
                if member.instance and self._instances.get(member.instance) == member.id:
                    del self._instances[member.instance]
            self._complete_if_all_joined()

    def _complete_if_all_joined(self) -> None:
        if not self.rebalancing or not all(member.reply is not None for member in self.members.values()):
            return
        self.rebalancing = False
        self.generation += 1
        self.rebalances += 1
        if not self.members:
            return
        claims = {id_: (member.owned, member.generation) for id_, member in self.members.items()}
        owned = [number for numbers, _ in claims.values() for number in numbers]
        if len(owned) > len(set(owned)) and self._world.random.random() < 0.4:
            # librdkafka's assignor believes the older of two claims now and then: 5 times of 12 on a real broker.
            claims = {id_: (numbers, -generation) for id_, (numbers, generation) in claims.items()}
        targets, owners = sticky(range(self._partitions), claims)
        for id_, member in self.members.items():
            # Whatever another still owns is withheld until it was revoked there.
            free = frozenset(number for number in targets[id_] if owners.get(number, id_) == id_)
            member.targets, member.generation = free, self.generation
            reply: Callable[[int, object], None] | None = member.reply
            member.reply = None
            assert reply is not None
            reply(0, (id_, self.generation, free))
        if self._world.is_told:
            shown = {id_: sorted(member.targets) for id_, member in self.members.items()}
            self._world.tell("broker: generation", self.generation, shown)
