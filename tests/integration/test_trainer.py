"""The trainer as a process: records in from a real broker, certified heads out to a real store."""

import signal
from pathlib import Path

import pytest
from confluent_kafka import Consumer, TopicPartition

from layercache.schemas.settings import Settings, Topics
from testbed.trainer_process import running_trainer
from testbed.waiting import wait_until
from tests.conftest import Broker
from tests.support.tiny_model import TinyModel
from tests.support.trainer_records import produce_records, store_of, trainer_settings

pytestmark = pytest.mark.one_broker


@pytest.fixture
def settings(broker: Broker, topics: Topics, tiny_model: TinyModel, tmp_path: Path) -> Settings:
    return trainer_settings(broker.kafka, topics, tiny_model, tmp_path, checkpoint_s=1.0)


def log_of(folder: Path) -> str:
    return (folder / "trainer.log").read_text()


def test_it_publishes_certified_heads_and_ends_on_sigterm(
    settings: Settings, tiny_model: TinyModel, tmp_path: Path
) -> None:
    store = store_of(settings, tiny_model)
    produce_records(settings, tiny_model, 1500)
    with running_trainer(settings, tmp_path, anew=True) as trainer:
        wait_until(lambda: store.latest() is not None or trainer.poll() is not None, "a version of heads", 90)
        assert trainer.poll() is None, log_of(tmp_path)
        manifest, tensors = store.load(store.latest() or "")
        assert manifest.certificate is not None
        assert manifest.certificate.upper_bound <= 0.05
        assert tensors
        trainer.send_signal(signal.SIGTERM)
        assert trainer.wait(30) == 0, log_of(tmp_path)


def test_what_a_checkpoint_holds_is_committed_also_past_the_markers_of_transactions(
    settings: Settings, tiny_model: TinyModel, tmp_path: Path, broker: Broker
) -> None:
    produce_records(settings, tiny_model, 1500, transactional=True)
    partition = TopicPartition(settings.topics.distillation, 0)
    reader = Consumer({"bootstrap.servers": broker.bootstrap_servers, "group.id": settings.trainer.group_id})
    try:
        with running_trainer(settings, tmp_path) as trainer:
            # The last record's offset and one; on Apache Kafka there is a marker after each of the thirty.
            end = 59 if broker.transactional else 30
            wait_until(lambda: reader.committed([partition], 10)[0].offset >= end, "all records committed", 90)
            assert trainer.poll() is None, log_of(tmp_path)
    finally:
        reader.close()


def test_options_that_make_no_sense_are_named(settings: Settings, tmp_path: Path) -> None:
    odd = settings.kafka.model_copy(update={"options": {"no.such.option": 1}})
    with running_trainer(settings.model_copy(update={"kafka": odd}), tmp_path) as trainer:
        assert trainer.wait(60) == 1
    assert "no.such.option" in log_of(tmp_path)
    assert "Traceback" not in log_of(tmp_path)


def test_a_missing_topic_is_named_with_what_to_do(settings: Settings, tmp_path: Path) -> None:
    gone = settings.model_copy(update={"topics": settings.topics.model_copy(update={"distillation": "nowhere"})})
    with running_trainer(gone, tmp_path) as trainer:
        assert trainer.wait(60) == 1
    assert "no topic nowhere at " in log_of(tmp_path)
    assert "that this user may see; create the topics with `layercache topics create`" in log_of(tmp_path)
