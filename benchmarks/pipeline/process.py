"""What a process and its children use, from Linux's ``/proc``."""

import os
import time
from dataclasses import dataclass
from pathlib import Path

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Usage:
    """At ``at`` seconds of the monotonic clock; processor time since the start, and the most memory so far."""

    at: float
    cpu_s: float
    memory_mb: float


def usage(pid: int) -> Usage:
    """Of process ``pid`` and all that it started and that still runs, user and system time, peak resident memory.

    >>> import os
    >>> usage(os.getpid()).memory_mb > 1
    True
    """
    cpu_s = memory_mb = 0.0
    for member in _family(pid):
        try:
            cpu_s += _cpu_s(member)
            memory_mb += _peak_mb(member)
        except (FileNotFoundError, ProcessLookupError):  # it ended meanwhile
            continue
    return Usage(time.monotonic(), cpu_s, memory_mb)


def _family(pid: int) -> list[int]:
    family = [pid]
    for member in family:  # grows while it is walked
        for children in Path(f"/proc/{member}/task").glob("*/children"):
            try:
                family += map(int, children.read_text().split())
            except (FileNotFoundError, ProcessLookupError):
                continue
    return family


def _cpu_s(pid: int) -> float:
    # The second field, the name, may hold blanks; user and system time are the 14th and 15th.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S


def _peak_mb(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    return 0.0
