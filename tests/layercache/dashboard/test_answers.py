"""What predictions add up to: the flow through the model, the sample that is shown, what was saved."""

from collections import Counter

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from layercache.dashboard.answers import AnswerTally
from layercache.dashboard.slices import Slices, Windows
from layercache.schemas.manifest import Manifest
from layercache.schemas.prediction import FULL
from tests.support.kafka_records import answer
from tests.support.manifests import manifest

repeatable = settings(derandomize=True, deadline=None, max_examples=60)


def answers(shown: int = 8) -> tuple[AnswerTally, Slices]:
    slices = Slices(5, 180)
    return AnswerTally(Windows(slices), shown), slices


def with_exits(number: int, *cuts: tuple[str, float]) -> Manifest:
    """A version with exits at these cuts, reached after so much of FLOPs and time."""
    plain = manifest(number)
    (exit_,) = plain.exits
    exits = tuple(msgspec.structs.replace(exit_, cut=cut, flops_share=share, time_share=share) for cut, share in cuts)
    full = 1.0 + 0.05 * len(cuts)
    return msgspec.structs.replace(plain, exits=exits, full_flops_share=full, full_time_share=full)


@repeatable
@given(st.lists(st.sampled_from(["a", "b", FULL]), max_size=300))
def test_every_frame_leaves_at_the_exit_that_answered_it(exits: list[str]) -> None:
    counted, _ = answers()
    for offset, exit_ in enumerate(exits):
        counted.add(answer(offset, 1_000 + offset, exit_, "v0001"), 10_000)
    flow = counted.flow([with_exits(1, ("a", 0.3), ("b", 0.6))], "v0001")
    assert [segment.cut for segment in flow.segments] == ["a", "b", FULL]
    assert flow.frames == len(exits)
    assert {segment.cut: segment.left for segment in flow.segments} == {
        name: Counter(exits)[name] for name in ("a", "b", FULL)
    }
    assert sum(segment.time_share for segment in flow.segments) == pytest.approx(1.1)


def test_the_flow_is_that_of_the_latest_answers() -> None:
    counted, _ = answers()
    for offset in range(5_000):
        counted.add(answer(offset, offset, "a" if offset < 4_000 else FULL, "v0001"), 10_000)
    flow = counted.flow([with_exits(1, ("a", 0.3))], "v0001")
    assert [segment.left for segment in flow.segments] == [1_000, 1_000]
    assert flow.frames == 2_000


def test_frames_of_an_earlier_version_still_flow_through_its_cut() -> None:
    counted, _ = answers()
    for offset, exit_ in enumerate(["old", "old", "new", FULL, "gone"]):
        counted.add(answer(offset, offset, exit_, "v0001"), 10_000)
    flow = counted.flow([with_exits(2, ("new", 0.5)), with_exits(1, ("old", 0.3), ("unused", 0.4))], "v0002")
    assert [(one.cut, one.left, one.open) for one in flow.segments] == [
        ("old", 2, False), ("new", 1, True), (FULL, 1, True)
    ]  # fmt: skip
    assert flow.frames == 4  # where the exit of a version lies that is gone, nobody knows


def test_without_heads_everything_runs_through_one_segment() -> None:
    counted, _ = answers()
    assert [(one.cut, one.left) for one in counted.flow([], None).segments] == [(FULL, 0)]
    counted.add(answer(0, 0), 10)
    (segment,) = counted.flow([], None).segments
    assert (segment.left, segment.time_share) == (1, 1.0)


def test_savings_are_what_the_versions_say_that_answered() -> None:
    counted, slices = answers()
    counted.set_versions([with_exits(1, ("a", 0.3))])
    for offset, (exit_, version) in enumerate([("a", "v0001"), (FULL, "v0001"), (FULL, None), ("a", "unknown")]):
        counted.add(answer(offset, 1_000, exit_, version), 1_000)
    (point,) = slices.series(10_000).points[:1]
    assert point.hit_rate == 0.5
    assert point.flops_saved == pytest.approx(1 - (0.3 + 1.05 + 1.0) / 3)
    assert point.time_saved == point.flops_saved


def test_a_model_in_int8_flows_by_time_before_the_full_model_and_saves_time_alone() -> None:
    counted, slices = answers()
    version = with_exits(1, ("a", 0.1), ("int8", 0.25))
    first, end = version.exits
    exits = (first, msgspec.structs.replace(end, head=None, flops_share=1.1))
    version = msgspec.structs.replace(version, exits=exits, full_flops_share=2.1, full_time_share=1.25)
    counted.set_versions([version])
    for offset, exit_ in enumerate(["a", "int8", "int8", FULL]):
        counted.add(answer(offset, 1_000, exit_, "v0001"), 1_000)
    flow = counted.flow([version], "v0001")
    assert [(one.cut, one.left) for one in flow.segments] == [("a", 1), ("int8", 2), (FULL, 1)]
    assert [one.time_share for one in flow.segments] == pytest.approx([0.1, 0.15, 1.0])
    (point,) = slices.series(10_000).points[:1]
    assert point.time_saved == pytest.approx(1 - (0.1 + 2 * 0.25 + 1.25) / 4)
    assert point.flops_saved == pytest.approx(1 - (0.1 + 2 * 1.1 + 2.1) / 4)


def test_latency_is_from_the_frames_timestamp_to_the_answer() -> None:
    counted, slices = answers()
    for offset, latency_ms in enumerate([100, 100, -400, 1_000]):  # one by a clock that is ahead
        counted.add(answer(offset, 1_000_000, latency_ms=latency_ms), 1_000_000)
    counted.add(answer(9, 1_000, latency_ms=1_000), 1_000_000)  # a frame without a timestamp
    now = slices.latest(60, 1_000_000)
    assert now.latency_p50_ms == pytest.approx(100, rel=0.051)
    assert now.latency_p99_ms == pytest.approx(1_000, rel=0.051)


def test_every_answer_has_the_same_chance_to_be_shown() -> None:
    shown = Counter[int]()
    counted, _ = answers(shown=6)
    for _ in range(1_500):
        for offset in range(12):
            counted.add(answer(offset, offset), 100)
        picked = counted.pick(4)
        assert len({one.offset for one in picked}) == 4
        assert [one.offset for one in picked] == sorted(one.offset for one in picked)
        shown.update(one.offset for one in picked)
    assert counted.pick(4) == []
    assert all(shown[offset] == pytest.approx(500, abs=90) for offset in range(12))


def test_class_names_are_learnt_from_predictions() -> None:
    counted, _ = answers()
    counted.add(answer(0, 0, label=7, class_name="shirt"), 10)
    assert counted.names == {7: "shirt"}
