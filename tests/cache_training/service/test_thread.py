"""The training thread: nothing is acknowledged before a checkpoint holds it, and storage that is away is waited for."""

import queue
from pathlib import Path

import pytest
import torch

from layercache.cache_training.service.state import Checkpoints
from layercache.cache_training.service.thread import Inbox, TrainingThread
from layercache.cache_training.trainer import OnlineTrainer
from layercache.early_exit.cutting.cuts import TracedModel
from layercache.early_exit.engine import Engine
from layercache.early_exit.store.head_store import HeadStore, StoreError
from layercache.schemas.settings import Promise, Trainer
from testbed.waiting import wait_until
from tests.cache_training.streams import answered, pictures

pytestmark = pytest.mark.usefixtures("steady_times")


def new_thread(model: TracedModel, folder: Path, checkpoint_s: float) -> tuple[TrainingThread, HeadStore]:
    store = HeadStore(f"file://{folder / 'heads'}", "tiny")
    trainer = OnlineTrainer(model, store, Promise(max_disagreement=0.05), Trainer(replay_mb=64, ring_mb=64))
    return TrainingThread(trainer, Checkpoints(folder / "state"), checkpoint_s, threads=1), store


def test_offsets_are_acknowledged_with_the_checkpoint_that_holds_their_records(
    model: TracedModel, tmp_path: Path
) -> None:
    thread, _ = new_thread(model, tmp_path, checkpoint_s=3600)
    acknowledged: list[dict[object, int]] = []
    thread.acknowledge = acknowledged.append
    for number in range(3):
        thread.inbox.put((answered(Engine(model), pictures(20, number), 20 * number), "distillation-0", number + 1))
    thread.start()
    wait_until(thread.inbox.empty, "the records taken")
    assert acknowledged == []
    thread.stop()
    assert thread.failure is None
    assert acknowledged == [{"distillation-0": 3}]
    saved = Checkpoints(tmp_path / "state").load()
    assert saved is not None
    assert saved[1]["audits"] == 60


class Resting(OnlineTrainer):
    """Always says that it has earned a long rest."""

    worked = 0

    def work(self, seconds: float = 0.3) -> float:
        self.worked += 1
        return 3600.0


def test_a_stream_that_flows_on_does_not_end_a_rest(model: TracedModel, tmp_path: Path) -> None:
    store = HeadStore(f"file://{tmp_path / 'heads'}", "tiny")
    trainer = Resting(model, store, Promise(max_disagreement=0.05), Trainer(replay_mb=64, ring_mb=64))
    thread = TrainingThread(trainer, Checkpoints(tmp_path / "state"), checkpoint_s=3600, threads=1)
    thread.start()
    wait_until(lambda: trainer.worked == 1, "the first work")
    for number in range(5):
        thread.inbox.put((answered(Engine(model), pictures(20, number), 20 * number), "distillation-0", number + 1))
        wait_until(lambda taken=20 * (number + 1): trainer.intake.audits == taken, "a record taken in")  # type: ignore[misc]
    assert trainer.worked == 1
    thread.stop()
    assert thread.failure is None


def test_a_store_that_is_away_is_waited_for(
    model: TracedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    thread, store = new_thread(model, tmp_path, checkpoint_s=3600)

    def away() -> int:
        raise StoreError("the store is away")

    with monkeypatch.context() as patch:
        patch.setattr(store, "attempts", away)
        thread.start()
        wait_until(lambda: "the store is away; trying again" in caplog.text, "the trouble said")
        assert thread.is_alive()
    with caplog.at_level("INFO"):
        wait_until(lambda: "the trainer goes on" in caplog.text, "the trouble over")
    thread.stop()
    assert thread.failure is None
    torch.set_num_threads(1)


def test_the_inbox_is_full_by_bytes_before_it_is_by_records(
    model: TracedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = answered(Engine(model), pictures(20, 0), 0)
    size = record.inputs.nbytes + record.logits.nbytes
    monkeypatch.setattr("layercache.cache_training.service.thread._INBOX_BYTES", 2 * size)
    inbox = Inbox(32)
    inbox.put_nowait((None, "distillation-0", 1))
    inbox.put_nowait((record, "distillation-0", 2))
    assert not inbox.full()
    inbox.put_nowait((record, "distillation-0", 3))
    assert inbox.full()
    with pytest.raises(queue.Full):
        inbox.put_nowait((None, "distillation-0", 4))
    assert [inbox.get_nowait()[2] for _ in range(2)] == [1, 2]
    assert not inbox.full()
    inbox.get_nowait()
    assert inbox.empty()


def test_the_inbox_takes_one_record_whatever_its_size(model: TracedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("layercache.cache_training.service.thread._INBOX_BYTES", 1)
    inbox = Inbox(32)
    inbox.put_nowait((answered(Engine(model), pictures(20, 0), 0), "distillation-0", 1))
    assert inbox.full()
    inbox.get_nowait()
    assert not inbox.full()
    small = Inbox(2)
    small.put_nowait((None, "distillation-0", 1))
    small.put_nowait((None, "distillation-0", 2))
    assert small.full()
