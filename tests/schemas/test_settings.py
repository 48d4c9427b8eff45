"""Settings: file, environment and options, in that order; a wrong one is named."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from pydantic_settings import SettingsError

from layercache.schemas.settings import Promise, Settings, load


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


class TestOptionFiles:
    """Secrets that are mounted as files."""

    def test_their_contents_become_options(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "password").write_text("hunter2-hunter2\n")
        (tmp_path / "secret").write_text("wJalrXUtnFEMI")
        config = tmp_path / "layercache.toml"
        config.write_text(f'[kafka.options]\n"sasl.username" = "me"\n[kafka.option_files]\n'
                          f'"sasl.password" = "{tmp_path}/password"\n')  # fmt: skip
        monkeypatch.setenv("LAYERCACHE_STORE__OPTION_FILES", f'{{"secret": "{tmp_path}/secret"}}')
        settings = load(config)
        assert settings.kafka.options == {"sasl.username": "me", "sasl.password": "hunter2-hunter2"}
        assert settings.store.options == {"secret": "wJalrXUtnFEMI"}

    @pytest.mark.parametrize(
        ("content", "said"), [(None, "No such file"), (b"", "is empty"), (b"\xff", "hold text"), (b"x" * 100_001, "no")]
    )
    def test_a_file_that_holds_no_secret_is_named(self, content: bytes | None, said: str, tmp_path: Path) -> None:
        path = tmp_path / "password"
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(ValidationError, match=said) as caught:
            load(None, {"kafka": {"option_files": {"sasl.password": str(path)}}})
        assert str(path) in str(caught.value)


def test_options_from_the_environment_join_those_of_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tmp_path / "layercache.toml"
    config.write_text('[kafka.options]\n"sasl.username" = "me"\n')
    monkeypatch.setenv("LAYERCACHE_KAFKA__OPTIONS", '{"sasl.password": "secret"}')
    assert load(config).kafka.options == {"sasl.username": "me", "sasl.password": "secret"}


def test_neither_errors_nor_representations_show_what_was_given(monkeypatch: pytest.MonkeyPatch) -> None:
    canary = "canary-4711"
    good: dict[str, dict[str, Any]] = {
        "kafka": {"options": {"sasl.password": canary}, "producer_options": {"ssl.key.password": canary}},
        "store": {"options": {"secret": canary}, "signing_key": canary, "url": f"ftp://me:{canary}@host/heads"},
    }
    assert canary not in repr(load(None, good)) + str(load(None, good))
    wrong: list[dict[str, dict[str, Any]]] = [
        {"kafka": {"options": {"sasl.password": [canary]}}},
        {"kafka": {"options": canary}},
        {"kafka": {"sasl.password": canary}},
        {"store": {"signing_key": [canary]}},
        {"store": {"options": [canary]}},
    ]
    for values in wrong:
        with pytest.raises(ValidationError) as caught:
            load(None, values)
        assert canary not in str(caught.value)
    monkeypatch.setenv("LAYERCACHE_KAFKA__OPTIONS", f'{{"sasl.password": {canary}}}')
    with pytest.raises(SettingsError) as failed:
        load()
    assert canary not in str(failed.value)


def test_a_file_too_large_to_hold_settings_is_not_read(tmp_path: Path) -> None:
    config = tmp_path / "layercache.toml"
    config.write_text("#" * 1_000_001)
    with pytest.raises(ValueError, match="is no settings file"):
        load(config)


def test_an_overload_budget_must_be_larger_and_is_off_by_default() -> None:
    assert Promise().overload_max_disagreement is None
    assert Promise(max_disagreement=0.01, overload_max_disagreement=0.03).overload_max_disagreement == 0.03
    for smaller in (0.01, 0.005):
        with pytest.raises(ValidationError, match=r"must be larger than max_disagreement, 0\.01"):
            Promise(max_disagreement=0.01, overload_max_disagreement=smaller)


def test_a_file_that_nests_for_ever_is_no_crash(tmp_path: Path) -> None:
    config = tmp_path / "layercache.toml"
    config.write_text("a = " + "[" * 50_000)
    with pytest.raises(ValueError, match="nests tables or lists too deeply"):
        load(config)
