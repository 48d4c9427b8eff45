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
from tests.faults.harness.keeping import Keeper
from tests.faults.harness.phase import run
from tests.faults.harness.plan import phases
from tests.faults.harness.verdict import Outcome


def main() -> int:
    """Runs all phases; exit code 1 where anything was not as it should be."""
    parser = argparse.ArgumentParser(prog="make faults", description=__doc__)
    parser.add_argument("--frames", type=int, default=2_020_000, help="at least so many, exactly once")
    parser.add_argument("--faults", type=int, default=410, help="at least so many, exactly once")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=120.0, help="no fault is begun after so long")
    parser.add_argument("--resume", action="store_true", help="keep the phases that are over, if the code is the same")
    parser.add_argument("--only", metavar="PHASE", help="this phase alone; the report then tells no other")
    parser.add_argument("--state", type=Path, default=Path(".faults"), help="folder of the phases that are over")
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
    if chosen.only is not None:
        chosen_phases = [phase for phase in chosen_phases if phase.name == chosen.only]
    keeper = Keeper(chosen.state)
    if not chosen.resume:
        keeper.forget()
    to_do = [phase for phase in chosen_phases if keeper.find(phase) is None]
    done = 0.0
    for phase in chosen_phases:
        outcome = keeper.find(phase)
        if outcome is None:
            # Each has its share of the time: faults that take longer than thought must not cost a later phase its own.
            done += phase.frames
            until = began + chosen.minutes * 60 * done / sum(one.frames for one in to_do)
            outcome = run(phase, Path(home), folder / phase.file_name, until)
            keeper.keep(outcome)
        outcomes.append(outcome)
        for failure in outcome.failures():
            logging.error("%s: %s", phase.name, failure)
        # After every phase: what was found so far outlives whatever ends the next one.
        found = report.write(outcomes, command, f"{datetime.now(UTC):%Y-%m-%d}", chosen.out)
    print({name: found[name] for name in ("frames", "faults", "in_window", "ends_delayed", "found", "failures")})
    if found["failures"] or chosen.keep:
        print(f"logs and data: {folder}", file=sys.stderr)
    else:
        shutil.rmtree(folder)
    return 1 if found["failures"] else 0


def _asked(arguments: list[str]) -> list[str]:
    """As one would type it; folders, and in how many sittings it ran, are nobody's business."""
    folders = ("--out", "--state")
    kept = [
        one for i, one in enumerate(arguments) if one not in folders and (i == 0 or arguments[i - 1] not in folders)
    ]
    kept = [one for one in kept if one not in ("--resume", "--keep")]
    return [f'FAULTS_ARGS="{" ".join(kept)}"'] if kept else []


if __name__ == "__main__":
    sys.exit(main())
