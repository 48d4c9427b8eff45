"""Both clients against the embedded broker; a thread of the test stands in for workers where none is needed."""

import asyncio
import threading
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import msgspec
import numpy as np
import pytest
from confluent_kafka import Message, Producer

from layercache.api.async_client import AsyncClient
from layercache.api.client import Client
from layercache.api.following import DeadLetterError
from layercache.api.publishing import PublishError
from layercache.broker import EmbeddedBroker
from layercache.schemas import dead_letter, prediction
from layercache.schemas.dead_letter import Reason
from layercache.schemas.frame import FrameHeaders
from layercache.schemas.prediction import Prediction
from layercache.schemas.settings import Kafka, Settings, Topics
from layercache.stream.frames.frame import frames_of
from layercache.stream.kafka.clients import KafkaUnusable
from layercache.stream.kafka.following import follow
from layercache.stream.kafka.reach import cluster
from testbed.ports import free_ports
from testbed.topics import create_topics, unique_topics
from testbed.waiting import wait_until
from tests.conftest import Broker
from tests.schemas.test_published import PREDICTION
from tests.support.pictures import coloured, encode

RED = encode(coloured("red"), "PNG")


@pytest.fixture
def settings(embedded_broker: Broker) -> Settings:
    topics = create_topics(embedded_broker.bootstrap_servers, unique_topics())
    return Settings(kafka=embedded_broker.kafka, topics=topics)


class StandIn:
    """Answers frames as a worker does, but as a test wants it: ``bad`` ids become dead letters, ``ignored`` nothing."""

    def __init__(self, settings: Settings) -> None:
        self.frames: list[Message] = []
        self.bad: set[str] = set()
        self.ignored: set[str] = set()
        self._settings = settings
        self._producer = Producer({"bootstrap.servers": settings.kafka.bootstrap_servers})

    def run(self, stop: threading.Event, ready: threading.Event) -> None:
        topics = self._settings.topics
        for message in follow(self._settings, topics.frames, stop, ready=lambda _: ready.set()):
            if message is not None:
                self.frames.append(message)
                self.answer(message, topics)
                self._producer.flush(30)

    def answer(self, message: Message, topics: Topics) -> None:
        (frame,) = frames_of(topics.frames, [message])
        if frame.id in self.bad:
            told = dead_letter.headers(Reason.CORRUPT, "its end is missing", frame.topic, frame.partition, frame.offset)
            headers = [*frame.raw_headers, *told]
            self._producer.produce(topics.dead_letters, frame.value, frame.key, headers=headers)  # type: ignore[arg-type]
        elif frame.id not in self.ignored:
            self.predict(frame.id)

    def predict(self, frame: str) -> None:
        """Sends a prediction."""
        value = prediction.encoder.encode(msgspec.structs.replace(PREDICTION, id=frame))
        self._producer.produce(self._settings.topics.predictions, value)
        self._producer.flush(30)


@pytest.fixture
def worker(settings: Settings) -> Iterator[StandIn]:
    """Runs in a thread."""
    stop, ready, one = threading.Event(), threading.Event(), StandIn(settings)
    thread = threading.Thread(target=one.run, args=(stop, ready))
    thread.start()
    assert ready.wait(30)
    yield one
    stop.set()
    thread.join(30)


@contextmanager
def raises_soon(kind: type[BaseException], match: str, seconds: float) -> Iterator[None]:
    """As ``pytest.raises``, and not much later than it should."""
    began = time.monotonic()
    with pytest.raises(kind, match=match):
        yield
    assert time.monotonic() - began < seconds


def on_topic(worker: StandIn, count: int) -> list[Message]:
    wait_until(lambda: len(worker.frames) >= count, f"{count} frames on the topic", 30)
    assert len(worker.frames) == count
    return worker.frames


def test_frames_travel_with_what_is_said_of_them(settings: Settings, worker: StandIn) -> None:
    with Client(settings) as client:
        taken = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
        assert client.publish(RED, key="camera-1", id="7", time=taken, label="red", source="/roof") == "7"
        unnamed = client.publish(np.zeros((4, 4), np.uint8))
        client.flush()
        first, second = sorted(on_topic(worker, 2), key=lambda message: message.key() is None)
        assert (first.value(), first.key()) == (RED, b"camera-1")
        assert FrameHeaders.read(first.headers()) == FrameHeaders(  # type: ignore[arg-type]
            content_type="image/png", ce_id="7", ce_time="2026-01-02T03:04:05.000Z", label="red", ce_source="/roof"
        )
        assert FrameHeaders.read(second.headers()).ce_id == unnamed  # type: ignore[arg-type]
        assert len(unnamed) == 32


def test_a_frame_is_asked_about_and_answered(settings: Settings, worker: StandIn) -> None:
    with Client(settings) as client:
        assert client.predict(RED, id="asked") == msgspec.structs.replace(PREDICTION, id="asked")


def test_a_dead_letter_is_raised_with_its_reason(settings: Settings, worker: StandIn) -> None:
    worker.bad.add("broken")
    with Client(settings) as client:
        with pytest.raises(
            DeadLetterError, match="frame broken is a dead letter: corrupt: its end is missing"
        ) as caught:
            client.predict(RED, id="broken")
        assert (caught.value.dead_letter.id, caught.value.dead_letter.reason) == ("broken", "corrupt")
        with client.dead_letters(from_beginning=True, idle_s=5) as letters:
            assert next(letters) == caught.value.dead_letter


def test_many_frames_are_on_their_way_at_once(settings: Settings, worker: StandIn) -> None:
    with Client(settings, max_waiting=20) as client:
        futures = {f"frame-{n}": client.submit(RED, id=f"frame-{n}") for n in range(60)}
        assert {future.result(30).id for future in futures.values()} == set(futures)
        with ThreadPoolExecutor(8) as pool:
            asked = list(pool.map(lambda n: client.predict(RED, id=f"again-{n}").id, range(30)))
        assert asked == [f"again-{n}" for n in range(30)]


def test_no_answer_says_where_to_look(settings: Settings) -> None:
    with (
        Client(settings) as client,
        raises_soon(TimeoutError, f"no answer within 1 s: is a worker running that reads {settings.topics.frames}", 10),
    ):
        client.predict(RED, timeout=1)


def test_room_is_bounded_and_freed_by_answers(settings: Settings, worker: StandIn) -> None:
    worker.ignored |= {"a", "b"}
    with Client(settings, max_waiting=2) as client:
        first = client.submit(RED, id="a")
        client.submit(RED, id="b")
        with raises_soon(TimeoutError, "2 frames wait for Kafka or for their answers, and none got through", 10):
            client.submit(RED, id="c", timeout=0.2)
        worker.predict("a")
        assert first.result(30).id == "a"
        assert client.submit(RED, id="d").result(30).id == "d"


def test_giving_up_frees_room(settings: Settings, worker: StandIn) -> None:
    worker.ignored.add("a")
    with Client(settings, max_waiting=1) as client:
        assert client.submit(RED, id="a").cancel()
        assert client.predict(RED, id="b").id == "b"


def test_two_frames_of_one_id_cannot_wait_at_once(settings: Settings) -> None:
    with Client(settings) as client:
        client.submit(RED, id="same")
        with pytest.raises(ValueError, match="a frame 'same' is waited for already: give each an id of its own"):
            client.submit(RED, id="same")


def test_predictions_are_iterated_from_the_moment_of_the_call(settings: Settings, worker: StandIn) -> None:
    with Client(settings) as client:
        worker.predict("before")
        with client.predictions() as predictions:
            for n in range(5):
                client.publish(RED, id=f"frame-{n}")
            assert {next(predictions).id for _ in range(5)} == {f"frame-{n}" for n in range(5)}
        with client.predictions(from_beginning=True, idle_s=1) as all_of_them:
            assert len(list(all_of_them)) == 6


def test_what_is_no_prediction_is_passed_over(
    settings: Settings, worker: StandIn, caplog: pytest.LogCaptureFixture
) -> None:
    producer = Producer({"bootstrap.servers": settings.kafka.bootstrap_servers})
    producer.produce(settings.topics.predictions, b"{")
    assert producer.flush(30) == 0
    worker.predict("good")
    with Client(settings) as client, client.predictions(from_beginning=True, idle_s=1) as predictions:
        assert [one.id for one in predictions] == ["good"]
    assert "is passed over" in caplog.text


def test_a_picture_that_no_record_holds_is_refused_at_once(settings: Settings) -> None:
    with Client(settings, max_waiting=1) as client:
        with pytest.raises(ValueError, match=r"raise topics.max_record_bytes and the topic's max.message.bytes"):
            client.publish(np.zeros((2_000, 2_000, 3), np.uint8))
        with pytest.raises(ValueError, match="has no time zone"):
            client.publish(RED, time=datetime(2026, 1, 1))
        assert client.publish(RED, timeout=0.1)  # the room was given back


@pytest.mark.process
def test_frames_that_the_broker_does_not_take_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("layercache.stream.publishing.producer.DELIVERY_TIMEOUT_MS", 1_000)
    with EmbeddedBroker() as broker:
        topics = create_topics(broker.bootstrap_servers, unique_topics())
        client = Client(Settings(kafka=Kafka(bootstrap_servers=broker.bootstrap_servers), topics=topics))
        client.submit(RED, id="early")
        client.flush()
        broker.stop()
        client.publish(RED, id="lost")
        with pytest.raises(PublishError, match="1 frame was not published: frame lost: "):
            client.flush()
        client.flush()  # it was said
        with pytest.raises(PublishError, match="frame asked: "):
            client.predict(RED, id="asked")
        client.close()


def test_closing_ends_iterators_and_cancels_answers_to_come(settings: Settings) -> None:
    client = Client(settings)
    future = client.submit(RED)
    predictions = client.predictions()
    ended: list[list[Prediction]] = []
    thread = threading.Thread(target=lambda: ended.append(list(predictions)))
    thread.start()
    client.close()
    client.close()
    thread.join(30)
    assert ended == [[]]
    with pytest.raises(CancelledError):
        future.result(0)
    with pytest.raises(RuntimeError, match="the client is closed"):
        client.publish(RED)


@pytest.mark.parametrize("topic", ["frames", "predictions"])
def test_a_missing_topic_is_named(settings: Settings, topic: str) -> None:
    wrong = settings.model_copy(update={"topics": settings.topics.model_copy(update={topic: "nowhere"})})
    with (
        pytest.raises(KafkaUnusable, match="create the topics with `layercache topics create`"),
        Client(wrong) as client,
    ):
        client.predict(RED)


def test_without_a_broker_it_says_what_to_check(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("layercache.stream.publishing.producer.cluster", partial(cluster, patience_s=0.3))
    (port,) = free_ports(1)
    with pytest.raises(KafkaUnusable, match=f"no answer from Kafka at 127.0.0.1:{port}"):
        Client(f"127.0.0.1:{port}")


def test_brokers_and_options_may_be_given_by_name(settings: Settings) -> None:
    with pytest.raises(KafkaUnusable, match=r"No such configuration property: \"no.such.option\""):
        Client(settings.kafka.bootstrap_servers, options={"no.such.option": 1})
    with pytest.raises(ValueError, match="max_waiting must be at least 1"):
        Client(settings, max_waiting=0)


def test_everything_is_there_for_asyncio(settings: Settings, worker: StandIn) -> None:
    worker.bad.add("broken")

    async def scenario() -> None:
        async with AsyncClient(settings, max_waiting=10) as client, client.predictions() as predictions:
            found = await asyncio.gather(*(client.predict(RED, id=f"frame-{n}") for n in range(40)))
            assert [one.id for one in found] == [f"frame-{n}" for n in range(40)]
            assert {(await anext(predictions)).id for _ in range(40)} == {one.id for one in found}
            with pytest.raises(DeadLetterError, match="frame broken is a dead letter"):
                await client.predict(RED, id="broken")
            async for letter in client.dead_letters(from_beginning=True):
                assert letter.id == "broken"
                break
            assert await client.publish(RED, id="last", key="camera-1") == "last"
            await client.flush()
            assert (await asyncio.wait_for(anext(predictions), 30)).id == "last"

    asyncio.run(asyncio.wait_for(scenario(), 120))


def test_waiting_can_be_cancelled_and_loses_nothing(settings: Settings, worker: StandIn) -> None:
    async def scenario() -> None:
        async with AsyncClient(settings) as client, client.predictions() as predictions:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(anext(predictions), 0.3)
            await client.publish(RED, id="later")
            assert (await asyncio.wait_for(anext(predictions), 30)).id == "later"
            worker.ignored.add("never")
            with pytest.raises(TimeoutError, match=r"no answer within 0\.3 s: is a worker running"):
                await client.predict(RED, id="never", timeout=0.3)

    asyncio.run(asyncio.wait_for(scenario(), 120))


def test_leaving_the_block_ends_iterations_that_nobody_takes(settings: Settings, worker: StandIn) -> None:
    for n in range(150):  # more than are read ahead
        worker.predict(str(n))

    async def scenario() -> None:
        async with AsyncClient(settings) as client:
            predictions = client.predictions(from_beginning=True)
            await anext(predictions)
        assert [one async for one in predictions] == []

    asyncio.run(asyncio.wait_for(scenario(), 120))
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("client-")]


def test_an_async_client_says_how_to_connect_and_why_it_cannot(settings: Settings) -> None:
    async def scenario() -> None:
        with pytest.raises(RuntimeError, match="not connected: use it as `async with AsyncClient"):
            await AsyncClient(settings).publish(RED)
        wrong = settings.model_copy(update={"topics": settings.topics.model_copy(update={"predictions": "nowhere"})})
        async with AsyncClient(wrong) as client:
            with pytest.raises(KafkaUnusable, match="no topic nowhere"):
                await anext(client.predictions())

    asyncio.run(asyncio.wait_for(scenario(), 120))


def test_a_file_that_is_not_there_is_an_error_of_the_file(settings: Settings, tmp_path: Path) -> None:
    with Client(settings) as client, pytest.raises(FileNotFoundError):
        client.publish(tmp_path / "nothing.png")
