"""Each check finds the fault that is planted for it; a harness that is blind would always be content."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest

from tests.faults.harness.checks import EXACTLY_ONCE, Finding, check
from tests.faults.harness.history import (
    DEAD_LETTER,
    ONLY_DEAD_LETTER,
    OR_DEAD_LETTER,
    PREDICTION,
    UNKNOWN,
    Answers,
    Commit,
    History,
    Recording,
    frames_of,
)

PARTITIONS, PUBLISHED = 2, 60
LIVES = ("worker-0-1", "worker-1-1")
#: Number, kind, label, life, partition, offset, source partition, source offset, predicted, read.
Row = tuple[int, int, int, int, int, int, int, int, int, int]


def expected(number: int) -> int:
    return ONLY_DEAD_LETTER if number % 20 == 0 else number % 3


def answer(number: int, life: int | None = None) -> Row:
    """The right one: frame n is at n // 2 of partition n mod 2, and so is its answer, with room for markers."""
    partition, offset = number % PARTITIONS, number // PARTITIONS
    is_bad = number % 20 == 0
    kind, label = (DEAD_LETTER, UNKNOWN) if is_bad else (PREDICTION, number % 3)
    by = partition if life is None else life
    return number, kind, label, by, partition, 3 * offset, partition, offset, 1_000 + number, 2_000 + number


def with_(row: Row, **changed: int) -> Row:
    names = ("number", "kind", "label", "life", "partition", "offset", "source_partition", "source_offset")
    return tuple(changed.get(name, value) for name, value in zip((*names, "predicted", "read"), row, strict=True))  # type: ignore[return-value]


def answers(rows: Sequence[Row]) -> Answers:
    recording = Recording()
    for start in range(0, len(rows), 25):  # in several batches, as a reader takes them in
        recording.take(rows[start : start + 25])
    return recording.answers()


RIGHT = [answer(number) for number in range(PUBLISHED)]
#: Asked when everything had been read, and once in the midst: frames 0 to 19 had been read by 2,020.
COMMITS = (Commit(2_020, 0, {0: 10, 1: 10}), Commit(3_000, 0, {0: 30, 1: 30}))
FRAMES = frames_of((0, number % 2, number // 2, number % 6, expected(number)) for number in range(PUBLISHED))


def history(rows: Sequence[Row] = RIGHT, live: Sequence[Row] = RIGHT, commits: Sequence[Commit] = COMMITS) -> History:
    return History(FRAMES, answers(rows), answers(live), tuple(commits), LIVES)


def counts(found: dict[str, Finding]) -> dict[str, int]:
    """Those that are not 0."""
    return {name: finding.count for name, finding in found.items() if finding.count}


def without(*numbers: int) -> list[Row]:
    return [row for row in RIGHT if row[0] not in numbers]


def test_one_right_answer_to_each_frame_is_as_it_should_be() -> None:
    found = check(history())
    assert found.keys() == {one.__name__ for one in EXACTLY_ONCE}
    assert counts(found) == {}


def test_a_frame_without_an_answer_is_lost_and_the_offset_that_passed_it_is_named() -> None:
    found = check(history(without(7, 40), without(7, 40)))
    assert counts(found) == {"lost": 2, "passed": 2, "gaps": 1}, "nothing follows frame 40, the last dead letter"
    assert found["lost"].shown == ("frame 7 (1@3)", "frame 40 (0@20)")
    assert found["passed"].shown[0] == "frame 7 (1@3): the group's offset was 10 when asked at 2020"
    assert "asked at 3000" in found["passed"].shown[1]


def test_an_unanswered_frame_that_nobody_has_committed_may_still_be_answered() -> None:
    commits = (Commit(3_000, 0, {0: 30, 1: 29}),)
    assert counts(check(history(without(59), without(59), commits))) == {"lost": 1}


def test_a_second_answer_names_both_workers_and_their_places() -> None:
    again = with_(answer(9, life=0), offset=500, predicted=9_999)
    found = check(history([*RIGHT, again], [*RIGHT, again]))
    assert counts(found) == {"duplicated": 1, "gaps": 1}
    (told,) = found["duplicated"].shown
    assert told == ("frame 9 (1@4): prediction 1@12 by worker-1-1 at 1009; prediction 1@500 by worker-0-1 at 9999")


def test_a_dead_letter_beside_a_prediction_is_a_duplicate_and_wrong() -> None:
    letter = with_(answer(9), kind=DEAD_LETTER, label=UNKNOWN)
    found = counts(check(history([*RIGHT, letter])))
    assert (found["duplicated"], found["wrong"]) == (1, 1)


@pytest.mark.parametrize(
    "changed",
    [with_(RIGHT[7], label=2), with_(RIGHT[7], kind=DEAD_LETTER, label=UNKNOWN), with_(RIGHT[20], kind=PREDICTION)],
    ids=["label", "dead letter for a good frame", "prediction for a bad one"],
)
def test_another_answer_than_the_right_one_is_wrong(changed: Row) -> None:
    rows = [changed if row[0] == changed[0] else row for row in RIGHT]
    assert counts(check(history(rows, rows)))["wrong"] == 1


@pytest.mark.parametrize(("kind", "label", "is_wrong"), [(PREDICTION, 1, 0), (DEAD_LETTER, -1, 0), (PREDICTION, 2, 1)])
def test_a_frame_may_allow_a_dead_letter_beside_its_label(kind: int, label: int, is_wrong: int) -> None:
    expected_ = FRAMES.expected.copy()
    expected_[7] = 1 + OR_DEAD_LETTER
    rows = [with_(row, kind=kind, label=label) if row[0] == 7 else row for row in RIGHT]
    told = check(replace(history(rows, rows), frames=replace(FRAMES, expected=expected_)))
    assert told["wrong"].count == is_wrong
    assert not told["gaps"].count


def test_an_answer_that_names_another_position_is_misplaced_and_to_no_frame_unknown() -> None:
    rows = [with_(row, source_offset=4) if row[0] == 7 else row for row in RIGHT]
    assert counts(check(history([*rows, with_(answer(77), offset=900)], rows))) == {"misplaced": 1, "unknown": 1}


def swapped(one: int, other: int) -> list[Row]:
    """The answers of two frames of one partition have changed places in the log."""
    places = {one: RIGHT[other][5], other: RIGHT[one][5]}
    return [with_(row, offset=places.get(row[0], row[5])) for row in RIGHT]


def test_an_answer_before_an_earlier_one_of_its_camera_is_out_of_order() -> None:
    rows = swapped(7, 13)
    found = check(history(rows, rows))
    assert found["out_of_order"].count == 1
    assert "frame 13 (1@6) stands before" in found["out_of_order"].shown[0]


def test_other_cameras_in_another_order_are_gaps_alone() -> None:
    rows = swapped(7, 9)
    found = check(history(rows, rows))
    assert counts(found) == {"gaps": 3}
    assert found["gaps"].shown[0].endswith("to frame 9 (1@4): 1 frames were left out")
    assert found["gaps"].shown[1].endswith("2 frames back")


def test_what_was_read_and_is_not_committed_is_an_aborted_read() -> None:
    aborted = with_(answer(9), offset=13)
    found = check(history(live=[*RIGHT, aborted]))
    assert counts(found) == {"aborted_reads": 1}
    assert found["aborted_reads"].shown == ("prediction 1@13 by worker-1-1 at 1009 to frame 9 (1@4)",)
    assert not check(replace(history(live=[*RIGHT, aborted]), is_whole=False))["aborted_reads"].count


def test_two_readers_that_see_different_records_at_one_place_diverge() -> None:
    live = [with_(row, life=0) if row[0] == 9 else row for row in RIGHT]
    assert counts(check(history(live=live))) == {"divergent": 1}


def test_an_answer_that_is_read_before_its_offset_is_committed_is_found() -> None:
    commits = (Commit(2_020, 0, {0: 10, 1: 9}), Commit(3_000, 0, {0: 30, 1: 30}))
    found = check(history(commits=commits))
    assert counts(found) == {"uncommitted_reads": 1}
    assert "frame 19 (1@9)" in found["uncommitted_reads"].shown[0]


def test_committed_offsets_that_go_back_are_found() -> None:
    commits = (*COMMITS, Commit(4_000, 0, {0: 12, 1: 30}))
    assert counts(check(history(commits=commits))) == {"went_back": 1}


def test_a_topic_made_anew_counts_from_its_beginning() -> None:
    """Frames 30 to 59 stand on the second topic: their offsets begin at 0 again, and so does what is committed."""
    frames = frames_of(
        (number // 30, number % 2, number % 30 // 2, number % 6, expected(number)) for number in range(PUBLISHED)
    )
    rows = [with_(row, source_offset=row[0] % 30 // 2) for row in RIGHT]
    commits = (Commit(2_040, 0, {0: 15, 1: 15}), Commit(2_045, 1, {0: 8, 1: 7}), Commit(3_000, 1, {0: 15, 1: 15}))
    made_anew = replace(history(rows, rows, commits), frames=frames)
    assert counts(check(made_anew)) == {}
    first = [row for row in rows if row[0] != 31]
    found = check(replace(made_anew, answers=answers(first), live=answers(first)))
    assert counts(found) == {"lost": 1, "passed": 1}
    assert found["lost"].shown == ("frame 31 (1@0, topic made anew 1 times)",)


@pytest.mark.parametrize("check_", EXACTLY_ONCE, ids=lambda one: one.__name__)
def test_nothing_published_and_nothing_read_is_no_finding(check_: Callable[[History], Finding]) -> None:
    empty = History(frames_of([]), answers([]), answers([]), (), ())
    assert check_(empty) == Finding(0)


def test_a_recording_counts_frames_and_not_answers() -> None:
    recording = Recording()
    recording.take([answer(3), answer(3), answer(4)])
    recording.take([with_(answer(4), number=70_000)])
    assert recording.answered == 3
    assert recording.answers().number.tolist() == [3, 3, 4, 70_000]
    assert np.unique(recording.answers().place).size == 2
