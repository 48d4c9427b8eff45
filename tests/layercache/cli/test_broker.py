"""`layercache broker`: a broker with the topics on it, until it is told to stop."""

import signal
import socket
import subprocess
import sys

import pytest
from confluent_kafka.admin import AdminClient

pytestmark = pytest.mark.process


def test_it_has_the_topics_and_ends_on_ctrl_c() -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "layercache", "broker", "--port", "0"], stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            said = process.stdout.readline()
            assert said.startswith("broker on 127.0.0.1:")
            found = AdminClient({"bootstrap.servers": said.split()[2].rstrip(",")}).list_topics(timeout=20).topics
            assert {"frames", "predictions", "distillation", "frames.dlq"} <= set(found)
            process.send_signal(signal.SIGINT)
            assert process.wait(30) == 0
        finally:
            process.kill()


def test_a_port_that_is_taken_is_named() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        ended = subprocess.run(
            [sys.executable, "-m", "layercache", "broker", "--port", str(port)],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert ended.returncode == 1
    assert f"something listens on port {port} already" in ended.stderr
