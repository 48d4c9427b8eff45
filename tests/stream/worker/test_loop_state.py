"""What a rebalance means to the loop, whenever it comes."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from layercache.stream.worker.loop_state import TRANSITIONS, Event, LoopState, Misuse, Phase
from tests.stream.builders import frame

FRAMES = [frame(7, partition) for partition in (0, 1, 2)]
CALLS: dict[Event, Callable[[LoopState], object]] = {
    Event.BATCH_BEGAN: LoopState.begin_batch,
    Event.BATCH_ENDED: lambda state: state.end_batch(FRAMES),
    Event.WORK_LOST: LoopState.lose_work,
    Event.REWOUND: LoopState.rewound,
    Event.CLOSED: LoopState.close,
}


def partitions_of(state: LoopState) -> list[int]:
    return [one.partition for one in state.end_batch(FRAMES)]


def test_frames_of_partitions_that_went_meanwhile_are_not_committed() -> None:
    state = LoopState()
    state.begin_batch()
    state.lose_partitions({0, 5})
    state.lose_partitions({2})
    assert partitions_of(state) == [1]


def test_what_went_before_a_micro_batch_began_says_nothing_of_it() -> None:
    """A partition that comes back is this worker's again, and no frame is fetched of one that did not."""
    state = LoopState()
    state.lose_partitions({1})
    state.begin_batch()
    assert partitions_of(state) == [0, 1, 2]


def test_the_answering_sees_partitions_go_while_it_works() -> None:
    state = LoopState()
    state.begin_batch()
    seen = state.lost_partitions
    state.lose_partitions({1})
    assert seen == {1}


def test_no_micro_batch_begins_before_lost_work_is_read_again() -> None:
    state = LoopState()
    state.begin_batch()
    state.lose_work()
    state.end_batch(FRAMES)
    assert state.needs_rewind, "the end of the micro-batch mends nothing"
    with pytest.raises(Misuse, match="BATCH_BEGAN must not happen while the loop is NEEDS_REWIND"):
        state.begin_batch()
    state.rewound()
    state.begin_batch()
    assert not state.needs_rewind


def test_a_closed_loop_stays_closed_and_goes_back_nowhere() -> None:
    state = LoopState()
    state.lose_work()
    state.close()
    state.lose_work()
    assert (state.is_closed, state.needs_rewind) == (True, False)


@given(st.lists(st.sampled_from(Event), max_size=30))
def test_every_phase_follows_from_the_table_and_all_else_is_refused(events: list[Event]) -> None:
    state = LoopState()
    for event in events:
        expected = TRANSITIONS.get((state.phase, event))
        if expected is None:
            before = state.phase
            with pytest.raises(Misuse):
                CALLS[event](state)
            assert state.phase is before
        else:
            CALLS[event](state)
            assert state.phase is expected
        assert (state.needs_rewind, state.is_closed) == (
            state.phase is Phase.NEEDS_REWIND,
            state.phase is Phase.CLOSED,
        )


def test_the_table_says_what_the_module_promises() -> None:
    begins = {phase for phase, event in TRANSITIONS if event is Event.BATCH_BEGAN}
    assert begins == {Phase.READING}, "one micro-batch at a time, and none on top of lost work"
    leads_back = {event for (phase, event), after in TRANSITIONS.items() if phase is Phase.NEEDS_REWIND is not after}
    assert leads_back == {Event.REWOUND, Event.CLOSED}
    assert {after for (phase, _), after in TRANSITIONS.items() if phase is Phase.CLOSED} == {Phase.CLOSED}
    assert {phase for phase, event in TRANSITIONS if event is Event.WORK_LOST} == set(Phase), "rebalances come any time"
