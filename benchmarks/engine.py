"""What the engine itself costs: exits closed, exits that nobody takes, and batches that shrink, beside the plain model.

    python -m benchmarks.engine --model resnet18 --data DIR
    python -m benchmarks.engine --model examples/fashion_mnist.py:build --batch 1 --batch 32

``--model`` is one of the paper's backbones, whose weights and frames are in ``--data`` (or LAYERCACHE_DATA), or
whatever `layercache cuts` takes, on random frames. Time is the process's own processor time on one thread, the runners
in turns: what else the machine does is not counted, though it does slow down caches and clocks.
"""

import argparse
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from benchmarks.paper.data import BACKBONES, open_task
from benchmarks.paper.latency import compare, plain, race, serving
from layercache.early_exit.cutting import cuts
from layercache.early_exit.cutting.costs import TimeTable, expected_ms, measure_times
from layercache.early_exit.cutting.cuts import TracedModel
from layercache.early_exit.engine import Engine
from layercache.early_exit.heads.cache_heads import CacheHeads
from layercache.early_exit.heads.families import build_head, fuse
from layercache.early_exit.memory import keep_freed_memory
from layercache.early_exit.model import loading
from layercache.schemas.manifest import Exit, HeadSpec, Manifest
from layercache.schemas.settings import Model

_BATCHES = (1, 8, 32)
_NEVER = 2.0  # no score is above 1

Runner = Callable[[Tensor], object]


def main() -> None:
    """Prints a table in Markdown for each model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", action="append", required=True, help="may be repeated")
    parser.add_argument("--data", type=Path, default=os.environ.get("LAYERCACHE_DATA"))
    parser.add_argument("--batch", type=int, action="append", help=f"may be repeated; {_BATCHES}")
    parser.add_argument("--frames", type=int, default=192, help="for batches of more than one; 24 for batches of one")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--malloc-as-it-is", action="store_true", help="let malloc give freed memory back")
    options = parser.parse_args()
    torch.set_num_threads(1)
    kept = not options.malloc_as_it_is and keep_freed_memory()
    print(f"torch {torch.__version__}, 1 thread, malloc {'keeps freed memory' if kept else 'as it is'}")
    for name in options.model:
        traced, frames = _open(name, options.data, options.frames)
        heads = untrained(traced, frames)
        table = _time_table(traced, next(iter(heads.values())), options.repeats)
        for batch in options.batch or _BATCHES:
            some = frames[: 24 if batch == 1 else max(batch, len(frames) // batch * batch)]
            print(f"\n{traced.classifier.name}, batches of {batch}\n")
            print("| | ms a frame | of the plain model |\n|---|---|---|")
            for what, ms, share in measure(traced, heads, table, some, batch, options.repeats):
                print(f"| {what} | {ms:.3f} | {share:.1%} |", flush=True)


def _open(name: str, data: Path | None, count: int) -> tuple[TracedModel, Tensor]:
    if name in BACKBONES:
        task = open_task(name, data, count)
        return task.traced, task.frames
    traced = cuts.trace(loading.load(Model(spec=name)), 5)
    preprocessing = traced.classifier.preprocessing
    shape = (count, preprocessing.channels, *preprocessing.size)
    return traced, torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def untrained(traced: TracedModel, frames: Tensor) -> dict[str, CacheHeads]:
    """Pooled heads at every proposed cut, with thresholds that nobody reaches, and that half reach at each exit."""
    classifier = traced.classifier
    torch.manual_seed(0)
    specs = {
        cut.name: HeadSpec(family="pooled", features=cut.shape, classes=len(classifier.classes), grid=2, hidden=128)
        for cut in traced.proposed
    }
    modules = tuple(fuse(build_head(spec).eval().requires_grad_(False)) for spec in specs.values())

    def version(thresholds: list[float]) -> CacheHeads:
        exits = tuple(
            Exit(cut=cut, head=spec, temperature=1.0, threshold=threshold, flops_share=0.0, time_share=0.0)
            for (cut, spec), threshold in zip(specs.items(), thresholds, strict=True)
        )
        manifest = Manifest(
            version="", model=classifier.fingerprint, model_name=classifier.name, created="", reason="first",
            predecessor=None, exits=exits, audit_rate=0.0, certificate=None, expected=None,
        )  # fmt: skip
        return CacheHeads(manifest, modules)

    closed = version([_NEVER] * len(specs))
    scores, _ = Engine(traced, closed).score(frames)
    alive, medians = np.ones(len(frames), np.bool_), []
    for index in range(len(specs)):
        medians.append(float(np.median(scores[alive, index])) if alive.any() else _NEVER)
        alive &= scores[:, index] < medians[-1]
    return {"heads that nobody leaves at": closed, "heads that half leave at, each": version(medians)}


def measure(
    traced: TracedModel, heads: Mapping[str, CacheHeads], table: TimeTable, frames: Tensor, batch: int, repeats: int
) -> list[tuple[str, float, float]]:
    """What was run, milliseconds a frame, and the share of the plain model's time."""
    runners: dict[str, Runner] = {
        "plain model": plain(traced.classifier),
        "plain model on frames that are normalised": _normalised(traced, frames.split(batch)),
        "engine without heads": serving(Engine(traced)),
    }
    runners |= {f"engine, {what}": serving(Engine(traced, version)) for what, version in heads.items()}
    times = race(runners, frames, batch, repeats, clock=time.process_time)
    rows = []
    for what, spent in times.items():
        latency = compare(spent, times["plain model"], batch)
        rows.append((what, latency.mean_ms / batch, 1 - latency.mean_saved))
    reference = rows[0][1]
    for what, version in heads.items():
        left = Engine(traced, version).run(frames, np.zeros(len(frames), np.bool_)).exits
        ms = expected_ms(table, _reached(version, left), batch) / batch
        rows.append((f"expected by the time table, {what}", ms, ms / reference))
    return rows


def _normalised(traced: TracedModel, batches: tuple[Tensor, ...]) -> Runner:
    """The model on ready inputs, down to scores and labels in numpy."""
    classifier = traced.classifier
    inputs = {
        part.data_ptr(): classifier.preprocessing.normalise(part).contiguous(memory_format=torch.channels_last)
        for part in batches
    }

    def run(frames: Tensor) -> object:
        with torch.inference_mode():
            score, label = classifier.module(inputs[frames.data_ptr()]).float().softmax(1).max(1)
            return score.numpy(), label.numpy()

    return run


def _time_table(traced: TracedModel, heads: CacheHeads, repeats: int) -> TimeTable:
    """The pieces' own times, each measured with all frames."""
    exits = [exit_.cut for exit_ in heads.manifest.exits]
    segments = dict(zip(_names(exits), traced.segments(exits), strict=True))
    modules = dict(zip(exits, heads.modules, strict=True))
    return TimeTable(measure_times(segments, modules, traced.classifier.example, (1, 2, 4, 8, 16, 32), repeats))


def _reached(heads: CacheHeads, left: npt.NDArray[np.int16]) -> dict[str, float]:
    """The share of frames that got to each piece; ``left`` is the exit of each, -1 for none."""
    reached = {}
    for index, name in enumerate(_names([exit_.cut for exit_ in heads.manifest.exits])):
        share = float(np.mean((left < 0) | (left >= index)))
        reached[name] = share
        if name != "to the end":
            reached[name.replace("to ", "head ", 1)] = share
    return reached


def _names(exits: list[str]) -> list[str]:
    return [f"to {cut}" for cut in exits] + ["to the end"]


if __name__ == "__main__":
    main()
