"""The same cluster as a state machine of hypothesis, which makes what fails short."""

from __future__ import annotations

from hypothesis import HealthCheck, note, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from tests.simulation.cluster import Simulation, Variant
from tests.simulation.schedule import CALLS, FAULTS, REQUESTS
from tests.simulation.worker_process import WorkerProcess

_SECONDS = st.sampled_from([0.02, 0.1, 0.4, 1.0, 2.5])
_MOST_WORKERS, _MOST_FRAMES = 4, 30


class Cluster(RuleBasedStateMachine):
    """Rules are what may happen; in the end all is healed, and the history is judged."""

    @initialize(
        seed=st.integers(0, 1_000),
        kip848=st.booleans(),
        named=st.booleans(),
        reset=st.sampled_from(["earliest", "latest"]),
        workers=st.integers(1, 3),
        slow=st.sampled_from([0.0, 0.2]),
    )
    def begin(self, seed: int, kip848: bool, named: bool, reset: str, workers: int, slow: float) -> None:
        self.trace: list[str] = []
        variant = Variant(kip848=kip848, named=named, static=named and seed % 2 == 0, reset=reset, slow_rate=slow)
        self.simulation = Simulation(seed, variant, self.trace.append)
        self.simulation.yield_rate = 0.1
        self.simulation.publish(2)
        for _ in range(workers):
            self.simulation.start()
        self._pass(0.4)

    @precondition(lambda self: self.simulation.frames < _MOST_FRAMES)
    @rule(count=st.integers(1, 5), seconds=_SECONDS)
    def publish(self, count: int, seconds: float) -> None:
        self.simulation.publish(count)
        self._pass(seconds)

    @rule(seconds=_SECONDS)
    def wait(self, seconds: float) -> None:
        self._pass(seconds)

    @precondition(lambda self: len(self.simulation.running()) < _MOST_WORKERS)
    @rule()
    def start(self) -> None:
        self.simulation.start()

    @rule(number=st.integers(0, 3), call=st.sampled_from(CALLS), seconds=_SECONDS)
    def kill_at(self, number: int, call: str, seconds: float) -> None:
        self.simulation.kill_at(self._worker(number), call)
        self.simulation.publish(1)
        self._pass(seconds)

    @rule(number=st.integers(0, 3))
    def kill(self, number: int) -> None:
        self.simulation.kill(self._worker(number))

    @rule(number=st.integers(0, 3), seconds=_SECONDS)
    def freeze(self, number: int, seconds: float) -> None:
        self.simulation.freeze(self._worker(number), 2 * seconds)

    @rule(number=st.integers(0, 3), seconds=_SECONDS)
    def cut_off(self, number: int, seconds: float) -> None:
        self.simulation.cut(self._worker(number), seconds)

    @rule(number=st.integers(0, 3))
    def reset_connections(self, number: int) -> None:
        self.simulation.reset(self._worker(number))

    @rule(number=st.integers(0, 3))
    def stop(self, number: int) -> None:
        self._worker(number).stop.set()

    @rule(kind=st.sampled_from(REQUESTS), fault=st.sampled_from(sorted(set(FAULTS))), seconds=_SECONDS)
    def befall(self, kind: str, fault: str, seconds: float) -> None:
        self.simulation.arm(kind, fault)
        self.simulation.publish(1)
        self._pass(seconds)

    @rule(coordinator=st.sampled_from(["group", "transactions"]), seconds=_SECONDS)
    def fail_over(self, coordinator: str, seconds: float) -> None:
        self.simulation.fail_over(coordinator, seconds)

    @rule(seconds=st.sampled_from([0.01, 0.5]))
    def write_markers_within(self, seconds: float) -> None:
        self.simulation.slow_markers(seconds)

    def teardown(self) -> None:
        if not hasattr(self, "simulation"):
            return
        self.simulation.heal()
        problems = self.simulation.verdict().problems
        if problems:
            note("\n".join(self.trace))
        assert problems == []

    def _worker(self, number: int) -> WorkerProcess:
        running = self.simulation.running() or [self.simulation.start()]
        return running[number % len(running)]

    def _pass(self, seconds: float) -> None:
        self.simulation.world.run(self.simulation.world.now + seconds)


TestCluster = Cluster.TestCase
TestCluster.settings = settings(
    max_examples=60,
    stateful_step_count=12,
    derandomize=True,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    print_blob=True,
)
