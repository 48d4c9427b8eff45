"""Is there what a line of shell on a page calls? By the command line, the Makefile and the stack themselves."""

import importlib.util
import re
import shlex
import tomllib
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import typer
import yaml

from layercache.cli.main import app
from tests.docs.pages import ROOT

#: Programs that are not ours. What is not here, and none of those that are checked, is a mistake or to be added.
NOT_OURS = {
    "cat", "cd", "cp", "curl", "docker", "export", "git", "jq", "kubectl", "openssl", "promtool", "source", "vi",
    "kafka-acls.sh", "kafka-configs.sh", "kafka-topics.sh", "kcat",
}  # fmt: skip
#: Options of docker compose that take a value.
_WITH_VALUE = {"--scale", "--profile", "--signal", "--file", "-f", "--timeout", "-t", "--env-file", "--wait-timeout"}
_ASSIGNMENT = re.compile(r"\w+=")

Words = list[str]


class Wrong(ValueError):
    """A line that would not do what the page says."""


def commands(script: str) -> Iterator[Words]:
    """The commands of a script, without comments, assignments before them, and where their output goes."""
    for line in script.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line.removeprefix("$ "), posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        lexer.commenters = "#"
        words: Words = []
        for word in [*lexer, ";"]:
            if set(word) <= set("();&|{}"):
                if words:
                    yield words
                words = []
            elif words or not _ASSIGNMENT.match(word):
                words.append(word)


def check(words: Words) -> None:
    """Raises :class:`Wrong` where a command of ours has no such subcommand, option, target, service or module."""
    words = [word for word in _until_redirection(words) if word != "…"]
    program = words[0].removeprefix(".venv/bin/")
    checks: dict[str, Callable[[Words], None]] = {
        "layercache": check_layercache,
        "make": _check_make,
        "python": _check_python,
        "pip": _check_pip,
        "pre-commit": lambda arguments: None,
        ".ci/run": lambda arguments: None,
    }
    if words[:2] == ["docker", "compose"]:
        _check_compose(words[2:])
    elif program in checks:
        checks[program](words[1:])
    elif program not in NOT_OURS:
        raise Wrong(f"{program}: no program that pages use; a new one belongs into NOT_OURS of {__name__}")


def check_layercache(arguments: Words, whole: bool = True) -> None:
    """By the parser of the command line itself; not ``whole``: arguments may be left out, as within a sentence."""
    command: Any = typer.main.get_command(app)
    context: Any = None
    name = "layercache"
    try:
        while hasattr(command, "commands"):
            context = command.make_context(name, arguments, parent=context, resilient_parsing=not whole)
            arguments = [*context._protected_args, *context.args]
            if not arguments:
                return
            name, command, arguments = command.resolve_command(context, arguments)
        if whole:
            command.make_context(name, arguments, parent=context)
        else:
            options = {
                option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)
            }
            unknown = {word.partition("=")[0] for word in arguments if word.startswith("-")} - options - {"--help"}
            if unknown:
                raise Wrong(f"layercache {name} has no {', '.join(sorted(unknown))}")
    except typer.Exit:
        pass  # --version and --help end it
    except Wrong:
        raise
    except Exception as error:  # whatever kind the parser's errors are of
        raise Wrong(f"{name}: {error}") from error


def _until_redirection(words: Words) -> Words:
    marks = [place for place, word in enumerate(words) if set(word) & set("<>")]
    return words[: marks[0]] if marks else words


@cache
def _makefile() -> str:
    return (ROOT / "Makefile").read_text()


def _check_make(arguments: Words) -> None:
    for word in arguments:
        name, assigned, _ = word.partition("=")
        pattern = rf"^{re.escape(name)} \?=" if assigned else rf"^([\w. $()/-]* )?{re.escape(name)}:"
        if word not in (".venv/.dev", "…") and not re.search(pattern, _makefile(), re.MULTILINE):
            raise Wrong(f"make has no {name}")


def _check_python(arguments: Words) -> None:
    if arguments[:1] == ["-m"] and importlib.util.find_spec(arguments[1]) is None:
        raise Wrong(f"there is no module {arguments[1]}")
    for path in arguments[2:]:
        if path.startswith("tests/") and not (ROOT / path).exists():
            raise Wrong(f"there is no {path}")


def _check_pip(arguments: Words) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for asked in re.findall(r"\[([\w,]+)\]", " ".join(arguments)):
        if unknown := set(asked.split(",")) - extras.keys():
            raise Wrong(f"there is no extra {', '.join(unknown)}")


@cache
def stack() -> dict[str, Any]:
    """The compose file."""
    document: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    return document


def _check_compose(arguments: Words) -> None:
    services = stack()["services"]
    profiles = {profile for service in services.values() for profile in service.get("profiles", ())}
    plain: Words = []
    waiting = iter(arguments)
    for word in waiting:
        if plain[:1] in (["exec"], ["run"]) and len(plain) == 2:
            # The rest is a command inside the service's container.
            inside = [word, *waiting]
            image = str(services.get(plain[1], {}).get("image", ""))
            if plain[0] == "run" and "layercache" in image:
                inside = ["layercache", *inside]
            if inside[0] == "layercache":
                check_layercache(inside[1:])
            break
        if word in _WITH_VALUE:
            value = next(waiting)
            if word == "--profile" and value not in profiles:
                raise Wrong(f"the stack has no profile {value}; there are {sorted(profiles)}")
            if word == "--scale" and value.partition("=")[0] not in services:
                raise Wrong(f"the stack has no service {value}")
        elif not word.startswith("-"):
            plain.append(word)
    if unknown := set(plain[1:2] if plain[:1] in (["exec"], ["run"]) else plain[1:]) - services.keys():
        raise Wrong(f"the stack has no service {', '.join(sorted(unknown))}; there are {', '.join(services)}")
