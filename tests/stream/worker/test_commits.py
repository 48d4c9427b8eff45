"""Notes are committed and taken back without moving an offset, be it forward or back."""

from typing import cast

import pytest

from layercache.stream.worker.caution import Caution
from layercache.stream.worker.commits import Commits
from layercache.stream.worker.delivery.delivery import Delivery
from layercache.stream.worker.metrics import Metrics
from tests.stream.builders import frame
from tests.stream.worker.worker_loop import RecordingDelivery


class Bench:
    """Commits of a worker that has noted that it begins with partition 0 at offset 5."""

    def __init__(self) -> None:
        self.delivery = RecordingDelivery()
        caution = Caution(span=8, batch=4)
        caution.begins(0, 5, 0, takes_over=True)
        self.metrics = Metrics(max_batch=8)
        self.seconds: list[float] = []
        self.commits = Commits("frames", cast(Delivery, self.delivery), caution, self.metrics, str, self.seconds.append)
        self.commits.begin([frame(5)])
        assert self.delivery.commits == [{0: (5, 1)}]


def test_a_note_is_committed_once() -> None:
    bench = Bench()
    bench.commits.begin([frame(5)])
    assert len(bench.delivery.commits) == 1
    assert len(bench.seconds) == 1, "and its time is heard of like any other's"


def test_a_note_that_is_taken_back_leaves_what_was_answered_since() -> None:
    """Else the offset would go back, and the next worker answer the frame again."""
    bench = Bench()
    bench.delivery.answered("frames", 0, 5)
    bench.commits.take_back_notes_of({0})
    bench.commits.commit()
    assert bench.delivery.commits[-1] == {0: (6, 0)}


def test_where_nothing_was_answered_the_note_goes_and_the_offset_stays() -> None:
    bench = Bench()
    bench.commits.take_back_notes_of({0, 3})
    bench.commits.commit()
    assert bench.delivery.commits[-1] == {0: (5, 0)}


def test_a_worker_that_ends_takes_its_notes_back_and_commits_nothing_else() -> None:
    """What is still open then was left by an error, and its answers may not have been produced."""
    bench = Bench()
    bench.delivery.answered("frames", 1, 7)
    bench.commits.take_all_notes_back()
    assert bench.delivery.commits[-1] == {0: (5, 0)}


@pytest.mark.parametrize("was_uncertain", [False, True])
def test_a_note_that_cannot_be_taken_back_stays_and_ends_nothing(was_uncertain: bool) -> None:
    bench = Bench()
    if was_uncertain:
        bench.delivery.fails = True
        with pytest.raises(RuntimeError):
            bench.commits.commit()
        bench.delivery.fails = False
    else:
        bench.delivery.fails = True
    bench.commits.take_all_notes_back()
    assert bench.delivery.commits == [{0: (5, 1)}]
