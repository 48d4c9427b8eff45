"""Tempting mistakes in the certifier, which the simulation must notice: each replaces one of its parts."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from unittest.mock import patch

import numpy as np
import numpy.typing as npt

from layercache.cache_training.certifying import attempt_ledger, audits, error_shares, open_attempt, samples
from layercache.cache_training.certifying.audits import AuditIntake
from layercache.cache_training.certifying.certificate import (
    ClassCap,
    Errors,
    Verdict,
    attempt_error,
    verdict_of,
)
from layercache.cache_training.certifying.certifier import Certifier
from layercache.cache_training.certifying.dealing import Counted, blocks, counted, one_per_block
from layercache.cache_training.certifying.error_shares import ErrorShare, RecordedAttempt
from layercache.cache_training.certifying.looks import Levels, level_of
from layercache.cache_training.certifying.samples import Floats
from layercache.cache_training.certifying.scenes import SceneWatch
from layercache.cache_training.learning.kept_frames import Frames
from layercache.early_exit.policy import position_hashes
from layercache.schemas.attempt import AttemptClaim, AttemptOutcome, PlannedTest
from layercache.schemas.distillation import DistillationBatch


def _trust_the_mean(
    wrong: npt.NDArray[np.bool_],
    budget: float,
    error: Levels,
    cap: ClassCap | None = None,
    whole: npt.NDArray[np.bool_] | None = None,
    samples: object = None,
) -> Verdict | None:
    passes = np.append(wrong.mean(1) <= budget, False)
    passed = int(passes.argmin())
    return verdict_of(passed - 1, wrong[passed - 1], budget, level_of(error, passed - 1)) if passed else None


def _trust_the_bolder_mean(
    wrong: npt.NDArray[np.bool_],
    after: Verdict,
    budget: float,
    error: Levels,
    cap: ClassCap | None = None,
    whole: npt.NDArray[np.bool_] | None = None,
    samples: object = None,
) -> Verdict | None:
    verdict = _trust_the_mean(wrong[after.index + 1 :], budget, level_of(error, 0), cap)
    return replace(verdict, index=verdict.index + after.index + 1) if verdict else None


def _overload_takes_all(self: Certifier, share: ErrorShare) -> Errors:
    return replace(_ERRORS(self, share), overload=1 - self._promise.confidence)


def _deal_by_frame(batch: DistillationBatch, content: npt.NDArray[np.uint64], block_s: float) -> npt.NDArray[np.uint64]:
    return position_hashes("", batch.partition, batch.offset)


def _contents_by_position(self: AuditIntake, batch: DistillationBatch) -> tuple[Frames, npt.NDArray[np.bool_]]:
    frames, fresh = _MET(self, batch)
    own = position_hashes("contents", batch.partition, batch.offset)
    return replace(frames, content=own, block=blocks(batch, own, self._block_s)), fresh


def _counted_singly(
    block: npt.NDArray[np.uint64], draw: npt.NDArray[np.float64], rate: float, block_frames: int
) -> Counted:
    return Counted(np.arange(len(block)), None, 1)


def _first_of_each_block(
    block: npt.NDArray[np.uint64], draw: npt.NDArray[np.float64], rate: float, block_frames: int
) -> Counted:
    return Counted(one_per_block(block), None, 1)


def _most_by_the_window(
    block: npt.NDArray[np.uint64], draw: npt.NDArray[np.float64], rate: float, block_frames: int
) -> Counted:
    found = counted(block, draw, rate, block_frames)
    sizes = np.unique(block[found.rows], return_counts=True)[1]
    return replace(found, most=int(sizes.max(initial=1)))


def _weights_dropped(
    disagreements: npt.NDArray[np.int64], audits: npt.NDArray[np.int64], most: int, budget: float, expected: Floats
) -> Floats:
    return _P_VALUES((disagreements > 0).astype(np.int64), np.ones_like(audits), 1, budget, expected)


def _passed_on_after_a_failure(test: PlannedTest, certified: int | None) -> float:
    return test.error


def _target_chosen_after_looking(test: PlannedTest, certified: int | None) -> float:
    return test.error if certified is not None else 0.0


def _passed_on_unfinished(claim: AttemptClaim, outcome: AttemptOutcome | None) -> float:
    if outcome is None:
        return sum(test.error for test in (claim.normal, claim.overload) if test is not None)
    return _PASSED_ON(claim, outcome)


def _passed_on_again_and_again(
    number: int, earlier: Mapping[int, RecordedAttempt], lineage: str, confidence: float
) -> ErrorShare:
    own = attempt_error(number, confidence)
    shares = [_PASSED_ON(one.claim, one.outcome) for at, one in earlier.items() if at < number and one.claim]
    return ErrorShare(own, min(sum(shares), 1 - confidence - own))


def _bolder_at_the_full_level(test: PlannedTest, settings: int) -> npt.NDArray[np.float64]:
    return np.full(settings, test.error)


_MET, _P_VALUES = AuditIntake._met, samples._p_values
_ERRORS, _PASSED_ON = Certifier._errors, error_shares.passed_on
#: The trainer as it is, and mistakes that the simulation must catch.
MUTANTS: dict[str, Callable[[], AbstractContextManager[object]]] = {
    "none": nullcontext,
    "empirical mean": lambda: patch.object(open_attempt, "certify", _trust_the_mean),
    "error not shared": lambda: patch.object(error_shares, "attempt_error", lambda attempt, confidence: 1 - confidence),
    "overload by the mean": lambda: patch.object(open_attempt, "certify_bolder", _trust_the_bolder_mean),
    "overload's error not shared": lambda: patch.object(Certifier, "_errors", _overload_takes_all),
    "copies counted singly": lambda: patch.object(audits, "counted", _counted_singly),
    "the first audit stands for its block": lambda: patch.object(audits, "counted", _first_of_each_block),
    "weights dropped": lambda: patch.object(samples, "_p_values", _weights_dropped),
    "test chosen after seeing weights": lambda: patch.object(audits, "counted", _most_by_the_window),
    "dealt by frame": lambda: patch.object(audits, "blocks", _deal_by_frame),
    "rates not made equal": lambda: patch.object(audits, "common_rate", lambda rates: 1.0),
    "scenes outlast blocks unseen": lambda: patch.object(SceneWatch, "outlast", False),
    "dealt by position": lambda: patch.object(AuditIntake, "_met", _contents_by_position),
    "classes not tested": lambda: patch.object(ClassCap, "passes", lambda cap, wrong, error: np.ones(len(wrong), bool)),
    "passed on after a failure": lambda: patch.object(error_shares, "_unspent", _passed_on_after_a_failure),
    "target chosen after looking": lambda: patch.object(error_shares, "_unspent", _target_chosen_after_looking),
    "passed on by unfinished attempts": lambda: patch.object(error_shares, "passed_on", _passed_on_unfinished),
    "passed on twice": lambda: patch.object(attempt_ledger, "next_share", _passed_on_again_and_again),
    "bolder at the full level": lambda: patch.object(open_attempt, "setting_errors", _bolder_at_the_full_level),
}
