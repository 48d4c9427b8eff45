"""``python -m tests.faults.harness``: the whole run, and the report. Needs ``KAFKA_HOME``."""

import argparse
import logging
import os
import shutil
import signal
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

from tests.faults.harness import report
from tests.faults.harness.phase import Phase, run
from tests.faults.harness.verdict import Outcome

#: Of all exactly-once frames and faults, those that one broker sees; the rest see a cluster of three.
_ONE_BROKER = 0.5
#: At least once comes on top.
_AT_LEAST_ONCE = 0.1
#: What a fault takes with its recovery, about: the rate of the frames follows from it.
_SECONDS_A_FAULT = 7.0


def phases(frames: int, faults: int, seed: int) -> list[Phase]:
    """Exactly once on one broker and on three, then at least once; each with faults and frames of its own."""
    rate = frames / (faults * _SECONDS_A_FAULT)
    one, three = round(faults * _ONE_BROKER), faults - round(faults * _ONE_BROKER)
    few = max(1, round(faults * _AT_LEAST_ONCE))
    share = frames / faults
    return [
        Phase("one broker", 1, "exactly_once", round(one * share), one, seed, rate),
        Phase("three brokers", 3, "exactly_once", frames - round(one * share), three, seed + 1, rate),
        Phase("at least once", 1, "at_least_once", round(few * share), few, seed + 2, rate),
    ]


def main() -> int:
    """Runs all phases; exit code 1 where anything was not as it should be."""
    parser = argparse.ArgumentParser(prog="make faults", description=__doc__)
    parser.add_argument("--frames", type=int, default=1_050_000, help="at least so many, exactly once")
    parser.add_argument("--faults", type=int, default=210, help="so many, exactly once")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=90.0, help="no fault is begun after so long")
    parser.add_argument("--out", type=Path, default=Path("docs"), help="folder for reliability.md and benchmarks/")
    parser.add_argument("--keep", action="store_true", help="keep logs and data even if all went well")
    chosen = parser.parse_args()
    home = os.environ.get("KAFKA_HOME")
    if not home:
        print("set KAFKA_HOME to an unpacked Apache Kafka distribution (needs Java 17)", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # brokers and workers end with it
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    folder = Path(tempfile.mkdtemp(prefix="layercache-faults-"))
    began = time.monotonic()
    outcomes: list[Outcome] = []
    command = " ".join(["make faults", *_asked(sys.argv[1:])])
    chosen_phases = phases(chosen.frames, chosen.faults, chosen.seed)
    done = 0
    for phase in chosen_phases:
        # Each has its share of the time: faults that take longer than thought must not cost a later phase its own.
        done += phase.faults
        until = began + chosen.minutes * 60 * done / sum(one.faults for one in chosen_phases)
        outcomes.append(run(phase, Path(home), folder / phase.name.replace(" ", "-"), until))
        for failure in outcomes[-1].failures():
            logging.error("%s: %s", phase.name, failure)
        # After every phase: what was found so far outlives whatever ends the next one.
        found = report.write(outcomes, command, f"{datetime.now(UTC):%Y-%m-%d}", chosen.out)
    print({name: found[name] for name in ("frames", "faults", "lost", "duplicated", "failures")})
    if found["failures"] or chosen.keep:
        print(f"logs and data: {folder}", file=sys.stderr)
    else:
        shutil.rmtree(folder)
    return 1 if found["failures"] else 0


def _asked(arguments: list[str]) -> list[str]:
    """As one would type it; the folder of the report is nobody's business."""
    kept = [one for i, one in enumerate(arguments) if one != "--out" and (i == 0 or arguments[i - 1] != "--out")]
    return [f'FAULTS_ARGS="{" ".join(kept)}"'] if kept else []


if __name__ == "__main__":
    sys.exit(main())
