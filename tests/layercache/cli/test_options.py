"""Options that stand for settings: they say what the settings say, and give commands what was given."""

from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from layercache.cli.options import BOOTSTRAP, SettingOption, field_of, with_settings
from layercache.schemas.settings import Settings

app = typer.Typer()
seen: dict[str, Any] = {}


@app.command()
@with_settings(BOOTSTRAP, "worker.mode", "worker.max_batch", SettingOption("topics.frames", ("--topic",), "Where to."))
def command(place: str, settings: Settings, loud: bool = False) -> None:
    """Does nothing."""
    seen.update(place=place, settings=settings, loud=loud)


PARAMETERS: list[Any] = typer.main.get_command(app).params


def test_options_stand_in_the_place_of_the_settings_and_x_comes_last() -> None:
    assert [one.opts for one in PARAMETERS][:8] == [
        ["place"], ["--config", "-c"], ["--bootstrap", "-b"], ["--mode"], ["--max-batch"], ["--topic"], ["--loud"],
        ["-X"],
    ]  # fmt: skip


@pytest.mark.parametrize("setting", ["kafka.bootstrap_servers", "worker.mode", "worker.max_batch"])
def test_text_and_default_are_the_settings_own(setting: str) -> None:
    (option,) = (one for one in PARAMETERS if one.name == setting.replace(".", "__"))
    field = field_of(setting)
    assert option.help == field.description
    assert option.show_default == str(field.default)
    assert option.default is None  # left to the file and the environment


def test_choices_are_the_settings_own() -> None:
    result = CliRunner().invoke(app, ["here", "--mode", "fast"])
    assert result.exit_code == 2
    assert "'serve'" in result.stderr
    assert "'shadow'" in result.stderr


def test_what_is_given_reaches_the_command_and_the_rest_is_left_to_the_settings(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LAYERCACHE_WORKER__MAX_BATCH", "5")
    given = ["here", "--mode", "shadow", "--topic", "elsewhere", "-b", "broker:1", "-X", "a.b=c", "--loud"]
    result = CliRunner().invoke(app, given)
    assert result.exit_code == 0, result.stderr
    settings = seen["settings"]
    assert (seen["place"], seen["loud"]) == ("here", True)
    assert (settings.worker.mode, settings.worker.max_batch, settings.topics.frames) == ("shadow", 5, "elsewhere")
    assert (settings.kafka.bootstrap_servers, settings.kafka.options) == ("broker:1", {"a.b": "c"})
