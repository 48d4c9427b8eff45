"""A broker's clock that can be set while it runs: ``skew.c``, preloaded. Needs Linux and a C compiler."""

import shutil
import struct
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

_SOURCE = Path(__file__).with_name("skew.c")
_CLOCK = "clock"


def build(folder: Path) -> Callable[[Path], Mapping[str, str]] | None:
    """Compiles it into ``folder``; returns what makes the environment of a process from the folder of its clock.

    None where it cannot be had here.
    """
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or sys.platform != "linux":
        return None
    library = folder / "skew.so"
    command = [compiler, "-shared", "-fPIC", "-O2", "-o", str(library), str(_SOURCE), "-ldl"]
    if subprocess.run(command, check=False, capture_output=True).returncode:
        return None

    def environment(process: Path) -> dict[str, str]:
        (process / _CLOCK).write_bytes(struct.pack("=q", 0))
        return {"LD_PRELOAD": str(library), "HARNESS_CLOCK": str(process / _CLOCK)}

    return environment


def set_clock(process: Path, ahead_s: float) -> None:
    """At once the clock of the process whose folder that is is so far ahead of this machine's, or behind."""
    with (process / _CLOCK).open("r+b") as file:
        file.write(struct.pack("=q", int(ahead_s * 1e9)))
