"""How many frames a certificate takes, whatever the heads are like."""

import math

from layercache.cache_training.certifying.certificate import attempt_error, p_value
from layercache.cache_training.certifying.dealing import SHARES, AuditUse
from layercache.cache_training.certifying.readiness import FIRST_TOLERANCE
from layercache.cache_training.trainer import FEWEST_TUNING


def flawless_audits(budget: float, confidence: float) -> int:
    """Certification audits without which not even flawless exits could be certified, at the first attempt.

    Of so many, none may disagree: (1 - budget)^n is to be at most the attempt's error.

    >>> flawless_audits(0.01, 0.95), flawless_audits(0.005, 0.95)
    (368, 736)
    """
    return math.ceil(math.log(attempt_error(1, confidence)) / math.log1p(-budget))


def first_attempt_audits(budget: float, confidence: float) -> int:
    """Certification audits that the trainer waits for before its first attempt, so that a few may disagree.

    >>> first_attempt_audits(0.01, 0.95), first_attempt_audits(0.05, 0.95)
    (720, 142)
    """
    error = attempt_error(1, confidence)
    allowed = 0
    while True:
        audits = _fewest(allowed, budget, error)
        if allowed >= FIRST_TOLERANCE * budget * audits:
            return audits
        allowed += 1


def first_attempt_frames(budget: float, confidence: float) -> int:
    """Frames of a stream, all audited as long as nothing is open, until the first attempt: so many on average.

    >>> first_attempt_frames(0.01, 0.95), first_attempt_frames(0.05, 0.95)
    (987, 834)
    """
    certifying = first_attempt_audits(budget, confidence) / SHARES[AuditUse.CERTIFICATION]
    return math.ceil(max(certifying, FEWEST_TUNING / SHARES[AuditUse.TUNING]))


def _fewest(allowed: int, budget: float, error: float) -> int:
    """The fewest frames of which so many may disagree."""
    low, high = allowed, max(2, 2 * (allowed + 1))
    while p_value(allowed, high, budget) > error:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if p_value(allowed, middle, budget) <= error else (middle, high)
    return high
