"""How many frames a certificate takes, whatever the heads are like."""

import math

from layercache.cache_training.certifying.binomial import enough_frames
from layercache.cache_training.certifying.certificate import attempt_error
from layercache.cache_training.certifying.dealing import SHARES, AuditUse
from layercache.cache_training.certifying.looks import LookPlan
from layercache.cache_training.certifying.readiness import FIRST_TOLERANCE
from layercache.cache_training.trainer import FEWEST_TUNING


def first_look_audits(budget: float, confidence: float) -> int:
    """Certification audits at which the first attempt looks for the first time, and flawless exits open.

    >>> first_look_audits(0.01, 0.95), first_look_audits(0.05, 0.95)
    (432, 86)
    """
    error = attempt_error(1, confidence)
    return LookPlan.of(enough_frames(FIRST_TOLERANCE * budget, budget, error), budget, error).first


def first_attempt_audits(budget: float, confidence: float) -> int:
    """The same, or as many as come until there are enough tuning audits to choose by.

    >>> first_attempt_audits(0.01, 0.95), first_attempt_audits(0.005, 0.95)
    (609, 866)
    """
    until_tuned = FEWEST_TUNING * SHARES[AuditUse.CERTIFICATION] / SHARES[AuditUse.TUNING]
    return max(first_look_audits(budget, confidence), math.ceil(until_tuned))


def first_attempt_frames(budget: float, confidence: float) -> int:
    """Frames of a stream, all audited as long as nothing is open, until the first attempt: so many on average.

    >>> first_attempt_frames(0.01, 0.95), first_attempt_frames(0.005, 0.95)
    (835, 1187)
    """
    return math.ceil(first_attempt_audits(budget, confidence) / SHARES[AuditUse.CERTIFICATION])
