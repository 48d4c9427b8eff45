"""Publishing: what the headers say, the pace, the end; against the embedded broker."""

import itertools
import re
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from confluent_kafka import Consumer, KafkaError, Message, TopicPartition

from layercache.broker import EmbeddedBroker
from layercache.schemas.frame import FrameHeaders
from layercache.schemas.settings import Kafka, Settings
from layercache.stream.kafka.clients import RECORD_SLACK_BYTES, KafkaUnusable
from layercache.stream.publishing.publisher import Plan, frame_headers, publish
from layercache.stream.publishing.sources import Picture, Skipped, SourceError
from testbed.ports import free_ports
from testbed.topics import create_topics, unique_topics
from tests.conftest import Broker


class Album:
    """A source of numbered pictures, held in memory."""

    uri = "album"
    total = None

    def __init__(self, *items: Picture | Skipped, key: str | None = None, live: bool = False) -> None:
        self._items = items
        self.key = key
        self.live = live

    def pictures(self) -> Iterator[Picture | Skipped]:
        return itertools.cycle(self._items) if self.live else iter(self._items)


def numbered(count: int) -> list[Picture]:
    return [Picture(f"{number:03d}-bag.png", str(number).encode(), "image/png") for number in range(count)]


@pytest.fixture
def settings(embedded_broker: Broker) -> Settings:
    topics = create_topics(embedded_broker.bootstrap_servers, unique_topics())
    return Settings(kafka=embedded_broker.kafka, topics=topics)


@pytest.fixture
def stop() -> threading.Event:
    return threading.Event()


def frames(settings: Settings) -> list[Message]:
    """Everything on the frames topic, in order within a partition."""
    config = {"bootstrap.servers": settings.kafka.bootstrap_servers, "group.id": "test", "enable.partition.eof": True}
    consumer = Consumer(config)
    consumer.assign([TopicPartition(settings.topics.frames, number, 0) for number in range(settings.topics.partitions)])
    found: list[Message] = []
    ends = 0
    deadline = time.monotonic() + 20
    while ends < settings.topics.partitions:
        assert time.monotonic() < deadline, f"read {len(found)} and {ends} ends of partitions"
        for message in consumer.consume(100, 0.2):
            error = message.error()
            if error is None:
                found.append(message)
            else:
                assert error.code() == KafkaError._PARTITION_EOF
                ends += 1
    consumer.close()
    return found


def ids(settings: Settings) -> list[str]:
    return sorted(FrameHeaders.read(message.headers()).ce_id or "" for message in frames(settings))  # type: ignore[arg-type]


def test_headers_of_a_picture() -> None:
    picture = Picture("a/00017-bag.webp", b"", "image/webp", datetime(2026, 11, 24, tzinfo=UTC))
    assert frame_headers(picture, Album(), re.compile(r"-(\w+)\.webp$")) == FrameHeaders(
        content_type="image/webp",
        ce_id="a/00017-bag.webp",
        ce_source="album",
        ce_time="2026-11-24T00:00:00.000Z",
        label="bag",
    )


@pytest.mark.parametrize("pattern", [None, re.compile(r"-(\d+)\.png$"), re.compile("(shirt)?")])
def test_a_picture_without_a_label_has_no_label_header(pattern: re.Pattern[str] | None) -> None:
    assert frame_headers(numbered(1)[0], Album(), pattern).label is None


def test_ids_stay_unique_over_the_laps_of_a_loop() -> None:
    (picture,) = numbered(1)
    laps = [frame_headers(picture, Album(), None, lap).ce_id for lap in (1, 2, 3)]
    assert laps == ["000-bag.png", "000-bag.png#2", "000-bag.png#3"]


def test_every_picture_arrives_once_with_its_bytes_and_headers(settings: Settings, stop: threading.Event) -> None:
    counts = publish(settings, Album(*numbered(50)), Plan(label_pattern=re.compile(r"-(\w+)\.")), stop)
    assert (counts.published, counts.delivered, counts.labelled, counts.whole) == (50, 50, 50, True)
    found = sorted(frames(settings), key=lambda message: int(message.value() or b""))
    assert [message.value() for message in found] == [str(number).encode() for number in range(50)]
    assert {message.key() for message in found} == {None}
    assert [FrameHeaders.read(message.headers()) for message in found] == [  # type: ignore[arg-type]
        FrameHeaders(content_type="image/png", ce_id=picture.name, ce_source="album", label="bag")
        for picture in numbered(50)
    ]


@pytest.mark.parametrize(("own", "given", "key"), [("street", None, b"street"), ("street", "gate", b"gate")])
def test_frames_of_one_key_keep_their_order(
    settings: Settings, stop: threading.Event, own: str, given: str | None, key: bytes
) -> None:
    publish(settings, Album(*numbered(30), key=own), Plan(key=given), stop)
    found = frames(settings)
    assert {message.key() for message in found} == {key}
    assert len({message.partition() for message in found}) == 1
    assert [message.value() for message in found] == [str(number).encode() for number in range(30)]


def test_the_limit_ends_a_loop(settings: Settings, stop: threading.Event) -> None:
    counts = publish(settings, Album(*numbered(3)), Plan(loop=True, limit=7), stop)
    assert counts.delivered == 7
    assert ids(settings) == sorted(
        [f"{n:03d}-bag.png" for n in range(3)] + [f"{n:03d}-bag.png#2" for n in range(3)] + ["000-bag.png#3"]
    )


def test_a_loop_over_nothing_that_can_be_published_ends(settings: Settings, stop: threading.Event) -> None:
    counts = publish(settings, Album(Skipped("a.png", "cannot be read")), Plan(loop=True), stop)
    assert (counts.published, counts.skipped) == (0, 1)


def test_a_picture_over_the_record_size_is_named_once_and_the_rest_arrives(
    settings: Settings, stop: threading.Event
) -> None:
    large = Picture("large.png", bytes(settings.topics.max_record_bytes - RECORD_SLACK_BYTES), "image/png")
    counts = publish(settings, Album(large, *numbered(2)), Plan(loop=True, limit=4), stop)
    assert (counts.delivered, counts.skipped, counts.failed, counts.whole) == (4, 1, 0, False)
    (note,) = counts.notes
    assert note.startswith("large.png: skipped: 4,995,9")
    assert "topics.max_record_bytes" in note


def test_the_largest_picture_that_is_not_skipped_is_taken_by_the_broker(
    settings: Settings, stop: threading.Event
) -> None:
    room = 200  # for the headers
    value = bytes(settings.topics.max_record_bytes - RECORD_SLACK_BYTES - room)
    assert publish(settings, Album(Picture("large.png", value, "image/png")), Plan(), stop).whole


def test_the_pace_does_not_drift(settings: Settings, stop: threading.Event) -> None:
    """A slow reader of the progress costs 5 ms a frame; reckoned from the start, that changes nothing."""
    rate, count = 50.0, 40

    def slow(_: object) -> None:
        threading.Event().wait(0.005)

    times: list[float] = []

    class Timed(Album):
        def pictures(self) -> Iterator[Picture | Skipped]:
            for picture in numbered(count):
                times.append(time.monotonic())
                yield picture

    publish(settings, Timed(), Plan(rate=rate), stop, slow)
    assert times[-1] - times[0] >= (count - 2) / rate
    assert times[-1] - times[0] < count / rate * 1.5, "every frame's delay was added to the next"


def test_a_live_source_is_thinned_out_instead_of_delayed(settings: Settings, stop: threading.Event) -> None:
    taken = 0

    class Camera(Album):
        def pictures(self) -> Iterator[Picture | Skipped]:
            nonlocal taken
            for picture in super().pictures():
                taken += 1
                yield picture

    counts = publish(settings, Camera(*numbered(10), live=True), Plan(rate=20, limit=5), stop)
    assert counts.delivered == 5
    assert taken > 5


def test_stopping_lets_out_what_is_queued(settings: Settings, stop: threading.Event) -> None:
    counts = publish(
        settings,
        Album(*numbered(10)),
        Plan(loop=True),
        stop,
        lambda counts: stop.set() if counts.published >= 25 else None,
    )
    assert counts.published == counts.delivered == len(frames(settings)) == 25


def test_a_source_that_breaks_off_has_what_it_gave_delivered(settings: Settings, stop: threading.Event) -> None:
    class Broken(Album):
        def pictures(self) -> Iterator[Picture | Skipped]:
            yield from numbered(3)
            raise SourceError("broken: cannot be decoded any further")

    with pytest.raises(SourceError, match="any further"):
        publish(settings, Broken(), Plan(), stop)
    assert len(frames(settings)) == 3


def test_a_missing_topic_says_how_to_create_it(embedded_broker: Broker, stop: threading.Event) -> None:
    settings = Settings(kafka=embedded_broker.kafka, topics=unique_topics())
    with pytest.raises(KafkaUnusable, match=rf"{settings.topics.frames}.*layercache topics create"):
        publish(settings, Album(*numbered(1)), Plan(), stop)


@pytest.mark.patient
def test_a_broker_that_is_not_there_is_told_within_ten_seconds_or_so(stop: threading.Event) -> None:
    (port,) = free_ports(1)
    settings = Settings(kafka=Kafka(bootstrap_servers=f"127.0.0.1:{port}"))
    begun = time.monotonic()
    with pytest.raises(KafkaUnusable, match=rf"127\.0\.0\.1:{port} \(.*Connection refused.*--bootstrap"):
        publish(settings, Album(*numbered(1)), Plan(), stop)
    assert time.monotonic() - begun < 15


def test_stopping_while_waiting_for_a_broker_ends_at_once() -> None:
    (port,) = free_ports(1)
    stop = threading.Event()
    stop.set()
    settings = Settings(kafka=Kafka(bootstrap_servers=f"127.0.0.1:{port}"))
    assert publish(settings, Album(*numbered(1)), Plan(), stop).published == 0


def test_an_option_that_librdkafka_does_not_know_is_named(embedded_broker: Broker, stop: threading.Event) -> None:
    kafka = Kafka(bootstrap_servers=embedded_broker.bootstrap_servers, options={"no.such.option": 1})
    with pytest.raises(KafkaUnusable, match=r"no\.such\.option"):
        publish(Settings(kafka=kafka), Album(*numbered(1)), Plan(), stop)


@pytest.mark.process
def test_frames_that_the_broker_does_not_take_count_as_failed(embedded_broker: Broker, stop: threading.Event) -> None:
    """The broker goes away in mid-stream and does not come back."""
    with EmbeddedBroker() as mortal:
        topics = create_topics(mortal.bootstrap_servers, unique_topics())
        options: dict[str, str | int | float | bool] = {"delivery.timeout.ms": 1_000}
        kafka = Kafka(bootstrap_servers=mortal.bootstrap_servers, producer_options=options)

        def kill(counts: object) -> None:
            mortal.stop()

        counts = publish(Settings(kafka=kafka, topics=topics), Album(*numbered(200)), Plan(rate=200), stop, kill)
    assert counts.published == 200
    assert counts.failed > 0
    assert counts.delivered + counts.failed == 200
    assert not counts.whole
    assert any("not delivered" in note for note in counts.notes)
