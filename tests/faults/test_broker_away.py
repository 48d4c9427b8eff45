"""A broker that is away and comes back: what a worker asks beside its frames must not end the worker."""

import multiprocessing
import os
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path

import pytest

from layercache.schemas.settings import Kafka, Settings, Topics
from layercache.stream.kafka.topics import create
from layercache.stream.worker.answering.trainer_lag import trainer_watch
from testbed.apache_kafka import KafkaCluster
from testbed.topics import unique_topics
from testbed.waiting import wait_until
from tests.support.require import missing

pytestmark = [pytest.mark.faults, pytest.mark.timeout(300)]

ROUNDS = 1


def look_on(servers: str, topics: Topics, looks: "Synchronized[int]") -> None:
    """As a worker looks after its trainer, only all the time."""
    watch = trainer_watch(Settings(kafka=Kafka(bootstrap_servers=servers), topics=topics))
    while True:
        watch.look()
        looks.value = watch.looks


def test_a_watch_over_the_trainer_outlives_its_broker(tmp_path: Path) -> None:
    if "KAFKA_HOME" not in os.environ:
        missing("apache-kafka", "set KAFKA_HOME to an unpacked distribution (needs Java 17): it is cut off")
    with KafkaCluster(Path(os.environ["KAFKA_HOME"]), tmp_path, size=1) as cluster:
        topics = unique_topics()
        create(Settings(kafka=Kafka(bootstrap_servers=cluster.bootstrap_servers), topics=topics), wait_s=30)
        processes = multiprocessing.get_context("spawn")
        looks = processes.Value("l", 0)
        watcher = processes.Process(target=look_on, args=(cluster.detour_servers, topics, looks), daemon=True)
        watcher.start()

        def has_looked(times: int) -> None:
            before = looks.value
            wait_until(lambda: looks.value >= before + times or not watcher.is_alive(), f"{times} more looks", 90)
            assert watcher.is_alive(), f"the watch ended with {watcher.exitcode}"

        try:
            has_looked(3)
            for _ in range(ROUNDS):
                cluster.proxies[0].refuse()
                has_looked(2)  # the second began and ended without a broker
                cluster.proxies[0].heal()
                has_looked(3)
                cluster.proxies[0].cut()
        finally:
            watcher.kill()
            watcher.join()
