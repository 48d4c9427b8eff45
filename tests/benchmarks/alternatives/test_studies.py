"""The studies of other ways to certify, on heads that a few numbers describe."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.alternatives import studies
from benchmarks.alternatives.__main__ import page
from benchmarks.alternatives.draws import Streams
from benchmarks.alternatives.scored import END, PATH, TORCH, Reached, ScoredFrames, ScoredRoute
from benchmarks.alternatives.studies import SETTINGS, Row

FRAMES, CLASSES = 2000, 4


def scored() -> ScoredFrames:
    """An end that is nearly always right and sure, and heads that are right where they are sure."""
    random = np.random.default_rng(0)
    labels = random.integers(CLASSES, size=FRAMES)

    def logits(sure: float) -> np.ndarray:
        strength = random.exponential(sure, FRAMES)
        noise = random.normal(size=(FRAMES, CLASSES))
        return (noise + np.eye(CLASSES)[labels] * strength[:, None]).astype(np.float32)

    head, late, end = logits(8.0), logits(14.0), logits(60.0)
    exits = Reached("early", 0.2, 0.02), Reached("late", 0.6, 0.02)
    return ScoredFrames(
        labels,
        {
            TORCH: ScoredRoute(exits, np.stack((head, late)), 1.0),
            END: ScoredRoute((Reached(END, 0.25, 0.0),), end[None], 1.25),
            PATH: ScoredRoute((Reached("early", 0.1, 0.0), Reached(END, 0.3, 0.0)), np.stack((head, end)), 1.3),
        },
    )


def by_way(rows: list[Row]) -> dict[str, Row]:
    return {row.way: row for row in rows}


def test_what_was_scored_is_read_back(tmp_path: Path) -> None:
    frames = scored()
    frames.save(tmp_path / "scored.npz")
    again = ScoredFrames.load(tmp_path / "scored.npz")
    assert (again.labels == frames.labels).all()
    for name, route in frames.routes.items():
        assert (again.routes[name].exits, again.routes[name].nowhere_time) == (route.exits, route.nowhere_time)
        assert (again.routes[name].logits == route.logits).all()


def test_several_looks_ask_for_fewer_audits_than_one_and_save_about_as_much() -> None:
    found = by_way(studies.looks(Streams(scored(), 1), SETTINGS[0], 40))
    one, five = found["one look"], found["five looks"]
    assert one.streams == five.streams == 40
    assert one.audits == 720
    assert five.audits < 0.9 * one.audits
    assert five.saved > one.saved - 0.03


def test_where_hardly_anything_is_wrong_auditing_what_is_unsure_takes_more_audits() -> None:
    found = by_way(studies.weighed(0.6, Streams(scored(), 1), SETTINGS[0], 20))
    assert found["where unsure, at least 25% of the rate"].audits > 1.5 * found["all alike"].audits
    assert found["misses, too"].audits < 1.1 * found["all alike"].audits


def test_more_subsets_have_less_error_each() -> None:
    found = by_way(studies.subsets(Streams(scored(), 1), SETTINGS[2], 20))
    assert found["2 subsets"].audits >= found["1 subset"].audits


def test_a_margin_is_the_better_ones_chance_of_the_two_best() -> None:
    logits = np.array([[2.0, 1.0, -50.0], [0.0, 0.0, 0.0]])
    assert studies.margin(logits, 1.0).tolist() == pytest.approx([1 / (1 + np.exp(-1.0)), 0.5])
    rows = by_way(studies.scores(Streams(scored(), 1), SETTINGS[1], 5))
    assert set(rows) == {"largest probability", "margin"}
    assert "| int8, second version | margin | 5 |" in page(list(rows.values()), FRAMES)
