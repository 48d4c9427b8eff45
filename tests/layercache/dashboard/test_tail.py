"""What a budget allows, and what a board shows."""

from hypothesis import given, settings
from hypothesis import strategies as st

from layercache.dashboard.board import Board
from layercache.dashboard.tail import Budget, TokenBucket, tail_config
from layercache.schemas.settings import Kafka, Settings

repeatable = settings(derandomize=True, deadline=None, max_examples=60)


@repeatable
@given(st.lists(st.tuples(st.floats(0, 0.5), st.integers(1, 500), st.integers(1, 200_000)), max_size=200))
def test_never_more_is_read_than_the_budget_and_one_more_look(looks: list[tuple[float, int, int]]) -> None:
    budget = Budget(records_per_s=1_000, bytes_per_s=1e6, begin_with=0)
    bucket, now, read, size = TokenBucket(budget, 0.0), 0.0, 0, 0
    for pause, there, each in looks:
        now += pause
        if bucket.wait_s(now) > 0:
            continue
        taken = min(there, bucket.records(now))
        bucket.spend(taken, taken * each, now)
        read, size = read + taken, size + taken * each
        assert read <= (now + 1) * budget.records_per_s + 1
        assert size <= (now + 1) * budget.bytes_per_s + 500 * 200_000


def test_a_look_that_overdraws_is_waited_for() -> None:
    bucket = TokenBucket(Budget(records_per_s=10, bytes_per_s=1_000, begin_with=0), 0.0)
    bucket.spend(1, 5_000, 0.0)
    assert bucket.wait_s(0.0) == 4.0
    assert bucket.wait_s(3.0) == 1.0
    assert bucket.wait_s(4.0) == 0.0
    assert bucket.most_behind(2.0) == 2  # large records: few may wait


def test_time_that_goes_back_gives_nothing() -> None:
    bucket = TokenBucket(Budget(records_per_s=10, bytes_per_s=1_000, begin_with=0), 100.0)
    bucket.spend(10, 10, 100.0)
    assert bucket.records(50.0) == bucket.records(100.0) == 1
    assert bucket.wait_s(50.0) == bucket.wait_s(100.0)


def test_looks_at_how_far_behind_it_is_once_a_second() -> None:
    bucket = TokenBucket(Budget(records_per_s=10, bytes_per_s=1_000, begin_with=0), 0.0)
    assert [bucket.is_time_to_look(now) for now in (0.0, 0.5, 1.0, 1.9, 2.5)] == [True, False, True, False, True]


def test_reads_committed_records_without_a_group_of_anybodys() -> None:
    config = tail_config(Settings(kafka=Kafka(options={"security.protocol": "SSL"})))
    assert (config["group.id"], config["enable.auto.commit"]) == ("layercache-dashboard", False)
    assert (config["isolation.level"], config["auto.offset.reset"]) == ("read_committed", "latest")
    assert config["security.protocol"] == "SSL"
    assert tail_config(Settings(), auto_offset_reset="error")["auto.offset.reset"] == "error"


def test_a_problem_keeps_the_time_when_it_began_and_is_shown_once() -> None:
    times = iter([10, 20, 30, 40])
    board = Board(clock=lambda: next(times))
    board.put("broker", "a", "no answer")
    board.put("store", "look", "no heads")
    board.put("broker", "a", "no answer, still")
    assert [(one.where, one.message, one.since_ms) for one in board.problems()] == [
        ("broker", "no answer, still", 10), ("store", "no heads", 20)
    ]  # fmt: skip
    board.put("broker", "b", "no answer, still")
    assert [one.since_ms for one in board.problems()] == [10, 20]
    board.clear("broker", "a")
    board.clear("broker", "never put")
    assert [one.since_ms for one in board.problems()] == [20, 30]
