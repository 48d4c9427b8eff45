"""A topic that is deleted and made anew under a running worker: every frame of the new one is answered."""

from collections import Counter
from pathlib import Path

import pytest
from confluent_kafka import Consumer, KafkaException, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from layercache.dashboard.board import Board
from layercache.dashboard.frames import FrameReader
from layercache.dashboard.lag import GroupWatch
from layercache.schemas.settings import Settings, Store, Worker
from testbed.apache_kafka import KafkaNode
from testbed.topics import create_topics, unique_topics
from testbed.waiting import wait_until
from testbed.worker_process import Picture, Reader, publish, reading, running_worker
from tests.conftest import Broker
from tests.support.pictures import coloured, encode
from tests.support.tiny_model import TinyModel

RED = encode(coloured("red"), "PNG")


def make_anew(settings: Settings) -> None:
    """Deletes the topic of frames, and creates it again as soon as the broker lets that be done."""
    client = AdminClient({"bootstrap.servers": settings.kafka.bootstrap_servers})
    topic = settings.topics.frames
    client.delete_topics([topic], operation_timeout=30)[topic].result(30)

    def created() -> bool:
        try:
            client.create_topics([NewTopic(topic, settings.topics.partitions, 1)])[topic].result(30)
        except KafkaException:  # it is not gone yet
            return False
        return True

    wait_until(created, "it is made anew", 30)


def publish_numbered(settings: Settings, name: str, count: int) -> None:
    pictures = [Picture(RED, id=f"{name}-{number}", key=f"camera-{number % 20}") for number in range(count)]
    publish(settings, pictures)


def answers(reader: Reader, name: str) -> Counter[str]:
    """How many there are for each frame of that name."""
    return Counter(one.id for one in reader.predictions() if one.id.startswith(name))


@pytest.mark.slow
@pytest.mark.parametrize("frames", [60, 400], ids=["ends before the old one", "ends behind the old one"])
def test_a_topic_that_is_made_anew_is_read_from_its_beginning(
    apache_kafka: Broker, tiny_model: TinyModel, tmp_path: Path, frames: int
) -> None:
    """Whether its end is before or behind the place where the worker stood in the old one."""
    topics = create_topics(apache_kafka.bootstrap_servers, unique_topics())
    settings = Settings(
        kafka=apache_kafka.kafka, topics=topics, model=tiny_model.settings,
        store=Store(url=f"file://{tmp_path}/heads"), worker=Worker(group_id=topics.frames, torch_threads=1),
    )  # fmt: skip
    with running_worker(settings, tmp_path) as worker, reading(settings, topics.predictions) as reader:
        publish_numbered(settings, "old", 200)
        reader.read_until(lambda: len(answers(reader, "old")) == 200, "answers of the old topic")
        make_anew(settings)
        publish_numbered(settings, "new", frames)
        reader.read_until(lambda: len(answers(reader, "new")) == frames, "answers of the new topic", 60)
        publish_numbered(settings, "later", 40)
        reader.read_until(lambda: len(answers(reader, "later")) == 40, "later answers", 60)
        reader.read(1.0)
        assert worker.said("was deleted and made anew")
        assert set(answers(reader, "old").values()) == set(answers(reader, "later").values()) == {1}
        # Those behind the old one's end may be read before the worker looks at the topic's id, and then again.
        assert set(answers(reader, "new").values()) <= ({1} if frames < 200 else {1, 2})
        assert worker.stop() == 0


@pytest.mark.slow
@pytest.mark.parametrize("protocol", ["classic", "consumer"])
@pytest.mark.parametrize("delivery", ["exactly_once", "at_least_once"])
def test_a_topic_that_is_made_anew_after_its_leaders_had_changed_is_read(
    own_node: KafkaNode, tiny_model: TinyModel, tmp_path: Path, protocol: str, delivery: str
) -> None:
    """The new topic's leaders have a lower epoch than librdkafka remembers, and a client never gets over that."""
    with own_node:
        kafka = Broker(own_node.bootstrap_servers, transactional=True).kafka
        topics = create_topics(own_node.bootstrap_servers, unique_topics())
        settings = Settings(
            kafka=kafka, topics=topics, model=tiny_model.settings, store=Store(url=f"file://{tmp_path}/heads"),
            worker=Worker.model_validate(
                {"group_id": topics.frames, "torch_threads": 1, "group_protocol": protocol, "delivery": delivery}
            ),
        )  # fmt: skip
        with running_worker(settings, tmp_path) as worker, reading(settings, topics.predictions) as reader:
            publish_numbered(settings, "before", 40)
            reader.read_until(lambda: len(answers(reader, "before")) == 40, "answers from before")
            own_node.kill()
            own_node.start()
            publish_numbered(settings, "old", 40)
            reader.read_until(lambda: len(answers(reader, "old")) == 40, "answers of the old topic", 60)
            make_anew(settings)
            publish_numbered(settings, "new", 60)
            reader.read_until(lambda: len(answers(reader, "new")) == 60, "answers of the new topic", 60)
            reader.read(1.0)
            if delivery == "exactly_once":
                assert set(answers(reader, "new").values()) == {1}
            assert worker.stop() == 0


def fill(settings: Settings) -> None:
    """A record in a transaction, whose marker stands at the log's end, and behind the record the group's commit."""
    servers, topics = {"bootstrap.servers": settings.kafka.bootstrap_servers}, settings.topics
    producer = Producer({**servers, "transactional.id": topics.frames})
    producer.init_transactions(30)
    producer.begin_transaction()
    producer.produce(topics.frames, b"a frame", partition=0)
    producer.commit_transaction(30)
    consumer = Consumer({**servers, "group.id": settings.worker.group_id})
    consumer.commit(offsets=[TopicPartition(topics.frames, 0, 1)], asynchronous=False)
    consumer.close()


@pytest.mark.slow
def test_the_dashboard_sees_what_is_on_it(own_node: KafkaNode) -> None:
    """Its clients cannot get over the old epoch either."""
    with own_node:
        topics = create_topics(own_node.bootstrap_servers, unique_topics(1))
        settings = Settings(
            kafka=Broker(own_node.bootstrap_servers, transactional=True).kafka,
            topics=topics,
            worker=Worker(group_id=topics.frames),
        )
        frames, group = FrameReader(settings), GroupWatch(settings, "workers", Board())

        def has_frame() -> bool:
            return isinstance(frames.fetch([(0, 0)], lambda: False)[0, 0], Message)

        def lags() -> list[int]:
            found = group.look()
            return [one.lag for one in found.partitions] if found else []

        fill(settings)
        wait_until(has_frame, "the frame", 60)
        wait_until(lambda: lags() == [0], "nothing but the marker is left", 60)
        own_node.kill()
        own_node.start()
        wait_until(has_frame, "the frame, after a restart", 60)
        make_anew(settings)
        fill(settings)
        wait_until(has_frame, "the frame of the new topic", 60)
        wait_until(lambda: lags() == [0], "nothing but the new topic's marker is left", 60)
        frames.close()
        group.close()
