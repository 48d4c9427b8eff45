"""Every connection to the brokers breaks at once, and for a while no new one lasts: a network that fails."""

import time

from confluent_kafka import Consumer

from layercache.schemas.settings import Kafka, Settings, Worker
from layercache.stream.kafka.clients import worker_config
from layercache.stream.worker.delivery.transactions import delivery
from layercache.stream.worker.metrics import Metrics
from testbed.topics import create_topics, unique_topics
from testbed.waiting import wait_until
from tests.conftest import Broker

OUTAGE_S = 2.0


def test_a_transaction_outlives_them_with_its_producer(apache_kafka: Broker) -> None:
    """librdkafka 2.16 bootstraps anew otherwise, and sending offsets waits for a coordinator that it has given up.

    That takes a producer that knows the group's coordinator, so the first transaction meets no outage. The second is
    committed as soon as the network is back, the third when the producer has had time to connect.
    """
    topics = create_topics(apache_kafka.bootstrap_servers, unique_topics())
    settings = Settings(
        kafka=Kafka(bootstrap_servers=apache_kafka.detour_servers),
        topics=topics,
        worker=Worker(group_id=topics.frames, transaction_timeout_ms=6_000),
    )
    assert apache_kafka.proxy is not None
    consumer = Consumer(worker_config(settings))
    consumer.subscribe([topics.frames])
    try:
        wait_until(lambda: not consumer.consume(1, 0.05) and bool(consumer.assignment()), "partitions")
        works = delivery(settings, "one", consumer, lambda: False, Metrics(max_batch=32))
        first = works._watched
        for offset, (outage_s, connecting_s) in enumerate([(0.0, 0.0), (OUTAGE_S, 0.0), (OUTAGE_S, 1.0)]):
            works.produce(topics.predictions, b"%d" % offset, b"key")
            works.answered(topics.frames, 0, offset)
            assert works._watched.producer.flush(20) == 0
            if outage_s:
                apache_kafka.proxy.refuse()
                time.sleep(outage_s)
                apache_kafka.proxy.heal()
                time.sleep(connecting_s)
            assert works.commit()
            assert works._watched is first
        works.close()
    finally:
        consumer.close()
