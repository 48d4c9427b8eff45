"""One phase: a cluster, a fleet, a stream, faults one upon another, and the verdict at the end."""

import logging
import random
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from schemas.settings import Kafka, Settings, Store, Topics, Worker
from stream.topics import create
from tests.faults.harness import verdict
from tests.faults.harness.clock import Fault, Recovery
from tests.faults.harness.faults import (
    MAX_POLL_INTERVAL_MS,
    NEED_MORE_BROKERS,
    SESSION_TIMEOUT_MS,
    TRANSACTION_TIMEOUT_MS,
    Injector,
    deal,
    possible,
)
from tests.faults.harness.fleet import Fleet
from tests.faults.harness.publishing import Publisher
from tests.faults.harness.reading import LiveReader, read_all
from tests.faults.harness.storage import Storage
from tests.faults.harness.verdict import Outcome
from tests.support import tiny_model
from tests.support.kafka_home import KafkaCluster
from tests.support.topics import unique_topics

log = logging.getLogger(__name__)

PARTITIONS = 8
_WORKERS, _AT_MOST = 4, 6
#: How long a fault may hold anything up before the next comes all the same, and the report says "not recovered".
_RECOVERY_S = 90.0
#: Some faults come while the one before is being recovered from.
_OVERLAP = 0.4
_PAUSE_S = 1.5
_READ_S = 600.0
_UP_S = 300.0
#: The stream has ended where so long nothing more is answered.
_SILENCE_S = 120.0

#: Kafka looks for transactions past their time-out every 10 s unless told otherwise.
PROPERTIES = {
    "transaction.abort.timed.out.transaction.cleanup.interval.ms": 500,
    "broker.session.timeout.ms": 4_000,
    "broker.heartbeat.interval.ms": 1_000,
    "log.retention.check.interval.ms": 300_000,
    "num.partitions": PARTITIONS,
}


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
    workers: int = _WORKERS


def run(phase: Phase, home: Path, folder: Path, until: float = float("inf")) -> Outcome:
    """Runs it in ``folder``; stops striking at ``until`` (``time.monotonic``), however many faults were done."""
    folder.mkdir(parents=True)
    with ExitStack() as stack:
        storage = Storage(folder / "store")
        stack.callback(storage.close)
        cluster = stack.enter_context(KafkaCluster(home, folder / "kafka", phase.nodes, PROPERTIES))
        settings = _settings(phase, cluster, storage, folder)
        # Created by the nodes' own listeners: the workers' way leads through the proxies.
        create(settings.model_copy(update={"kafka": Kafka(bootstrap_servers=cluster.bootstrap_servers)}), wait_s=30)
        storage.open(settings)
        fleet = Fleet(settings, folder, _AT_MOST)
        stack.callback(fleet.close)
        run_ = _Run(phase, cluster, storage, fleet, settings.topics)
        with run_.flowing():
            faults = run_.strike_all(until)
            settled = run_.settle()
        ended = time.monotonic()
        fleet.stop_all()
        blocked = verdict.open_transactions(cluster.bootstrap_servers, settings.topics)
        behind = verdict.offsets_behind(cluster.bootstrap_servers, settings)
        deadline = time.monotonic() + _READ_S
        ledger, reader = read_all(cluster.bootstrap_servers, settings.topics, lambda: time.monotonic() > deadline)
        return Outcome(
            phase=phase.name,
            delivery=phase.delivery,
            nodes=phase.nodes,
            seed=phase.seed,
            seconds=ended - run_.began,
            read_to_the_end=reader.at_end,
            settled=settled,
            verdict=ledger.verdict(run_.publisher.published),
            missing=ledger.missing(run_.publisher.published),
            repeated=ledger.repeated(run_.publisher.published),
            faults=faults,
            longest_gap_s=run_.recovery.longest_gap_s,
            longest_partition_gap_s=run_.recovery.longest_partition_gap_s,
            blocked_partitions=blocked,
            offsets_behind=behind,
            exit_codes=dict(fleet.codes),
            stubborn=fleet.stubborn,
            ended=list(fleet.ended),
            versions=len([version for version in reader.versions if version is not None]),
            exits=dict(reader.exits),
            publisher_failure=run_.publisher.failure,
            errors=run_.errors,
            reader_failure=repr(run_.reader.failure) if run_.reader.failure else None,
            left_out=sorted(run_.left_out),
        )


class _Run:
    """A phase as it runs."""

    def __init__(self, phase: Phase, cluster: KafkaCluster, storage: Storage, fleet: Fleet, topics: Topics) -> None:
        self._phase = phase
        self._fleet = fleet
        self._dice = random.Random(phase.seed)
        is_alone = phase.nodes == 1 and phase.delivery == "exactly_once"
        self.left_out = NEED_MORE_BROKERS if is_alone else frozenset()
        if not storage.is_small_disk:
            self.left_out |= {"store_full"}
        self.recovery = Recovery(PARTITIONS)
        self.reader = LiveReader(cluster.bootstrap_servers, topics, self.recovery)
        self.publisher = Publisher(
            cluster.bootstrap_servers, topics.frames, phase.rate, lambda: self.reader.ledger.answered
        )
        self._storage = storage
        self._injector = Injector(
            fleet, cluster, storage, self._dice, PARTITIONS, lambda version: version in self.reader.versions
        )
        self.began = time.monotonic()
        self.errors: list[str] = []
        """Faults that could not be struck."""

    @contextmanager
    def flowing(self) -> Iterator[None]:
        """Workers up, frames coming, answers read; the publisher and the reader end with the block."""
        for member in self._fleet.members[: self._phase.workers]:
            self._fleet.start(member)
        self.reader.start()
        self.publisher.start()
        try:
            assert self._fleet.wait(self._all_up, _UP_S), f"no answers within {_UP_S:.0f} s; see {self._fleet.folder}"
            self._storage.publish()
            self.recovery.restart()
            self.began = time.monotonic()
            yield
        finally:
            if self.publisher.is_alive():
                self.publisher.stop()
            self.reader.stop()

    def strike_all(self, until: float) -> list[Fault]:
        """All faults of the phase, each a while after the one before is recovered from, or in the midst of it."""
        kinds = [kind for kind in self._phase.kinds if kind not in self.left_out]
        kinds = kinds or deal(self._phase.faults, self._dice, self.left_out)
        faults: list[Fault] = []
        for number, dealt in enumerate(kinds, 1):
            if time.monotonic() > until:
                break
            self._fleet.wait(lambda: False, self._dice.uniform(0, _PAUSE_S))
            kind = possible(dealt, len(self._fleet.running), len(self._fleet.idle))
            began = time.monotonic()
            fault = Fault(number, kind, "", began - self.began)
            self.recovery.begins(fault)
            faults.append(fault)
            try:
                struck = self._injector.strike(kind)
            except Exception as error:  # what was answered so far is to be counted all the same
                log.exception("%s was not done as it should be", kind)
                self.errors.append(f"{number} {kind}: {error}")
                fault.detail = f"not done: {error}"
                continue
            fault.detail = struck.detail
            recovered = self.recovery.watch(fault, struck.partitions, struck.since_ms, began)
            if self._dice.random() >= _OVERLAP:
                self._fleet.wait(recovered.is_set, _RECOVERY_S)
            log.info(
                "%s %d/%d %s %s: recovery %s, gap %.1f s; %d published, %d answered",
                self._phase.name, number, len(kinds), kind, fault.detail,
                f"{fault.recovery_s:.1f} s" if fault.recovery_s is not None else "not yet", fault.gap_s,
                self.publisher.published, self.reader.ledger.answered,
            )  # fmt: skip
        return faults

    def settle(self) -> bool:
        """The rest of the frames, and their answers; False where answers stop coming before the last one."""
        self._fleet.wait(lambda: self.publisher.published >= self._phase.frames or self._silent(), float("inf"))
        self.publisher.stop()
        ledger, published = self.reader.ledger, self.publisher.published
        self._fleet.wait(lambda: ledger.answered >= published or self._silent(), float("inf"))
        return ledger.answered >= published

    def _silent(self) -> bool:
        return self.recovery.silence_s() > _SILENCE_S or self.reader.failure is not None

    def _all_up(self) -> bool:
        running = self._fleet.running
        up = all(member.life is not None and member.life.said("working on [") for member in running)
        return up and self.reader.ledger.answered > 0


def _settings(phase: Phase, cluster: KafkaCluster, storage: Storage, folder: Path) -> Settings:
    names = unique_topics(PARTITIONS)
    model = tiny_model.write(folder / "model")
    return Settings(
        kafka=Kafka(
            bootstrap_servers=cluster.detour_servers,
            consumer_options={
                "session.timeout.ms": SESSION_TIMEOUT_MS,
                "max.poll.interval.ms": MAX_POLL_INTERVAL_MS,
            },
        ),
        topics=names.model_copy(update={"replication": phase.nodes}),
        model=model.settings,
        store=Store(url=storage.url, poll_s=0.2, keep_last=5),
        worker=Worker(
            group_id=f"workers-of-{names.frames}",
            delivery=phase.delivery,
            torch_threads=1,
            decode_threads=1,
            max_batch=64,
            commit_interval_ms=100,
            transaction_timeout_ms=TRANSACTION_TIMEOUT_MS,
        ),
    )
