"""When a worker is too far behind: by its own pace and its own clock, from the objective on until the lag is gone."""

import math
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from layercache.schemas.settings import Promise, Settings, Worker
from layercache.stream.worker.overload import LagObjective, lag_objective

BATCH = 8


def paced(target_s: float, frame_s: float, batches: int = 100) -> LagObjective:
    """One that has seen full batches at this many seconds a frame."""
    lag = LagObjective(target_s)
    for _ in range(batches):
        lag.answered(BATCH, BATCH * frame_s, full=True, under_overload=False)
    return lag


@given(st.floats(0.01, 1e4), st.floats(1e-6, 10), st.integers(0, 10**7))
def test_what_waits_is_judged_in_seconds_of_work(target_s: float, frame_s: float, waiting: int) -> None:
    lag = paced(target_s, frame_s)
    missed = lag.look(waiting, now=0.0)
    assert lag.seconds == pytest.approx(waiting * frame_s, rel=1e-6)
    assert missed == (lag.seconds > target_s)


@given(st.lists(st.tuples(st.floats(0, 1e3), st.floats(0, 10)), max_size=60))
def test_it_begins_above_the_objective_alone_and_ends_after_calm_alone(looks: list[tuple[float, float]]) -> None:
    """``looks``: seconds of work, and seconds since the look before."""
    lag, now, before = paced(10.0, 0.001), 0.0, False
    calm_since: float | None = None
    for seconds, passed in looks:
        now += passed
        missed = lag.look(round(seconds * 1000), now)
        calm_since = None if lag.seconds > 2.5 else now if calm_since is None else calm_since
        if missed and not before:
            assert lag.seconds > 10
        if before and not missed:
            assert calm_since is not None
            assert now - calm_since >= 1.0
        if lag.seconds > 10:
            assert missed
        before = missed


def test_without_an_objective_it_is_never_missed_but_known() -> None:
    lag = paced(math.inf, 0.001)
    assert not lag.look(10**9, now=0.0)
    assert lag.seconds == pytest.approx(1e6)


def test_nothing_is_known_before_some_full_batches() -> None:
    lag = LagObjective(1.0)
    for _ in range(1000):
        lag.answered(BATCH - 1, 5.0, full=False, under_overload=False)  # a worker that waits for frames
    for _ in range(15):
        lag.answered(BATCH, 0.08, full=True, under_overload=False)
    assert not lag.look(10**6, now=0.0)
    lag.answered(BATCH, 0.08, full=True, under_overload=False)
    assert lag.look(101, now=1.0)
    assert lag.seconds == pytest.approx(1.01)


def test_the_pace_follows_what_the_work_takes_now() -> None:
    lag = paced(10.0, frame_s=0.001, batches=1000)
    for _ in range(400):  # 32 s of work at a tenth of the pace
        lag.answered(BATCH, 0.08, full=True, under_overload=False)
    lag.look(100, now=0.0)
    assert lag.seconds == pytest.approx(1.0, rel=0.02)


@pytest.mark.parametrize("target_s", [0.0, -1.0, math.nan])
def test_an_objective_is_positive(target_s: float) -> None:
    with pytest.raises(ValueError, match="positive number of seconds"):
        LagObjective(target_s)


@dataclass
class Queue:
    """A worker behind a queue, in steps of a full batch or of 10 ms without one."""

    lag: LagObjective
    arrivals: float
    """Frames a second."""
    normal: float = 100.0
    """Frames a second that the worker answers with exits as on other days; twice as many under overload."""
    now: float = 0.0
    waiting: float = 0.0
    most: float = 0.0
    switches: list[float] = field(default_factory=list)

    def run(self, seconds: float) -> None:
        end, next_look = self.now + seconds, self.now
        while self.now < end:
            missed = self.lag.missed
            spent = 0.01
            if self.waiting >= BATCH:
                spent = BATCH / (self.normal * (2 if missed else 1))
                self.waiting -= BATCH
                self.lag.answered(BATCH, spent, full=True, under_overload=missed)
            self.now += spent
            self.waiting += spent * self.arrivals
            self.most = max(self.most, self.waiting)
            if self.now >= next_look:
                next_look = self.now + 0.5
                if self.lag.look(round(self.waiting), self.now) != missed:
                    self.switches.append(self.now)


def test_a_burst_is_worked_off_and_then_exits_are_as_before() -> None:
    queue = Queue(LagObjective(10.0), arrivals=90)
    queue.run(60)
    assert queue.switches == []
    queue.waiting += 3000
    queue.run(120)
    assert len(queue.switches) == 2
    began, ended = queue.switches
    # 3,000 at 110 a second net, to a quarter of the objective's 1,000; one calm second; looks twice a second.
    assert ended - began == pytest.approx(25 + 1, abs=1.6)
    assert not queue.lag.missed


@settings(max_examples=25, deadline=None)
@given(st.floats(105, 195))
def test_steady_overload_is_held_near_the_objective_without_flapping(arrivals: float) -> None:
    queue = Queue(LagObjective(10.0), arrivals)
    queue.run(600)
    assert queue.most <= 10 * queue.normal + arrivals + BATCH  # until the next look
    # Down from the objective to a quarter of it and up again, 750 frames each way at what is left over of the paces.
    cycle_s = 750 / (200 - arrivals) + 750 / (arrivals - 100)
    assert 1 <= len(queue.switches) <= 2 * (600 / cycle_s + 1)


@pytest.mark.parametrize(("budget", "target_s"), [(0.03, 0.5), (None, math.inf)])
def test_a_worker_whose_exits_may_not_open_wider_is_never_too_far_behind(budget: float | None, target_s: float) -> None:
    settings = Settings(promise=Promise(overload_max_disagreement=budget), worker=Worker(target_lag_s=0.5))
    assert lag_objective(settings).target_s == target_s
