"""Settings of a worker of one's own, and a broker of one's own."""

import os
from pathlib import Path

import pytest

from layercache.schemas.settings import Settings, Store, Topics, Worker
from testbed.apache_kafka import KafkaNode
from tests.conftest import Broker
from tests.support.require import missing
from tests.support.tiny_model import TinyModel


@pytest.fixture
def worker_settings(broker: Broker, topics: Topics, tiny_model: TinyModel, tmp_path: Path) -> Settings:
    """A worker of the tiny model on topics of its own; heads under ``tmp_path``, looked for five times a second."""
    return Settings(
        kafka=broker.kafka,
        topics=topics,
        model=tiny_model.settings,
        store=Store(url=f"file://{tmp_path}/heads", poll_s=0.2),
        worker=Worker(
            group_id=f"workers-of-{topics.frames}", max_batch=8, torch_threads=1, max_frame_bytes=100_000,
            max_frame_pixels=100_000,
        ),
    )  # fmt: skip


@pytest.fixture
def own_node(tmp_path: Path) -> KafkaNode:
    """A node that may be stopped."""
    home = os.environ.get("KAFKA_HOME")
    if not home:
        missing("apache-kafka", "set KAFKA_HOME to an unpacked distribution (needs Java 17)")
    folder = tmp_path / "kafka"
    folder.mkdir()
    return KafkaNode(Path(home), folder, starts_quickly=True)
