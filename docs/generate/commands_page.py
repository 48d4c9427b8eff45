"""Reference: every command, from the command line itself."""

import re

import typer
from typer.cli import get_docs_for_click

from layercache.cli.main import app

_HEAD = """# Commands

Exit codes: 0 done, 1 failed, 2 wrong usage or settings, 3 a worker stopped in a micro-batch, 130 Ctrl-C. Options win
over the environment, and that over the settings file: [settings](settings.md). `layercache --install-completion`
teaches your shell (bash, zsh, fish, PowerShell) to complete commands and options; `--show-completion` prints what that
would install.

"""


def page() -> str:
    """Markdown: usage, arguments and options of each command, with its examples.

    >>> "## `layercache heads rollback`" in page() and "--install-completion" in page()
    True
    """
    command = typer.main.get_command(app)
    context = typer.Context(command, info_name="layercache")
    text = get_docs_for_click(obj=command, ctx=context, name="layercache").partition("\n")[2]
    return _HEAD + _examples_fenced(_one_level(_without_lists(text)))


def _without_lists(text: str) -> str:
    """Drops lists of a group's commands: they cut sentences off, and the page's contents list all commands."""
    return re.sub(r"^\*\*Commands\*\*:\n\n(\* .*\n)+", "", text, flags=re.MULTILINE)


def _one_level(text: str) -> str:
    """Gives all commands the same heading level, so that the page's contents list them alike."""
    return re.sub(r"^#{2,} `", "## `", text, flags=re.MULTILINE)


def _examples_fenced(text: str) -> str:
    """Fences the examples, which help texts lay out by hand for terminals."""

    def fenced(found: re.Match[str]) -> str:
        lines = "\n".join(line.removeprefix("  ") for line in found[1].splitlines())
        return f"**Example**:\n\n```console\n{lines}\n```\n"

    return re.sub(r"^Example:\n((?:  .*\n)+)", fenced, text.replace("\b", ""), flags=re.MULTILINE)
