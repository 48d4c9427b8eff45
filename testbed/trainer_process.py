"""A real trainer as a child process."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from layercache.schemas.settings import Settings
from testbed.commands import Process, start, start_anew


@contextmanager
def running_trainer(settings: Settings, folder: Path, anew: bool = False) -> Iterator[Process]:
    """`layercache trainer` with these settings; killed at the end if it still runs. Its log is ``trainer.log``.

    It is a fork that has imported its libraries already, unless it is started ``anew``.
    """
    config = folder / "trainer.toml"
    config.write_text(as_toml(settings))
    with (folder / "trainer.log").open("ab") as log:
        arguments = ("trainer", "--config", config)
        process = start_anew(*arguments, output=log) if anew else start(*arguments, stdout=log, stderr=log)
        try:
            yield process
        finally:
            process.kill()
            process.wait(30)


def as_toml(settings: Settings) -> str:
    """The settings as the file that ``--config`` reads."""
    lines: list[str] = []
    for section, values in settings.model_dump(mode="json").items():
        lines.append(f"[{section}]")
        tables = {name: value for name, value in values.items() if isinstance(value, dict)}
        lines += [
            f"{name} = {json.dumps(value)}"
            for name, value in values.items()
            if name not in tables and value is not None
        ]
        for name, table in tables.items():
            lines.append(f"[{section}.{name}]")
            lines += [f"{json.dumps(key)} = {json.dumps(value)}" for key, value in table.items()]
    return "\n".join(lines) + "\n"
