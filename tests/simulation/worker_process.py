"""A worker of the project, as one simulated process: its real loop, consumer and delivery, on simulated clients.

Only what answers a frame is trivial: the prediction is the frame's own name.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from concurrent.futures import Future
from functools import lru_cache
from typing import Any, TypeVar, cast

from confluent_kafka import KafkaException

from layercache.schemas.settings import Kafka, Settings, Worker
from layercache.stream.frames.decode_pool import Decoded, PendingFrame
from layercache.stream.frames.frame import Frame
from layercache.stream.kafka.clients import ClientFactory, KafkaUnusable
from layercache.stream.kafka.waiting import Stuck
from layercache.stream.worker.answering.answering import Duties
from layercache.stream.worker.delivery.delivery import Delivery
from layercache.stream.worker.loop import Unfinished
from layercache.stream.worker.metrics import Metrics
from layercache.stream.worker.service import make_worker
from layercache.stream.worker.stopping import STOP_PATIENCE_S, StopRequest
from tests.simulation.admin import SimulatedAdminClient
from tests.simulation.broker import Broker
from tests.simulation.consumer import SimulatedConsumer
from tests.simulation.network import Connection, Network
from tests.simulation.producer import SimulatedProducer
from tests.simulation.record_sender import RecordSender
from tests.simulation.thread_calls import ThreadCalls
from tests.simulation.world import Process, World

Result = TypeVar("Result")

#: Time-outs of the simulated workers, all a few times shorter than in earnest: what matters is their order.
SESSION_S, HEARTBEAT_S, MAX_POLL_S, TRANSACTION_S, COMMIT_S = 2.0, 0.5, 6.0, 2.0, 0.08
#: librdkafka's own for a transactional producer: a little less than its transaction's.
SOCKET_S = TRANSACTION_S - 0.1
#: How often ``call_with_timeout`` asks whether to give up.
_LOOK_S = 0.5

_NEVER: Future[list[Decoded]] = Future()


class SimulatedClock:
    """The project's :class:`layercache.stream.kafka.waiting.Clock`, in simulated time."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._world = process.world
        #: what side threads raised that was no error of Kafka's
        self.crashes: list[Exception] = []

    def now(self) -> float:
        """Seconds; never 0, as no real clock of this kind begins with the process."""
        return 1_000.0 + self._world.now

    def sleep(self, seconds: float) -> None:
        """Gives control away."""
        assert self._world.current is not None
        self._world.current.wait(seconds)

    def start_call(self, call: Callable[[], Result]) -> Future[Result]:
        """As :func:`layercache.stream.kafka.waiting.start_call`: in a thread of its own."""
        outcome: Future[Result] = Future()

        def run() -> None:
            try:
                outcome.set_result(call())
            except Exception as error:
                outcome.set_exception(error)
                if not isinstance(error, KafkaException):
                    self.crashes.append(error)

        self._process.spawn(run)
        return outcome

    def call_with_timeout(
        self, seconds: float, call: Callable[[], Result], give_up: Callable[[], bool] = lambda: False
    ) -> Result:
        """As :func:`layercache.stream.kafka.waiting.call_with_timeout`: a call that is given up goes on by itself."""
        task = self._process.spawn(call)
        end = self._world.now + seconds
        while not task.join(min(_LOOK_S, max(0.0, end - self._world.now))):
            if self._world.now >= end or give_up():
                raise Stuck(f"no return within {seconds:.0f} s")
        if task.error is not None:
            raise task.error
        return cast(Result, task.result)


class SimulatedStop(StopRequest):
    """Whether the worker shall stop, by the simulation's clock."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self._world = world

    def patience_is_over(self) -> bool:
        """As the real one, in simulated time."""
        return self._since is not None and self._world.now - self._since > STOP_PATIENCE_S

    def set(self, number: int = 0, _: object = None) -> None:
        """As SIGTERM does."""
        if self._since is None:
            self._since = self._world.now


class Nothing:
    """In place of metrics: takes whatever it is given."""

    seconds = 0.0

    def __getattr__(self, name: str) -> Nothing:
        return self

    def __call__(self, *_: Any, **__: Any) -> Nothing:
        return self

    def __enter__(self) -> Nothing:
        return self

    def __exit__(self, *_: object) -> None:
        return None


class TrivialAnswering:
    """The project's :class:`layercache.stream.worker.answering.answering.Answering`: a prediction that names its
    frame, after some time."""

    def __init__(self, settings: Settings, clock: SimulatedClock, world: World, slow_rate: float) -> None:
        self._topics = settings.topics
        self._clock = clock
        self._world = world
        self._slow_rate = slow_rate

    def submit(self, frames: Sequence[Frame]) -> list[PendingFrame]:
        """Nothing to decode."""
        return [PendingFrame(frame, _NEVER, 0) for frame in frames]

    def answer(
        self,
        arrived: Sequence[PendingFrame],
        delivery: Delivery,
        duties: Duties,
        overloaded: bool,
        lost_partitions: AbstractSet[int],
    ) -> bool:
        """One prediction for each frame that is still ours."""
        if self._slow_rate and self._world.random.random() < self._slow_rate:
            end = self._clock.now() + self._world.uniform(0.1, 2.5)
            while (left := end - self._clock.now()) > 0:
                self._clock.sleep(min(duties(), left))
        frames = [one.frame for one in arrived if one.frame.partition not in lost_partitions]
        values = [b"%d/%d" % (frame.partition, frame.offset) for frame in frames]
        delivery.produce_all(self._topics.predictions, values, [frame.key for frame in frames], [[] for _ in frames])
        return False

    def refuse(self, frame: Frame, reason: Any, delivery: Delivery) -> None:
        """A dead letter that names its frame."""
        delivery.produce(self._topics.dead_letters, b"%d/%d" % (frame.partition, frame.offset), frame.key)

    def start(self) -> None:
        """Nothing to start."""

    def adjust(self, now: float) -> None:
        """Nothing to adjust."""

    def committed(self, seconds: float) -> None:
        """Nothing to learn from it."""

    def stop(self) -> None:
        """Nothing to stop."""


@lru_cache(maxsize=256)
def settings_of(worker_id: str | None, protocol: str, static: bool, delivery: str, reset: str) -> Settings:
    """Settings of a worker; times as above."""
    options: dict[str, Any] = {"max.poll.interval.ms": int(MAX_POLL_S * 1000), "auto.offset.reset": reset}
    if protocol == "classic":
        options["session.timeout.ms"] = int(SESSION_S * 1000)
    return Settings(
        kafka=Kafka(consumer_options=options),
        worker=Worker.model_validate(
            {
                "worker_id": worker_id,
                "group_protocol": protocol,
                "static_membership": static,
                "delivery": delivery,
                "transaction_timeout_ms": int(TRANSACTION_S * 1000),
                "commit_interval_ms": COMMIT_S * 1000,
                "max_batch": 4,
                "max_wait_ms": 10.0,
            }
        ),
    )


class WorkerProcess:
    """A worker that runs; :attr:`outcome` says how it ended: None while it runs, and after a kill ``killed``."""

    def __init__(
        self, name: str, settings: Settings, world: World, broker: Broker, network: Network, slow_rate: float
    ) -> None:
        self.name = name
        self.process = Process(world, name)
        self.threads = ThreadCalls(self.process)
        self.stop = SimulatedStop(world)
        self.outcome: str | None = None
        self.error: BaseException | None = None
        self._world = world
        self._network = network
        self._settings = settings
        self.clock = SimulatedClock(self.process)
        self._answering = TrivialAnswering(settings, self.clock, world, slow_rate)
        here = (self.process, broker, network)
        self._clients = ClientFactory(
            consumer=lambda config: cast(Any, SimulatedConsumer(config, *here, self.threads)),
            producer=lambda config: cast(Any, _producer_of(config)(config, *here, self.threads)),
            admin=lambda config: cast(Any, SimulatedAdminClient(config, *here, self.threads)),
        )
        world.tell(name, "starts")
        self.process.spawn(self._run)

    @property
    def connections(self) -> list[Connection]:
        """All that its clients have made."""
        return self._network.connections.get(self.process, [])

    @property
    def runs(self) -> bool:
        """False once it has ended."""
        return self.outcome is None

    def kill(self) -> None:
        """SIGKILL."""
        if self.runs:
            self.outcome = "killed"
            self.process.kill()

    def _run(self) -> None:
        try:
            loop = make_worker(
                self._settings,
                self._settings.worker.worker_id or self.name,
                self._answering,
                cast(Metrics, Nothing()),
                self.stop,
                self.clock,
                self._clients,
            )
            loop.run()
            self.outcome = "stopped"
        except Unfinished as error:
            self.outcome, self.error = "stopped: unfinished", error
        except KafkaUnusable as error:
            self.outcome, self.error = f"unusable: {error}", error
        except Exception as error:
            self.outcome, self.error = f"crashed: {error!r}", error
        self._world.tell(self.name, "ended:", self.outcome)
        self.process.later(0.0, self._exit)

    def _exit(self) -> None:
        self.process.alive = False
        for tell in self.process.on_silence:
            tell(True)


def _producer_of(config: dict[str, Any]) -> type[RecordSender]:
    return SimulatedProducer if "transactional.id" in config else RecordSender


def quiet_logs() -> None:
    """No lines of the project: a simulation makes thousands a second."""
    logging.getLogger("layercache.stream").setLevel(logging.CRITICAL + 1)
