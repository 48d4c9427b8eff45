"""Worker processes whose Kafka clients are the harness's (:mod:`.entry`), forked so that a start takes a moment."""

import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from layercache.schemas.settings import Settings
from testbed.commands import Command, start
from testbed.trainer_process import as_toml
from tests.faults.harness import entry


@dataclass(frozen=True)
class Life:
    """``layercache worker`` as it runs; its log is ``log``."""

    process: Command
    log: Path

    @classmethod
    def start(cls, settings: Settings, folder: Path, name: str, gated: bool = False) -> "Life":
        """A worker with these settings. Files: ``<folder>/<name>.toml`` and ``.log``.

        One that is ``gated`` loads its model and joins its group only after :meth:`open_gate`.
        """
        config, log = folder / f"{name}.toml", folder / f"{name}.log"
        config.write_text(as_toml(settings))
        log.touch()
        if gated:
            log.with_suffix(".gate").touch()
        with log.open("ab") as output:
            process = start(
                "worker", "--config", config, stdout=output, stderr=output,
                doubles=entry.__name__, environment=entry.environment(name, folder),
            )  # fmt: skip
        return cls(process, log)

    @property
    def code(self) -> int | None:
        """The exit code, negative for a signal; None while it runs."""
        return self.process.poll()

    def said(self, text: str) -> bool:
        """True once the log has ``text``."""
        return text in self.text()

    def text(self) -> str:
        return self.log.read_text(errors="replace")

    def told(self, line: str) -> list[frozenset[int]]:
        """The partitions that each such line of :mod:`.entry` names, in the log's order."""
        found = re.findall(rf"^{line} \[([\d, ]*)\]$", self.text(), re.MULTILINE)
        return [frozenset(int(number) for number in one.split(",") if number.strip()) for one in found]

    @property
    def gated(self) -> bool:
        """Whether it may not join its group yet."""
        return self.log.with_suffix(".gate").exists()

    def open_gate(self) -> None:
        """It may join its group."""
        self.log.with_suffix(".gate").unlink(missing_ok=True)

    @contextmanager
    def dying_while_committing(self) -> Iterator[None]:
        """It kills itself after it has sent the offsets of its next transaction, before it commits it."""
        order = self.log.with_suffix(".die")
        order.touch()
        try:
            yield
        finally:
            order.unlink()

    def signal(self, number: int) -> None:
        """Nothing happens to one that has ended."""
        self.process.send_signal(number)

    def wait(self, seconds: float) -> bool:
        """False where it has not ended by then."""
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True
