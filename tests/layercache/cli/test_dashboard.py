"""``layercache dashboard``: what it refuses, and what it warns of."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from layercache.cli import main
from layercache.dashboard import app, collector


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What was to be served; nothing is."""
    seen: dict[str, Any] = {}

    class Collected:
        def __init__(self, settings: Any, metrics: list[str], fingerprint: str) -> None:
            seen.update(settings=settings, metrics=metrics, fingerprint=fingerprint)

        def __enter__(self) -> "Collected":
            return self

        def __exit__(self, *error: object) -> None:
            seen["stopped"] = True

    def run(
        source: Collected, host: str, port: int, read_only: bool, ready: Callable[[str], None], names: Sequence[str]
    ) -> None:
        seen.update(host=host, port=port, read_only=read_only, names=names)
        ready(f"http://{host}:{port}")

    monkeypatch.setattr(collector, "Collector", Collected)
    monkeypatch.setattr(app, "run", run)
    return seen


def dashboard(*arguments: str) -> Result:
    return CliRunner().invoke(main.app, ["dashboard", *arguments])


def test_serves_this_machine_alone_by_default(served: dict[str, Any]) -> None:
    result = dashboard("--bootstrap", "kafka:9092", "--store-url", "s3://bucket/heads", "--fingerprint", "3F9A")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == "dashboard at http://127.0.0.1:8080, Ctrl-C ends\n"
    assert (served["host"], served["port"], served["read_only"]) == ("127.0.0.1", 8080, False)
    assert served["settings"].kafka.bootstrap_servers == "kafka:9092"
    assert served["settings"].store.url == "s3://bucket/heads"
    assert (served["metrics"], served["fingerprint"], served["stopped"]) == ([], "3f9a", True)


def test_names_that_a_proxy_uses_are_let_in(served: dict[str, Any]) -> None:
    assert dashboard("--allowed-host", "cameras.example", "--allowed-host", "backup.example").exit_code == 0
    assert served["names"] == ["cameras.example", "backup.example"]


def test_metrics_are_hosts_or_urls(served: dict[str, Any]) -> None:
    assert dashboard("--metrics", "worker:9100", "--metrics", "https://trainer/metrics").exit_code == 0
    assert served["metrics"] == ["http://worker:9100/metrics", "https://trainer/metrics"]


@pytest.mark.parametrize(
    ("arguments", "warning"),
    [
        (["--host", "0.0.0.0"], "sees frames and can change which heads workers use"),
        (["--host", "0.0.0.0", "--read-only"], "sees frames:"),
        (["--host", "gpu-box"], "put a proxy in front of it"),
        (["--host", "localhost"], ""),
        (["--host", "::1"], ""),
    ],
)
def test_warns_where_others_can_reach_it(served: dict[str, Any], arguments: list[str], warning: str) -> None:
    result = dashboard(*arguments)
    assert result.exit_code == 0
    assert (warning in result.stderr) if warning else (result.stderr == "")
    assert served["read_only"] == ("--read-only" in arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--metrics", "ftp://worker"], "is no URL of metrics: write host:port"),
        (["--fingerprint", "resnet"], "--fingerprint: hexadecimal digits"),
    ],
)
def test_wrong_usage_is_told(served: dict[str, Any], arguments: list[str], message: str) -> None:
    result = dashboard(*arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert served == {}
