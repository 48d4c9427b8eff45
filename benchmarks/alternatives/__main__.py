"""Would other ways to certify ask for less? On heads of ResNet-18's CIFAR-10 stream and pictures that they never saw.

    python -m benchmarks.alternatives --data ../shared/data     # docs/benchmarks/alternatives.json, alternatives.md

The first run teaches the heads, a quarter of an hour, and keeps what they say in ``--scored``.
"""

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from itertools import groupby
from pathlib import Path

from benchmarks.alternatives import studies
from benchmarks.alternatives.draws import Streams
from benchmarks.alternatives.scored import ScoredFrames, score
from benchmarks.alternatives.studies import SETTINGS, Row
from benchmarks.paper.data import open_task

_SEED = 1
_SCORED = Path("docs/benchmarks/.paper/alternatives.npz")


def page(rows: Sequence[Row], pictures: int) -> str:
    """Markdown."""
    parts = [
        f"""# Other ways to certify

Heads of ResNet-18's CIFAR-10 stream, taught once on 2,480 frames, and {pictures:,} pictures that they never saw.
Streams are drawn from these. On each, the trainer's own code chooses exits and thresholds by tuning audits, for a
budget of 1 %, and each way certifies the same choice (scores are compared by what their targets do, untested).
*int8*: the model compiled, then with an exit in front of it; *PyTorch*: exits on the model's own layers. Audits are
certification audits, *half* what half of the streams needed at most; *target*: how often the planned target was
certified; *saved*: time, by what was certified, in the mean; *risk*: true, in the mean. What follows from it is told
in [the certificate](../certificate.md#other-ways-that-were-tried).
`python -m benchmarks.alternatives` makes this page.
"""
    ]
    for study, group in groupby(rows, key=lambda row: row.study):
        parts.append(f"\n## {study.capitalize()}\n")
        parts.append("| setting | way | streams | audits | half | certified | target | saved | risk |")
        parts.append("|---|---|---|---|---|---|---|---|---|")
        for row in group:
            tested = f"{row.audits:,.0f} | {row.audits_half:,.0f} | {row.certified:.1%} | {row.target:.1%}"
            untested = "– | – | – | –"
            parts.append(
                f"| {row.setting} | {row.way} | {row.streams:,} | {tested if row.audits else untested} | "
                f"{row.saved:.1%} | {row.risk:.2%} |"
            )
    return "\n".join(parts) + "\n"


def main() -> int:
    """Runs every study and writes both files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="the folder of models and pictures")
    parser.add_argument("--scored", type=Path, default=_SCORED, help="what heads said before")
    parser.add_argument("--streams", type=int, default=1000)
    parser.add_argument("--out", type=Path, default=Path("docs/benchmarks"))
    options = parser.parse_args()
    if not options.scored.is_file():
        options.scored.parent.mkdir(parents=True, exist_ok=True)
        score(open_task("resnet18", options.data), _SEED).save(options.scored)
    frames = ScoredFrames.load(options.scored)
    began, rows = time.monotonic(), []
    second = [setting for setting in SETTINGS if "second" in setting.name]
    for study, settings in (
        (studies.looks, SETTINGS),
        (studies.subsets, SETTINGS),
        (studies.scores, SETTINGS),
        (partial(studies.weighed, 0.6), second),
        (partial(studies.weighed, 0.2), second[:1]),
    ):
        for setting in settings:
            for row in study(Streams(frames, _SEED), setting, options.streams):
                rows.append(row)
                print(f"{time.monotonic() - began:5.0f} s  {row}", flush=True)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "alternatives.json").write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
    (options.out / "alternatives.md").write_text(page(rows, len(frames.labels)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
