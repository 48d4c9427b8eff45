"""Command-line options for settings: text, type, choices and default come from the setting."""

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from layercache.cli import common

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo


class SettingOption(NamedTuple):
    """An option for ``setting``, named after the setting unless ``flags`` are given."""

    setting: str
    flags: tuple[str, ...] = ()
    help: str = ""
    """What the setting means for this command, if the setting's own text does not say so."""


BOOTSTRAP = SettingOption("kafka.bootstrap_servers", ("--bootstrap", "-b"))
WEIGHTED_MODEL = (
    SettingOption("model.spec", ("--model", "-m")),
    SettingOption("model.weights", ("--weights", "-w")),
    "model.metadata",
)
MODEL = (*WEIGHTED_MODEL, "model.device", "model.dtype")
RUNTIME = ("model.runtime", "model.precision")
STORE = SettingOption("store.url", ("--store-url",))

_CONFIG = Annotated[
    Path | None,
    typer.Option("--config", "-c", envvar="LAYERCACHE_CONFIG", help="TOML file; see `layercache settings`."),
]
_KAFKA_OPTIONS = Annotated[
    list[str] | None, typer.Option("-X", metavar="NAME=VALUE", help="A librdkafka option; may be repeated.")
]
Command = Callable[..., None]


def with_settings(*options: str | SettingOption) -> Callable[[Command], Command]:
    """Replaces a command's parameter ``settings`` by ``--config`` and these options on the command line.

    Options are given as ``section.name``. If the brokers are one of them, ``-X NAME=VALUE`` comes last.
    """
    wanted = tuple(SettingOption(one) if isinstance(one, str) else one for one in options)
    return lambda command: _WithSettings(command, wanted)


def field_of(setting: str) -> "FieldInfo":
    """The setting ``section.name``, as its type declares it."""
    from layercache.schemas.settings import Settings

    section, _, name = setting.partition(".")
    found: FieldInfo = Settings.model_fields[section].annotation.model_fields[name]  # type: ignore[union-attr]
    return found


def default_of(field: "FieldInfo") -> str:
    """A setting's default as text; empty if there is none."""
    value = field.get_default(call_default_factory=True)
    return "" if value is None or value == {} else str(value)


class _WithSettings:
    """A command that builds its options from the settings on first use, since importing pydantic takes time."""

    def __init__(self, command: Command, options: tuple[SettingOption, ...]) -> None:
        functools.update_wrapper(self, command)
        # Typer must read the signature: the function's annotations name types that are not imported.
        self.__annotations__ = {}
        self._command = command
        self._options = {one.setting.replace(".", "__"): one for one in options}

    @functools.cached_property
    def __signature__(self) -> inspect.Signature:
        own = dict(inspect.signature(self._command).parameters)
        before = [own.pop(name) for name in list(own)[: list(own).index("settings")]]
        del own["settings"]
        options = [_parameter(name, _annotation(one)) for name, one in self._options.items()]
        last = [_parameter("kafka_options", _KAFKA_OPTIONS)] if BOOTSTRAP in self._options.values() else []
        every = (*before, _parameter("config", _CONFIG), *options, *own.values(), *last)
        return inspect.Signature([one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in every])

    def __call__(self, config: Path | None = None, **given: Any) -> None:
        overrides: dict[str, dict[str, Any]] = {}
        for name, option in self._options.items():
            section, _, setting = option.setting.partition(".")
            overrides.setdefault(section, {})[setting] = given.pop(name, None)
        if "kafka" in overrides:
            servers = overrides["kafka"]["bootstrap_servers"]
            overrides["kafka"] = common.kafka_overrides(servers, given.pop("kafka_options", None))
        self._command(settings=common.load_settings(config, **overrides), **given)


def _parameter(name: str, annotation: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def _annotation(option: SettingOption) -> Any:
    field = field_of(option.setting)
    flags = option.flags or ("--" + option.setting.partition(".")[2].replace("_", "-"),)
    text = option.help or field.description
    return Annotated[field.annotation | None, typer.Option(*flags, help=text, show_default=default_of(field) or False)]  # type: ignore[operator]
