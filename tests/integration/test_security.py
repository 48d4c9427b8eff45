"""Apache Kafka that asks for TLS, SASL and rights: who has them works; who has not is told so, and ends."""

import json
import os
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from confluent_kafka import Consumer, KafkaException, TopicPartition

from layercache.cache_training.service.credentials import _unsecured
from layercache.schemas.settings import Kafka, Settings, Store, Trainer, Worker
from layercache.stream.kafka.topics import create
from testbed.commands import CapturedCommand
from testbed.topics import unique_topics
from testbed.trainer_process import as_toml, running_trainer
from testbed.waiting import wait_until
from testbed.worker_process import running_worker
from tests.support.certificates import Authority
from tests.support.pictures import coloured, encode
from tests.support.require import missing
from tests.support.secure_kafka import ADMIN, PASSWORDS, STRANGER, WORKER, SecureKafka
from tests.support.tiny_model import TinyModel

FRAMES = 4
#: On a machine that does much else, five commands that load torch take a minute.
PATIENCE_S = 240.0
CLIENT_SECRET = f"client-secret-{uuid.uuid4().hex}"

pytestmark = pytest.mark.timeout(4 * PATIENCE_S)


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecureKafka]:
    home = os.environ.get("KAFKA_HOME")
    if not home:
        missing("apache-kafka", "set KAFKA_HOME to an unpacked distribution (needs Java 17)")
    with SecureKafka(Path(home), tmp_path_factory.mktemp("secure-kafka")) as node:
        yield node


@pytest.fixture
def settings(secure: SecureKafka, tiny_model: TinyModel, tmp_path: Path) -> Settings:
    """Of a user who may do all that is needed, on topics and groups of its own."""
    topics = unique_topics(partitions=1)
    found = Settings(
        kafka=secure.scram(),
        topics=topics,
        model=tiny_model.settings,
        store=Store(url=f"file://{tmp_path}/heads"),
        worker=Worker(group_id=f"workers-{topics.frames}", max_batch=4, torch_threads=1),
        trainer=Trainer(
            group_id=f"trainer-{topics.frames}", state_dir=tmp_path / "state", checkpoint_s=0.5, replay_mb=8, ring_mb=8
        ),
    )
    create(found.model_copy(update={"kafka": secure.scram(ADMIN)}), PATIENCE_S)
    secure.allow(WORKER, topics, groups(found))
    return found


def groups(settings: Settings) -> tuple[str, str]:
    return settings.worker.group_id, settings.trainer.group_id


def with_kafka(settings: Settings, kafka: Kafka) -> Settings:
    return settings.model_copy(update={"kafka": kafka})


class Commands:
    """Commands that run side by side, as people start them."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        self._config = folder / "commands.toml"
        self._config.write_text(as_toml(settings))
        self._running: dict[str, CapturedCommand] = {}

    def start(self, command: str, *arguments: str) -> None:
        self._running[command] = CapturedCommand(*command.split(), *arguments, "--config", self._config)

    def end(self, command: str) -> tuple[int, str, str]:
        """Exit code, standard output and error; no secret is in them."""
        with self._running.pop(command) as process:
            done = process.end(PATIENCE_S)
        assert_no_secret(done.stdout + done.stderr)
        return done.returncode, done.stdout, done.stderr

    def run(self, command: str, *arguments: str) -> tuple[int, str, str]:
        self.start(command, *arguments)
        return self.end(command)


@pytest.fixture
def commands(tmp_path: Path) -> Callable[[Settings], Commands]:
    return lambda settings: Commands(settings, tmp_path)


def assert_no_secret(text: str) -> None:
    for secret in (*PASSWORDS.values(), CLIENT_SECRET):
        assert secret not in text


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(FRAMES):
        (folder / f"{number}.png").write_bytes(encode(coloured("red", noise=number), "PNG"))
    return folder


@contextmanager
def token_endpoint(user: str) -> Iterator[str]:
    """An identity provider of one client: its URL. It gives unsigned tokens, which the test's broker takes."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            token, _ = _unsecured({"sasl.oauthbearer.config": f"principal={user} lifeSeconds=300"})
            body = json.dumps({"access_token": token, "token_type": "bearer"}).encode()
            self.send_response(200 if self._is_client() else 401)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(body if self._is_client() else b" " * len(body))

        def _is_client(self) -> bool:
            import base64

            pair = base64.b64encode(f"{user}:{CLIENT_SECRET}".encode()).decode()
            return self.headers.get("Authorization") == f"Basic {pair}"

        def log_message(self, *arguments: object) -> None:
            """Silence."""

    server = HTTPServer(("localhost", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://localhost:{server.server_port}/token"
    finally:
        server.shutdown()
        thread.join(10)
        server.server_close()


@pytest.mark.parametrize(
    "how",
    [
        "scram",
        pytest.param("oauth", marks=pytest.mark.slow),
        pytest.param("oidc", marks=pytest.mark.slow),
        "mutual_tls",
    ],
)
def test_frames_become_predictions_and_lessons(
    how: str,
    secure: SecureKafka,
    settings: Settings,
    commands: Callable[[Settings], Commands],
    pictures: Path,
    tmp_path: Path,
) -> None:
    with token_endpoint(WORKER) as url:
        kafka = {
            "scram": secure.scram,
            "oauth": secure.oauth,
            "oidc": lambda: secure.oidc(url, CLIENT_SECRET),
            "mutual_tls": secure.mutual_tls,
        }[how]()
        settings = with_kafka(settings, kafka)
        running = commands(settings)
        with running_worker(settings, tmp_path) as worker, running_trainer(settings, tmp_path) as trainer:
            code, _, err = running.run("publish", str(pictures))
            assert (code, f"{FRAMES} frames published" in err) == (0, True), err
            code, out, err = running.run("watch", "--json", "--from-beginning", "--limit", str(FRAMES))
            assert code == 0, err
            assert [json.loads(line)["class_name"] for line in out.splitlines()] == ["red"] * FRAMES
            wait_until(
                lambda: learnt(secure, settings) > 0 or trainer.poll() is not None,
                "the trainer's commit",
                seconds=PATIENCE_S,
            )
            assert trainer.poll() is None, (tmp_path / "trainer.log").read_text()
            assert worker.stop() == 0
            trainer.terminate()
            assert trainer.wait(60) == 0
    assert_no_secret(worker.log.read_text() + (tmp_path / "trainer.log").read_text())


def learnt(secure: SecureKafka, settings: Settings) -> int:
    """Records that the trainer has acknowledged."""
    kafka = secure.scram(ADMIN)
    group = {"bootstrap.servers": kafka.bootstrap_servers, "group.id": settings.trainer.group_id}
    consumer = Consumer(group | kafka.options)
    try:
        (found,) = consumer.committed([TopicPartition(settings.topics.distillation, 0)], 10)
    except KafkaException:  # the group is only just being made
        return -1
    finally:
        consumer.close()
    return found.offset


COMMANDS = {"worker": (), "trainer": (), "publish": ("PICTURES",), "watch": (), "topics create": ("--wait", "0")}


def assert_all_refused(running: Commands, pictures: Path, says: str, *but: str) -> None:
    """Every command ends by itself with exit code 1 and a line that ``says`` why."""
    started = [command for command in COMMANDS if command not in but]
    for command in started:
        running.start(command, *(str(pictures) if one == "PICTURES" else one for one in COMMANDS[command]))
    for command in started:
        code, _, err = running.end(command)
        assert (code, says in err, "Traceback" in err) == (1, True, False), f"{command}: exit code {code}\n{err}"


def test_a_wrong_password_ends_every_command_with_what_to_check(
    secure: SecureKafka, settings: Settings, commands: Callable[[Settings], Commands], pictures: Path
) -> None:
    wrong = with_kafka(settings, secure.scram(sasl_password="hunter2-hunter2"))
    assert_all_refused(commands(wrong), pictures, "invalid credentials with SASL mechanism SCRAM-SHA-512")


def test_a_broker_whose_certificate_nobody_vouches_for_gets_no_password(
    secure: SecureKafka, settings: Settings, commands: Callable[[Settings], Commands], pictures: Path, tmp_path: Path
) -> None:
    other = Authority(tmp_path / "other", "other-ca")
    wrong = with_kafka(settings, secure.scram(ssl_ca_location=str(other.ca)))
    assert_all_refused(commands(wrong), pictures, "certificate verify failed")


def test_a_user_without_rights_is_told_that_it_may_see_no_topics(
    secure: SecureKafka, settings: Settings, commands: Callable[[Settings], Commands], pictures: Path
) -> None:
    stranger = commands(with_kafka(settings, secure.scram(STRANGER)))
    assert_all_refused(stranger, pictures, "that this user may see", "topics create")
    code, _, err = stranger.run("topics create", "--wait", "0")
    assert (code, "this user may not create topics" in err) == (1, True), err


@pytest.mark.parametrize("lacks", ["group", "transactional.id", "predictions"])
def test_a_worker_that_lacks_one_right_says_which(
    lacks: str, secure: SecureKafka, settings: Settings, pictures: Path, tmp_path: Path
) -> None:
    user = "halfway"
    kafka = secure.mutual_tls(user)
    without = (settings.topics.predictions,) if lacks == "predictions" else ()
    allow_all_but(secure, user, settings, lacks, without)
    running = Commands(settings, tmp_path)
    assert running.run("publish", str(pictures))[0] == 0
    with running_worker(with_kafka(settings, kafka), tmp_path, "halfway") as worker:
        assert worker.process.wait(PATIENCE_S) == 1
    said = worker.log.read_text()
    assert "authorization failed" in said.lower(), said
    assert "Traceback" not in said


def allow_all_but(secure: SecureKafka, user: str, settings: Settings, lacks: str, without: tuple[str, ...]) -> None:
    """Gives ``user`` all rights on the settings' topics and groups except for one."""
    secure.allow(user, settings.topics, groups(settings), without, lacks)
    if without:  # it may see the topic, and not write to it
        secure.allow_describe(user, without[0])


def test_a_trainer_that_may_not_join_its_group_ends(secure: SecureKafka, settings: Settings, tmp_path: Path) -> None:
    user = "lonely"
    secure.allow(user, settings.topics, (), ())
    with running_trainer(with_kafka(settings, secure.mutual_tls(user)), tmp_path) as trainer:
        assert trainer.wait(PATIENCE_S) == 1
    said = (tmp_path / "trainer.log").read_text()
    assert f"may not join the group {settings.trainer.group_id!r}; give it the right to read it" in said


def test_a_wrong_client_secret_is_named_and_not_shown(
    secure: SecureKafka, settings: Settings, commands: Callable[[Settings], Commands], pictures: Path
) -> None:
    with token_endpoint(WORKER) as url:
        wrong = commands(with_kafka(settings, secure.oidc(url, PASSWORDS[STRANGER])))
        code, _, err = wrong.run("publish", str(pictures))
    assert (code, "Traceback" in err) == (1, False), err
    assert "token" in err.lower(), err
