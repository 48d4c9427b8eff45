"""Error passes on from targets that were met, once, and never more of it is at stake than was promised."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from layercache.cache_training.certifying.attempt_ledger import AttemptLedger
from layercache.cache_training.certifying.certificate import attempt_error
from layercache.cache_training.certifying.error_shares import (
    ErrorShare,
    RecordedAttempt,
    next_share,
    passed_on,
    setting_errors,
)
from layercache.early_exit.store.blobs import StoreError
from layercache.schemas.attempt import AttemptClaim, AttemptOutcome, PlannedTest

CONFIDENCE = 0.95
SETTINGS = 6


def claim(
    error: float = 0.02,
    target: int = 3,
    bolder: bool = False,
    overload: PlannedTest | None = None,
    consumes: tuple[int, ...] = (),
    lineage: str = "mine",
    confidence: float = CONFIDENCE,
) -> AttemptClaim:
    normal = PlannedTest(error=error, target=target, bolder=bolder)
    return AttemptClaim(
        claimed="now", lineage=lineage, confidence=confidence, consumes=consumes, normal=normal, overload=overload
    )


def outcome(normal: int | None, overload: int | None = None) -> AttemptOutcome:
    return AttemptOutcome(ended="now", normal=normal, overload=overload)


def share(*earlier: tuple[AttemptClaim | None, AttemptOutcome | None]) -> ErrorShare:
    """Of the next attempt after these."""
    recorded = {number: RecordedAttempt(*one) for number, one in enumerate(earlier, 1)}
    return next_share(len(earlier) + 1, recorded, "mine", CONFIDENCE)


MET = (claim(error=0.025), outcome(3))
OF_EARLIER_TRAINERS = (AttemptClaim(claimed="2026-01-01T00:00:00"), None)


def test_a_target_that_was_certified_passes_the_whole_error_on() -> None:
    assert share().total == attempt_error(1, CONFIDENCE)
    second = share(MET)
    assert (second.own, second.recycled, second.consumes) == (attempt_error(2, CONFIDENCE), 0.025, (1,))
    assert second.total == pytest.approx(0.0333, abs=1e-4)


@pytest.mark.parametrize(
    ("test", "certified", "passes"),
    [
        (claim(target=3), 3, 0.02),
        (claim(target=3), 2, 0.0),  # a safer setting was certified: that was not the target
        (claim(target=3), None, 0.0),
        (claim(target=3, bolder=True), 3, 0.01),  # the other half was spent on bolder settings
        (claim(target=3, bolder=True), 5, 0.01),  # and stays so where they pass
        (claim(target=3, bolder=True), 2, 0.0),
    ],
)
def test_only_a_target_passes_error_on(test: AttemptClaim, certified: int | None, passes: float) -> None:
    assert passed_on(test, outcome(certified)) == passes


@pytest.mark.parametrize(
    ("normal", "overload", "passes"),
    [(3, 5, 0.022), (3, 4, 0.02), (3, None, 0.02), (2, 5, 0.002), (None, None, 0.0)],
)
def test_overloads_part_passes_on_only_by_its_own_target(
    normal: int | None, overload: int | None, passes: float
) -> None:
    both = claim(error=0.02, target=3, overload=PlannedTest(error=0.002, target=5))
    assert passed_on(both, outcome(normal, overload)) == pytest.approx(passes)


def test_an_attempt_without_an_outcome_passes_nothing_on() -> None:
    assert share((claim(), None)) == ErrorShare(attempt_error(2, CONFIDENCE))
    assert share(OF_EARLIER_TRAINERS) == ErrorShare(attempt_error(2, CONFIDENCE))


def test_a_share_is_consumed_once() -> None:
    third = share(MET, (claim(consumes=(1,)), outcome(0)))
    assert third == ErrorShare(attempt_error(3, CONFIDENCE))
    # What waits for an outcome meanwhile is not lost: nobody has consumed it.
    fourth = share(MET, (claim(consumes=(1,)), outcome(3)), OF_EARLIER_TRAINERS)
    assert (fourth.recycled, fourth.consumes) == (0.02, (2,))
    both = share(MET, (claim(), outcome(3)))
    assert (both.recycled, both.consumes) == (0.045, (1, 2))


def test_a_claim_that_cannot_be_read_may_have_consumed_whatever_is_before_it() -> None:
    assert share(MET, (None, None)).consumes == ()
    assert share(MET, (None, None), MET).consumes == (3,)
    gap = {1: RecordedAttempt(*MET), 3: RecordedAttempt(*MET)}
    assert next_share(4, gap, "mine", CONFIDENCE).consumes == (3,)


def test_nothing_passes_to_another_trainer_or_another_confidence() -> None:
    earlier = {1: RecordedAttempt(*MET)}
    assert next_share(2, earlier, "mine", CONFIDENCE).recycled == 0.025
    assert next_share(2, earlier, "another", CONFIDENCE).recycled == 0
    assert next_share(2, earlier, "mine", 0.9).recycled == 0


def test_settings_beyond_the_target_are_tested_at_half_the_error_or_not_at_all() -> None:
    assert setting_errors(PlannedTest(error=0.02, target=1), SETTINGS).tolist() == [0.02] * 2
    assert setting_errors(PlannedTest(error=0.02, target=1, bolder=True), 4).tolist() == [0.02, 0.02, 0.01, 0.01]
    assert setting_errors(PlannedTest(error=0.02, target=9), SETTINGS).tolist() == [0.02] * SETTINGS


@dataclass
class Files:
    """Attempts in memory; tests say what happens between the look at a number and its claim, and what gets lost."""

    claims: dict[int, AttemptClaim | None] = field(default_factory=dict)
    outcomes: dict[int, AttemptOutcome] = field(default_factory=dict)
    meanwhile: Callable[[], object] = lambda: None
    stale: int = 0
    """So many of the latest claims are missing in the list."""
    full: bool = False

    def attempts(self) -> int:
        return max(0, max(self.claims, default=0) - self.stale)

    def claim_attempt(self, describe: Callable[[int], AttemptClaim], after: int = 0) -> int:
        number = max(self.attempts(), after) + 1
        while True:
            described = describe(number)
            self.meanwhile()
            if number not in self.claims:
                self.claims[number] = described
                return number
            number += 1

    def attempt_claim(self, number: int) -> AttemptClaim | None:
        return self.claims.get(number)

    def attempt_outcome(self, number: int) -> AttemptOutcome | None:
        return self.outcomes.get(number)

    def finish_attempt(self, number: int, ended: AttemptOutcome) -> bool:
        if self.full:
            raise StoreError("no space left on device")
        self.outcomes.setdefault(number, ended)
        return self.outcomes[number] is ended


def plain(given: ErrorShare) -> AttemptClaim:
    return claim(error=given.total, consumes=given.consumes)


def test_a_trainer_that_loses_the_race_for_a_number_spends_nothing_that_the_winner_consumed() -> None:
    files = Files({1: MET[0]}, {1: MET[1]})
    first, second = AttemptLedger(files, lambda: "mine"), AttemptLedger(files, lambda: "mine")

    def race() -> None:
        files.meanwhile = lambda: None
        assert second.claim(CONFIDENCE, plain)[1].consumes == (1,)

    files.meanwhile = race
    number, given, written = first.claim(CONFIDENCE, plain)
    assert number == 3
    assert given == ErrorShare(attempt_error(3, CONFIDENCE))
    assert written.normal is not None
    assert written.normal.error == given.total
    assert files.claims[3] is written


def test_an_outcome_that_cannot_be_written_waits_and_passes_nothing_on_until_then() -> None:
    files = Files()
    ledger = AttemptLedger(files, lambda: "mine")
    number, _, _ = ledger.claim(CONFIDENCE, plain)
    files.full = True
    ledger.finish(number, outcome(3))
    assert ledger.next_share(CONFIDENCE).recycled == 0
    files.full = False
    assert ledger.next_share(CONFIDENCE).consumes == (1,)
    # A trainer that is killed before that leaves an attempt that has not ended.
    files.outcomes.clear()
    assert AttemptLedger(files, lambda: "mine").next_share(CONFIDENCE).recycled == 0


def test_a_store_that_is_emptied_begins_no_new_count() -> None:
    files = Files()
    ledger = AttemptLedger(files, lambda: "mine")
    assert [ledger.claim(CONFIDENCE, plain)[0] for _ in range(3)] == [1, 2, 3]
    files.claims.clear()
    assert ledger.next_share(CONFIDENCE).own == attempt_error(4, CONFIDENCE)
    assert ledger.claim(CONFIDENCE, plain)[0] == 4
    assert list(files.claims) == [4]


def test_a_trainer_that_comes_back_to_an_emptied_store_counts_on(caplog: pytest.LogCaptureFixture) -> None:
    files = Files()
    ledger = AttemptLedger(files, lambda: "mine")
    assert not ledger.restore(5)
    assert "the store knows of 0 attempts to certify, and this trainer of 5" in caplog.text
    assert (ledger.attempts, ledger.claim(CONFIDENCE, plain)[0]) == (5, 6)
    assert ledger.next_share(CONFIDENCE).own == attempt_error(7, CONFIDENCE)


@pytest.mark.parametrize(
    ("claims", "doubtful"),
    [({1: claim()}, False), ({1: claim(), 2: claim(lineage="another")}, False), ({1: claim(), 2: claim()}, True),
     ({1: claim(), 2: None}, True), ({1: claim(), 3: claim(lineage="another")}, True)],
    ids=["no later one", "another trainer's", "its own", "an unreadable one", "one that is lost"],
)  # fmt: skip
def test_a_checkpoint_that_is_older_than_own_claims_is_told(
    claims: dict[int, AttemptClaim | None], doubtful: bool
) -> None:
    assert AttemptLedger(Files(claims), lambda: "mine").restore(1) == doubtful


def test_files_that_cannot_change_are_read_once() -> None:
    files = Files({1: MET[0], 2: claim(lineage="another"), 3: claim()}, {1: MET[1]})
    ledger = AttemptLedger(files, lambda: "mine")
    ledger.next_share(CONFIDENCE)
    read: list[int] = []
    files.attempt_claim = lambda number: read.append(number) or files.claims[number]  # type: ignore[method-assign,func-returns-value]
    ledger.next_share(CONFIDENCE)
    assert read == [3]  # whose outcome may yet come


@dataclass
class Trainer:
    """Makes attempts whose hypotheses are true or not, as a test draws it; the claimed ones may end, or never do."""

    data: st.DataObject
    files: Files
    lineage: str
    claimed: dict[int, int] = field(default_factory=dict)
    """By number: the first setting that breaks the budget in the attempts under way; ``SETTINGS`` for none."""

    def __post_init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """After a crash: what was under way never ends."""
        self.ledger = AttemptLedger(self.files, lambda: self.lineage)
        self.claimed.clear()

    def claim(self) -> float:
        """Claims an attempt; returns the probability with which it may break its promise, at most."""
        draw = self.data.draw
        breaks, over = draw(st.integers(0, SETTINGS)), draw(st.integers(0, SETTINGS))
        target, bolder, two = draw(st.integers(0, SETTINGS - 1)), draw(st.booleans()), draw(st.booleans())

        def describe(given: ErrorShare) -> AttemptClaim:
            second = PlannedTest(error=0.1 * given.total, target=min(target + 1, SETTINGS - 1), bolder=bolder)
            error = 0.9 * given.total if two else given.total
            return claim(error, target, bolder, second if two else None, given.consumes, self.lineage)

        number, _, written = self.ledger.claim(CONFIDENCE, describe)
        # Whatever breaks overload's budget breaks the smaller one, too.
        self.claimed[number] = breaks * (SETTINGS + 1) + max(breaks, over)
        return at_stake(written.normal, breaks) + at_stake(written.overload, max(breaks, over))

    def finish(self) -> None:
        """Ends an attempt in the one way that breaks nothing: the first setting that would fails, or one before it."""
        if self.claimed:
            number = self.data.draw(st.sampled_from(sorted(self.claimed)))
            breaks, over = divmod(self.claimed.pop(number), SETTINGS + 1)
            made = self.files.claims[number]
            assert made is not None
            ended = outcome(self._passed(made.normal, breaks), self._passed(made.overload, over))
            self.ledger.finish(number, ended)

    def _passed(self, test: PlannedTest | None, breaks: int) -> int | None:
        if test is None:
            return None
        passed = self.data.draw(st.integers(0, min(breaks, len(setting_errors(test, SETTINGS)))))
        return passed - 1 if passed else None


def at_stake(test: PlannedTest | None, breaks: int) -> float:
    """The level at which the first setting that breaks a budget is tested; 0 where it is not."""
    levels = setting_errors(test, SETTINGS) if test else np.empty(0)
    return float(levels[breaks]) if breaks < len(levels) else 0.0


def interleaved(data: st.DataObject) -> Iterator[float]:
    """What is at stake in each attempt of trainers that claim, end, crash and race in any order."""
    files = Files()
    # Two of them have the same memory of used frames, from a copied checkpoint.
    trainers = [Trainer(data, files, lineage) for lineage in ("mine", "mine", "another")]
    at_stake: list[float] = []

    def act(depth: int) -> None:
        trainer = data.draw(st.sampled_from(trainers))
        files.meanwhile = (lambda: act(depth + 1)) if depth < 2 else (lambda: None)
        match data.draw(
            st.sampled_from(("claim", "claim", "finish", "finish", "crash", "full", "stale", "torn", "old"))
        ):
            case "claim":
                at_stake.append(trainer.claim())
            case "finish":
                trainer.finish()
            case "crash":
                trainer.restart()
            case "full":
                files.full = not files.full
            case "stale":
                files.stale = data.draw(st.integers(0, 2))
            case "torn":
                files.claims[max(files.claims, default=0) + 1] = None
            case "old":
                files.claims[max(files.claims, default=0) + 1] = OF_EARLIER_TRAINERS[0]

    for _ in range(data.draw(st.integers(1, 25))):
        act(0)
    yield from at_stake


@given(st.data())
def test_whatever_the_interleaving_no_more_is_at_stake_than_was_promised(data: st.DataObject) -> None:
    """As long as nothing is broken; and what happens after the first break cannot break the promise again."""
    assert sum(interleaved(data)) <= (1 - CONFIDENCE) * (1 + 1e-9)


def test_all_of_it_may_be_at_stake_at_once() -> None:
    """Nine targets are met, and the tenth attempt has all that they did not need."""
    files = Files()
    ledger = AttemptLedger(files, lambda: "mine")
    for _ in range(9):
        number, _, _ = ledger.claim(CONFIDENCE, plain)
        ledger.finish(number, outcome(3))
    tenth = ledger.next_share(CONFIDENCE)
    assert tenth.total == pytest.approx(0.05 * (1 - 1 / 11))
    assert tenth.consumes == (9,)
