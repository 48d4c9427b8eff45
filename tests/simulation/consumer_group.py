"""The group coordinator of KIP-848: members report what they own, and are told what they may have.

A partition goes to its new owner only after the old one has reported that it gave it away, or was thrown out.
"""

from __future__ import annotations

from functools import partial

from confluent_kafka import KafkaError

from tests.simulation.classic_group import UNKNOWN_MEMBER
from tests.simulation.network import Reply
from tests.simulation.sticky import sticky
from tests.simulation.world import Process, World

FENCED_EPOCH = int(KafkaError.FENCED_MEMBER_EPOCH)
STALE_EPOCH = int(KafkaError.STALE_MEMBER_EPOCH)
UNRELEASED = int(KafkaError.UNRELEASED_INSTANCE_ID)


class Member:
    """One member, as the coordinator knows it."""

    __slots__ = ("assigned", "epoch", "id", "instance", "process", "silences", "target")

    def __init__(self, id_: str, instance: str | None, process: Process) -> None:
        self.id = id_
        self.instance = instance
        self.process = process
        self.epoch = 0
        #: what it was told that it has; nobody else gets these before it has reported them as given away
        self.assigned: frozenset[int] = frozenset()
        self.target: frozenset[int] = frozenset()
        self.silences = 0


class ConsumerGroup:
    """One group over one topic."""

    def __init__(self, world: World, partitions: int, session_s: float, heartbeat_s: float, rebalance_s: float) -> None:
        self._world = world
        self._partitions = partitions
        self._session_s = session_s
        self._heartbeat_s = heartbeat_s
        self._rebalance_s = rebalance_s
        self.members: dict[str, Member] = {}
        self.epoch = 0
        self.rebalances = 0
        #: what members still have to give away
        self._held: dict[str, frozenset[int]] = {}

    def heartbeat(
        self, id_: str, instance: str | None, epoch: int, owned: frozenset[int] | None, process: Process, reply: Reply
    ) -> None:
        """ConsumerGroupHeartbeat; told ``(member epoch, assigned partitions)``. ``owned`` None is: as before."""
        member = self.members.get(id_)
        if epoch == 0:
            if instance and any(one.instance == instance and one.id != id_ for one in self.members.values()):
                return reply(UNRELEASED, None)
            if member is None:
                member = self.members[id_] = Member(id_, instance, process)
                process.on_silence.append(partial(self._heard, member))
                if process.silent:
                    self._heard(member, True)
            member.assigned = frozenset()
            owned = frozenset()
            self._target()
        if member is None:
            return reply(UNKNOWN_MEMBER, None)
        if epoch not in (0, member.epoch) and epoch != member.epoch - 1:
            return reply(FENCED_EPOCH, None)
        if owned is not None:
            self._reconcile(member, owned)
        return reply(0, (member.epoch, member.assigned))

    def leave(self, id_: str) -> None:
        """A heartbeat with epoch -1."""
        if id_ in self.members:
            self._world.tell("broker:", id_, "leaves")
            self._remove(id_)

    def check(self, id_: str, epoch: int, instance: str | None) -> int:
        """Whether this member may commit offsets."""
        if not id_ and epoch < 0:
            return 0
        member = self.members.get(id_)
        if member is None:
            return UNKNOWN_MEMBER
        return 0 if epoch == member.epoch else STALE_EPOCH

    def _reconcile(self, member: Member, owned: frozenset[int]) -> None:
        keeps = member.assigned & member.target
        if owned - keeps:
            member.assigned = keeps
            self._held_back(member, owned - keeps)
            return
        self._held.pop(member.id, None)
        taken = {number for one in self.members.values() if one is not member for number in one.assigned}
        taken |= {number for id_, numbers in self._held.items() if id_ != member.id for number in numbers}
        member.epoch = self.epoch
        before, member.assigned = member.assigned, frozenset(number for number in member.target if number not in taken)
        if self._world.is_told and before != member.assigned:
            self._world.tell("broker: epoch", member.epoch, member.id, sorted(member.assigned))

    def _held_back(self, member: Member, numbers: frozenset[int]) -> None:
        if member.id not in self._held:
            self._world.later(self._rebalance_s, partial(self._give_up_waiting, member, self.epoch))
        self._held[member.id] = numbers

    def _give_up_waiting(self, member: Member, epoch: int) -> None:
        if self.members.get(member.id) is member and member.id in self._held and member.epoch < epoch:
            self._world.tell("broker:", member.id, "is thrown out: it did not give away in time")
            self._remove(member.id)

    def _target(self) -> None:
        self.epoch += 1
        self.rebalances += 1
        if self.members:
            claims = {
                id_: (one.target if one.assigned else one.assigned, one.epoch) for id_, one in self.members.items()
            }
            targets, _ = sticky(range(self._partitions), claims)
            for id_, one in self.members.items():
                one.target = frozenset(targets[id_])

    def _heard(self, member: Member, silent: bool) -> None:
        member.silences += 1
        if silent and self.members.get(member.id) is member:
            left_s = self._session_s - self._world.uniform(0.0, self._heartbeat_s)
            self._world.later(left_s, partial(self._expire, member, member.silences))

    def _expire(self, member: Member, silences: int) -> None:
        if member.silences == silences and self.members.get(member.id) is member:
            self._world.tell("broker:", member.id, "is thrown out: its session timed out")
            self._remove(member.id)

    def _remove(self, id_: str) -> None:
        del self.members[id_]
        self._held.pop(id_, None)
        self._target()
