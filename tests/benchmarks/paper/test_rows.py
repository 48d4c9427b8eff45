"""The benchmark's arithmetic: what a setting costs, how wrong it is, and which one a criterion picks."""

from math import inf
from typing import Any

import numpy as np
import pytest

from benchmarks.paper.rows import (
    WITHIN_ACCURACY,
    Exit,
    Outcome,
    Thresholds,
    Truth,
    choose,
    measure,
    percent,
    savings_at,
    sweep,
    within_accuracy,
    within_disagreement,
)

#: Four frames; the first is sure early, the second late, the third wrongly so, the last nowhere.
SCORES = np.array([[0.9, 0.9], [0.1, 0.8], [0.2, 0.7], [0.1, 0.1]], np.float32)
LABELS = np.array([[1, 1], [0, 2], [0, 5], [0, 0]])
TRUTH = Truth(full=np.array([1, 2, 3, 4]), labels=np.array([1, 2, 5, 4]))
EXITS = (Exit("early", trunk=0.25, head=0.05), Exit("late", trunk=0.5, head=0.1))


def outcome(*settings: Thresholds, exits: tuple[Exit, ...] = EXITS) -> Outcome:
    def engine(thresholds: Thresholds) -> Any:
        raise NotImplementedError

    return Outcome(exits, SCORES, LABELS, settings, engine)


def test_a_frame_pays_for_the_model_up_to_its_exit_and_for_every_head_on_the_way() -> None:
    point = measure(outcome(), (0.85, 0.75), TRUTH)
    assert point.flops_saved == pytest.approx(1 - np.mean([0.3, 0.65, 1.15, 1.15]))
    assert point.hit_rates == {"early": 0.25, "late": 0.25}


def test_a_closed_exit_costs_nothing_and_is_not_listed() -> None:
    point = measure(outcome(), (inf, 0.75), TRUTH)
    assert point.flops_saved == pytest.approx(1 - np.mean([0.6, 0.6, 1.1, 1.1]))
    assert point.hit_rates == {"late": 0.5}
    assert point.settings == (inf, 0.75)


def test_with_every_exit_closed_it_is_the_plain_model() -> None:
    point = measure(outcome(), (inf, inf), TRUTH)
    assert (point.flops_saved, point.disagreement, point.accuracy) == (0.0, 0.0, 0.75)


def test_a_heads_mistake_is_one_against_the_full_model_even_where_the_label_is_right() -> None:
    point = measure(outcome(), (0.85, 0.65), TRUTH)
    assert point.disagreement == 0.25
    assert point.accuracy == 1.0


def test_heads_that_share_a_cut_are_counted_as_one_exit() -> None:
    exits = (Exit("cut", 0.25, 0.05), Exit("cut", 0.25, 0.1))
    point = measure(outcome(exits=exits), (0.85, 0.75), TRUTH)
    assert point.hit_rates == {"cut": 0.5}


def test_a_criterion_picks_what_saves_most_among_what_it_allows() -> None:
    points = sweep(outcome((0.95, 0.95), (0.85, 0.85), (0.75, 0.75), (0.65, 0.65)), TRUTH)
    assert within_disagreement(points, 0.0).thresholds == (0.75, 0.75)
    assert within_disagreement(points, 0.25).thresholds == (0.65, 0.65)
    assert within_accuracy(points, 0.75).thresholds == (0.65, 0.65)


def test_nothing_is_saved_where_every_setting_errs_too_much() -> None:
    points = sweep(outcome((0.0, 0.0)), TRUTH)
    assert points[1].disagreement == 0.75
    chosen = choose(points, TRUTH)
    assert chosen[percent(0.01)].flops_saved == 0.0
    assert chosen[WITHIN_ACCURACY].flops_saved == 0.0


def test_the_curve_never_falls_as_more_disagreement_is_allowed() -> None:
    points = sweep(outcome((0.85, 0.85), (0.75, 0.75), (0.65, 0.65)), TRUTH)
    curve = savings_at(points, np.array([0.0, 0.1, 0.25, 0.5]))
    assert np.all(np.diff(curve) >= 0)
    assert curve[0] == pytest.approx(within_disagreement(points, 0.0).flops_saved)
