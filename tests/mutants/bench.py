"""A copy of the tree, in which mistakes are made and tests are run."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from tests.mutants.mutant import Mutant

#: What `make test` runs; a mutant may not count on the others.
MARKERS = "not slow and not faults"
#: A mistake may make a test wait for what never comes.
_TIMEOUT = "--timeout=120"
_UNSHRUNK = ("-p", "tests.mutants.unshrunk", "--hypothesis-profile=unshrunk", "--hypothesis-seed=0")
_LIBRARIES = ("pytest", "torch", "torchvision.io", "scipy.special", "confluent_kafka", "fsspec", "pydantic_settings")
_FAILED = re.compile(r"^FAILED \S+?::(?P<test>[\w:]+)(\[.*?\])?( - (?P<why>.*))?$", re.MULTILINE)
#: A test that ends so has found that the mutant is no program, not that it breaks a promise.
_NO_PROGRAM = (
    "SyntaxError",
    "IndentationError",
    "ImportError",
    "ModuleNotFoundError",
    "NameError",
    "UnboundLocalError",
)

_WHERE = """
import layercache, layercache.cache_training, layercache.early_exit, layercache.stream
for module in (layercache, layercache.cache_training, layercache.early_exit, layercache.stream):
    print(module.__file__)
"""


class Unusable(RuntimeError):
    """The copy cannot show anything: its tests fail without any mistake, or its code comes from elsewhere."""


@dataclass(frozen=True)
class Outcome:
    """What the tests said of a mutant."""

    verdict: Literal["caught", "survived", "no mutant"]
    """``no mutant`` where the tests could not even be run with it."""
    test: str
    """The first one that failed; empty where none did."""
    said: str
    """What it said, or the end of pytest's output."""
    seconds: float


class Bench:
    """Runs tests in ``folder``, which is a copy: files in it are changed, and changed back. A context manager.

    ``options`` are pytest's, ``libraries`` are imported once for all runs (:mod:`tests.mutants.preloaded`).
    """

    def __init__(self, folder: Path, options: Sequence[str] = (), libraries: Sequence[str] = ()) -> None:
        self.folder = folder.resolve()
        self._options = options
        self._environment = {
            **os.environ,
            "PYTHONPATH": str(self.folder),
            "COLUMNS": "1000",  # or pytest shortens what a test said
            "OMP_NUM_THREADS": "1",
            # Python takes compiled code for outdated by the second and the size, which a mutant may share with another.
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        self._process = subprocess.Popen(
            [sys.executable, "-P", str(Path(__file__).with_name("preloaded.py")), *libraries],
            cwd=self.folder, env=self._environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            start_new_session=True,
        )  # fmt: skip

    @classmethod
    def of_tracked(cls, root: Path, folder: Path) -> Self:
        """Copies what git tracks or could track under ``root``, as it is now, into ``folder``."""
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=root, check=True, capture_output=True, text=True,
        )  # fmt: skip
        for name in filter(None, listed.stdout.split("\0")):
            source, target = root / name, folder / name
            if source.is_symlink() or source.exists():  # one that was deleted and not committed is still listed
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(source, target, follow_symlinks=False)
        return cls(folder, (_TIMEOUT, *_UNSHRUNK), _LIBRARIES)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Ends what is under way: the process, its tests, and what these have started."""
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.communicate()

    def check_imports(self) -> None:
        """Raises :class:`Unusable` where ``layercache`` comes from elsewhere, in any process that a test may start."""
        found = subprocess.run(
            [sys.executable, "-c", _WHERE], cwd="/", env=self._environment, check=True, capture_output=True, text=True
        )
        for line in found.stdout.split():
            if not Path(line).is_relative_to(self.folder):
                raise Unusable(f"{line} would be tested, not the copy in {self.folder}")

    def check_passes(self, mutants: Sequence[Mutant]) -> float:
        """Runs the tests of all ``mutants`` without any mistake; returns the seconds. Raises :class:`Unusable`."""
        began = time.monotonic()
        code, output = self._run(sorted({file for mutant in mutants for file in mutant.tests.split()}))
        if code != 0:
            raise Unusable(f"these tests fail without any mistake:\n{output[-5_000:]}")
        return time.monotonic() - began

    def outcome(self, mutant: Mutant) -> Outcome:
        """Makes the mistake, runs the mutant's tests until one fails, and takes the mistake back."""
        path = self.folder / mutant.file
        right = path.read_text()
        began = time.monotonic()
        try:
            path.write_text(mutant.mutated(right))
            code, output = self._run(mutant.tests.split())
        finally:
            path.write_text(right)
        seconds = time.monotonic() - began
        if code == 0:
            return Outcome("survived", "", output[-1_000:], seconds)
        failed = _FAILED.search(output)
        if code != 1 or failed is None or (failed["why"] or "").startswith(_NO_PROGRAM):
            return Outcome("no mutant", "", output[-3_000:], seconds)
        return Outcome("caught", failed["test"], failed["why"] or "", seconds)

    def _run(self, tests: Sequence[str]) -> tuple[int, str]:
        """Pytest's exit code and output."""
        output = self.folder.with_name(f"{self.folder.name}.output")
        arguments = ["-x", "-q", "--no-header", "--tb=short", "-m", MARKERS]
        arguments += ["-p", "no:cacheprovider", *self._options, *tests]
        assert self._process.stdin and self._process.stdout
        try:
            self._process.stdin.write(json.dumps({"arguments": arguments, "output": str(output)}) + "\n")
            self._process.stdin.flush()
            code = self._process.stdout.readline()
            if not code:
                raise Unusable("the process that runs the tests has ended")
            return int(code), output.read_text(errors="replace")
        finally:
            output.unlink(missing_ok=True)
