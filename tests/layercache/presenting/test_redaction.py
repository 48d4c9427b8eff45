"""No password reaches a log, an error or a traceback, whatever a library makes of it."""

import base64
import logging
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import SecretStr

from layercache.presenting import redaction
from layercache.schemas.settings import Kafka, References, Settings, Store
from testbed.commands import run

CANARIES = [f"canary-number-{number}-x" for number in range(8)]
PEM_LINE = base64.b64encode(b"a key that nobody may see, on a line of its own").decode()

SETTINGS = Settings(
    kafka=Kafka(
        options={
            "sasl.username": "me",
            "sasl.password": CANARIES[0],
            "ssl.key.pem": f"-----BEGIN PRIVATE KEY-----\n{PEM_LINE}\n-----END PRIVATE KEY-----",
            "sasl.oauthbearer.client.secret": CANARIES[1],
            "ssl.key.location": "/etc/keys/client.key",
            "sasl.oauthbearer.token.endpoint.url": "https://login.example.com/token",
        },
        consumer_options={"ssl.key.password": CANARIES[2]},
    ),
    store=Store(
        url=f"ftp://me:{CANARIES[3]}@host/heads",
        options={"secret": CANARIES[4], "client_kwargs": {"aws_session_token": CANARIES[5]}},
        signing_key=SecretStr(CANARIES[6]),
    ),
    references=References(prefixes={"s3://cameras/": {"key": CANARIES[7]}}),
)
SECRETS = [*CANARIES, PEM_LINE]


@pytest.fixture(autouse=True)
def hidden() -> None:
    redaction.hide(SETTINGS)


def test_every_secret_of_the_settings_is_taken_out_and_nothing_else() -> None:
    assert redaction.redacted(f"a {' '.join(SECRETS)} b") == f"a {' '.join(['***'] * len(SECRETS))} b"
    harmless = "me /etc/keys/client.key https://login.example.com/token ftp://host/heads"
    assert redaction.redacted(harmless) == harmless


def test_a_password_is_recognised_in_a_url() -> None:
    redaction.hide(Settings(kafka=Kafka(options={"sasl.password": "with/slash&more"})))
    assert redaction.redacted("https://me:with%2Fslash%26more@host") == "https://me:***@host"


def test_logs_and_their_tracebacks_are_without_secrets() -> None:
    formatter = redaction.Formatter("%(message)s")
    try:
        raise ValueError(f"refused {CANARIES[0]}")
    except ValueError:
        record = logging.LogRecord("x", logging.ERROR, "f", 1, "failed with %s", (CANARIES[4],), sys.exc_info())
    text = formatter.format(record)
    assert text.startswith("failed with ***\nTraceback")
    assert text.endswith("ValueError: refused ***")


@pytest.mark.process
def test_errors_that_nobody_catches_are_without_secrets() -> None:
    code = """
import threading
from layercache.presenting import redaction
from layercache.schemas.settings import Kafka, Settings
redaction.hide(Settings(kafka=Kafka(options={"sasl.password": "canary-in-a-thread"})))
redaction.install()
def fail():
    raise ValueError("it was canary-in-a-" + "thread")
thread = threading.Thread(target=fail)
thread.start()
thread.join()
fail()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert done.stderr.count("ValueError: it was ***") == 2
    assert "canary-in-a-thread" not in done.stderr


@pytest.mark.process
@pytest.mark.parametrize(
    ("command", "says"),
    [
        (["topics", "create", "--wait", "0"], "no answer from Kafka"),
        (["heads", "list"], "cannot be opened"),
        (["-v", "heads", "list"], "Traceback"),
    ],
)
def test_commands_that_fail_show_none_of_what_they_were_given(command: list[str], says: str, tmp_path: Path) -> None:
    config = tmp_path / "layercache.toml"
    config.write_text(f"""
[kafka]
bootstrap_servers = "localhost:1"
[kafka.options]
"security.protocol" = "SASL_PLAINTEXT"
"sasl.mechanism" = "PLAIN"
"sasl.username" = "me"
"sasl.password" = "{CANARIES[0]}"
[model]
spec = "{Path(__file__).parents[3]}/examples/fashion_mnist.py:build"
[store]
url = "ftp://me:{CANARIES[3]}@localhost:1/heads"
[store.options]
secret = "{CANARIES[4]}"
""")
    done = run(*command, "--config", config)
    assert (done.returncode, says in done.stderr) == (1, True), done.stderr
    for canary in CANARIES:
        assert canary not in done.stdout + done.stderr
