"""The table of what delivery decides: all of it, and what holds on every way through it."""

from itertools import product

import pytest

from layercache.stream.worker.delivery.states import TABLE, DeliveryStates, Effect, Event, Refused, State

ASKED = {Event.NEED, Event.BEGIN, Event.COMMIT, Event.ABORT, Event.CLOSE}
CAME_OF_IT = set(Event) - ASKED
STEPS = [(state, event, *step) for state, events in TABLE.items() for event, step in events.items()]
#: States in which a call is being made, and those in which the worker has its turn.
CALLING = {State.BEGINNING, State.HANDING_IN, State.COMMITTING, State.ABORTING, State.CLOSING}
RESTING = set(State) - CALLING
HOLDING = {State.OPEN, State.HANDING_IN, State.COMMITTING}
IN_CALLS = {Effect.REGISTER, Effect.BEGIN, Effect.HAND_IN, Effect.COMMIT, Effect.ABORT}


def states_at(state: State) -> DeliveryStates:
    states = DeliveryStates()
    states.state = state
    return states


@pytest.mark.parametrize(("state", "event"), list(product(State, Event)), ids=lambda one: one.name.lower())
def test_every_event_is_listed_or_refused(state: State, event: Event) -> None:
    states = states_at(state)
    if event in TABLE[state]:
        effects = states.on(event)
        assert (states.state, effects) == TABLE[state][event]
    else:
        with pytest.raises(Refused, match=f"{event.name} must not happen while a delivery is {state.name}"):
            states.on(event)
        assert states.state is state


def test_a_worker_may_always_commit_abort_and_close_when_it_has_its_turn() -> None:
    for state in RESTING:
        assert {Event.COMMIT, Event.ABORT, Event.CLOSE} <= TABLE[state].keys()


def test_nothing_but_a_close_interrupts_a_call() -> None:
    for state in CALLING:
        assert TABLE[state].keys() & ASKED == {Event.CLOSE}


def test_every_call_has_an_answer_for_whatever_comes_of_it() -> None:
    for state in (State.COMMITTING, State.ABORTING, State.CLOSING):
        assert {Event.DONE, Event.UNCLEAN, Event.FAILED, Event.BROKEN} <= TABLE[state].keys()
    assert {Event.DONE, Event.FAILED, Event.BROKEN} <= TABLE[State.HANDING_IN].keys()
    assert {Event.DONE, Event.BROKEN} <= TABLE[State.BEGINNING].keys()


def test_an_end_that_was_not_clean_leaves_no_producer_to_go_on_with() -> None:
    for state, event, after, _ in STEPS:
        if event in (Event.UNCLEAN, Event.UNDELIVERED, Event.BROKEN):
            assert after in (State.VACANT, State.CLOSED), (state, event)


def test_only_a_registered_producer_begins_and_only_a_clean_end_makes_one_ready_again() -> None:
    assert {(state, event) for state, event, after, _ in STEPS if after is State.READY and state is not after} == {
        (State.PENDING, Event.DONE),
        (State.COMMITTING, Event.DONE),
        (State.ABORTING, Event.DONE),
    }
    assert {state for state, event, after, _ in STEPS if after is State.BEGINNING} == {State.READY}


def test_a_producer_is_left_whenever_none_may_be_used_any_more() -> None:
    for state, event, after, effects in STEPS:
        if after is State.VACANT and state is not State.VACANT:
            assert {Effect.RETIRE, Effect.LEAVE} & set(effects), (state, event)


def test_offsets_are_forgotten_on_every_way_out_of_what_was_open() -> None:
    for state, event, after, effects in STEPS:
        if state in HOLDING and after not in HOLDING:
            assert effects[0] is Effect.FORGET, (state, event)


def test_whatever_fails_with_something_open_is_told_to_the_worker() -> None:
    for state, event, _, effects in STEPS:
        lost = state in HOLDING and event in (Event.FAILED, Event.BROKEN)
        if lost:
            assert effects[-1] is Effect.LOSE, (state, event)
        assert Effect.LOSE not in effects[:-1], "nothing comes after it"


def test_a_commit_that_succeeded_is_never_told_as_lost() -> None:
    for event in (Event.DONE, Event.UNCLEAN):
        assert Effect.LOSE not in TABLE[State.COMMITTING][event][1]


def test_no_step_makes_two_calls_that_may_fail() -> None:
    for state, event, _, effects in STEPS:
        assert len(IN_CALLS & set(effects)) <= 1, (state, event)


def test_every_state_can_be_reached_and_none_holds_a_delivery_for_ever() -> None:
    reached = {State.VACANT}
    while more := {after for state, _, after, _ in STEPS if state in reached} - reached:
        reached |= more
    assert reached == set(State)
    for state in State:
        assert Event.CLOSE in TABLE[state]
