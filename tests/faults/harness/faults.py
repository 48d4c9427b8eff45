"""The faults: each strikes at once or for a time, mends itself, and tells whom it held up."""

import random
import threading
from collections.abc import Callable
from dataclasses import dataclass

from testbed.apache_kafka import KafkaCluster, KafkaNode
from testbed.proxy import Proxy
from testbed.waiting import wait_until
from tests.faults.harness.clock import wall_ms
from tests.faults.harness.entry import READY
from tests.faults.harness.fleet import Fleet, Member
from tests.faults.harness.holding import WITHIN_TRANSACTIONS, Holder
from tests.faults.harness.offsets import CommittedOffsets
from tests.faults.harness.plan import Timeouts
from tests.faults.harness.skew import set_clock
from tests.faults.harness.storage import Storage
from tests.faults.harness.window import COMES_S, kill_in_window, offsets_sent

_HICCUP_S = (0.2, 2.0)
_OUTAGE_S = (0.5, 5.0)
_FEWEST = 2
_TAKEN_UP_S = 300.0
#: A clock is ahead or behind by so much.
_AHEAD_S, _BEHIND_S = (1.0, 30.0), (-8.0, -1.0)
#: Of held ends, that their client loses the connection at once, in place of waiting until it loses patience.
_RESET = 0.7


@dataclass(frozen=True)
class Struck:
    """Whom a fault held up, and from when on an answer shows that it no longer does."""

    partitions: frozenset[int]
    since_ms: int
    detail: str
    hit: bool = True
    """False where chance had it that the fault came beside the moment that it is about."""


class Injector:
    """Strikes one fault at a time, by a seeded ``dice``; durations and victims are the dice's."""

    def __init__(
        self,
        fleet: Fleet,
        cluster: KafkaCluster,
        storage: Storage,
        dice: random.Random,
        timeouts: Timeouts,
        partitions: int,
        committed: CommittedOffsets,
        saw_version: Callable[[str], bool],
        make_topic_anew: Callable[[], None],
    ) -> None:
        self._fleet = fleet
        self._cluster = cluster
        self._storage = storage
        self._dice = dice
        self._timeouts = timeouts
        self._all = frozenset(range(partitions))
        self._committed = committed
        self._saw_version = saw_version
        self._make_topic_anew = make_topic_anew
        self._holder = Holder(cluster.proxies, timeouts.transaction_ms / 1000 + 1.0)
        self._never = threading.Event()

    def strike(self, kind: str) -> Struck:
        """Does it. Returns once the cause is over, or at once where what follows goes on by itself."""
        struck: Struck = getattr(self, f"_{kind}")()
        return struck

    def _worker_kill(self) -> Struck:
        victim, held = self._victim()
        self._fleet.kill(victim)
        struck = Struck(held, wall_ms(), victim.name)
        self._fleet.start(victim)
        return struck

    def _worker_zombie(self) -> Struck:
        victim, held = self._victim()
        lost_s = max(self._timeouts.session_ms, self._timeouts.transaction_ms) / 1000
        since, seconds = wall_ms(), self._dice.uniform(lost_s + 0.7, lost_s + 3.0)
        self._paused(victim, seconds)
        return Struck(held, since, f"{victim.name} for {seconds:.1f} s")

    def _worker_hiccup(self) -> Struck:
        victim, held = self._victim()
        since, seconds = wall_ms(), self._dice.uniform(*_HICCUP_S)
        self._paused(victim, seconds)
        return Struck(held, since, f"{victim.name} for {seconds:.1f} s")

    def _member_evicted(self) -> Struck:
        """A static member, if there is one: thrown out, its transaction lives on, and it comes back under its name."""
        victim, held = self._victim(static=True)
        since, seconds = wall_ms(), self._evicted_s()
        self._paused(victim, seconds)
        return Struck(held, since, f"{victim.name}{' (static)' if victim.is_static else ''} for {seconds:.1f} s")

    def _commit_kill(self) -> Struck:
        victim, held = self._victim()
        life = self._fleet.kill_while_committing(victim, COMES_S)
        struck = Struck(held | offsets_sent(life), wall_ms(), victim.name)
        self._fleet.start(victim)
        return struck

    def _commit_kill_join(self) -> Struck:
        """One who waits before the group's door is let in once the heir waits for stable offsets."""
        victim, held = self._victim(nameless=True)
        if not self._fleet.idle:
            self._fleet.stop(next(one for one in self._fleet.running if one is not victim))
        joiner = self._dice.choice(self._fleet.idle)
        self._fleet.start(joiner, gated=True)
        ready = joiner.life
        assert ready is not None
        self._wait(lambda: ready.said(READY) or ready.code is not None, f"{joiner.name} before the group's door")
        struck = self._killed_in_window(victim, held, ready.open_gate, lambda: bool(joiner.held), joiner.name)
        ready.open_gate()
        return struck

    def _commit_kill_leave(self) -> Struck:
        """One who is not the heir leaves while that waits."""
        while len(self._fleet.running) < _FEWEST + 1:
            self._fleet.start(self._fleet.idle[0])
        self._wait(lambda: all(one.held for one in self._fleet.running), "all workers in the group")
        victim, held = self._victim(nameless=True)
        leaver = self._dice.choice([one for one in self._fleet.running if one is not victim])
        return self._killed_in_window(victim, held, lambda: self._fleet.stop(leaver), lambda: True, leaver.name)

    def _killed_in_window(
        self, victim: Member, held: frozenset[int], change: Callable[[], None], done: Callable[[], bool], by: str
    ) -> Struck:
        since = wall_ms()
        try:
            window = kill_in_window(self._fleet, self._committed, victim, change, done)
        finally:
            if not victim.runs:
                self._fleet.start(victim)
        offsets = "unstable" if window.was_hit else "stable again"
        told = f"{victim.name}, inherited after {window.inherited_s:.1f} s; {by} while offsets were {offsets}"
        return Struck(held | window.open, since, told, window.was_hit)

    def _worker_added(self) -> Struck:
        member = self._dice.choice(self._fleet.idle)
        self._fleet.start(member)
        return Struck(self._all, wall_ms(), member.name)

    def _worker_removed(self) -> Struck:
        victim, held = self._victim()
        self._fleet.stop(victim)
        return Struck(held, wall_ms(), victim.name)

    def _rolling_restart(self) -> Struck:
        for member in self._fleet.running:
            self._fleet.stop(member)
            self._fleet.start(member)
        return Struck(self._all, wall_ms(), f"{len(self._fleet.running)} workers")

    def _broker_restart(self) -> Struck:
        node = self._node()
        node.stop()
        return self._started_again(node)

    def _broker_kill(self) -> Struck:
        node = self._node()
        node.kill()
        return self._started_again(node)

    def _broker_pause(self) -> Struck:
        node, since, seconds = self._node(), wall_ms(), self._dice.uniform(*_OUTAGE_S)
        node.pause()
        self._pass(seconds)
        node.resume()
        return Struck(self._all, since, f"node {node.place.node} for {seconds:.1f} s")

    def _clock_skew(self) -> Struck:
        node, since, seconds = self._node(), wall_ms(), self._dice.uniform(*_OUTAGE_S)
        ahead = self._dice.uniform(*self._dice.choice((_AHEAD_S, _BEHIND_S)))
        set_clock(node.folder, ahead)
        self._pass(seconds)
        set_clock(node.folder, 0.0)
        return Struck(self._all, since, f"node {node.place.node} by {ahead:+.1f} s for {seconds:.1f} s")

    def _commit_delayed(self) -> Struck:
        return self._end_delayed(commit=True)

    def _abort_delayed(self) -> Struck:
        """A worker that was put out of its group aborts what it had."""
        victim, _ = self._victim()
        return self._end_delayed(commit=False, provoke=lambda: self._paused(victim, self._evicted_s()))

    def _end_delayed(self, commit: bool, provoke: Callable[[], None] = lambda: None) -> Struck:
        reset, since = self._dice.random() < _RESET, wall_ms()
        told, hit = self._holder.hold_end(commit, reset, self._dice.uniform(0.0, 0.05), provoke)
        return Struck(self._all, since, told, hit)

    def _request_delayed(self) -> Struck:
        api, reset = self._dice.choice(WITHIN_TRANSACTIONS), self._dice.random() < 0.5
        since, seconds = wall_ms(), self._dice.uniform(*_OUTAGE_S)
        hit = self._holder.hold_request(api, reset, seconds)
        return Struck(self._all, since, f"API {api} for {seconds:.1f} s{', reset' if reset else ''}", hit)

    def _topic_anew(self) -> Struck:
        self._make_topic_anew()
        return Struck(self._all, wall_ms(), "")

    def _connections_cut(self) -> Struck:
        for proxy in self._cluster.proxies:
            proxy.cut()
        return Struck(self._all, wall_ms(), "")

    def _connections_refused(self) -> Struck:
        return self._proxies(Proxy.refuse)

    def _connections_stalled(self) -> Struck:
        return self._proxies(Proxy.stall)

    def _connections_half_open(self) -> Struck:
        return self._proxies(Proxy.half_open)

    def _heads_published(self) -> Struck:
        since = wall_ms()
        version = self._storage.publish()
        self._taken_up(version)
        return Struck(self._all, since, version)

    def _store_full(self) -> Struck:
        since = wall_ms()
        said = self._storage.publish_on_a_full_disk()
        self._taken_up(self._storage.publish())
        return Struck(self._all, since, said)

    def _store_broken(self) -> Struck:
        return self._store_away(self._storage.break_)

    def _store_gone(self) -> Struck:
        return self._store_away(self._storage.vanish)

    def _store_hanging(self) -> Struck:
        since, seconds = wall_ms(), self._dice.uniform(*_OUTAGE_S)
        self._storage.hang()
        self._pass(seconds)
        self._storage.go_on()
        self._taken_up(self._storage.publish())
        return Struck(self._all, since, f"for {seconds:.1f} s")

    def _store_away(self, breaks: Callable[[], None]) -> Struck:
        since, seconds = wall_ms(), self._dice.uniform(*_OUTAGE_S)
        breaks()
        self._pass(seconds)
        self._storage.mend()
        self._taken_up(self._storage.publish())
        return Struck(self._all, since, f"for {seconds:.1f} s")

    def _taken_up(self, version: str) -> None:
        """Workers ask a store that failed less and less often, so this takes a while after an outage."""
        assert self._fleet.wait(lambda: self._saw_version(version), _TAKEN_UP_S), f"heads {version} were never taken up"

    def _victim(self, static: bool = False, nameless: bool = False) -> tuple[Member, frozenset[int]]:
        """A worker that has partitions, if one has, and those partitions; all where none can be told.

        A ``static`` one if there is one; a ``nameless`` one, whose successor does not end its transaction.
        """
        shuffled = self._dice.sample(self._fleet.running, len(self._fleet.running))
        if static:
            shuffled.sort(key=lambda member: not member.is_static)
        if nameless:
            shuffled.sort(key=lambda member: member.settings.worker.worker_id is not None)
        for member in shuffled:
            if held := self._fleet.partitions_of(member):
                return member, held
        return shuffled[0], self._all

    def _paused(self, victim: Member, seconds: float) -> None:
        self._fleet.pause(victim)
        self._pass(seconds)
        self._fleet.resume(victim)

    def _evicted_s(self) -> float:
        """Past the session, if possible with the transaction still open."""
        session_s, transaction_s = self._timeouts.session_ms / 1000, self._timeouts.transaction_ms / 1000
        return self._dice.uniform(session_s + 0.5, max(session_s + 1.5, transaction_s - 0.3))

    def _wait(self, condition: Callable[[], bool], what: str) -> None:
        """For what comes while nobody who has ended is started again."""
        wait_until(condition, what, COMES_S)

    def _node(self) -> KafkaNode:
        return self._dice.choice(self._cluster.nodes)

    def _started_again(self, node: KafkaNode) -> Struck:
        since = wall_ms()
        node.start()
        return Struck(self._all, since, f"node {node.place.node}")

    def _proxies(self, breaks: Callable[[Proxy], None]) -> Struck:
        """The way to one broker at random, or to all."""
        proxies = self._cluster.proxies
        hit = proxies if self._dice.random() < 0.5 else [self._dice.choice(proxies)]
        since, seconds = wall_ms(), self._dice.uniform(*_OUTAGE_S)
        for proxy in hit:
            breaks(proxy)
        self._pass(seconds)
        for proxy in hit:
            proxy.heal()
        return Struck(self._all, since, f"{len(hit)} of {len(proxies)} ways for {seconds:.1f} s")

    def _pass(self, seconds: float) -> None:
        """The length of a fault: nothing is waited for."""
        self._never.wait(seconds)


def possible(kind: str, running: int, idle: int) -> str:
    """``kind``, or its opposite where there is no worker left to add or to remove."""
    if kind == "worker_added" and not idle:
        return "worker_removed"
    if kind == "worker_removed" and running <= _FEWEST:
        return "worker_added"
    return kind
