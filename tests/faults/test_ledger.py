"""The ledger sees whatever may go wrong with an answer; a harness that is blind would always be content."""

from tests.faults.harness.frames import BAD_EVERY, KEYS
from tests.faults.harness.ledger import DEAD_LETTER, Ledger, Verdict

PUBLISHED = 3 * KEYS


def label(number: int) -> int:
    return number % 3 if number % BAD_EVERY else DEAD_LETTER


def told(numbers: list[int], **changed: dict[int, int]) -> Verdict:
    """The verdict on answers to ``numbers`` in that order, with labels, places or sources changed by number."""
    ledger = Ledger(capacity=8)
    for start in range(0, len(numbers), 50):  # in several batches, as a reader takes them in
        some = numbers[start : start + 50]
        ledger.take(
            some,
            [changed.get("labels", {}).get(number, label(number)) for number in some],
            [changed.get("places", {}).get(number, start + at) for at, number in enumerate(some)],
            [changed.get("sources", {}).get(number, number) for number in some],
        )
    return ledger.verdict(PUBLISHED)


ALL = list(range(PUBLISHED))


def test_one_right_answer_to_each_frame_is_as_it_should_be() -> None:
    found = told(ALL)
    assert found.answered == found.frames == PUBLISHED
    assert found.lost == found.duplicated == found.wrong == found.misplaced == found.out_of_order == found.unknown == 0
    assert found.dead_letters == -(-PUBLISHED // BAD_EVERY)
    assert found.predictions == PUBLISHED - found.dead_letters


def test_a_frame_without_an_answer_is_lost() -> None:
    assert told([number for number in ALL if number not in (7, 100)]).lost == 2


def test_a_second_answer_is_a_duplicate_in_the_same_batch_and_later() -> None:
    assert told([*ALL[:10], 9, *ALL[10:], 9]).duplicated == 2


def test_another_label_is_wrong_and_so_is_a_dead_letter_for_a_good_frame() -> None:
    assert told(ALL, labels={7: 2, 8: DEAD_LETTER, BAD_EVERY: 0}).wrong == 3


def test_an_answer_before_an_earlier_one_of_its_camera_is_out_of_order() -> None:
    assert told(ALL, places={KEYS + 7: 0, 7: 1}).out_of_order == 1
    swapped = [KEYS, *ALL[1:KEYS], *ALL[KEYS + 1 :], 0]
    assert told(swapped, labels={0: 0}).out_of_order == 0, "frame 0 is a dead letter, in a topic of its own"


def test_an_answer_that_names_another_position_of_its_frame_is_misplaced() -> None:
    ledger = Ledger()
    ledger.take([1, 1], [1, 1], [0, 1], [10, 11])
    assert ledger.verdict(2).misplaced == 1


def test_an_answer_to_a_frame_that_was_never_published_is_unknown() -> None:
    assert told([*ALL, PUBLISHED + 5]).unknown == 1


def test_missing_and_repeated_name_the_frames() -> None:
    ledger = Ledger(capacity=2)
    ledger.take([1, 1, 4], [1, 1, 1], [0, 1, 2], [1, 1, 4])
    assert ledger.missing(6) == [0, 2, 3, 5]
    assert ledger.repeated(6) == [1]
