"""How many frames certificates take: by the test itself, and as the documentation tells it."""

import re
from pathlib import Path

import pytest

from layercache.cache_training.certifying.certificate import allowed, attempt_error
from layercache.measuring.needs import first_attempt_audits, first_attempt_frames, flawless_audits
from layercache.report.results import EXAM_SHARE, report_frames

BUDGETS = (0.005, 0.01, 0.02, 0.05)
PAGE = Path(__file__).parents[3] / "docs/report.md"


@pytest.mark.parametrize("budget", BUDGETS)
@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.99])
def test_one_audit_less_would_not_do(budget: float, confidence: float) -> None:
    error = attempt_error(1, confidence)
    flawless = flawless_audits(budget, confidence)
    assert (allowed(flawless, budget, error), allowed(flawless - 1, budget, error)) == (0, -1)
    audits = first_attempt_audits(budget, confidence)
    assert allowed(audits, budget, error) >= 0.2 * budget * audits
    assert allowed(audits - 1, budget, error) < 0.2 * budget * (audits - 1)
    assert flawless < audits < first_attempt_frames(budget, confidence)


def test_the_documentation_tells_the_same() -> None:
    rows = re.findall(r"^\| ([\d.]+) % \| ([\d,]+) \| ([\d,]+) \|$", PAGE.read_text(), re.MULTILINE)
    told = [
        (float(budget) / 100, int(audits.replace(",", "")), int(frames.replace(",", "")))
        for budget, audits, frames in rows
    ]
    assert told == [(budget, first_attempt_audits(budget, 0.95), report_frames(budget, 0.95)) for budget in BUDGETS]
    assert f"{EXAM_SHARE:.0%}".replace("%", " %") in PAGE.read_text()
