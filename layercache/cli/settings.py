"""``layercache settings``: all settings, from their types."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, get_args, get_origin

import typer

from layercache.cli import common
from layercache.cli.options import default_of

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo


class Row(NamedTuple):
    """One setting in words."""

    name: str
    variable: str
    kind: str
    default: str
    meaning: str


def command(
    markdown: Annotated[bool, typer.Option("--markdown", help="As a Markdown table.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, one object per setting.")] = False,
) -> None:
    """Lists every setting: its name in the TOML file, its environment variable, type, default and meaning.

    \b
    Example:
      layercache settings
      layercache settings --json | jq -r '.[].variable'
    """
    if as_json:
        typer.echo(json.dumps([row._asdict() for row in rows()], indent=2))
    elif markdown:
        typer.echo(markdown_table())
    else:
        _print_table()


def rows() -> Iterator[Row]:
    """Every setting, in the order of the settings file."""
    from layercache.schemas.settings import Settings

    for section, field in Settings.model_fields.items():
        for name, option in field.annotation.model_fields.items():  # type: ignore[union-attr]
            variable = f"{common.ENV_PREFIX}{section}__{name}".upper()
            yield Row(f"{section}.{name}", variable, _kind(option), default_of(option), option.description or "")


def markdown_table() -> str:
    """The README's table."""
    lines = ["| setting | environment variable | type | default | meaning |", "|---|---|---|---|---|"]
    for row in rows():
        cells = [f"`{row.name}`", f"`{row.variable}`", row.kind, f"`{row.default}`" if row.default else "", row.meaning]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines)


def _print_table() -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("setting", "type", "default", "meaning", box=None, header_style="bold")
    for row in rows():
        table.add_row(row.name, row.kind, row.default, row.meaning)
    console = Console()
    console.print(table)
    console.print(
        f"\nIn a file: [section] and name = value. In the environment: {common.ENV_PREFIX}SECTION__NAME, "
        f"as in {common.ENV_PREFIX}WORKER__MAX_BATCH=8. Options win over the environment, that over the file.",
        markup=False,
    )


def _kind(option: "FieldInfo") -> str:
    kinds = [_name(kind) for kind in _alternatives(option.annotation)]
    bounds = [_bound(limit) for limit in option.metadata]
    return " or ".join(kinds) + "".join(f", {bound}" for bound in bounds if bound)


def _alternatives(annotation: Any) -> list[Any]:
    """The alternatives of an annotation, without ``None``."""
    if get_origin(annotation) is Literal:
        return list(get_args(annotation))
    members = get_args(annotation) if type(None) in get_args(annotation) else (annotation,)
    return [member for member in members if member is not type(None)]


def _name(kind: Any) -> str:
    if isinstance(kind, str):
        return f"`{kind}`"
    if get_origin(kind) is dict:
        return "table"
    names = {str: "text", int: "whole number", float: "number", Path: "path", bool: "true or false"}
    return names.get(kind, "text, never shown" if kind.__name__ == "SecretStr" else str(kind))


def _bound(limit: Any) -> str:
    signs = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
    return ", ".join(f"{sign} {getattr(limit, name)}" for name, sign in signs.items() if hasattr(limit, name))
