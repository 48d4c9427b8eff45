"""What a run consists of: phases, each on a cluster of its own, and the kinds of fault that strike in each."""

import math
import random
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from layercache.schemas.settings import load

_COMPOSE = Path(__file__).parents[3] / "deploy" / "layercache.toml"

#: What each kind is, for the report. The order is that of the report's table.
KINDS = {
    "worker_kill": "SIGKILL of a worker, then started again",
    "worker_zombie": "SIGSTOP of a worker past its session and its transaction time-out, then SIGCONT",
    "worker_hiccup": "SIGSTOP of a worker for less than its time-outs, then SIGCONT",
    "member_evicted": "SIGSTOP of a worker past its session, not past its transaction time-out, then SIGCONT",
    "commit_kill": "SIGKILL of a worker between sending offsets and committing",
    "commit_kill_join": "the same, and another worker joins while the heir waits for stable offsets",
    "commit_kill_leave": "the same, and another worker leaves while the heir waits for stable offsets",
    "worker_added": "one more worker (rebalance)",
    "worker_removed": "SIGTERM of a worker (rebalance)",
    "rolling_restart": "SIGTERM and start of every worker, one after another",
    "commit_delayed": "a commit's EndTxn held on its connection until the next transaction has begun",
    "abort_delayed": "an abort's EndTxn held on its connection until the next transaction has begun",
    "request_delayed": "another request of a transaction held on its connection for seconds",
    "broker_restart": "SIGTERM of a broker, then started again",
    "broker_kill": "SIGKILL of a broker, then started again",
    "broker_pause": "SIGSTOP of a broker for seconds, then SIGCONT",
    "clock_skew": "a broker's clock jumps by seconds, and back",
    "connections_cut": "every connection of the workers reset",
    "connections_refused": "every connection reset and new ones refused for seconds",
    "connections_stalled": "connections stay open, and nothing moves on them for seconds",
    "connections_half_open": "requests arrive, replies are lost for seconds; then reset",
    "topic_anew": "the topic of the frames deleted and made anew",
    "heads_published": "a new version of heads, taken up while frames flow",
    "store_full": "the disk of the store is full while heads are published",
    "store_broken": "every access to the store fails for seconds",
    "store_gone": "the store's folder is not there for seconds",
    "store_hanging": "reads of the store do not return for seconds",
}

#: Kinds that the goals of a run name.
IN_WINDOW = frozenset({"commit_kill_join", "commit_kill_leave"})
ENDS_DELAYED = frozenset({"commit_delayed", "abort_delayed"})

#: Not for a broker that is alone. Where one comes back and a transaction must be aborted before it has read all of its
#: metadata, it takes the transaction's partitions for deleted, skips their markers, and holds up readers of committed
#: records for ever: seen with Apache Kafka 4.3.1 ("Couldn't find leader endpoint ... these partitions are likely
#: deleted already"), at once on a busy machine. Of three brokers another one has the coordinator's role by then.
NEED_MORE_BROKERS = frozenset({"broker_restart", "broker_kill"})
#: Not at least once: there are no transactions.
NEED_TRANSACTIONS = frozenset({*IN_WINDOW, *ENDS_DELAYED, "commit_kill", "request_delayed"})

#: About workers alone, where the time-outs are long or the workers special.
OF_WORKERS = (
    "worker_kill", "member_evicted", "worker_hiccup", "commit_kill", *(3 * ("commit_kill_join",)), "commit_kill_leave",
    "worker_added", "worker_removed", "rolling_restart", "commit_delayed", "abort_delayed",
)  # fmt: skip
#: Those that found holes come more often than the rest.
ALL = (
    *KINDS, "worker_kill", "worker_zombie", *(4 * ("commit_kill_join",)), "commit_kill_leave",
    *(3 * ("commit_delayed",)), "abort_delayed",
)  # fmt: skip
OF_POISON = ("worker_kill", "commit_kill", "commit_kill_join", "worker_hiccup", "rolling_restart", "worker_added",
             "worker_removed", "connections_cut", "heads_published")  # fmt: skip


@dataclass(frozen=True)
class Timeouts:
    """How long everything takes to be given up; all of it at the broker, or told to it by the worker."""

    session_ms: int = 3_000
    transaction_ms: int = 6_000
    #: The coordinator of a classic group that is killed in the midst of a rebalance waits, once it is back, for so long
    #: for members that will never come again, and nobody works meanwhile; by default that is five minutes.
    max_poll_ms: int = 30_000
    clean_up_ms: int = 500
    """How often the broker looks for transactions past their time-out; by default 10 s."""
    commit_interval_ms: float = 100.0


#: Shorter than by default, so that a stopped worker is a zombie after seconds.
QUICK = Timeouts()


def compose() -> Timeouts:
    """Those of ``deploy/layercache.toml`` and, where it says nothing, the defaults of the product and of the broker."""
    settings = load(_COMPOSE)
    return Timeouts(
        session_ms=int(settings.kafka.consumer_options["session.timeout.ms"]),
        transaction_ms=settings.worker.transaction_timeout_ms,
        max_poll_ms=300_000,
        clean_up_ms=10_000,
        commit_interval_ms=settings.worker.commit_interval_ms,
    )


@dataclass(frozen=True)
class Phase:
    """What to do on one cluster: at least ``frames`` frames and ``faults`` faults, as ``seed`` says."""

    name: str
    nodes: int
    delivery: Literal["exactly_once", "at_least_once"]
    frames: int
    faults: int
    seed: int
    rate: float
    """Frames published a second, what an outage held up made good afterwards."""
    kinds: tuple[str, ...] = ()
    """In this order, instead of a deal by the seed."""
    workers: int = 4
    pack: tuple[str, ...] = ALL
    """What is dealt from, as often as it stands here."""
    protocol: Literal["classic", "consumer"] = "classic"
    timeouts: Timeouts = QUICK
    is_static: bool = False
    """Workers with a ``worker_id`` are static members of their group."""
    is_poisoned: bool = False
    """Bad frames of all kinds, and a dead-letter topic that does not take the large ones."""
    overlap: float = 0.4
    """The share of faults that come while the one before is still being recovered from."""
    standstill_s: float | None = None
    """The longest that a partition may stand still."""

    @property
    def file_name(self) -> str:
        """The name, as a folder or a file may have it: brokers take a comma for the end of a folder.

        >>> Phase("compose's time-outs, KIP-848", 1, "exactly_once", 0, 0, 0, 0.0).file_name
        'compose-s-time-outs--KIP-848'
        """
        return "".join(one if one.isalnum() else "-" for one in self.name)


#: What a fault takes with its recovery, about: the rate of the frames follows from it.
_FAULT_S, _SLOW_FAULT_S = 8.0, 22.0


@dataclass(frozen=True)
class _Share:
    """A phase's share of the exactly-once faults, and about how long one takes there."""

    name: str
    share: float
    phase: Phase
    fault_s: float = _FAULT_S

    def sized(self, faults: int, rate: float, seed: int) -> Phase:
        """With its faults and the frames that their time brings, rounded up: sums are at least what was asked for."""
        count = max(1, math.ceil(faults * self.share))
        frames = math.ceil(count * self.fault_s * rate)
        return replace(self.phase, name=self.name, faults=count, frames=frames, rate=rate, seed=seed)


def phases(frames: int, faults: int, seed: int) -> list[Phase]:
    """Both protocols on one broker and on three, and what needs settings of its own; at least once comes on top.

    Frames are shared out by the time that a phase takes, so that their rate is the same everywhere.
    """
    one, three = (Phase("", nodes, "exactly_once", 0, 0, 0, 0.0) for nodes in (1, 3))
    of_workers = replace(one, pack=OF_WORKERS)
    slow = replace(of_workers, timeouts=compose(), overlap=0.0, standstill_s=25.0)
    exact = [
        _Share("one broker", 0.20, one),
        _Share("three brokers", 0.20, three),
        _Share("one broker, KIP-848", 0.17, replace(one, protocol="consumer")),
        _Share("three brokers, KIP-848", 0.14, replace(three, protocol="consumer")),
        _Share("static members", 0.10, replace(of_workers, is_static=True)),
        _Share("poison", 0.06, replace(one, pack=OF_POISON, is_poisoned=True)),
        _Share("compose's time-outs", 0.08, slow, _SLOW_FAULT_S),
        _Share("compose's time-outs, KIP-848", 0.05, replace(slow, protocol="consumer"), _SLOW_FAULT_S),
    ]
    rate = frames / sum(faults * share.share * share.fault_s for share in exact)
    once_more = _Share("at least once", 0.05, replace(one, delivery="at_least_once"))
    return [share.sized(faults, rate, seed + number) for number, share in enumerate((*exact, once_more))]


def deal(phase: Phase, dice: random.Random, left_out: frozenset[str]) -> list[str]:
    """The phase's kinds in their order, or as many as it has faults from its pack, each as often as it stands there."""
    if phase.kinds:
        return [kind for kind in phase.kinds if kind not in left_out]
    pack = [kind for kind in phase.pack if kind not in left_out]
    dealt: list[str] = []
    while len(dealt) < phase.faults:
        dealt += dice.sample(pack, len(pack))
    return dealt[: phase.faults]
