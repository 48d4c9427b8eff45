"""An attempt tests the settings that tuning chose, in tuning's order; what is served is what was tested."""

from dataclasses import replace

import msgspec
import numpy as np
import pytest

from layercache.cache_training.certifying import versions
from layercache.cache_training.certifying.attempt import Attempt
from layercache.cache_training.certifying.certificate import certify
from layercache.cache_training.certifying.choosing import ExitChoice, ScoredCandidate
from layercache.cache_training.certifying.threshold_family import CLOSED, DOUBTS, ThresholdFamily
from layercache.cache_training.learning.candidates import Candidate, Costs
from layercache.cache_training.learning.kept_frames import Frames
from layercache.cache_training.learning.routes import PLAIN, Route
from layercache.early_exit.policy import cascade
from layercache.schemas.manifest import Exit, HeadSpec, Manifest, decode, encoder
from tests.cache_training.builders import frames

FRAMES = 1000
SPEC = HeadSpec(family="pooled", features=(4,), classes=2)

ROUTE = Route({"early": Costs(0.3, 0.3), "late": Costs(0.6, 0.6)})
#: Thresholds at which an exit is sure of nothing, of the first half of the frames, and of all.
NOTHING, HALF, ALL = CLOSED, float(1 - DOUBTS[20]), float(1 - DOUBTS[40])


def choice(*settings: tuple[float, float]) -> ExitChoice:
    """Of an early and a late exit."""
    nothing = np.zeros(0)
    exits = tuple(
        ScoredCandidate(
            Candidate(cut, cut, SPEC, Costs(0.0, 0.0), seed=0),
            1.0,
            nothing.astype(np.float32),
            nothing.astype(np.bool_),
        )
        for cut in ("early", "late")
    )
    by_setting = np.zeros(len(settings))
    family = ThresholdFamily(np.array(settings, np.float32), by_setting, by_setting)
    return ExitChoice(ROUTE, exits, family, target=0)


def attempt(chosen: ExitChoice, tested: Frames | None = None) -> Attempt:
    """Of two exits that are as sure as each other; the early one is always right, the late one of the second half."""
    sure = np.where(np.arange(FRAMES) < FRAMES // 2, HALF, ALL).astype(np.float32)
    labels = np.zeros(FRAMES, np.int64)
    answers = np.stack([labels, (np.arange(FRAMES) < FRAMES // 2).astype(np.int64)], 1)
    return Attempt.run(1, 0.95, chosen, np.stack([sure, sure], 1), answers, tested or frames(FRAMES, classes=1))


def test_a_frame_leaves_by_the_thresholds_of_its_exit() -> None:
    found = attempt(choice((NOTHING, HALF), (HALF, HALF), (HALF, ALL)))
    assert [np.bincount(exits + 1, minlength=3).tolist() for exits in found.exits] == [
        [500, 0, 500],
        [500, 500, 0],
        [0, 500, 500],
    ]
    assert found.wrong.sum(1).tolist() == [500, 0, 0]


def test_nothing_passes_after_the_first_setting_that_fails_though_the_bolder_ones_are_better() -> None:
    """Tuning orders the settings: an order by what the attempt's own frames say would find what passes by luck."""
    settings = (NOTHING, HALF), (HALF, HALF), (HALF, ALL)
    assert certify(attempt(choice(*settings)).wrong, 0.01, 0.05) is None
    passed = certify(attempt(choice(*settings[1:])).wrong, 0.01, 0.05)
    assert passed is not None
    assert passed.index == 1


def test_the_thresholds_that_are_served_are_the_very_ones_that_were_tested() -> None:
    chosen = choice((HALF, CLOSED), (HALF, ALL))
    exits = tuple(
        Exit(cut=cut, head=SPEC, temperature=1.0, threshold=CLOSED, flops_share=0.0, time_share=0.0)
        for cut in ("early", "late")
    )
    draft = Manifest(
        version="v", model="m", model_name="m", created="", reason="first", predecessor=None, exits=exits,
        audit_rate=1.0, certificate=None, expected=None,
    )  # fmt: skip
    for index, tested in enumerate(chosen.family.thresholds):
        published = versions.with_thresholds(draft, versions.thresholds(chosen, index))
        stored = decode(encoder.encode(published))
        served = np.array([exit_.threshold for exit_ in stored.exits], np.float32)
        assert served.tobytes() == tested.tobytes()
        # Also a score that is just at its threshold leaves in both.
        scores = np.stack([chosen.family.thresholds[1]] * 2)
        assert cascade(scores, served).tolist() == cascade(scores, tested).tolist() == [0, 0]
    assert msgspec.structs.replace(draft, exits=published.exits) == published


def test_repeated_frames_are_tested_beside_the_others_and_told() -> None:
    """The first half is repeated, and wrong at the safest setting."""
    tested = replace(
        frames(FRAMES, classes=1),
        repeated=np.arange(FRAMES) < FRAMES // 2,
        timestamp_ms=np.arange(FRAMES, dtype=np.int64) * 1_000,
    )
    found = attempt(choice((NOTHING, HALF), (HALF, HALF)), tested)
    assert (found.wrong.shape, found.whole.shape) == ((2, FRAMES // 2), (2, FRAMES))
    assert (found.wrong.sum(1).tolist(), found.whole.sum(1).tolist()) == ([0, 0], [500, 0])
    assert [len(exits) for exits in found.exits] == [len(found.labels)] * 2 == [FRAMES // 2] * 2
    certificate = found.certificate(0, 0.01, 0.05, ["all"])
    assert (certificate.frames, certificate.disagreements) == (FRAMES // 2, 0)
    assert (certificate.repeated, certificate.repeated_disagreements, certificate.span_s) == (500, 500, 499.0)


@pytest.mark.parametrize(("doubted", "taken"), [(2, 0), (20, 1)])
def test_of_what_passed_the_safest_is_taken_that_is_nearly_as_quick(doubted: int, taken: int) -> None:
    """Where an exit saves nine tenths of the time, 96 % of the savings would be a third slower."""
    cheap = replace(choice((HALF, NOTHING), (ALL, NOTHING)), route=Route({"early": Costs(0.1, 0.1), "late": PLAIN}))
    labels, boldest = np.zeros(FRAMES, np.int64), np.zeros(FRAMES, np.int32)
    safer = np.where(np.arange(FRAMES) < doubted, -1, boldest).astype(np.int32)
    wrong = np.zeros((2, FRAMES), np.bool_)
    passed = Attempt(1, 0.95, cheap, labels, [safer, boldest], wrong, wrong)
    index, expectation = passed.settle(range(2))
    assert index == taken
    assert expectation.time_saved >= 0.89
