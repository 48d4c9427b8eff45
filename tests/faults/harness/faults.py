"""The faults: each strikes at once or for a time, mends itself, and tells whom it held up."""

import random
import threading
from collections.abc import Callable
from dataclasses import dataclass

from tests.faults.harness.clock import wall_ms
from tests.faults.harness.fleet import Fleet, Member
from tests.faults.harness.storage import Storage
from tests.support.kafka_home import KafkaCluster, KafkaNode
from tests.support.proxy import Proxy

#: Of the workers in the harness. Short, so that a zombie is one after seconds.
SESSION_TIMEOUT_MS = 3_000
TRANSACTION_TIMEOUT_MS = 4_000
#: The coordinator of a classic group that is killed in the midst of a rebalance waits, once it is back, for so long for
#: members that will never come again, and nobody works meanwhile; by default that is five minutes.
MAX_POLL_INTERVAL_MS = 30_000

#: A worker that was stopped for so long has lost its session and its transaction.
_ZOMBIE_S = (TRANSACTION_TIMEOUT_MS / 1000 + 0.7, TRANSACTION_TIMEOUT_MS / 1000 + 3.0)
_HICCUP_S = (0.2, 2.0)
_OUTAGE_S = (0.5, 5.0)
_FEWEST = 2
_TAKEN_UP_S = 300.0

#: Not for a broker that is alone. Where one comes back and a transaction must be aborted before it has read all of its
#: metadata, it takes the transaction's partitions for deleted, skips their markers, and holds up readers of committed
#: records for ever: seen with Apache Kafka 4.3.1 ("Couldn't find leader endpoint ... these partitions are likely
#: deleted already"), at once on a busy machine. Of three brokers another one has the coordinator's role by then.
NEED_MORE_BROKERS = frozenset({"broker_restart", "broker_kill"})

#: What each kind is, for the report. The order is that of the report's table.
KINDS = {
    "worker_kill": "SIGKILL of a worker, then started again",
    "worker_zombie": "SIGSTOP of a worker past its session and its transaction time-out, then SIGCONT",
    "worker_hiccup": "SIGSTOP of a worker for less than its time-outs, then SIGCONT",
    "worker_added": "one more worker (rebalance)",
    "worker_removed": "SIGTERM of a worker (rebalance)",
    "rolling_restart": "SIGTERM and start of every worker, one after another",
    "broker_restart": "SIGTERM of a broker, then started again",
    "broker_kill": "SIGKILL of a broker, then started again",
    "broker_pause": "SIGSTOP of a broker for seconds, then SIGCONT",
    "connections_cut": "every connection of the workers reset",
    "connections_refused": "every connection reset and new ones refused for seconds",
    "connections_stalled": "connections stay open, and nothing moves on them for seconds",
    "connections_half_open": "requests arrive, replies are lost for seconds; then reset",
    "heads_published": "a new version of heads, taken up while frames flow",
    "store_full": "the disk of the store is full while heads are published",
    "store_broken": "every access to the store fails for seconds",
    "store_gone": "the store's folder is not there for seconds",
    "store_hanging": "reads of the store do not return for seconds",
}


@dataclass(frozen=True)
class Struck:
    """Whom a fault held up, and from when on an answer shows that it no longer does."""

    partitions: frozenset[int]
    since_ms: int
    detail: str


class Injector:
    """Strikes one fault at a time, by a seeded ``dice``; durations and victims are the dice's."""

    def __init__(
        self,
        fleet: Fleet,
        cluster: KafkaCluster,
        storage: Storage,
        dice: random.Random,
        partitions: int,
        saw_version: Callable[[str], bool],
    ) -> None:
        self._fleet = fleet
        self._cluster = cluster
        self._storage = storage
        self._dice = dice
        self._all = frozenset(range(partitions))
        self._saw_version = saw_version
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
        since, seconds = wall_ms(), self._dice.uniform(*_ZOMBIE_S)
        self._paused(victim, seconds)
        return Struck(held, since, f"{victim.name} for {seconds:.1f} s")

    def _worker_hiccup(self) -> Struck:
        victim, held = self._victim()
        since, seconds = wall_ms(), self._dice.uniform(*_HICCUP_S)
        self._paused(victim, seconds)
        return Struck(held, since, f"{victim.name} for {seconds:.1f} s")

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

    def _victim(self) -> tuple[Member, frozenset[int]]:
        """A worker that has partitions, if one has, and those partitions; all where none can be told."""
        shuffled = self._dice.sample(self._fleet.running, len(self._fleet.running))
        for member in shuffled:
            if held := self._fleet.partitions_of(member):
                return member, held
        return shuffled[0], self._all

    def _paused(self, victim: Member, seconds: float) -> None:
        self._fleet.pause(victim)
        self._pass(seconds)
        self._fleet.resume(victim)

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
            proxy.mend()
        return Struck(self._all, since, f"{len(hit)} of {len(proxies)} ways for {seconds:.1f} s")

    def _pass(self, seconds: float) -> None:
        """The length of a fault: nothing is waited for."""
        self._never.wait(seconds)


def deal(count: int, dice: random.Random, left_out: frozenset[str]) -> list[str]:
    """``count`` kinds in random order, each about equally often, workers' deaths twice as often as the rest."""
    often = ("worker_kill", "worker_zombie")
    pack = [kind for kind in (*KINDS, *often) if kind not in left_out]
    dealt: list[str] = []
    while len(dealt) < count:
        dealt += dice.sample(pack, len(pack))
    return dealt[:count]


def possible(kind: str, running: int, idle: int) -> str:
    """``kind``, or its opposite where there is no worker left to add or to remove."""
    if kind == "worker_added" and not idle:
        return "worker_removed"
    if kind == "worker_removed" and running <= _FEWEST:
        return "worker_added"
    return kind
