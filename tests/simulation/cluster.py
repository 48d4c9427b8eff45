"""A cluster with workers, and everything that may befall it: what a schedule, or a state machine, chooses from.

First everything that can go wrong may do so; then all of it is healed, and the workers have to finish what there is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from confluent_kafka import KafkaError

from tests.simulation.broker import Broker
from tests.simulation.checks import is_done, problems_of
from tests.simulation.network import Network
from tests.simulation.worker_process import HEARTBEAT_S, MAX_POLL_S, SESSION_S, SOCKET_S, WorkerProcess, settings_of
from tests.simulation.world import World

FRAMES, PREDICTIONS, DEAD_LETTERS = "frames", "predictions", "frames.dlq"
#: Where answers are: in one of these, once.
_ANSWERS = (PREDICTIONS, DEAD_LETTERS)

#: Within how many seconds after the last fault everything must be answered: a start's patience and a transaction's.
PATIENCE_S = 60.0
#: How long it is watched whether something comes twice after all.
_AFTERWARDS_S = 2.5

#: How often a name may be registered once all is healed: beyond that, workers fight for it.
_MOST_EPOCHS = 12

_MOST_WORKERS, _MOST_FRAMES = 4, 30

#: Why a worker may end: as it was told to, or because another has its name.
ALLOWED = ("stopped", "killed", "another worker", "stopped while a transaction")


@dataclass
class Variant:
    """How the workers are configured."""

    kip848: bool = False
    named: bool = True
    static: bool = False
    delivery: str = "exactly_once"
    reset: str = "earliest"
    partitions: int = 2
    slow_rate: float = 0.0

    @classmethod
    def by(cls, random: Any) -> Variant:
        """One of them, by chance."""
        named = random.random() < 0.7
        kip848 = random.random() < 0.3
        return cls(
            kip848=kip848,
            named=named,
            static=named and random.random() < 0.3,
            delivery="at_least_once" if random.random() < 0.07 else "exactly_once",
            reset="latest" if random.random() < 0.25 else "earliest",
            partitions=random.choice((1, 2, 2, 3)),
            slow_rate=random.choice((0.0, 0.0, 0.15, 0.4)),
        )


@dataclass
class Verdict:
    """What came of a schedule."""

    problems: list[str]
    variant: Variant
    frames: int
    faults: int
    steps: int
    simulated_s: float
    aborted_by_timeout: int
    rebalances: int
    theme: str


class Simulation:
    """A cluster with workers; the actions are methods, which a schedule or a state machine calls."""

    def __init__(
        self, seed: int | str, variant: Variant | None = None, trace: Callable[[str], None] | None = None
    ) -> None:
        self.world = World(seed, trace)
        self.random = self.world.random
        self.variant = variant or Variant.by(self.random)
        self.world.tell("variant:", self.variant)
        self.network = Network(self.world, SOCKET_S)
        topics = {FRAMES: self.variant.partitions, PREDICTIONS: 2, "distillation": 1, DEAD_LETTERS: 1}
        self.broker = Broker(
            self.world, topics, FRAMES, self.variant.kip848, SESSION_S, HEARTBEAT_S, MAX_POLL_S, cleanup_s=1.0
        )
        if self.variant.reset == "latest":  # it is about groups that have no commits; ours has
            self.broker.offsets.commit({(FRAMES, number): (0, "") for number in range(self.variant.partitions)})
        self.workers: list[WorkerProcess] = []
        self.frames = 0
        self.faults = 0
        self.healed = False
        self.yield_rate = 0.0
        self.fail_rate = 0.0
        self.theme = ""
        self._epochs: dict[str, int] = {}
        self._names = 0

    # What may happen

    def publish(self, count: int) -> None:
        """So many frames, on any partitions."""
        for _ in range(count):
            partition = self.random.randrange(self.variant.partitions)
            self.broker.publish(FRAMES, partition, b"camera-%d" % self.random.randrange(4), b"frame-%d" % self.frames)
            self.frames += 1

    def publish_on(self, every_s: float) -> None:
        """Goes on publishing, about as often, until everything is healed."""

        def one() -> None:
            if not self.healed and self.frames < _MOST_FRAMES:
                self.publish(1)
                self.world.later(self.random.uniform(0.2, 1.8) * every_s, one)

        one()

    def start(self, like: WorkerProcess | None = None) -> WorkerProcess:
        """Another worker; where they have names, with one that no running one has, or that of the one it is like."""
        names = [name for name in ("w-0", "w-1", "w-2") if name not in self._named()]
        if not self.variant.named or not names:
            self._names += 1
            name, worker_id = f"x-{self._names}", None
            if self.variant.static:
                worker_id = name
        else:
            name = worker_id = self.random.choice(names)
            if like is not None:
                name = worker_id = like.name.partition("#")[0]
        protocol = "consumer" if self.variant.kip848 else "classic"
        settings = settings_of(worker_id, protocol, self.variant.static, self.variant.delivery, self.variant.reset)
        self._names += 1
        shown = f"{name}#{self._names}"
        if worker_id is None:
            name = shown
        worker = WorkerProcess(shown, settings, self.world, self.broker, self.network, self.variant.slow_rate)
        worker.threads.yield_rate, worker.threads.fail_rate = self.yield_rate, self.fail_rate
        self.workers.append(worker)
        return worker

    def start_unless_healed(self) -> None:
        """The same, where faults go on still."""
        if not self.healed and len(self.running()) < _MOST_WORKERS:
            self.start()

    def kill(self, worker: WorkerProcess) -> None:
        """SIGKILL."""
        self.faults += 1
        worker.kill()

    def kill_at(self, worker: WorkerProcess, call: str) -> None:
        """SIGKILL where it calls this next."""
        self.faults += 1
        worker.threads.hooks[call] = partial(self.world.later, 0.0, worker.kill)

    def freeze_at(self, worker: WorkerProcess, call: str, seconds: float) -> None:
        """SIGSTOP where it calls this next, and SIGCONT after a while."""
        worker.threads.hooks[call] = partial(self.world.later, 0.0, partial(self.freeze, worker, seconds))

    def reset(self, worker: WorkerProcess) -> None:
        """All its connections break."""
        self.faults += 1
        self.world.tell(worker.name, "has its connections reset")
        for connection in worker.connections:
            connection.reset()

    def freeze(self, worker: WorkerProcess, seconds: float) -> None:
        """SIGSTOP, and SIGCONT after a while."""
        self.faults += 1
        worker.process.freeze()
        self.world.later(seconds, worker.process.thaw)

    def cut(self, worker: WorkerProcess, seconds: float) -> None:
        """No network for a while."""
        self.faults += 1
        self.world.tell(worker.name, "is cut off for", round(seconds, 2))
        worker.process.cut()
        self.world.later(seconds, worker.process.mend)

    def arm(self, kind: str, fault: str) -> None:
        """The next request of the kind meets the fault."""
        self.network.arm(kind, fault)

    def fail_over(self, coordinator: str, seconds: float) -> None:
        """A coordinator moves to another broker."""
        self.faults += 1
        error = self.random.choice((KafkaError.NOT_COORDINATOR, KafkaError.COORDINATOR_LOAD_IN_PROGRESS))
        self.world.tell("broker: coordinator of", coordinator, "moves")
        self.broker.fail_over(coordinator, seconds, int(error))

    def slow_markers(self, seconds: float) -> None:
        """Markers of ended transactions take up to so long from now on."""
        self.broker.transactions.marker_s = seconds

    def running(self) -> list[WorkerProcess]:
        """Workers that have not ended."""
        return [worker for worker in self.workers if worker.runs]

    # How it ends

    def heal(self) -> None:
        """Nothing goes wrong any more, except what is on its way already."""
        self.world.tell("HEALED")
        self.healed = True
        self._epochs = self._epochs_by_name()
        self.network.heal()
        self.broker.heal()
        self.broker.transactions.marker_s = 0.01
        for worker in self.workers:
            worker.threads.hooks.clear()
            worker.threads.fail_rate = 0.0
            worker.process.thaw()
            while worker.process.alive and worker.process.silent:
                worker.process.mend()
        if not self.running():
            self.start()

    def run_dry(self) -> bool:
        """Lets the workers finish; False where they do not within :data:`PATIENCE_S`."""
        end = self.world.now + PATIENCE_S
        while self.world.now < end:
            if not self.running():
                self.start()  # as a supervisor would
            if self._is_done():
                return True
            self.world.run(min(end, self.world.now + 0.25))
        return False

    def verdict(self) -> Verdict:
        """What came of it."""
        done = self.run_dry()
        self.world.run(self.world.now + _AFTERWARDS_S)
        done = done and (self._is_done() or self.run_dry())
        exactly_once = self.variant.delivery == "exactly_once"
        problems = problems_of(self.broker, FRAMES, _ANSWERS, exactly_once)
        if not done:
            problems.append(f"standstill: not everything is answered {PATIENCE_S:g} s after the last fault")
        for worker in self.workers:
            if worker.outcome and not any(reason in worker.outcome for reason in ALLOWED):
                problems.append(f"ended: {worker.name} {worker.outcome}")
            problems += [f"crashed: {worker.name} beside the loop: {error!r}" for error in worker.clock.crashes]
        for name, epoch in self._epochs_by_name().items():
            if epoch - self._epochs.get(name, 0) > _MOST_EPOCHS:
                problems.append(f"fight: {name} was registered {epoch - self._epochs.get(name, 0)} times afterwards")
        for worker in self.workers:
            worker.kill()
            worker.process.discard_tasks()
        return Verdict(
            problems,
            self.variant,
            self.frames,
            self.faults + self.network.faults,
            self.world.steps,
            self.world.now,
            self.broker.transactions.timed_out,
            self.broker.group.rebalances,
            self.theme,
        )

    def _is_done(self) -> bool:
        return is_done(self.broker, FRAMES, _ANSWERS, self.variant.delivery == "exactly_once")

    def _epochs_by_name(self) -> dict[str, int]:
        return {name: one.epoch for name, one in self.broker.transactions.by_name.items()}

    def _named(self) -> set[str]:
        return {worker.name.partition("#")[0] for worker in self.running()}
