"""Worker processes, forked from one that has imported the libraries already: a start takes a moment, not seconds."""

import faulthandler
import multiprocessing
import os
import re
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from layercache.schemas.settings import Settings
from testbed.trainer_process import as_toml
from tests.faults.harness import entry

_PROCESSES = multiprocessing.get_context("forkserver")
_PROCESSES.set_forkserver_preload(
    [
        "tests.faults.harness.forked",
        "layercache.cli.main",
        "layercache.stream.worker.service",
        "tests.faults.harness.lives",
    ]
)


@dataclass(frozen=True)
class Life:
    """``layercache worker`` as it runs; its log is ``log``."""

    process: ForkServerProcess
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
        process = _PROCESSES.Process(target=_work, args=(str(config), str(log)), name=name, daemon=True)
        process.start()
        return cls(process, log)

    @property
    def code(self) -> int | None:
        """The exit code, negative for a signal; None while it runs."""
        return self.process.exitcode

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
        if self.code is None and self.process.pid is not None:
            os.kill(self.process.pid, number)

    def wait(self, seconds: float) -> bool:
        """False where it has not ended by then."""
        self.process.join(seconds)
        return self.code is not None


def _work(config: str, log: str) -> None:
    """What the child does: the command line's own ``main``, its output in ``log``."""
    output = os.open(log, os.O_WRONLY | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    sys.stdout = os.fdopen(1, "w", buffering=1, closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
    faulthandler.enable(2)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    entry.equip(Path(log).stem, Path(log).parent)
    sys.argv = ["layercache", "worker", "--config", config]
    from layercache.cli.main import main

    main()
