"""The rehearsed stream: budgets side by side, none of which certifies what has been learnt."""

import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest

from layercache.cache_training.certifying.binomial import p_value
from layercache.early_exit.cutting.cuts import TracedModel
from layercache.report.footage import Batch, FrameOptions
from layercache.report.numbers import Report
from layercache.report.rehearsal import Rehearsal, take
from layercache.report.run import NothingSeen, Options, run
from layercache.schemas.settings import Promise, Settings, Trainer, Worker
from layercache.stream.frames.frame import Frame
from testbed.waiting import wait_until
from tests.cache_training.streams import pictures, traced
from tests.support.pictures import coloured, encode
from tests.support.tiny_model import CLASSES, TinyModel

BATCH = 32


@pytest.fixture
def settings(tiny_model: TinyModel) -> Settings:
    return Settings(
        model=tiny_model.settings,
        promise=Promise(max_disagreement=0.05),
        trainer=Trainer(replay_mb=64, ring_mb=64),
        worker=Worker(max_batch=BATCH, torch_threads=1),
    )


@pytest.fixture
def model(tiny_model: TinyModel) -> TracedModel:
    return traced(tiny_model)


def batches(first: int, frames: int) -> Iterator[Batch]:
    """Frames that are all different, without bytes: they are decoded already."""
    for start in range(first, first + frames, BATCH):
        shown = pictures(BATCH, seed=start)
        offsets = range(start, start + BATCH)
        yield Batch(
            frames=[Frame("frames", 0, offset, 0, None, None) for offset in offsets],
            pictures=shown,
            truth=np.full(BATCH, -1),
            content=np.arange(start, start + BATCH, dtype=np.uint64),
            near=np.zeros(BATCH, np.bool_),
        )


def test_every_budget_certifies_by_itself_and_on_nothing_that_was_learnt(
    settings: Settings, model: TracedModel, tmp_path: Path
) -> None:
    rehearsal = Rehearsal(model, settings, (0.1, 0.2, 0.05), tmp_path)
    assert [lane.budget for lane in rehearsal.lanes] == [0.05, 0.1, 0.2]
    assert rehearsal.own.budget == 0.05
    stream = iter(range(0, 100_000, 512))
    apart: list[bool] = []

    def learnt_enough() -> bool:
        for batch in batches(next(stream), 512):
            rehearsal.serve(batch)
        rehearsal.learn(0.3)
        learning = rehearsal.trainer.windows.learning.frames()
        for lane in rehearsal.lanes:
            waiting = lane.intake.windows.certification.frames()
            if waiting is not None and learning is not None:
                apart.append(not np.isin(waiting.position, learning.position).any())
        return all(lane.live is not None for lane in rehearsal.lanes)

    wait_until(learnt_enough, "a version for every budget")
    assert apart and all(apart)
    for lane in rehearsal.lanes:
        assert lane.live is not None and lane.live.certificate is not None
        certificate = lane.live.certificate
        assert certificate.max_disagreement == lane.budget
        assert p_value(certificate.disagreements, certificate.frames, lane.budget) <= certificate.error
        assert certificate.attempt == lane.published.store.attempts()
    assert rehearsal.versions[0][1].reason == "first"


def test_what_was_served_is_counted_frame_by_frame(settings: Settings, model: TracedModel, tmp_path: Path) -> None:
    rehearsal = Rehearsal(model, settings, (0.05,), tmp_path)
    for batch in batches(0, 3 * BATCH):
        rehearsal.serve(batch)
    columns = rehearsal.frames()
    assert rehearsal.seen == len(columns.full) == 3 * BATCH
    assert columns.audited.all() and not columns.hit.any()  # nothing is open yet
    assert (columns.served == columns.full).all()
    assert (columns.flops_share == 1.0).all()
    assert rehearsal.blocks == 3 * BATCH
    assert rehearsal.finish() == []  # nothing was learnt


def test_frames_of_one_camera_are_counted_by_blocks_of_time(
    settings: Settings, model: TracedModel, tmp_path: Path
) -> None:
    rehearsal = Rehearsal(model, settings, (0.05,), tmp_path)
    (batch,) = batches(0, BATCH)
    keyed = [msgspec.structs.replace(frame, key=b"camera", timestamp_ms=1000 * frame.offset) for frame in batch.frames]
    rehearsal.serve(Batch(keyed, batch.pictures, batch.truth, batch.content, batch.near))
    assert rehearsal.blocks == 4  # 32 seconds in blocks of ten
    assert rehearsal.most_waiting(rehearsal.own) <= 4


def test_taking_some_batches_leaves_the_others() -> None:
    stream = batches(0, 5 * BATCH)
    assert [len(batch) for batch in take(stream, BATCH + 1)] == [BATCH, BATCH]
    assert len(list(stream)) == 3


def folder_of_pictures(folder: Path, count: int) -> Path:
    for number in range(count):
        colour = CLASSES[number % 3]
        path = folder / colour / f"{number:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode(coloured(colour, noise=number), "PNG"))
    return folder


@pytest.fixture
def small(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Report:
    """A report on so few frames that nothing can be certified; it has its race on a busy machine, too."""
    for limit in ("_LATE", "_RACE"):
        monkeypatch.setattr(f"layercache.report.run.{limit}", 1e6)
    options = FrameOptions(str(folder_of_pictures(tmp_path / "photos", 240)))
    return run(settings, Options(options, budgets=(0.05, 0.2), minutes=0.06))


def test_too_few_frames_are_reported_as_such_with_an_estimate(small: Report) -> None:
    frames = small.frames
    assert (frames.streamed + frames.exam, frames.skipped, frames.labelled) == (240, 0, 240)
    assert frames.exam >= 36
    assert frames.shuffled
    assert small.stream.versions == ()
    assert [budget.state == "certified" for budget in small.budgets] == [False, False]
    assert small.promised.audits_needed == 609
    assert small.promised.audits < 609
    assert "Nothing certified at 5 %" in [finding.title for finding in small.findings]


def test_an_estimates_exam_is_counted_against_the_full_model(small: Report) -> None:
    exam = small.budgets[-1].exam
    assert exam is not None, "tuning found no exit worth trying"
    assert exam.frames == small.frames.exam
    assert exam.lowest <= exam.disagreement <= exam.highest
    assert sum(exam.exits.values()) == pytest.approx(1.0)
    assert exam.hit_rate == pytest.approx(1 - exam.exits["full"])
    assert exam.full_accuracy == 1.0
    assert exam.accuracy == pytest.approx(1 - exam.disagreement)
    assert exam.speedup is not None and exam.speedup > 0
    assert len(small.curve) == 60
    assert small.curve[-1].hit_rate >= small.curve[0].hit_rate


def test_a_stopped_report_is_of_what_was_seen(settings: Settings, tmp_path: Path) -> None:
    stop = threading.Event()
    stop.set()
    options = FrameOptions(str(folder_of_pictures(tmp_path / "photos", 200)))
    found = run(settings, Options(options, budgets=(0.05,), minutes=0.06), stop=stop)
    assert found.interrupted
    assert found.frames.streamed == 25  # one batch of eight
    assert found.frames.exam == 50
    assert found.findings[0].title == "Stopped early"


def test_frames_of_which_none_can_be_used_are_an_error(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"no picture")
    with pytest.raises(NothingSeen, match=r"none of its 1 frames could be used: a\.png"):
        run(settings, Options(FrameOptions(str(tmp_path)), minutes=0.06))
