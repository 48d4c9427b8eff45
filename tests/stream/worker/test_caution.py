"""Frames that end processes are found and given up, after few deaths, whoever else dies; no other frame is."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from layercache.stream.frames.frame import Frame
from layercache.stream.worker.caution import GIVEN_UP_FROM, Caution
from tests.stream.builders import frame

SPAN, BATCH = 8, 4


class Died(Exception):
    """What a process does at a frame that ends it."""


@dataclass
class Group:
    """What outlives a worker: offsets with their notes, and answers, in one transaction each; one partition a key."""

    ends: dict[int, int]
    committed: dict[int, tuple[int, int]] = field(default_factory=dict)
    answered: list[tuple[int, int]] = field(default_factory=list)
    given_up: list[tuple[int, int]] = field(default_factory=list)
    deaths: int = 0


def life(group: Group, killers: set[tuple[int, int]], every: int, lifetime: int = 10**9) -> bool:
    """One worker, which commits every so many micro-batches and is killed after ``lifetime`` steps; True: all done."""
    caution = Caution(SPAN, BATCH)
    reading = {number: group.committed.get(number, (0, 0))[0] for number in group.ends}
    for number, offset in reading.items():
        caution.begins(number, offset, group.committed.get(number, (0, 0))[1])
    done: list[tuple[int, int]] = []
    open_: dict[int, int] = {}

    def commit(notes: dict[int, int] | None = None) -> None:
        offsets = open_ | {number: at for number, at in (notes or {}).items() if number not in open_}
        group.committed |= {number: (offset, caution.note(number)) for number, offset in offsets.items()}
        group.answered.extend(done)
        caution.committed(offsets)
        done.clear()
        open_.clear()

    def work(frames: Sequence[Frame]) -> None:
        nonlocal lifetime
        lifetime -= 1
        if lifetime < 0 or any((one.partition, one.offset) in killers for one in frames):
            raise Died
        for one in frames:
            done.append((one.partition, one.offset))
            open_[one.partition] = one.offset + 1

    batches = 0
    while any(reading[number] < end for number, end in group.ends.items()):
        fetched = [
            frame(offset, number)
            for number, end in group.ends.items()
            for offset in range(reading[number], min(end, reading[number] + BATCH))
        ]
        reading |= {one.partition: one.offset + 1 for one in fetched}
        together, careful = caution.split(fetched)
        if notes := caution.begin(together):
            commit(notes)
        if together:
            work(together)
            batches += 1
        while careful:
            frames = caution.next_of(careful)
            careful = [one for one in careful if one not in frames]
            commit(caution.begin(frames))
            if caution.gives_up(frames[0]):
                (one,) = frames
                group.given_up.append((one.partition, one.offset))
                open_[one.partition] = one.offset + 1
            else:
                work(frames)
            caution.passed(frames)
            commit()
        if batches % every == 0:
            commit()
    commit()
    return True


def live_on(group: Group, killers: set[tuple[int, int]], every: int, lifetimes: Sequence[int] = ()) -> None:
    """Workers one after the other until all is done."""
    for lifetime in [*lifetimes, *[10**9] * 200]:
        try:
            life(group, killers, every, lifetime)
        except Died:
            group.deaths += 1
        else:
            return
    raise AssertionError(f"never done: {group}")


@given(
    ends=st.lists(st.integers(0, 30), min_size=1, max_size=3),
    places=st.sets(st.tuples(st.integers(0, 2), st.integers(0, 29)), max_size=3),
    every=st.integers(1, 2),
)
@settings(max_examples=200, deadline=None)
def test_killers_are_given_up_and_nothing_else_and_each_frame_is_answered_once_in_order(
    ends: list[int], places: set[tuple[int, int]], every: int
) -> None:
    group = Group(dict(enumerate(ends)))
    killers = {(number, offset) for number, offset in places if number < len(ends) and offset < ends[number]}
    live_on(group, killers, every)
    assert sorted(group.given_up) == sorted(killers)
    for number, end in enumerate(ends):
        answered = [offset for partition, offset in group.answered if partition == number]
        assert answered == [offset for offset in range(end) if (number, offset) not in killers]
    assert group.deaths <= 6 * len(killers)


@given(
    ends=st.lists(st.integers(1, 30), min_size=1, max_size=3),
    lifetimes=st.lists(st.integers(4, 12), max_size=12),
)
@settings(max_examples=200, deadline=None)
def test_workers_that_die_of_something_else_give_up_nothing_where_they_get_on(
    ends: list[int], lifetimes: list[int]
) -> None:
    group = Group(dict(enumerate(ends)))
    live_on(group, set(), every=1, lifetimes=lifetimes)
    assert not group.given_up
    assert len(group.answered) == len(set(group.answered)) == sum(ends)


def test_a_first_frame_ends_four_workers_before_it_is_given_up() -> None:
    group = Group({0: 3}, committed={0: (0, 0)})
    for note in (1, 2, 3, 4):
        with pytest.raises(Died):
            life(group, {(0, 0)}, every=1)
        assert group.committed == {0: (0, note)}
    assert GIVEN_UP_FROM == 4
    assert life(group, {(0, 0)}, every=1)
    assert (group.given_up, group.answered) == ([(0, 0)], [(0, 1), (0, 2)])


def test_a_worker_that_lives_does_not_count_its_own_notes() -> None:
    caution = Caution(SPAN, BATCH)
    first = [frame(7)]
    for _ in range(5):  # it loses the partition, and gets it again, while its first frame is slow
        assert not caution.begins(0, 7, caution.note(0))
        assert caution.begin(first) == {0: 7}
        caution.committed({0: 7})
        caution.forget([0])
        assert not caution.begins(0, 7, 1), "its own note"
        caution.forget([0])


def test_going_back_to_the_last_commit_keeps_what_was_known() -> None:
    caution = Caution(SPAN, BATCH)
    assert caution.begins(0, 7, 1)
    assert caution.begin([frame(7)]) == {0: 7}
    caution.committed({0: 7})
    assert caution.begins(0, 7, 2, takes_over=False)
    assert not caution.begin([frame(7)]), "it stands already"
    assert caution.take_back() == {0: 7}
    assert caution.begins(0, 7, 1, takes_over=False), "the note had not come through"
    assert caution.begin([frame(7)]) == {0: 7}


def test_notes_are_taken_back_by_who_ends_well_and_never_where_a_commit_is_uncertain() -> None:
    caution = Caution(SPAN, BATCH)
    for partition in (0, 1):
        caution.begins(partition, 5, 0)
    notes = caution.begin([frame(5, 0), frame(5, 1)])
    assert (notes, caution.note(0)) == ({0: 5, 1: 5}, 1)
    caution.committed(notes)
    assert caution.note(0) == 0, "the next commit takes it back anyway"
    assert caution.take_back([1, 2]) == {1: 5}
    caution.committed({1: 5})
    assert caution.take_back() == {0: 5}
    caution.uncertain()
    assert caution.take_back() == {}
