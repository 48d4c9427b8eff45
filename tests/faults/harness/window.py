"""A worker is killed while it commits, and its group changes while the heir waits for stable offsets."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from testbed.waiting import wait_until
from tests.faults.harness.entry import DIES
from tests.faults.harness.fleet import Fleet, Member
from tests.faults.harness.lives import Life
from tests.faults.harness.offsets import CommittedOffsets

#: Longest wait for what must come while frames flow: a commit, a rebalance.
COMES_S = 60.0


@dataclass(frozen=True)
class Window:
    """What was seen of it."""

    open: frozenset[int]
    """Partitions over whose offsets the killed worker had left a transaction open."""
    inherited_s: float
    """From its death until another worker held one of them."""
    was_hit: bool
    """Whether the group changed while they were unstable."""


def kill_in_window(
    fleet: Fleet, committed: CommittedOffsets, victim: Member, change: Callable[[], None], done: Callable[[], bool]
) -> Window:
    """Kills the victim, waits for its heir, changes the group until ``done`` or any assignment has changed.

    The victim stays dead; nobody else who ends is started again meanwhile.
    """
    life = fleet.kill_while_committing(victim, COMES_S)
    killed, open_ = time.monotonic(), offsets_sent(life)
    heirs = [one for one in fleet.running if one.life is not None and not one.life.gated]
    wait_until(lambda: any(open_ & fleet.partitions_of(one) for one in heirs), "an heir", COMES_S)
    inherited_s = time.monotonic() - killed
    unstable = committed.are_unstable(open_)
    before = {one.name: len(one.held) for one in heirs}
    change()
    wait_until(
        lambda: done() or any(one.runs and len(one.held) != before[one.name] for one in heirs), "a rebalance", COMES_S
    )
    return Window(open_, inherited_s, unstable and committed.are_unstable(open_))


def offsets_sent(life: Life) -> frozenset[int]:
    """The partitions over whose offsets a worker that was killed while committing has left a transaction open."""
    found = life.told(DIES)
    return found[-1] if found else frozenset()
