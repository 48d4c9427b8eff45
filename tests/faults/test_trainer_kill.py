"""A trainer that is killed goes on where its last checkpoint was, and nobody ever reads half a version."""

import re
import threading
from pathlib import Path

import pytest

from layercache.early_exit.heads.loading import load_heads
from layercache.schemas.settings import Settings, Topics
from testbed.trainer_process import running_trainer
from testbed.waiting import wait_until
from tests.cache_training.streams import traced
from tests.conftest import Broker
from tests.support.tiny_model import TinyModel
from tests.support.trainer_records import folder_of, produce_records, store_of, trainer_settings

KILLS = 3


pytestmark = pytest.mark.faults


@pytest.fixture
def settings(broker: Broker, topics: Topics, tiny_model: TinyModel, tmp_path: Path) -> Settings:
    return trainer_settings(broker.kafka, topics, tiny_model, tmp_path, checkpoint_s=0.5)


class Reader(threading.Thread):
    """Reads whatever the store says is live, over and over, as a worker does."""

    def __init__(self, settings: Settings, model: TinyModel) -> None:
        super().__init__(daemon=True)
        self.store, self.traced = store_of(settings, model), traced(model)
        self.versions: set[str] = set()
        self.failure: Exception | None = None
        self.stopping = threading.Event()

    def run(self) -> None:
        while not self.stopping.wait(0.01):
            try:
                version = self.store.latest()
                if version is not None:
                    load_heads(*self.store.load(version), self.traced)
                    self.versions.add(version)
            except Exception as error:
                self.failure = error
                return


def test_a_killed_trainer_resumes_and_no_reader_sees_half_a_version(
    settings: Settings, tiny_model: TinyModel, tmp_path: Path
) -> None:
    reader = Reader(settings, tiny_model)
    reader.start()
    log = tmp_path / "trainer.log"
    checkpoints = settings.trainer.state_dir / folder_of(tiny_model)
    sent = 0
    for kill in range(KILLS):
        produce_records(settings, tiny_model, 250, first_offset=sent)
        sent += 250
        before = newest(checkpoints)
        with running_trainer(settings, tmp_path) as trainer:
            # Two checkpoints later at least one holds records of this round; the kill comes in the middle of the work.
            wait_until(lambda before=before: newest(checkpoints) >= before + 2, f"checkpoints of round {kill}", 90)  # type: ignore[misc]
            assert trainer.poll() is None, log.read_text()
    produce_records(settings, tiny_model, 750, first_offset=sent)
    with running_trainer(settings, tmp_path) as trainer:
        wait_until(lambda: reader.versions or trainer.poll() is not None, "a version of heads", 120)  # type: ignore[arg-type,return-value]
        assert trainer.poll() is None, log.read_text()
        wait_until(lambda: audits(log) == sent + 750, "every audit counted", 60)
    reader.stopping.set()
    reader.join(10)
    assert reader.failure is None
    assert log.read_text().count("resumed from the checkpoint") == KILLS


def newest(checkpoints: Path) -> int:
    return max(
        (int(path.name.split("-")[1]) for path in checkpoints.glob("checkpoint-*") if path.suffix == ""), default=0
    )


def audits(log: Path) -> int:
    """What the trainer last said that it has counted: more than was sent would be audits counted twice."""
    counts = [int(count) for count in re.findall(r"(\d+) audits \(", log.read_text())]
    return max(counts, default=0)
