"""Frames that the compiled end answered teach, in a small share; they carry no answer and are never audits."""

from dataclasses import replace

import numpy as np
import pytest

from layercache.early_exit.cutting.cuts import TracedModel
from layercache.early_exit.engine import Engine
from layercache.schemas import distillation
from layercache.schemas.distillation import DistillationBatch, key_hash
from layercache.stream.worker.answering.lessons import LESSON_SHARE, lesson_rows
from layercache.stream.worker.answering.records import DistillationWriter
from tests.stream.builders import engine, micro_batch


def end_alone(traced: TracedModel, mode: str = "serve", **options: object) -> Engine:
    """An engine whose one exit is taken for the model's own compiled end."""
    by = engine(traced, mode, **options)
    by.end = 0
    return by


def written(answered: object, share: float = 1.0) -> list[DistillationBatch]:
    records = DistillationWriter("f00d", "me", 10**8).write(answered, None, share)  # type: ignore[arg-type]
    return [distillation.decode(record) for record in records]


def test_a_tenth_of_what_the_end_answered_is_sent_and_no_audit(traced: TracedModel) -> None:
    answered = micro_batch(3_000, audit_rate=0.3).answer(end_alone(traced, audit_rate=0.3))
    rows = lesson_rows(answered)
    assert not answered.batch.audits[rows].any()
    unaudited = 3_000 - answered.batch.audits.sum()
    # Four standard deviations of a share of some 2,100 draws.
    assert abs(len(rows) / unaudited - LESSON_SHARE) < 4 * (LESSON_SHARE * (1 - LESSON_SHARE) / unaudited) ** 0.5
    fewer = lesson_rows(answered, 0.25)
    assert set(fewer.tolist()) < set(rows.tolist())
    assert 0.1 < len(fewer) / len(rows) < 0.4


def test_a_record_of_lessons_says_which_frames_they_are_and_no_answer(traced: TracedModel) -> None:
    answered = micro_batch(600, audit_rate=0.2, first=50).answer(end_alone(traced, audit_rate=0.2))
    audits, lessons = written(answered, share=0.5)
    assert audits.audit.all()
    assert not audits.of_lessons
    assert lessons.of_lessons
    rows = lesson_rows(answered, 0.5)
    assert 10 < len(rows) < 60
    assert lessons.header.frame_ids == tuple(f"frames-0-{50 + row}" for row in rows)
    assert lessons.offset.tolist() == (50 + rows).tolist()
    assert lessons.timestamp_ms.tolist() == (1_050 + rows).tolist()
    assert set(lessons.key_hash.tolist()) == {key_hash(b"camera-1")}
    assert np.array_equal(lessons.inputs, answered.batch.pictures.numpy()[rows])
    assert lessons.logits.shape == (len(rows), 0)
    assert not lessons.audit.any()
    assert (lessons.header.model, lessons.header.topic, lessons.header.worker) == ("f00d", "frames", "me")
    assert (lessons.header.exits, lessons.header.segment_ms) == ((), {})
    assert (lessons.header.heads_version, lessons.header.miss_share) == ("v1", LESSON_SHARE / 2)


def test_what_a_head_answered_or_no_exit_was_sure_of_is_no_lesson(traced: TracedModel) -> None:
    """Of three kinds of frames in turn: a head's, the end's and misses."""
    answered = micro_batch(3_000, audit_rate=0.2).answer(end_alone(traced, audit_rate=0.2))
    answered.engine.end = 1
    places = np.arange(3_000) % 3
    left = np.where(places == 2, -1, places).astype(np.int16)
    full = np.flatnonzero((left < 0) | answered.batch.audits)
    answers = replace(
        answered.answers,
        exits=np.where(answered.batch.audits, -1, left).astype(np.int16),
        full_rows=full,
        live_exit=left[full].astype(np.int32),
    )
    rows = lesson_rows(replace(answered, answers=answers))
    assert set((rows % 3).tolist()) == {1}
    assert not answered.batch.audits[rows].any()
    assert len(rows) > 50


def test_without_a_compiled_end_there_are_no_lessons(traced: TracedModel) -> None:
    for by in (engine(traced), Engine(traced)):
        answered = micro_batch(300, audit_rate=by.audit_rate).answer(by)
        assert len(lesson_rows(answered)) == 0
        assert not any(record.of_lessons for record in written(answered))


def test_shadow_mode_sends_the_lessons_that_serving_would_send(traced: TracedModel) -> None:
    served, shadowed = (
        lesson_rows(micro_batch(600, audit_rate=0.2).answer(end_alone(traced, mode, audit_rate=0.2)))
        for mode in ("serve", "shadow")
    )
    assert len(served) > 20
    assert served.tolist() == shadowed.tolist()


@pytest.mark.parametrize("kept", [True, False])
def test_frames_of_lost_partitions_teach_nothing(traced: TracedModel, kept: bool) -> None:
    answered = micro_batch(300, audit_rate=0.0).answer(end_alone(traced))
    rows = lesson_rows(answered)
    ours = np.isin(np.arange(300), rows) == kept
    offsets = [record.offset.tolist() for record in written(answered.only(ours))]
    assert offsets == ([rows.tolist()] if kept else [])
