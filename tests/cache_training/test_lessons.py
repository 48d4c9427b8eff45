"""The trainer learns from lessons, whose answers the full model gives it, and does nothing else with them."""

from dataclasses import fields, replace
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from layercache.cache_training.learning import learner as learning
from layercache.cache_training.learning.candidates import Candidate
from layercache.cache_training.learning.kept_frames import FrameBuffer, Frames
from layercache.cache_training.learning.learner import Learner, Teacher
from layercache.cache_training.service.state import Checkpoints
from layercache.cache_training.trainer import OnlineTrainer
from layercache.early_exit.cutting.cuts import TracedModel
from layercache.early_exit.engine import Engine
from layercache.early_exit.store.head_store import HeadStore
from layercache.schemas.distillation import DistillationBatch
from tests.cache_training.builders import as_lessons, buffer_of
from tests.cache_training.streams import answered, pictures
from tests.cache_training.trainers import feed, new_trainer, train_until_published

pytestmark = pytest.mark.usefixtures("steady_times")


def lessons(model: TracedModel, n: int, first_offset: int) -> DistillationBatch:
    return as_lessons(answered(Engine(model), pictures(n, seed=first_offset), first_offset))


def in_windows(trainer: OnlineTrainer) -> dict[str, int]:
    return {name: len(window) for name, window in trainer.windows.all().items() if len(window)}


def test_heads_learn_from_lessons_by_what_the_full_model_says_of_them(
    model: TracedModel, store: HeadStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = new_trainer(model, store)
    batch = lessons(model, 300, 0)
    assert trainer.ingest(batch)
    assert in_windows(trainer) == {"lessons": 300}
    monkeypatch.setattr(learning, "make_views", lambda frames, _: frames)
    asked: list[npt.NDArray[np.uint8]] = []
    teacher = trainer.learner.teacher
    answer = teacher.answer

    def heard(inputs: Tensor, quick: bool = False) -> tuple[dict[str, Tensor], Tensor]:
        asked.append(inputs.numpy().copy())
        return answer(inputs, quick)

    monkeypatch.setattr(teacher, "answer", heard)
    trainer.work(0.1)
    assert trainer.progress().views >= 64
    seen = np.concatenate(asked)
    assert {one.tobytes() for one in seen} <= {one.tobytes() for one in batch.inputs}
    taught = trainer.learner.ring.logits(trainer.learner.ring.latest(64)).argmax(1).numpy()
    full = Engine(model).run(torch.from_numpy(seen[-64:]), np.ones(64, np.bool_)).labels
    assert (taught == full).mean() > 0.95  # the teacher may answer in bfloat16
    assert all(candidate.steps for candidate in trainer.learner.candidates)


def test_lessons_count_for_nothing_else(model: TracedModel, store: HeadStore) -> None:
    """Not as audits or misses, not for drift or the counts by class, and nothing is tuned or certified on them."""
    trainer = new_trainer(model, store)
    feed(trainer, Engine(model), 1500)
    train_until_published(trainer)
    before, windows, attempts = trainer.progress(), in_windows(trainer), store.attempts()
    drift = trainer.published.drift
    assert drift is not None
    watched, by_class = (drift.audits, drift.disagreements), trainer.published.tally.by_class.copy()
    seen = len(trainer.intake.seen.array())
    assert trainer.live is not None
    for first in range(2000, 6000, 500):
        sent = lessons(model, 500, first)
        for exits in ((), tuple(one.cut for one in trainer.live.exits)):  # also if a worker names the live exits
            header = msgspec.structs.replace(sent.header, heads_version=trainer.live.version, exits=exits)
            assert trainer.ingest(replace(sent, header=header))
    after = trainer.progress()
    assert (after.audits, after.misses, after.tuning, after.certification) == (
        before.audits, before.misses, before.tuning, before.certification
    )  # fmt: skip
    assert in_windows(trainer) == windows | {"lessons": 4000}
    assert after.lessons == 4000
    assert (drift.audits, drift.disagreements) == watched
    assert np.array_equal(trainer.published.tally.by_class, by_class)
    assert len(trainer.intake.seen.array()) == seen + 4000
    assert store.attempts() == attempts


def test_another_models_lessons_and_pictures_of_another_size_are_left_alone(
    model: TracedModel, store: HeadStore
) -> None:
    trainer = new_trainer(model, store)
    batch = lessons(model, 20, 0)
    assert not trainer.ingest(replace(batch, header=msgspec.structs.replace(batch.header, model="81c0")))
    assert not trainer.ingest(replace(batch, inputs=batch.inputs[:, :, :8]))
    assert in_windows(trainer) == {}


def test_lessons_outlive_a_restart_and_drift_ends_them(model: TracedModel, store: HeadStore, tmp_path: Path) -> None:
    trainer, checkpoints = new_trainer(model, store), Checkpoints(tmp_path / "state")
    feed(trainer, Engine(model), 100)
    trainer.ingest(lessons(model, 60, 1000))
    tensors, facts = trainer.snapshot()
    checkpoints.save(tensors, facts)
    saved = checkpoints.load()
    assert saved is not None
    again = new_trainer(model, store)
    again.restore(*saved)
    assert in_windows(again) == in_windows(trainer)
    again.ingest(lessons(model, 60, 1000))
    assert again.progress().lessons == 60, "they came before the restart"
    # A checkpoint of a trainer that knew no lessons is read, and that trainer finds all that it looks for.
    older = {name: value for name, value in tensors.items() if not name.startswith("window.lessons")}
    columns = [field.name for field in fields(Frames)]
    assert tensors.keys() - older.keys() == {f"window.lessons.{column}" for column in columns}
    earlier = new_trainer(model, store)
    earlier.restore(older, facts)
    assert in_windows(earlier) == {name: n for name, n in in_windows(trainer).items() if name != "lessons"}
    again.windows.clear()
    assert in_windows(again) == {}


def taught_heads(model: TracedModel, *buffers: FrameBuffer) -> list[Tensor]:
    """All weights of heads that learnt from these windows for a few steps."""
    torch.manual_seed(0)
    learner = Learner(model, ["first"], ring_mb=8, seed=0)
    learner.teacher._quick = learner.teacher._segments  # else the clock says whether it answers in bfloat16
    for _ in range(6):
        assert learner.learn(*buffers)
    return [value for one in learner.candidates for value in one.head.state_dict().values()]


def test_stored_answers_are_not_what_heads_learn(model: TracedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """The teacher answers every view anew; so frames without an answer teach as well as others."""
    # Both would choose float32 or bfloat16 by what is quicker just then.
    monkeypatch.setattr(Candidate, "_choose_precision", lambda self: None)
    monkeypatch.setattr(Teacher, "_faster_segments", lambda self: self._segments)
    inputs = pictures(200, seed=3)
    logits = torch.from_numpy(Engine(model).run(inputs, np.ones(200, np.bool_)).logits)

    def windows(answers: Tensor) -> tuple[FrameBuffer, FrameBuffer, FrameBuffer]:
        (audits, misses, taught), said = inputs.split((80, 40, 80)), answers.split((80, 40, 80))
        return buffer_of(audits, said[0]), buffer_of(misses, said[1]), buffer_of(taught, torch.empty(80, 0))

    truth, garbage = (taught_heads(model, *windows(answers)) for answers in (logits, torch.full_like(logits, 7.0)))
    assert all(torch.equal(one, other) for one, other in zip(truth, garbage, strict=True))


@pytest.mark.parametrize(
    ("audits", "misses", "lessons", "expected"),
    [
        (500, 0, 0, (64, 0, 0)), (500, 100, 0, (32, 32, 0)), (500, 0, 9, (32, 0, 32)), (500, 100, 300, (32, 8, 24)),
        (0, 100, 100, (0, 32, 32)), (0, 0, 7, (0, 0, 64)), (0, 0, 0, None),
    ],
)  # fmt: skip
def test_half_are_audits_and_the_rest_misses_and_lessons_by_their_number(
    audits: int, misses: int, lessons: int, expected: tuple[int, int, int] | None
) -> None:
    def window(number: int, count: int) -> FrameBuffer:
        numbers = np.arange(count, dtype=np.uint64)
        buffer = FrameBuffer(1000, "random")
        classes = 0 if number == 2 else 3
        inputs = np.full((count, 1, 2, 2), number, np.uint8)
        buffer.add(Frames.apart(inputs, np.zeros((count, classes), np.float32), numbers))
        return buffer

    drawn = learning._drawn(window(0, audits), (window(1, misses), window(2, lessons)))
    found = None if drawn is None else tuple(int((drawn[:, 0, 0, 0] == number).sum()) for number in range(3))
    assert found == expected
