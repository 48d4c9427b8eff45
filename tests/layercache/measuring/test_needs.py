"""How many frames certificates take: by the test itself, and as the documentation tells it."""

import re
from pathlib import Path

import pytest

from layercache.cache_training.certifying.binomial import allowed, enough_frames
from layercache.cache_training.certifying.certificate import attempt_error
from layercache.measuring.needs import first_attempt_audits, first_attempt_frames, first_look_audits
from layercache.report.results import EXAM_SHARE, report_frames

BUDGETS = (0.005, 0.01, 0.02, 0.05)
PAGE = Path(__file__).parents[3] / "docs/report.md"


@pytest.mark.parametrize("budget", BUDGETS)
@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.99])
def test_flawless_exits_open_at_the_first_look(budget: float, confidence: float) -> None:
    error = attempt_error(1, confidence)
    audits = first_look_audits(budget, confidence)
    # Flawless exits open at the first look, which may spend six tenths of the error.
    assert allowed(audits, budget, 0.6 * error) >= 0
    assert allowed(audits - 1, budget, 0.59 * error) < 0 or audits > 0.59 * enough_frames(0.2 * budget, budget, error)
    assert audits <= first_attempt_audits(budget, confidence) < first_attempt_frames(budget, confidence)


def test_the_documentation_tells_the_same() -> None:
    rows = re.findall(r"^\| ([\d.]+) % \| ([\d,]+) \| ([\d,]+) \|$", PAGE.read_text(), re.MULTILINE)
    told = [
        (float(budget) / 100, int(audits.replace(",", "")), int(frames.replace(",", "")))
        for budget, audits, frames in rows
    ]
    assert told == [(budget, first_attempt_audits(budget, 0.95), report_frames(budget, 0.95)) for budget in BUDGETS]
    assert f"{EXAM_SHARE:.0%}".replace("%", " %") in PAGE.read_text()
