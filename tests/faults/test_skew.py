"""A process's clock jumps while it runs, and what it measures does not."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.harness import skew

SAYS_THE_TIME = """
import time
while input():
    print(time.time(), time.monotonic(), flush=True)
"""


def test_the_time_of_day_jumps_and_goes_back_and_durations_stay(tmp_path: Path) -> None:
    environment = skew.build(tmp_path)
    if environment is None:
        pytest.skip("needs Linux and a C compiler")
    with subprocess.Popen(
        [sys.executable, "-c", SAYS_THE_TIME],
        env={**os.environ, **environment(tmp_path)}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None
        told: list[tuple[float, float]] = []
        for ahead_s in (0.0, 3_600.0, -7_200.5, 0.0):
            skew.set_clock(tmp_path, ahead_s)
            process.stdin.write("?\n")
            process.stdin.flush()
            day, steady = process.stdout.readline().split()
            told.append((float(day), float(steady)))
        process.stdin.close()
    offsets = [day - steady - (told[0][0] - told[0][1]) for day, steady in told]
    assert offsets == pytest.approx([0.0, 3_600.0, -7_200.5, 0.0], abs=0.01)
