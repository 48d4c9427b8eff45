"""One phase: a cluster, a fleet, a stream, faults one upon another, and the history at the end."""

import logging
import random
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path

from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._config import AlterConfigOpType, ConfigEntry, ConfigResource
from confluent_kafka.admin._resource import ResourceType

from layercache.schemas.settings import Kafka, Settings, Store, Worker
from layercache.stream.kafka.topics import create
from testbed.apache_kafka import KafkaCluster
from testbed.topics import unique_topics
from testbed.waiting import wait_until
from tests.faults.harness import poison, skew, verdict
from tests.faults.harness.checks import check
from tests.faults.harness.clock import Fault, Recovery
from tests.faults.harness.faults import Injector, possible
from tests.faults.harness.fleet import Fleet
from tests.faults.harness.frames import LETTERS_AT_MOST_BYTES, Frames
from tests.faults.harness.history import DEAD_LETTER, History, Recording
from tests.faults.harness.offsets import CommittedOffsets
from tests.faults.harness.plan import NEED_MORE_BROKERS, NEED_TRANSACTIONS, Phase, deal
from tests.faults.harness.publishing import Publisher
from tests.faults.harness.reading import LiveReader, Reader, read_all
from tests.faults.harness.storage import Storage
from tests.faults.harness.verdict import Outcome
from tests.support import tiny_model

log = logging.getLogger(__name__)

PARTITIONS = 8
_AT_MOST = 6
#: How long a fault may hold anything up before the next comes all the same, and the report says "not recovered".
_RECOVERY_S = 90.0
_PAUSE_S = 1.5
_READ_S = 600.0
_UP_S = 120.0
#: So many ends of workers before the first answer are no accident.
_ENDS_AT_MOST = 12
_DEFAULT_SESSION_MS = 45_000
#: The stream has ended where so long nothing more is answered.
_SILENCE_S = 120.0
#: Before the topic is made anew every frame on it must be answered: what was deleted unanswered is nobody's fault.
_DRAINED_S = 90.0


def run(phase: Phase, home: Path, folder: Path, until: float = float("inf")) -> Outcome:
    """Runs it in ``folder``; stops striking at ``until`` (``time.monotonic``), however many faults were done."""
    folder.mkdir(parents=True)
    with ExitStack() as stack:
        storage = Storage(folder / "store")
        stack.callback(storage.close)
        clocks = skew.build(folder)
        cluster = KafkaCluster(
            home, folder / "kafka", phase.nodes, _properties(phase), clocks or (lambda _: dict[str, str]())
        )
        stack.enter_context(cluster)
        settings = _settings(phase, cluster, storage, folder)
        # Created by the nodes' own listeners: the workers' way leads through the proxies.
        direct = settings.model_copy(update={"kafka": Kafka(bootstrap_servers=cluster.bootstrap_servers)})
        create(direct, wait_s=30)
        if phase.is_poisoned:
            _limit_letters(direct)
        storage.open(settings)
        fleet = Fleet(settings, folder, _AT_MOST, phase.is_static)
        stack.callback(fleet.close)
        run_ = _Run(phase, cluster, storage, fleet, direct, has_clocks=clocks is not None)
        with run_.flowing():
            faults = run_.strike_all(until)
            settled = run_.settle()
        ended = time.monotonic()
        fleet.stop_all()
        blocked = verdict.open_transactions(cluster.bootstrap_servers, settings.topics)
        behind = verdict.offsets_behind(cluster.bootstrap_servers, settings)
        recording = Recording(run_.live.lives)
        reader = Reader(cluster.bootstrap_servers, settings.topics, recording, run_.publisher.number_at)
        is_whole = read_all(reader, _READ_S)
        answers = recording.answers()
        history = History(
            run_.publisher.frames(), answers, run_.live.answers(), tuple(run_.committed.commits),
            tuple(recording.lives), is_whole,
        )  # fmt: skip
        letters = int((answers.kind == DEAD_LETTER).sum())
        return Outcome(
            phase=phase,
            made=f"{datetime.now(UTC):%Y-%m-%d}",
            seconds=ended - run_.began,
            read_to_the_end=is_whole,
            settled=settled,
            frames=run_.publisher.published,
            predictions=len(answers) - letters,
            dead_letters=letters,
            findings=check(history),
            faults=faults,
            longest_gap_s=run_.recovery.longest_gap_s,
            standstill_s=dict(run_.recovery.standstill_s),
            blocked_partitions=blocked,
            offsets_behind=behind,
            exit_codes=dict(fleet.codes),
            stubborn=fleet.stubborn,
            ended=list(fleet.ended),
            versions=len([version for version in reader.versions if version is not None]),
            exits=dict(reader.exits),
            commits_seen=len(run_.committed.commits),
            publisher_failure=run_.publisher.failure,
            errors=run_.errors,
            reader_failure=repr(run_.reader.failure) if run_.reader.failure else None,
            left_out=sorted(run_.left_out & set(phase.pack)),
        )


class _Run:
    """A phase as it runs."""

    def __init__(
        self, phase: Phase, cluster: KafkaCluster, storage: Storage, fleet: Fleet, direct: Settings, has_clocks: bool
    ) -> None:
        self._phase = phase
        self._fleet = fleet
        self._direct = direct
        self._dice = random.Random(phase.seed)
        self.left_out = _left_out(phase, storage.is_small_disk, has_clocks)
        self.recovery = Recovery(PARTITIONS)
        servers, topics = cluster.bootstrap_servers, direct.topics
        self.live = Recording()
        self.publisher = Publisher(
            servers, topics.frames, PARTITIONS, phase.rate, lambda: self.live.answered, Frames.make(phase.is_poisoned)
        )
        self.reader = LiveReader(servers, topics, self.recovery, self.live, self.publisher.number_at)
        self.committed = CommittedOffsets(servers, direct.worker.group_id, topics.frames, PARTITIONS)
        self._storage = storage
        self._injector = Injector(
            fleet,
            cluster,
            storage,
            self._dice,
            phase.timeouts,
            PARTITIONS,
            self.committed,
            lambda version: version in self.reader.versions,
            self._make_topic_anew,
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
        self.committed.start()
        try:
            self._fleet.wait(lambda: self._all_up() or len(self._fleet.ended) > _ENDS_AT_MOST, _UP_S)
            said = [one.said for one in self._fleet.ended[-1:]]
            assert self._all_up(), f"no answers within {_UP_S:.0f} s; see {self._fleet.folder}; {said}"
            self._storage.publish()
            self.recovery.restart()
            self.began = time.monotonic()
            yield
        finally:
            if self.publisher.is_alive():
                self.publisher.stop()
            self.reader.stop()
            self.committed.stop()

    def strike_all(self, until: float) -> list[Fault]:
        """All faults of the phase, each a while after the one before is recovered from, or in the midst of it."""
        kinds = deal(self._phase, self._dice, self.left_out)
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
            fault.detail, fault.hit = struck.detail, struck.hit
            recovered = self.recovery.watch(fault, struck.partitions, struck.since_ms, began)
            if self._dice.random() >= self._phase.overlap:
                self._fleet.wait(recovered.is_set, _RECOVERY_S)
            log.info(
                "%s %d/%d %s %s: recovery %s, gap %.1f s; %d published, %d answered",
                self._phase.name, number, len(kinds), kind, fault.detail,
                f"{fault.recovery_s:.1f} s" if fault.recovery_s is not None else "not yet", fault.gap_s,
                self.publisher.published, self.live.answered,
            )  # fmt: skip
        return faults

    def settle(self) -> bool:
        """The rest of the frames, and their answers; False where answers stop coming before the last one."""
        self._fleet.wait(lambda: self.publisher.published >= self._phase.frames or self._silent(), float("inf"))
        self.publisher.stop()
        published = self.publisher.published
        self._fleet.wait(lambda: self.live.answered >= published or self._silent(), float("inf"))
        return self.live.answered >= published

    def _silent(self) -> bool:
        return self.recovery.silence_s() > _SILENCE_S or self.reader.failure is not None

    def _all_up(self) -> bool:
        running = self._fleet.running
        up = all(member.held for member in running)
        return up and self.live.answered > 0

    def _make_topic_anew(self) -> None:
        """Deletes the frames' topic once all of it was answered, and makes another of its name."""
        self.publisher.hold()
        self.committed.topic_is(None)
        on_new = False
        try:
            drained = self._fleet.wait(lambda: self.live.answered >= self.publisher.published, _DRAINED_S)
            assert drained, f"{self.publisher.published - self.live.answered} frames were not answered before"
            topic, client = self._direct.topics.frames, AdminClient(_asking(self._direct))
            client.delete_topics([topic], operation_timeout=30)[topic].result(60)
            wait_until(lambda: topic not in client.list_topics(timeout=10).topics, "the topic's end", 60)
            create(self._direct, wait_s=30)
            on_new = True
        finally:
            self.publisher.go_on(on_new)
            self.committed.topic_is(self.publisher.generation)


def _asking(settings: Settings) -> dict[str, str | int | float | bool]:
    return {"bootstrap.servers": settings.kafka.bootstrap_servers, "log_level": 0}


def _left_out(phase: Phase, is_small_disk: bool, has_clocks: bool) -> frozenset[str]:
    """Kinds that cannot be struck here."""
    exact = phase.delivery == "exactly_once"
    left_out: frozenset[str] = frozenset() if exact else NEED_TRANSACTIONS
    if exact and phase.nodes == 1:
        left_out |= NEED_MORE_BROKERS
    if not is_small_disk:
        left_out |= {"store_full"}
    return left_out if has_clocks else left_out | {"clock_skew"}


def _limit_letters(settings: Settings) -> None:
    """Some bad frames are larger than the topic of dead letters takes from now on."""
    entry = ConfigEntry("max.message.bytes", str(LETTERS_AT_MOST_BYTES), incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ResourceType.TOPIC, settings.topics.dead_letters, incremental_configs=[entry])
    client = AdminClient(_asking(settings))
    client.incremental_alter_configs([resource])[resource].result(30)


def _properties(phase: Phase) -> dict[str, object]:
    """The brokers' own settings."""
    return {
        "transaction.abort.timed.out.transaction.cleanup.interval.ms": phase.timeouts.clean_up_ms,
        "group.consumer.session.timeout.ms": phase.timeouts.session_ms,
        "broker.session.timeout.ms": 4_000,
        "broker.heartbeat.interval.ms": 1_000,
        "log.retention.check.interval.ms": 300_000,
        "num.partitions": PARTITIONS,
    }


def _settings(phase: Phase, cluster: KafkaCluster, storage: Storage, folder: Path) -> Settings:
    names = unique_topics(PARTITIONS)
    model = poison.write(folder / "model") if phase.is_poisoned else tiny_model.write(folder / "model").settings
    timeouts = phase.timeouts
    if phase.protocol == "classic":
        options = {"max.poll.interval.ms": timeouts.max_poll_ms, "session.timeout.ms": timeouts.session_ms}
    else:  # the broker has the session's; librdkafka takes no shorter interval than a session's default, and no other
        options = {"max.poll.interval.ms": max(timeouts.max_poll_ms, _DEFAULT_SESSION_MS)}
    return Settings(
        kafka=Kafka(
            bootstrap_servers=cluster.detour_servers, consumer_options=dict[str, str | int | float | bool](options)
        ),
        topics=names.model_copy(update={"replication": phase.nodes}),
        model=model,
        store=Store(url=storage.url, poll_s=0.2, keep_last=5),
        worker=Worker(
            group_id=f"workers-of-{names.frames}",
            group_protocol=phase.protocol,
            delivery=phase.delivery,
            torch_threads=1,
            decode_threads=1,
            max_batch=64,
            commit_interval_ms=timeouts.commit_interval_ms,
            transaction_timeout_ms=timeouts.transaction_ms,
        ),
    )
