"""What the cards make of the state, before any browser."""

from itertools import pairwise

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from layercache.dashboard import heads_state, state
from layercache.dashboard.cards import figures, flow, promise, series
from layercache.dashboard.verdict import judge
from layercache.stream.kafka.offsets import PartitionLag
from tests.support.dashboard_state import sample


@st.composite
def _flows(draw: st.DrawFn) -> state.Flow:
    left = draw(st.lists(st.integers(0, 1_000), min_size=1, max_size=8))
    costs = draw(st.lists(st.floats(0.01, 0.5), min_size=len(left), max_size=len(left)))
    segments = []
    for index, (gone, cost) in enumerate(zip(left, costs, strict=True)):
        cut = state.END if index == len(left) - 1 else f"layer{index}"
        is_open = cut == state.END or draw(st.booleans())
        segments.append(state.Segment(cut=cut, time_share=cost, left=gone, open=is_open))
    return state.Flow(segments=tuple(segments), frames=sum(left))


@given(_flows())
def test_the_staircase_shows_every_frame_once_within_the_picture(shown: state.Flow) -> None:
    stairs = flow.staircase(shown)
    if not shown.frames:
        assert stairs == flow.Staircase()
        return
    assert sum(step.share for step in stairs.steps) == pytest.approx(1.0)
    for step, after in pairwise(stairs.steps):
        assert after.top == pytest.approx(step.top + step.share)
        assert after.length > step.length
    assert all(0 < step.length <= 1 + 1e-9 and 0 <= step.label <= 1 for step in stairs.steps)
    assert [mark.cut for mark in stairs.marks] == [segment.cut for segment in shown.segments]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12).map(sorted), st.floats(0.01, 0.3))
def test_labels_keep_apart_and_within_the_picture(wanted: list[float], apart: float) -> None:
    places = flow.spread(wanted, apart)
    least = min(apart, 1 / len(wanted))
    assert all(second - first >= least - 1e-9 for first, second in pairwise(places))
    assert all(-1e-9 <= place <= 1 for place in places)


def test_what_is_saved_is_what_no_bar_covers() -> None:
    stairs = flow.staircase(sample().flow)
    assert stairs.saved == pytest.approx(1 - (500 * 0.2 + 620 * 0.47 + 362 * 0.74 + 518 * 1.03) / 2_000)


_QUIET: dict[str, object] = {"problems": (), "alarms": ()}


def _seen(audits: int, disagreements: int) -> state.Disagreement:
    return state.Disagreement(
        budget=0.01, confidence=0.95, audits=audits, disagreements=disagreements, tested=audits,
        tested_disagreements=disagreements,
    )  # fmt: skip


def _behind(records: int) -> state.GroupLag:
    partitions = (PartitionLag(partition=0, committed=0, end=records, lag=records),)
    return state.GroupLag(who="workers", group="layercache", topic="frames", partitions=partitions)


@pytest.mark.parametrize(
    ("change", "level", "headline"),
    [
        (_QUIET, "good", "All is well"),
        ({"problems": ()}, "warn", "Drift"),
        ({"alarms": ()}, "warn", "Something cannot be read"),
        ({"problems": (state.Problem(where="broker", message="gone", since_ms=0),)}, "bad", "The broker"),
        ({"disagreement": _seen(audits=400, disagreements=20)}, "bad", "Exits differ"),
        (_QUIET | {"frames": ()}, "quiet", "No frames yet"),
        (_QUIET | {"now": state.Now()}, "quiet", "No frames in the last minute"),
        (_QUIET | {"heads": heads_state.Heads(closed=True, pin_reason="a test")}, "quiet", "All exits are kept"),
        (_QUIET | {"heads": heads_state.Heads()}, "quiet", "Learning"),
        (_QUIET | {"lags": (_behind(9_000),)}, "warn", "Workers are behind"),
    ],
)  # fmt: skip
def test_the_verdict_names_the_worst_thing(change: dict[str, object], level: str, headline: str) -> None:
    verdict = judge(msgspec.structs.replace(sample(), **change))
    assert (verdict.level, verdict.headline.startswith(headline)) == (level, True)


@pytest.mark.parametrize(("audits", "disagreements"), [(20, 1), (100, 3), (1_000, 18)])
def test_what_chance_brings_is_no_reason_to_worry(audits: int, disagreements: int) -> None:
    """Looked at every second for a day, exits within their budget of 1 % show more than that now and then."""
    seen = _QUIET | {"disagreement": _seen(audits, disagreements)}
    assert judge(msgspec.structs.replace(sample(), **seen)).level == "good"


def test_near_copies_do_not_count_against_the_exits() -> None:
    """One still scene that differs is one scene, however many of its frames were audited."""
    copies = state.Disagreement(
        budget=0.01, confidence=0.95, audits=2_000, disagreements=200, tested=400, tested_disagreements=1
    )
    assert judge(msgspec.structs.replace(sample(), **(_QUIET | {"disagreement": copies}))).level == "good"


@pytest.mark.parametrize(("disagreements", "end"), [(0, 0.02), (5, 0.02), (60, 0.0573)])
def test_the_meter_has_room_for_what_was_seen(disagreements: int, end: float) -> None:
    shown = msgspec.structs.replace(sample().disagreement, disagreements=disagreements)
    assert promise.scale(shown) == pytest.approx(end, abs=1e-4)


def test_a_sparkline_has_a_gap_where_nothing_was() -> None:
    drawn = figures.path([point.hit_rate for point in sample().recent.points])
    assert drawn.count("M") == 2
    assert figures.path([]) == figures.path([None, None]) == ""


def test_flops_that_int8_does_not_save_read_as_none_and_not_as_a_saving_below_zero() -> None:
    now = msgspec.structs.replace(sample().now, time_saved=0.741, flops_saved=-0.052)
    said = figures._saved(msgspec.structs.replace(sample(), now=now))
    assert said == ("74.1", "%", "of the model's time; of its FLOPs none, 5.2% more")
    assert figures._saved(sample())[2] == "of the model's time; of its FLOPs 48.2%"
    assert figures._saved(msgspec.structs.replace(sample(), now=state.Now())) == (
        "–", "", "of the model's time; of its FLOPs –"
    )  # fmt: skip


@pytest.mark.parametrize(("lowest", "begins"), [(0.3, 0), (-0.03, -50), (-0.6, -100), (-1.2, -100)])
def test_the_savings_axis_reaches_below_zero_only_where_more_was_spent(lowest: float, begins: int) -> None:
    chart = next(chart for chart in series.CHARTS if chart.below)
    drawn, shown = series.options(chart), sample().recent
    points = (*shown.points[:-1], msgspec.structs.replace(shown.points[-1], flops_saved=lowest))
    series.fill(drawn, chart, msgspec.structs.replace(shown, points=points), budget=0.01)
    assert (drawn["yAxis"]["min"], drawn["yAxis"]["max"]) == (begins, 100)


def test_a_sparkline_never_leaves_its_picture() -> None:
    assert figures.path([-0.5, 1.0], width=10, height=10) == "M0 10L10 0"
    assert figures.path([-0.5, -0.2], width=10, height=10) == "M0 10L10 10"


def test_charts_get_the_points_of_the_series_and_the_budget() -> None:
    audits = next(chart for chart in series.CHARTS if chart.limit)
    drawn = series.options(audits)
    series.fill(drawn, audits, sample().recent, budget=0.01)
    points = drawn["series"][0]["data"]
    assert len(points) == 180
    total = sum(point.audits for point in sample().recent.points)
    differ = sum(point.disagreements for point in sample().recent.points)
    assert points[-1][1] == pytest.approx(100 * differ / total, abs=1e-3)
    assert drawn["series"][0]["markLine"]["data"] == [{"yAxis": 1.0}]
    assert drawn["yAxis"]["max"] >= 1.5
