"""Reference: every setting, from the types that read it."""

from itertools import groupby

from layercache.cli.settings import Row, rows
from layercache.schemas.settings import Settings

_HEAD = """# Settings

One TOML file (`--config layercache.toml`, or `LAYERCACHE_CONFIG`), overridden by environment variables, overridden by
options of the command line. `layercache settings` prints the same list, `layercache settings --json` for scripts; the
JSON Schema of the file is [`schemas/json/settings.json`](../../schemas/json/settings.json).

The variable of `max_batch` in `[worker]` is `LAYERCACHE_WORKER__MAX_BATCH`: the prefix, the section, two underscores,
the name. A variable that is set but empty leaves the setting to the file. A table in a variable is JSON:
`LAYERCACHE_KAFKA__OPTIONS='{"security.protocol": "SASL_SSL"}'`.

A misspelt setting, section or variable ends the command with exit code 2 and a line that names it.
"""


def page() -> str:
    """Markdown, a table for each section.

    >>> "| `worker.max_batch` | whole number, ≥ 1 | `32` |" in page()
    True
    """
    parts = [_HEAD]
    for section, options in groupby(rows(), key=lambda row: row.name.partition(".")[0]):
        owner = Settings.model_fields[section].annotation
        parts.append(f"## {section}\n\n{owner.__doc__}\n\n| setting | type | default | meaning |\n|---|---|---|---|")
        parts.append("\n".join(map(_line, options)) + "\n")
    return "\n".join(parts)


def _line(row: Row) -> str:
    cells = [f"`{row.name}`", row.kind, f"`{row.default}`" if row.default else "", row.meaning]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
