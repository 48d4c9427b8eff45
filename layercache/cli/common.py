"""Shared by all commands: settings with readable errors, exit codes, and logging."""

import logging
import os
import signal
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import typer

from layercache.presenting.redaction import Formatter, hide, redacted

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

    from layercache.schemas.settings import Settings

OK, FAILED, WRONG_USAGE, INTERRUPTED = 0, 1, 2, 130

ENV_PREFIX = "LAYERCACHE_"


def fail(message: str, code: int = FAILED) -> NoReturn:
    """Ends the command with ``message`` on standard error and exit code ``code``."""
    typer.echo(redacted(message), err=True)
    raise typer.Exit(code)


def load_settings(config: Path | None = None, **overrides: Mapping[str, Any]) -> "Settings":
    """The settings from file, environment and options, e.g. ``load_settings(config, worker={"max_batch": 8})``.

    An option that is ``None`` (not given) leaves its setting to the file and the environment. For each mistake, a line
    on standard error says what is wrong, in which setting, and where the value came from; exit code 2.
    """
    from pydantic import ValidationError
    from pydantic_settings import SettingsError

    from layercache.schemas import settings

    given = {
        section: {name: value for name, value in options.items() if value is not None}
        for section, options in overrides.items()
    }
    _refuse_unknown_sections(tuple(settings.Settings.model_fields))
    try:
        found = settings.load(config, given)
        hide(found)
        return found
    except FileNotFoundError:
        fail(f"{config}: there is no such settings file", WRONG_USAGE)
    except OSError as error:
        fail(f"{config}: cannot be read: {error.strerror}", WRONG_USAGE)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        fail(f"{config}: not a TOML file: {error}", WRONG_USAGE)
    except SettingsError as error:
        fail(f"environment: {error}", WRONG_USAGE)
    except ValidationError as error:
        fail("\n".join(_line(detail, given, config) for detail in error.errors()), WRONG_USAGE)
    except ValueError as error:
        fail(str(error), WRONG_USAGE)


def kafka_overrides(bootstrap: str | None, options: list[str] | None) -> dict[str, Any]:
    """The ``kafka`` section of overrides from ``--bootstrap`` and ``-X NAME=VALUE``."""
    pairs: dict[str, str] = {}
    for number, option in enumerate(options or (), 1):
        name, equals, value = option.partition("=")
        if not equals or not name:  # the message does not quote it: it may be a password
            fail(f"-X number {number} has no '=': write NAME=VALUE, as in -X security.protocol=SASL_SSL", WRONG_USAGE)
        pairs[name] = value
    return {"bootstrap_servers": bootstrap, "options": pairs or None}


def end_on_sigterm() -> None:
    """On SIGTERM during startup, ends the command at once with exit code 0: it has nothing to finish yet.

    The command later replaces this handler by its own. Without one, process 1 of a container would ignore the signal.
    """
    signal.signal(signal.SIGTERM, lambda number, frame: os._exit(OK))


def set_up_logging(verbose: bool) -> None:
    """One line per event: with colours on a terminal, plain with the time elsewhere; ``verbose`` adds debug lines."""
    handler: logging.Handler
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.logging import RichHandler

        handler = RichHandler(console=Console(stderr=True), show_path=False, log_time_format="%H:%M:%S")
        handler.setFormatter(Formatter("%(message)s"))
    else:
        handler = logging.StreamHandler()
        handler.setFormatter(Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    logging.getLogger("layercache").setLevel(logging.DEBUG if verbose else logging.INFO)


def _refuse_unknown_sections(sections: tuple[str, ...]) -> None:
    """Fails for a misspelt section in a variable's name, which would otherwise be ignored silently."""
    for name in os.environ:
        section, nested, _ = name.upper().removeprefix(ENV_PREFIX).partition("__")
        if name.upper().startswith(ENV_PREFIX) and nested and section.lower() not in sections:
            fail(f"{name}: no such section; there are {', '.join(sections)}", WRONG_USAGE)


def _line(detail: "ErrorDetails", given: Mapping[str, Mapping[str, Any]], config: Path | None) -> str:
    where = [str(part) for part in detail["loc"]]
    message = detail["msg"]
    if detail["type"] == "extra_forbidden":
        message = "there is no such setting; `layercache settings` lists all"
    return f"{'.'.join(where)}: {message} ({_origin(where, given, config)})"


def _origin(where: list[str], given: Mapping[str, Mapping[str, Any]], config: Path | None) -> str:
    """Which of the three sources a wrong value came from."""
    if len(where) > 1 and where[1] in given.get(where[0], {}):
        return "from the command line"
    for depth in range(len(where), 0, -1):
        variable = ENV_PREFIX + "__".join(where[:depth]).upper()
        if os.environ.get(variable):
            return f"from {variable}"
    return f"from {config}" if config else "from the environment"
