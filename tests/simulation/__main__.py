"""Plays many schedules, each from its seed, until one breaks the promise: ``python -m tests.simulation``.

    python -m tests.simulation --interleavings 1000000 --seed 0 --processes 2
    python -m tests.simulation --seed 567 --verbose

The second plays one seed and tells what happens in it. Seeds that fail are kept in ``tests/simulation/seeds.txt``.
"""

from __future__ import annotations

import argparse
import gc
import json
import logging
import multiprocessing
import signal
import sys
import time
from collections import Counter
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from tests.simulation.schedule import THEMES, Play, simulate
from tests.simulation.worker_process import quiet_logs

SEEDS = Path(__file__).with_name("seeds.txt")
RECORD = Path(__file__).parents[2] / "docs/benchmarks/simulation.json"

_CHUNK = 200
#: After so many chunks a process makes room for a new one. None of them collects garbage (see :func:`_prepare`): that
#: takes about 200 kB for each interleaving.
_CHUNKS_PER_PROCESS = 5
_PROGRESS_S = 5.0


def play(seeds: range) -> tuple[Counter[str], list[tuple[int, list[str]]]]:
    """Plays these seeds; what they amounted to, and the seeds that failed with what was wrong."""
    totals: Counter[str] = Counter()
    failed = []
    for seed in seeds:
        verdict = simulate(seed)
        totals.update(
            interleavings=1,
            steps=verdict.steps,
            frames=verdict.frames,
            faults=verdict.faults,
            rebalances=verdict.rebalances,
            transactions_timed_out=verdict.aborted_by_timeout,
            simulated_ms=round(verdict.simulated_s * 1000),
        )
        totals[verdict.theme] += 1
        if verdict.problems:
            failed.append((seed, verdict.problems))
    return totals, failed


def _prepare() -> None:
    """A process that plays begins.

    Each simulation ends as garbage full of cycles. To collect it costs a fifth of what it costs to play; to end the
    process, whose memory goes with it, costs nothing.
    """
    quiet_logs()
    gc.disable()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the one that counts


def tell(seed: int, theme: Play | None) -> int:
    """Plays one seed and tells what happens, the project's own log among it."""

    class Lines(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            print(f"           log  {record.getMessage()}")

    logger = logging.getLogger("layercache.stream")
    logger.addHandler(Lines())
    logger.setLevel(logging.INFO)
    logger.propagate = False
    verdict = simulate(seed, print, theme=theme)
    print("\n".join(verdict.problems) or "nothing is wrong")
    return 1 if verdict.problems else 0


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--interleavings", type=int, default=20_000, help="how many seeds to play")
    parser.add_argument("--seed", type=int, default=0, help="the first of them")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--verbose", action="store_true", help="play one seed, and tell what happens in it")
    parser.add_argument("--theme", help="with --verbose: the seed's schedule of this theme, not of the one it chooses")
    parser.add_argument("--keep-going", action="store_true", help="do not stop at the first seed that fails")
    parser.add_argument("--write", action="store_true", help=f"write what came of it to {RECORD.name}")
    arguments = parser.parse_args()
    if arguments.verbose:
        return tell(arguments.seed, {theme.__name__: theme for theme in THEMES}.get(arguments.theme))
    quiet_logs()
    began = told = time.monotonic()
    end = arguments.seed + arguments.interleavings
    chunks = (range(start, min(start + _CHUNK, end)) for start in range(arguments.seed, end, _CHUNK))
    totals: Counter[str] = Counter()
    failures: list[tuple[int, list[str]]] = []
    context = multiprocessing.get_context("fork")
    with (
        context.Pool(arguments.processes, _prepare, maxtasksperchild=_CHUNKS_PER_PROCESS) as pool,
        suppress(KeyboardInterrupt),  # what was played until then counts
    ):
        for counted, failed in pool.imap(play, chunks):
            totals += counted
            failures += failed
            now = time.monotonic()
            for seed, problems in failed:
                print(f"seed {seed}: {'; '.join(problems[:3])}{' …' if len(problems) > 3 else ''}", flush=True)
            if now - told >= _PROGRESS_S:
                told, rate = now, totals["interleavings"] / (now - began)
                print(f"{totals['interleavings']:,} interleavings, {rate:.0f}/s, {len(failures)} failed", flush=True)
            if failures and not arguments.keep_going:
                break
    seconds = time.monotonic() - began
    print(f"{totals['interleavings']:,} interleavings in {seconds:.0f} s, {len(failures)} broke the promise")
    for seed, _ in failures[:20]:
        print(f"see: python -m tests.simulation --verbose --seed {seed}")
    if failures:
        _keep([seed for seed, _ in failures])
    if arguments.write:
        _write(totals, arguments, seconds, len(failures))
    return 1 if failures else 0


def _keep(seeds: list[int]) -> None:
    known = SEEDS.read_text().split() if SEEDS.exists() else []
    new = [str(seed) for seed in sorted(seeds) if str(seed) not in known]
    with SEEDS.open("a") as file:
        file.writelines(f"{seed}\n" for seed in new)


def _write(totals: Counter[str], arguments: argparse.Namespace, seconds: float, failed: int) -> None:
    record = {
        "on": datetime.now(UTC).date().isoformat(),
        "first_seed": arguments.seed,
        "processes": arguments.processes,
        "seconds": round(seconds),
        "failed": failed,
        **{name: totals[name] for name in sorted(totals)},
    }
    RECORD.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    sys.exit(main())
