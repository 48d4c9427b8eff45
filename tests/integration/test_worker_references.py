"""A real worker fetches what frames refer to: from a disk and from a web server, and from nowhere else."""

import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from confluent_kafka import Message, Producer

from layercache.doctor import groups
from layercache.schemas.dead_letter import DeadLetterHeaders, Reason
from layercache.schemas.settings import References, Settings
from testbed.worker_process import reading, running_worker
from tests.conftest import Broker
from tests.support.pictures import coloured, encode
from tests.support.tiny_model import CLASSES

pytestmark = pytest.mark.one_broker


class Quiet(SimpleHTTPRequestHandler):
    """A folder on the web. Hangs where it is asked for ``hangs.png``."""

    released = threading.Event()

    def send_head(self):  # type: ignore[no-untyped-def]  # theirs has a private type
        if self.path.endswith("hangs.png"):
            type(self).released.wait(60)
        return super().send_head()

    def log_message(self, *_: object) -> None:
        """Says nothing."""


@pytest.fixture
def web(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """The URL of a web server, and the folder that it shows."""
    folder = tmp_path / "web"
    folder.mkdir()
    Quiet.released = threading.Event()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", folder
    Quiet.released.set()
    server.shutdown()
    server.server_close()
    thread.join()


def refer(settings: Settings, references: dict[str, str], key: str | None = None) -> None:
    """Publishes frames without a value, by id."""
    producer = Producer({"bootstrap.servers": settings.kafka.bootstrap_servers})
    for name, reference in references.items():
        headers: list[tuple[str, str | bytes | None]] = [("ce_id", name), ("ce_dataref", reference)]
        producer.produce(settings.topics.frames, None, key, headers=headers)
    assert producer.flush(30) == 0


def allowing(settings: Settings, *prefixes: str, **options: float) -> Settings:
    worker = settings.worker.model_copy(update={"metrics_port": 0})
    references = References(prefixes={prefix: {} for prefix in prefixes}, **options)
    return settings.model_copy(update={"references": references, "worker": worker})


def header(message: Message, name: str) -> str:
    value = dict(message.headers() or [])[name]
    assert isinstance(value, bytes)
    return value.decode()


def test_pictures_come_from_a_disk_and_from_the_web(
    broker: Broker, worker_settings: Settings, tmp_path: Path, web: tuple[str, Path]
) -> None:
    url, on_web = web
    on_disk = tmp_path / "frames"
    on_disk.mkdir()
    settings = allowing(worker_settings, f"file://{on_disk}/", f"{url}/")
    references: dict[str, str] = {}
    for number in range(60):
        name = f"{CLASSES[number % 3]}-{number}"
        folder, prefix = ((on_disk, f"file://{on_disk}"), (on_web, url))[number % 2]
        (folder / f"{name}.png").write_bytes(encode(coloured(CLASSES[number % 3], noise=number), "PNG"))
        references[name] = f"{prefix}/{name}.png"
    refer(settings, references, key="camera")
    with running_worker(settings, tmp_path) as worker, reading(settings, settings.topics.predictions) as reader:
        reader.read_count(60)
        predictions = reader.predictions()
        assert [prediction.id for prediction in predictions] == list(references)  # in order, whatever came first
        assert all(prediction.id.startswith(prediction.class_name) for prediction in predictions)
        told = worker.metrics()
        assert worker.metrics("/healthz") == worker.metrics("/readyz") == "working\n"
        assert len({prediction.worker for prediction in predictions} - {None}) == 1
        [members] = [one for one in groups.check(settings, predictions[0].model) if one.check == "models"]
        assert members.state == "ok"
        if broker.transactional:  # the embedded broker describes no members
            assert members.found.endswith(f"1, of model {predictions[0].model[:12]}")
        assert 'layercache_stage_seconds_count{stage="fetch"} 60.0' in told
        assert worker.stop() == 0


def test_what_cannot_be_fetched_is_a_dead_letter_and_holds_back_no_commit(
    worker_settings: Settings, tmp_path: Path, web: tuple[str, Path]
) -> None:
    """A server that hangs, a file that is not there, files that are not allowed: none of it holds the others.

    The server hangs for longer than a transaction may be open, or the loop stand still: the worker commits meanwhile
    what it answered before, answers nothing again, and is well.
    """
    url, on_web = web
    (on_web / "good.png").write_bytes(encode(coloured("blue"), "PNG"))
    (on_web / "large.npy").write_bytes(bytes(worker_settings.worker.max_frame_bytes + 1))
    (tmp_path / "secret.png").write_bytes(encode(coloured("red"), "PNG"))
    settings = allowing(worker_settings, f"{url}/", timeout_s=4, attempts=1)
    worker_options = {"max_batch": 1, "transaction_timeout_ms": 2_000, "stalled_after_s": 2.0}
    settings = settings.model_copy(update={"worker": settings.worker.model_copy(update=worker_options)})
    expected = {
        "hangs": (f"{url}/hangs.png", Reason.REFERENCE_FAILED),
        "absent": (f"{url}/absent.png", Reason.REFERENCE_FAILED),
        "large": (f"{url}/large.npy", Reason.TOO_MANY_BYTES),
        "elsewhere": (f"file://{tmp_path}/secret.png", Reason.REFERENCE_REFUSED),
        "around": (f"{url}/%2e%2e/secret.png", Reason.REFERENCE_REFUSED),
        "user": (f"{url.replace('//', '//me:hunter2@')}/good.png", Reason.REFERENCE_REFUSED),
    }
    bad = {name: reference for name, (reference, _) in expected.items()}
    refer(settings, {"before": f"{url}/good.png"} | bad | {"after": f"{url}/good.png"}, "camera")
    with running_worker(settings, tmp_path) as worker, reading(settings, settings.topics.predictions) as reader:
        reader.read_until(lambda: len(reader.messages) == 1, "the frame before")
        assert not worker.said("is a dead letter")  # it still hangs

        def answered_and_well() -> bool:
            assert worker.metrics("/healthz") == "working\n"  # else this raises
            return len(reader.messages) >= 2

        reader.read_until(answered_and_well, "the frame after")
        for message in reader.read_count(2):
            assert "ce_dataref" not in dict(message.headers() or [])  # it would say that the prediction lies there
        found = [(prediction.id, prediction.class_name) for prediction in reader.predictions()]
        assert found == [("before", "blue"), ("after", "blue")]
        with reading(settings, settings.topics.dead_letters) as letters:
            for message in letters.read_count(len(expected)):
                reference, reason = expected[header(message, "ce_id")]
                told = DeadLetterHeaders.read(message.headers())  # type: ignore[arg-type]
                assert (told.reason, header(message, "ce_dataref"), message.value()) == (reason, reference, None)
                assert "hunter2" not in told.message
        assert worker.said("frame hangs is a dead letter: reference-failed")
        assert not worker.said("reading again")
        assert worker.stop() == 0
        assert "hunter2" not in worker.log.read_text()
