"""Settings: file, environment and options, in that order; a wrong one is named."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from schemas.settings import Settings, load


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "layercache.toml"
    path.write_text('[kafka]\nbootstrap_servers = "file:1"\n[worker]\nmax_batch = 4\n[topics]\nframes = "f"\n')
    return path


def test_without_anything_the_defaults_hold() -> None:
    settings = load()
    assert settings == Settings()
    assert settings.kafka.bootstrap_servers == "localhost:9092"
    assert settings.promise.max_disagreement == 0.01


def test_options_win_over_environment_over_file(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAYERCACHE_KAFKA__BOOTSTRAP_SERVERS", "environment:1")
    monkeypatch.setenv("LAYERCACHE_WORKER__MAX_BATCH", "8")
    settings = load(config, {"worker": {"max_batch": 16}})
    assert settings.worker.max_batch == 16
    assert settings.kafka.bootstrap_servers == "environment:1"
    assert settings.topics.frames == "f"


def test_one_option_leaves_the_rest_of_its_section_to_the_file(config: Path) -> None:
    settings = load(config, {"worker": {"top_k": 1}})
    assert (settings.worker.top_k, settings.worker.max_batch) == (1, 4)


def test_librdkafka_options_pass_through(tmp_path: Path) -> None:
    path = tmp_path / "sasl.toml"
    path.write_text('[kafka.options]\n"security.protocol" = "SASL_SSL"\n"socket.keepalive.enable" = true\n')
    assert load(path).kafka.options == {"security.protocol": "SASL_SSL", "socket.keepalive.enable": True}


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"absent\.toml"):
        load(tmp_path / "absent.toml")


@pytest.mark.parametrize(
    ("section", "option", "value"),
    [
        ("promise", "max_disagreement", 0),
        ("promise", "confidence", 1),
        ("worker", "max_batch", 0),
        ("worker", "delivery", "sometimes"),
        ("worker", "max_bach", 4),
        ("topics", "partitions", 0),
        ("kafkaesque", "bootstrap_servers", "x"),
    ],
)
def test_a_wrong_option_is_named(section: str, option: str, value: object) -> None:
    with pytest.raises(ValidationError) as caught:
        load(overrides={section: {option: value}})
    where = [str(part) for part in caught.value.errors()[0]["loc"]]
    assert where in ([section, option], [section])


def test_a_misspelt_option_in_the_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "wrong.toml"
    path.write_text("[worker]\nmax_bach = 4\n")
    with pytest.raises(ValidationError, match="max_bach"):
        load(path)


def test_settings_cannot_be_changed() -> None:
    settings = load()
    with pytest.raises(ValidationError):
        settings.worker.max_batch = 1  # type: ignore[misc]
