"""Does the promise hold for life? Simulated streams, many attempts in each, counted where a version ever broke it.

    python -m benchmarks.promise                    # 4,300 streams: docs/benchmarks/promise.json, promise.md
    python -m benchmarks.promise --share 0.1        # a tenth of them

The promise: with probability ``confidence`` no version ever published has a risk above ``max_disagreement`` (nor, where
those are set, a class above ``max_class_disagreement``, nor under overload a risk above ``overload_max_disagreement``).
So of many streams at most 1 - ``confidence`` may break it.
"""

import argparse
import json
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from multiprocessing import get_context
from pathlib import Path

from benchmarks.promise.runs import Result
from benchmarks.promise.scenarios import GROUPS, simulated


def table(results: Sequence[Result]) -> str:
    """Markdown."""
    lines = [
        "| scenario | streams | attempts | versions | published in | broken | 99 % bounds | may break | kept |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for r in results:
        low, high = r.interval()
        name = r.scenario if r.mutant == "none" else f"**{r.mutant}**: {r.scenario}"
        lines.append(
            f"| {name} | {r.streams} | {r.attempts:.1f} | {r.versions:.1f} | {r.published / r.streams:.0%} | "
            f"{r.broken / r.streams:.1%} | {low:.1%} to {high:.1%} | {r.allowed:.0%} | {'yes' if r.kept else 'no'} |"
        )
    return "\n".join(lines)


def report(
    promised: Sequence[Result],
    recycling: Sequence[Result],
    cameras_: Sequence[Result],
    weights: Sequence[Result],
    mutants: Sequence[Result],
) -> str:
    """The whole page."""
    streams = sum(result.streams for result in (*promised, *recycling))
    return f"""# The promise for life, simulated

{streams:,} streams of independent frames; attempts and versions are means over the streams. *Broken*: streams in which
any published version's true risk was above its budget, or its risk under overload was above the budget for overload.
*May break*: 1 - confidence. The promise is kept unless the lower bound of the broken share is above that. Each bound
holds with 99 %. `python -m benchmarks.promise` makes this page.

{table(promised)}

## Error that passes on

An attempt whose target is certified leaves its error to the next one. Here targets are met until nothing is safe any
more, or always missed, or met with bolder settings just beyond them; trainers are killed before the outcome is written;
or two of them share a store and a checkpoint, and one attempts while an attempt of the other is under way.

{table(recycling)}

## Near-copies

40 cameras send one frame a second, and half of the frames are audited. While a scene lasts, all frames of its camera
are near-copies: equal, but for the noise. Blocks last 10 s, and the frames of one count together. Scenes change
together with the blocks where they last exactly a block, or 10 s where heads know what they have learnt. Where a scene
outlasts a block, the next block shows the same again: the trainer sees that neighbouring blocks are alike, and attempts
nothing. In the loop, frames have no keys, and are equal to the last bit when they come again.

{table(cameras_)}

## Frames that weigh unequally

Heads are wrong only about frames of long blocks, or only in hours in which workers audit less. By blocks, or by audits,
they look five times as good as they are by frames, and by frames they are at the budget. Cameras that send many
near-copies are audited as seldom as the published versions say.

{table(weights)}

## Mistakes that it catches

The same simulation with one part replaced by a mistake. None of these may keep the promise.

{table(mutants)}
"""


def main() -> int:
    """Runs everything, writes both files; 1 where a promise was broken or a mutant was not caught."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--share", type=float, default=1.0, help="of the streams; for a quick look")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("docs/benchmarks"))
    options = parser.parse_args()
    done: list[list[Result]] = []
    surprises = 0
    began = time.monotonic()
    with ProcessPoolExecutor(options.processes, get_context("spawn")) as pool:
        pending = [
            [pool.submit(simulated, group, number, options.share) for number in range(len(runs))]
            for group, runs in enumerate(GROUPS)
        ]
        for runs, futures in zip(GROUPS, pending, strict=True):
            done.append([])
            for run, future in zip(runs, futures, strict=True):
                result = future.result()
                done[-1].append(result)
                surprises += result.kept != (run.mutant == "none")
                print(f"{time.monotonic() - began:5.0f} s  {table([result]).splitlines()[-1]}", flush=True)
    options.out.mkdir(parents=True, exist_ok=True)
    rows = [
        asdict(result) | {"allowed": result.allowed, "interval_99": result.interval(), "kept": result.kept}
        for results in done
        for result in results
    ]
    (options.out / "promise.json").write_text(json.dumps(rows, indent=1) + "\n")
    (options.out / "promise.md").write_text(report(*done))
    return 1 if surprises else 0


if __name__ == "__main__":
    raise SystemExit(main())
