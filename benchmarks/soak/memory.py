"""What a process takes of the machine's memory, and whether that grows."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.stats import theilslopes

_CONFIDENCE = 0.95


@dataclass(frozen=True)
class Memory:
    """Megabytes (of 2^20 bytes), as Linux counts them."""

    rss_mb: float
    pss_mb: float
    """Pages that it shares with other processes are counted in parts."""


def memory_of(pid: int) -> Memory:
    """Of a process now, from ``smaps_rollup`` (see proc(5)). Raises ``OSError`` where it is gone."""
    kilobytes = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
        name, _, value = line.partition(":")
        kilobytes[name] = int(value.split()[0])
    return Memory(kilobytes["Rss"] / 1024, kilobytes["Pss"] / 1024)


@dataclass(frozen=True)
class Slope:
    """Megabytes per minute, with a 95 % interval."""

    mb_per_min: float
    low: float
    high: float


def slope(seconds: list[float], megabytes: list[float], after_s: float) -> Slope:
    """How memory grew from ``after_s`` on: the median of all pairs' slopes (Sen 1968), which peaks do not bend.

    >>> fitted = slope([0.0, 10.0, 20.0, 30.0, 40.0], [5.0, 0.0, 1.0, 2.0, 3.0], after_s=10.0)
    >>> round(fitted.mb_per_min, 3)
    6.0
    """
    at, values = np.array(seconds), np.array(megabytes)
    later = at >= after_s
    found, _, low, high = theilslopes(values[later], at[later] / 60, _CONFIDENCE)
    return Slope(float(found), float(low), float(high))
