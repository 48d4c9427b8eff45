"""Each frame and each picture has one use: what certifies was not learnt from."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from layercache.cache_training.certifying import seen_numbers
from layercache.cache_training.certifying.audits import AuditIntake
from layercache.cache_training.certifying.dealing import AuditUse, blocks, deal
from layercache.cache_training.certifying.windows import LeakError, Windows
from layercache.cache_training.learning.kept_frames import FrameBuffer, Frames, concatenate, content_hashes
from layercache.schemas.distillation import DistillationBatch
from tests.cache_training.builders import as_lessons, frames, numbered, record


def test_frames_of_a_topic_that_was_made_anew_are_others_at_the_same_positions() -> None:
    intake = AuditIntake(Windows(16, 1_000, 1_000, 0), block_s=10, block_frames=1)
    inputs, logits = numbered(50), np.eye(50, 3, dtype=np.float32)
    for topic_id, again in (("old", False), ("old", True), ("new", False), ("new", True)):
        taken = intake.take(record(inputs, logits, topic_id=topic_id))
        assert taken.audit.tolist() == [not again] * 50
    assert (intake.audits, intake.repeated, intake.repeated_pictures) == (100, 100, 50)


def sent_as(kind: str, first: int, count: int) -> DistillationBatch:
    """Frames at consecutive offsets, of two cameras with near-copies and of publishers without a key in turn.

    The first pixel of each is its offset.
    """
    offsets = np.arange(first, first + count)
    inputs = np.repeat(offsets.astype(np.uint8), 4).reshape(count, 1, 2, 2)
    logits = np.eye(3, dtype=np.float32)[offsets % 3]
    batch = record(
        inputs, logits, first_offset=first, audit=kind == "audits", keys=offsets % 3, timestamp_ms=offsets * 2_000
    )
    return as_lessons(batch) if kind == "lessons" else batch


def offsets_in(window: FrameBuffer) -> list[int]:
    kept = window.frames()
    return [] if kept is None else kept.inputs[:, 0, 0, 0].tolist()


SENT = st.lists(
    st.tuples(st.sampled_from(["audits", "misses", "lessons"]), st.integers(0, 200), st.integers(1, 40)), max_size=12
)


@given(SENT)
def test_a_lesson_is_learnt_from_and_never_tunes_certifies_or_counts(sent: list[tuple[str, int, int]]) -> None:
    """In whatever order records come, also again, and whatever a frame comes as later.

    One that comes as an audit after something else counts as one: after an abort another worker may audit it.
    """
    intake = AuditIntake(Windows(16, 1_000, 1_000, 0), block_s=10, block_frames=1)
    came_as: dict[int, str] = {}
    audited = set[int]()
    for kind, first, count in sent:
        batch = sent_as(kind, first, count)
        if batch.of_lessons:
            intake.take_lessons(batch)
        else:
            intake.take(batch)
        for offset in batch.offset.tolist():
            came_as.setdefault(offset, kind)
        audited |= {*batch.offset[batch.audit == 1].tolist()}
    kept = {name: offsets_in(window) for name, window in intake.windows.all().items()}
    lessons = {offset for offset, was in came_as.items() if was == "lessons"}
    taught = {*kept["lessons"], *kept["misses"]}
    found = {*kept["tuning"], *kept["certification"], *kept["learning"]}
    assert found <= audited
    assert audited - found <= taught, "of audits only those of tuning are left out that heads have learnt"
    assert intake.audits == len(audited)
    assert not taught & {*kept["tuning"]}
    assert certifying(intake.windows)[True] == taught & {*kept["certification"]}
    assert not lessons & {*kept["misses"]}
    learnable = sent_as("lessons", 0, 256)
    use = deal(blocks(learnable, content_hashes(learnable.inputs), 10))
    expected = {n for n in lessons if learnable.key_hash[n] == 0 or use[n] == AuditUse.LEARNING}
    assert sorted(kept["lessons"]) == sorted(expected)
    intake.windows.check_apart()


def test_lessons_share_the_misses_room_and_take_none_before_there_are_any() -> None:
    """A window has room for a quarter of the memory: here for about 200 frames with their logits."""
    windows = Windows(0.04, 10_000, 10_000, 0)
    intake = AuditIntake(windows, block_s=10, block_frames=1)
    unkeyed = np.zeros(2_000, np.int64)
    pictures, logits = numbered(2_000), np.zeros((2_000, 3), np.float32)
    intake.take(record(pictures, logits, audit=False, keys=unkeyed))
    alone, certification = len(windows.misses), windows.certification.capacity
    assert alone == certification == 10_000 // (4 + 12 + 45)
    intake.take_lessons(as_lessons(record(pictures, logits, keys=unkeyed, first_offset=2_000)))
    assert (len(windows.misses), windows.certification.capacity) == (alone // 2, certification)
    assert len(windows.lessons) == 5_000 // (4 + 45)
    intake.take(record(pictures, logits, audit=False, keys=unkeyed, first_offset=4_000))
    assert len(windows.misses) == alone // 2

    lessons_first = Windows(0.04, 10_000, 10_000, 0)
    later = AuditIntake(lessons_first, block_s=10, block_frames=1)
    later.take_lessons(as_lessons(record(pictures, logits, keys=unkeyed)))
    later.take(record(pictures, logits, audit=False, keys=unkeyed, first_offset=2_000))
    assert {name: one.capacity for name, one in lessons_first.all().items()} == {
        name: one.capacity for name, one in windows.all().items()
    }
    restored = AuditIntake(Windows(0.04, 10_000, 10_000, 0), block_s=10, block_frames=1)
    restored.restore(intake.tensors())
    assert {name: len(one) for name, one in restored.windows.all().items()} == {
        name: len(one) for name, one in windows.all().items()
    }


@pytest.mark.parametrize("use", ["learning", "tuning", "misses", "lessons"])
def test_near_copies_of_frames_that_certify_are_a_leak_in_any_other_window(use: str) -> None:
    """They are other frames, at other positions: what makes them near-copies is the block that they share."""
    windows = Windows(16, 1000, 1000, 0)
    windows.certification.add(frames(5))
    windows.all()[use].add(frames(5, start=100))  # of lessons only blocks and positions matter here
    windows.check_apart()
    windows.all()[use].add(replace(frames(1, start=200), block=frames(1, start=3).block))
    with pytest.raises(LeakError, match=f"1 of 5 frames .* {use} window"):
        windows.check_apart()


def taken(intake: AuditIntake, pictures: np.ndarray, offset: int, **sent: Any) -> None:
    """Pictures come as audits, unless ``sent`` says otherwise, from an offset on."""
    intake.take(
        record(pictures, np.eye(3, dtype=np.float32)[np.zeros(len(pictures), int)], first_offset=offset, **sent)
    )


def of_use(use: AuditUse, n: int) -> np.ndarray:
    """n pictures that frames without a key have this use by."""
    pictures = numbered(40 * n)
    dealt = deal(blocks(record(pictures, np.zeros((len(pictures), 3), np.float32)), content_hashes(pictures), 10))
    found: np.ndarray = pictures[dealt == use][:n]
    return found


def certifying(windows: Windows) -> dict[bool, set[int]]:
    """The first bytes of the pictures that wait to certify, by whether they are repeated."""
    kept = windows.certification.frames()
    if kept is None:
        return {False: set(), True: set()}
    assert len(np.unique(kept.content)) == len(kept), "each picture waits once"
    first = kept.inputs[:, 0, 0, 0]
    return {repeated: set(first[kept.repeated == repeated].tolist()) for repeated in (False, True)}


def test_a_picture_that_comes_again_waits_to_certify_once_and_never_teaches_meanwhile() -> None:
    windows = Windows(16, 1_000, 1_000, 0)
    intake = AuditIntake(windows, block_s=10, block_frames=1)
    pictures = of_use(AuditUse.CERTIFICATION, 20)
    for number, audit in enumerate((True, True, False, True)):
        taken(intake, pictures, 100 * number, audit=audit)
    intake.take_lessons(as_lessons(record(pictures, np.zeros((20, 3), np.float32), first_offset=900)))
    assert intake.independent() == 20
    assert [len(window) for name, window in windows.all().items() if name != "certification"] == [0] * 4
    assert intake.repeated_pictures == 40
    windows.check_apart()
    intake.use_up()
    taken(intake, pictures, 1_000)
    assert intake.independent() == 0, "it has certified"


@pytest.mark.parametrize("as_lesson", [False, True])
def test_a_picture_that_heads_may_have_learnt_certifies_nothing_and_is_tested_all_the_same(as_lesson: bool) -> None:
    windows = Windows(16, 1_000, 1_000, 0)
    intake = AuditIntake(windows, block_s=10, block_frames=1)
    pictures = of_use(AuditUse.CERTIFICATION, 20)
    if as_lesson:
        intake.take_lessons(as_lessons(record(pictures[:5], np.zeros((5, 3), np.float32))))
    else:
        taken(intake, pictures[:5], 0, audit=False)
    restored = AuditIntake(Windows(16, 1_000, 1_000, 0), block_s=10, block_frames=1)
    restored.restore(intake.tensors())
    for one in (intake, restored):
        taken(one, pictures, 100)
        taken(one, pictures, 200)
        assert one.independent() == 15
        found = certifying(one.windows)
        assert (len(found[False]), len(found[True])) == (15, 5)
        one.windows.check_apart()
    used = intake.use_up()
    assert used.repeated.sum() == 5
    freed = concatenate(window.frames() for window in (windows.tuning, windows.learning))
    assert freed is not None
    assert (len(freed), freed.repeated.sum()) == (20, 0)


def test_a_picture_that_was_forgotten_and_is_still_there_to_learn_from_certifies_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(seen_numbers, "_REMEMBERED", 200)
    monkeypatch.setattr(seen_numbers, "_LATEST", 10)
    windows = Windows(16, 10_000, 10_000, 0)
    intake = AuditIntake(windows, block_s=10, block_frames=1)
    pictures = of_use(AuditUse.CERTIFICATION, 20)
    taken(intake, pictures[:5], 0, audit=False)
    for start in range(10_000, 11_000, 50):
        taken(intake, numbered(50, start), start, audit=False)
    taken(intake, pictures, 20_000)
    assert intake.independent() == 20, "it has forgotten"
    assert intake.use_up().repeated.sum() == 5


def test_a_picture_that_tuned_does_not_tune_again() -> None:
    windows = Windows(16, 1_000, 1_000, 0)
    intake = AuditIntake(windows, block_s=10, block_frames=1)
    for number in range(3):
        taken(intake, of_use(AuditUse.TUNING, 20), 100 * number)
    assert len(windows.tuning) == 20


def of_camera(intake: AuditIntake, use: AuditUse) -> int:
    """A second from which a camera's block has this use."""
    seconds = np.arange(0, 1_000, 10)
    nothing = np.zeros((len(seconds), 1, 1, 1), np.uint8)
    keys = np.full(len(seconds), 7, np.int64)
    batch = record(nothing, np.zeros((len(seconds), 3), np.float32), keys=keys, timestamp_ms=seconds * 1_000)
    return int(seconds[deal(blocks(batch, content_hashes(nothing), 10)) == use][0])


@pytest.mark.parametrize("learnt_first", [False, True])
def test_a_cameras_block_that_shows_a_learnt_picture_certifies_nothing(learnt_first: bool) -> None:
    """A loop of a camera's pictures comes to other blocks: the others of its block are near-copies of what it shows."""
    windows = Windows(16, 1_000, 1_000, 0)
    intake = AuditIntake(windows, block_s=10, block_frames=1)
    pictures = numbered(12)
    shown = {use: pictures[rows] for use, rows in (
        (AuditUse.CERTIFICATION, slice(0, 8)), (AuditUse.LEARNING, slice(7, 12)))}  # fmt: skip
    for number, use in enumerate(sorted(shown, reverse=not learnt_first)):
        n, second = len(shown[use]), of_camera(intake, use)
        keys, times = np.full(n, 7, np.int64), np.full(n, second * 1_000)
        taken(intake, shown[use], 100 * number, keys=keys, timestamp_ms=times)
    assert intake.independent() == 0
    assert certifying(windows)[True] == set(range(8))
    assert 4 <= len(windows.learning) <= 5
    windows.check_apart()


def test_a_learnt_picture_spoils_its_block_even_where_it_does_not_count_itself() -> None:
    """Of a block of more frames than count, the one that heads have learnt may be among those left out."""
    left_out = 0
    for first in range(1_000, 1_400, 8):
        windows = Windows(16, 1_000, 1_000, 0)
        intake = AuditIntake(windows, block_s=10, block_frames=32)  # half of them count
        pictures = numbered(12)
        for use, rows in ((AuditUse.LEARNING, slice(7, 12)), (AuditUse.CERTIFICATION, slice(0, 8))):
            n, second = rows.stop - rows.start, of_camera(intake, use)
            offset = first if use == AuditUse.CERTIFICATION else 0
            keys, times = np.full(n, 7, np.int64), np.full(n, second * 1_000)
            taken(intake, pictures[rows], offset, keys=keys, timestamp_ms=times)
        waiting = certifying(windows)
        assert not waiting[False]
        left_out += 7 not in waiting[True] and len(waiting[True]) > 0
    assert left_out > 10


def test_pictures_of_an_earlier_trainers_windows_have_one_use_from_then_on() -> None:
    """It dealt frames without a key by their positions: copies may have been learnt, and wait to certify, too."""
    old = Windows(16, 1_000, 1_000, 0)
    pictures, logits = numbered(12), np.zeros((12, 3), np.float32)
    old.certification.add(Frames.apart(pictures[:8], logits[:8], np.arange(8, dtype=np.uint64)))
    old.misses.add(Frames.apart(pictures[6:], logits[6:], np.arange(100, 106, dtype=np.uint64)))
    tensors = AuditIntake(old, block_s=10, block_frames=1).tensors()
    for name in list(tensors):
        if name == "known" or name.rpartition(".")[2] in ("content", "timestamp_ms", "repeated"):
            del tensors[name]
    windows = Windows(16, 1_000, 1_000, 0)
    intake = AuditIntake(windows, block_s=10, block_frames=1)
    intake.restore(tensors)
    assert certifying(windows) == {False: set(range(6)), True: {6, 7}}
    assert windows.span_s() == 0
    windows.check_apart()
