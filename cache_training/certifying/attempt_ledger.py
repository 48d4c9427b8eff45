"""One trainer's attempts in the store: what the next one may spend, its claim, and its outcome."""

import logging
from collections.abc import Callable
from typing import Protocol

from layercache.cache_training.certifying.error_shares import ErrorShare, RecordedAttempt, next_share
from layercache.early_exit.store.blobs import StoreError
from layercache.schemas.attempt import AttemptClaim, AttemptOutcome

log = logging.getLogger(__name__)


class AttemptFiles(Protocol):
    """The part of :class:`layercache.early_exit.store.head_store.HeadStore` that keeps attempts."""

    def attempts(self) -> int:
        """How many attempts have been claimed."""

    def claim_attempt(self, describe: Callable[[int], AttemptClaim], after: int) -> int:
        """Claims the next number beyond ``after``, with what is described for it."""

    def attempt_claim(self, number: int) -> AttemptClaim | None:
        """None where there is none, or it cannot be read."""

    def attempt_outcome(self, number: int) -> AttemptOutcome | None:
        """None where there is none yet, or it cannot be read."""

    def finish_attempt(self, number: int, outcome: AttemptOutcome) -> bool:
        """Writes the outcome, once; False if there is one."""


class AttemptLedger:
    """Reads and writes attempts for a trainer; :mod:`error_shares` says what follows from them.

    ``lineage`` names the trainer's memory of used frames (it may change when a checkpoint is restored).

    Trainer and store vouch for each other. The number of attempts is the larger of the two counts, so that neither an
    emptied or moved store nor a trainer that has lost its checkpoint begins with the whole error again.
    """

    def __init__(self, files: AttemptFiles, lineage: Callable[[], str]) -> None:
        self._files = files
        self._lineage = lineage
        self._counted = 0
        self._known: dict[int, RecordedAttempt] = {}
        self._unwritten: dict[int, AttemptOutcome] = {}

    @property
    def attempts(self) -> int:
        """How many attempts have been claimed, by all that store and trainer know. Raises :class:`StoreError`."""
        self._counted = max(self._counted, self._files.attempts())
        return self._counted

    def restore(self, attempts: int) -> bool:
        """Continues a checkpoint's count; True where the store has later claims that may be this trainer's own.

        Then the checkpoint is older than they are, and their frames may be new to it though they have certified.
        """
        in_store = self._files.attempts()
        self._counted = max(attempts, in_store)
        if in_store < attempts:
            log.warning(
                "the store knows of %d attempts to certify, and this trainer of %d: was the store emptied, moved or "
                "restored? Counting on from %d, so that the promise holds", in_store, attempts, attempts,
            )  # fmt: skip
        later = [self._files.attempt_claim(number) for number in range(attempts + 1, in_store + 1)]
        return any(claim is None or claim.lineage == self._lineage() for claim in later)

    def next_share(self, confidence: float) -> ErrorShare:
        """What the next attempt may spend, as far as the store says now. Raises :class:`StoreError`."""
        self.write_outcomes()
        return self._share(self.attempts + 1, confidence)

    def claim(
        self, confidence: float, describe: Callable[[ErrorShare], AttemptClaim]
    ) -> tuple[int, ErrorShare, AttemptClaim]:
        """Claims the next attempt: its number, what it may spend, and its claim as written. Raises :class:`StoreError`.

        Another trainer may take the number meanwhile, and with it what was to be passed on; the claim that is written
        says what is there for the number that this trainer gets.
        """
        shares: dict[int, tuple[ErrorShare, AttemptClaim]] = {}

        def describe_as(number: int) -> AttemptClaim:
            share = self._share(number, confidence)
            shares[number] = share, describe(share)
            return shares[number][1]

        number = self._counted = self._files.claim_attempt(describe_as, after=self.attempts)
        share, claim = shares[number]
        if share.consumes:
            log.info("attempt %d may err %.4f, of which earlier ones left it %.4f", number, share.total, share.recycled)
        return number, share, claim

    def finish(self, number: int, outcome: AttemptOutcome) -> None:
        """Writes an attempt's outcome, at once or, where the store cannot be written, as soon as it can.

        If the trainer ends before that, the attempt passes nothing on; nothing else depends on it.
        """
        self._unwritten[number] = outcome
        self.write_outcomes()

    def write_outcomes(self) -> None:
        """Writes what could not be written before."""
        for number, outcome in list(self._unwritten.items()):
            try:
                self._files.finish_attempt(number, outcome)
            except StoreError as error:
                log.warning("the outcome of attempt %d has to wait: %s", number, error)
            else:
                del self._unwritten[number]

    def _share(self, number: int, confidence: float) -> ErrorShare:
        for at in range(1, number):
            if at not in self._known or not self._is_final(self._known[at]):
                self._known[at] = self._read(at)
        return next_share(number, self._known, self._lineage(), confidence)

    def _read(self, number: int) -> RecordedAttempt:
        claim = self._files.attempt_claim(number)
        own = claim is not None and claim.lineage == self._lineage()
        return RecordedAttempt(claim, self._files.attempt_outcome(number) if own else None)

    def _is_final(self, recorded: RecordedAttempt) -> bool:
        """Whether reading it again can tell nothing new: neither file is ever changed."""
        claim = recorded.claim
        return claim is not None and (claim.lineage != self._lineage() or recorded.outcome is not None)
