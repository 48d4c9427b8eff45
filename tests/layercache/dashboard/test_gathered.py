"""Records go in, a snapshot comes out: whatever somebody wrote there, and whichever model it is of."""

import msgspec
import numpy as np
import pytest

from layercache.dashboard import versions
from layercache.dashboard.frames import frame_of as shown
from layercache.dashboard.gathered import FRAMES, LETTERS, Gathered
from layercache.dashboard.heads import ModelChoice, StoreState
from layercache.dashboard.scrape import Reading
from layercache.dashboard.state import Frame, GroupLag, Snapshot, Worker
from layercache.early_exit.store.head_store import Live
from layercache.schemas.dead_letter import Reason
from layercache.schemas.manifest import Manifest
from layercache.schemas.prediction import FULL
from layercache.schemas.settings import Promise, Settings
from layercache.stream.frames.decoding import Limits
from layercache.stream.kafka.offsets import PartitionLag
from tests.cache_training.builders import record as distillation_record
from tests.support.dashboard_state import sample
from tests.support.kafka_records import MODEL, answer, answered, dead_letter, record
from tests.support.manifests import manifest, name, overload
from tests.support.pictures import coloured, encode

NOW_MS = 1_700_000_000_000
LIMITS = Limits(1_000_000, 1_000_000)


class Clock:
    """Says what it is told to."""

    now = NOW_MS

    def __call__(self) -> int:
        return self.now


def gathered(clock: Clock | None = None, wanted: str = "", **promise: float) -> Gathered:
    return Gathered(Settings(promise=Promise(**promise)), ModelChoice(wanted), clock or Clock())


def seen(*manifests: Manifest, live: str | None = None) -> StoreState:
    """The store has these, newest first, the first of them in force unless ``live`` is."""
    in_force = Live(live or manifests[0].version, closed=False, pinned=False)
    heads = versions.heads(manifests, in_force, manifests[0].version, None, 1, "memory://x", "")
    return StoreState(heads, manifests, versions.alarms(manifests, in_force.version))


def snapshot(found: Gathered, heads: StoreState | None = None) -> Snapshot:
    return found.snapshot(heads or seen(manifest(1)), (), has_metrics=False)


def audits(count: int, wrong: int, version: str) -> bytes:
    labels = np.arange(count) % 3
    live = np.where(np.arange(count) < wrong, (labels + 1) % 3, labels).astype(np.int32)
    batch = distillation_record(
        np.zeros((count, 1, 2, 2), np.uint8), np.eye(3, dtype=np.float32)[labels], model=MODEL, version=version,
        exits=("first",), live_label=live, overload_label=live,
    )  # fmt: skip
    return batch.encode()


def test_predictions_make_rates_flow_and_series() -> None:
    clock = Clock()
    found = gathered(clock)
    snapshot(found)  # the store is known before the first frame
    predictions = [answer(n, NOW_MS - 1_000, "first" if n % 4 else FULL, name(1)) for n in range(40)]
    found.take_predictions(answered(*predictions))
    at_once = snapshot(found)
    assert (at_once.model, at_once.model_name) == (MODEL, "tiny")
    assert (at_once.now.frames, at_once.now.hit_rate) == (40, 0.75)
    assert at_once.now.flops_saved == pytest.approx(1 - (0.75 * 0.44 + 0.25))
    assert [(one.cut, one.left) for one in at_once.flow.segments] == [("first", 30), (FULL, 10)]
    clock.now += 6_000
    assert snapshot(found).recent.points[0].frames == 40


def test_records_that_are_not_ours_are_left_out_and_told() -> None:
    found = gathered()
    found.take_predictions([record(b"{}"), record(None), record(b"\xff\xfe"), record(b"[" * 100_000)])
    found.take_distillation([record(b"no safetensors"), record(None)])
    found.take_dead_letters([record(b"a frame"), record(None)])
    result = snapshot(found)
    assert (result.now.frames, result.dead_letters.latest) == (0, ())
    assert [note.partition(" are none")[0] for note in result.notes] == [
        "4 records on predictions", "2 records on distillation", "2 records on frames.dlq"
    ]  # fmt: skip


def test_another_models_predictions_and_audits_are_left_out_and_told() -> None:
    found, other = gathered(), "81c0" * 16
    found.take_predictions(answered(answer(0, NOW_MS), answer(1, NOW_MS, model=other), answer(2, NOW_MS, model=other)))
    batch = distillation_record(np.zeros((1, 1, 2, 2), np.uint8), np.eye(3, dtype=np.float32)[:1], model=other,
                                version=name(1), exits=("first",))  # fmt: skip
    found.take_distillation([record(batch.encode())])
    result = snapshot(found)
    assert (result.now.frames, result.disagreement.audits) == (1, 0)
    assert result.notes == ("2 predictions of another model (81c081c081c0) on predictions are left out",)


def test_audits_that_come_before_the_first_prediction_are_not_lost() -> None:
    found = gathered()
    found.take_distillation([record(audits(30, 1, name(1)), timestamp_ms=NOW_MS)])
    assert snapshot(found).disagreement.audits == 0
    found.take_predictions(answered(answer(0, NOW_MS)))
    assert (snapshot(found).disagreement.audits, snapshot(found).disagreement.disagreements) == (30, 1)


def test_only_the_wanted_model_is_shown() -> None:
    found = gathered(wanted="81c0")
    found.take_predictions(answered(answer(0, NOW_MS), answer(1, NOW_MS, model="81c0" * 16)))
    assert (snapshot(found).model, snapshot(found).now.frames) == ("81c0" * 16, 1)


def test_audits_are_compared_with_the_live_versions_certificate() -> None:
    found = gathered(overload_max_disagreement=0.2)
    found.take_predictions(answered(answer(0, NOW_MS, label=1, class_name="green")))
    found.take_distillation([record(audits(30, 1, name(1)), timestamp_ms=NOW_MS)])
    live = msgspec.structs.replace(manifest(1), overload=overload((0.5,), budget=0.03))
    result = snapshot(found, seen(live))
    assert (result.disagreement.audits, result.disagreement.disagreements) == (30, 1)
    assert (result.disagreement.budget, result.disagreement.source) == (0.01, "topic")
    assert result.disagreement.certificate == live.certificate
    assert result.overload is not None
    assert (result.overload.budget, result.overload.disagreements) == (0.03, 1)
    assert [(one.name, one.disagreements) for one in result.classes] == [("class 0", 1), ("class 2", 0), ("green", 0)]
    assert snapshot(found, seen(manifest(2, 1))).disagreement.audits == 0


def test_budgets_are_the_settings_where_nothing_is_certified() -> None:
    found = gathered(max_disagreement=0.02, overload_max_disagreement=0.05)
    bare = msgspec.structs.replace(manifest(1), certificate=None, exits=())
    result = snapshot(found, seen(bare))
    assert (result.disagreement.budget, result.disagreement.certificate) == (0.02, None)
    assert result.disagreement.upper_bound is None
    assert result.overload is not None and result.overload.budget == 0.05
    assert snapshot(gathered(), seen(bare)).overload is None


def test_the_workers_own_counts_serve_where_no_audit_was_read() -> None:
    found = gathered()
    found.set_metrics(Reading((), {"red": 40, "blue": 10, "green": 0}, {"red": 1}), ())
    result = snapshot(found)
    assert (result.disagreement.audits, result.disagreement.disagreements) == (50, 1)
    assert (result.disagreement.source, result.disagreement.upper_bound) == ("metrics", None)
    assert [(one.name, one.audits) for one in result.classes] == [("red", 40), ("blue", 10)]


def test_dead_letters_come_with_reason_and_picture_newest_first_and_bounded() -> None:
    found = gathered()
    picture = encode(coloured("red"), "PNG")
    letters = [dead_letter(picture, n, NOW_MS + n, Reason.WRONG_CONTENT_TYPE) for n in range(30)]
    broken = dead_letter(b"\x89PNG\r\n\x1a\n", 99, NOW_MS + 99, message="cut off")
    empty = dead_letter(b"", 98, NOW_MS + 98, Reason.EMPTY)
    found.take_dead_letters([*letters, broken, empty])
    shown = snapshot(found).dead_letters
    assert len(shown.latest) == LETTERS
    assert shown.by_reason == {"wrong-content-type": 30, "corrupt": 1, "empty": 1}
    first, second, third = shown.latest[:3]
    assert (first.offset, first.reason, first.message, first.key) == (99, "corrupt", "cut off", "gate-1")
    assert (first.picture, second.picture) == (None, None)
    assert (first.no_picture, second.no_picture) == ("it does not decode", "the frame has no bytes")
    assert third.picture is not None and third.picture.content_type == "image/png"


def test_what_was_passed_over_is_told_for_a_minute_and_counts_as_frames() -> None:
    clock = Clock()
    found = gathered(clock)
    found.take_predictions(answered(answer(0, NOW_MS)))
    found.passed_over("predictions", 999)
    result = snapshot(found)
    assert result.now.frames == 1_000
    assert "999 records were passed over" in result.notes[0]
    clock.now += 61_000
    assert snapshot(found).notes == ()


def test_frames_are_bounded_newest_first() -> None:
    found = gathered()
    records = {n: record(encode(coloured("red"), "JPEG"), b"gate-1") for n in range(30)}
    for start in (0, 8, 16, 24):
        found.add_frames([shown(answer(n, NOW_MS + n), records[n], LIMITS) for n in range(start, min(30, start + 8))])
    frames = snapshot(found).frames
    assert [frame.offset for frame in frames] == list(range(29, 29 - FRAMES, -1))
    assert frames[0].key == "gate-1" and frames[0].latency_ms == 50
    assert frames[0].picture is not None and frames[0].no_picture == ""


def test_a_frame_without_a_picture_says_why() -> None:
    def why(frame: Frame) -> tuple[object, str]:
        return frame.picture, frame.no_picture

    assert why(shown(answer(0, NOW_MS), "gone", LIMITS)) == (None, "gone")
    elsewhere = record(None, headers=[("ce_dataref", b"s3://cameras/1.jpg")])
    assert why(shown(answer(0, NOW_MS), elsewhere, LIMITS))[1].startswith("the picture lies elsewhere")
    assert why(shown(answer(0, NOW_MS), record(b"junk"), LIMITS))[1].endswith("the frame starts with b'junk'")


def test_workers_lag_has_the_seconds_that_they_tell() -> None:
    found = gathered()
    lag = GroupLag(who="trainer", group="t", topic="distillation", partitions=())
    rows = (
        PartitionLag(partition=0, committed=3, end=8, lag=5),
        PartitionLag(partition=1, committed=None, end=2, lag=2),
    )
    found.set_lag(lag)
    found.set_lag(GroupLag(who="workers", group="w", topic="frames", partitions=rows))
    assert [(one.who, one.total, one.seconds) for one in snapshot(found).lags] == [
        ("workers", 7, None), ("trainer", 0, None)
    ]  # fmt: skip
    slow: Worker = msgspec.structs.replace(sample().workers[0], lag_seconds=4.5)
    found.set_metrics(Reading((slow,)), ())
    assert [one.seconds for one in snapshot(found).lags] == [4.5, None]


def test_what_has_not_changed_is_the_same_object() -> None:
    found, heads = gathered(), seen(manifest(1))
    found.take_predictions(answered(answer(0, NOW_MS)))
    found.take_dead_letters([dead_letter(b"", 1, NOW_MS)])
    one, other = snapshot(found, heads), snapshot(found, heads)
    for part in ("heads", "recent", "day", "frames", "dead_letters"):
        assert getattr(one, part) is getattr(other, part), part
    assert one == msgspec.structs.replace(other, at_ms=one.at_ms)
