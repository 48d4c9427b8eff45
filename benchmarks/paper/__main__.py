"""The paper's two tasks, its method and ours: tables and plots into ``docs/benchmarks``.

    python -m benchmarks.paper --data DIR [--backbone resnet18]... [--method compiled]... [--seeds 1,2,3,4,5] [--quick]

Heads learn from unlabelled frames of one half of the stream, every number comes from the other half. What was searched
was searched on seed 0. A run that was stopped goes on where it was: what is done lies in ``<out>/.paper``.
"""

import argparse
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

import msgspec
import torch
from torch import Tensor

from benchmarks.paper import compiled, ours
from benchmarks.paper import method as papers_method
from benchmarks.paper import report as page
from benchmarks.paper.data import BACKBONES, Budget, DataError, Task, open_task
from benchmarks.paper.latency import PLAIN, Latency, compare, one_thread, plain, race, serving
from benchmarks.paper.method import Observed
from benchmarks.paper.records import COMPILED, TORCH, Chosen, Record, publish, read, write
from benchmarks.paper.rows import (
    AS_PAPER,
    WITHIN_ACCURACY,
    Outcome,
    Point,
    Truth,
    choose,
    measure,
    percent,
    sweep,
    within_disagreement,
)
from layercache.early_exit.engine import Engine
from layercache.early_exit.memory import keep_freed_memory

METHODS = ("paper", "layercache", "compiled")
#: How learning is followed: the parts of the learning half that are learnt from, besides all of it.
PARTS = {"cifar10": (500, 1000, 2000), "lfw": (200, 400)}


class Learn(Protocol):
    """A method: learns from the learning half of a seed and scores the evaluation half."""

    def __call__(self, task: Task, seed: int, budget: Budget) -> Outcome: ...


@dataclass(frozen=True)
class RunPlan:
    """What shall be run: all of the learning half for every seed; with ``parts`` also less, for the first seed."""

    backbones: tuple[str, ...]
    methods: tuple[str, ...]
    seeds: tuple[int, ...]
    parts: bool
    quick: bool
    data: Path | None
    work: Path

    #: Frames of a quick look, both halves together.
    QUICK = 4000

    def runs(self, backbone: str) -> Iterator[tuple[str, int, int | None, Path]]:
        """Method, seed, frames and the record's file; the paper's method first, since ours is matched to it."""
        for method in self.methods:
            for seed in self.seeds:
                followed = self.parts and seed == self.seeds[0] and method != "compiled"
                parts = PARTS[BACKBONES[backbone].task] if followed else ()
                for frames in (None, *parts):
                    part = f"-{frames}-frames" if frames else ""
                    yield method, seed, frames, self.path(backbone, method, seed, part)

    def path(self, backbone: str, method: str, seed: int, part: str = "") -> Path:
        """Where a record is kept."""
        return self.work / f"{backbone}-{method}-seed{seed}{part}.json"

    @property
    def timed(self) -> dict[int, int]:
        """By batch size: how many frames are timed."""
        return {1: 100, 32: 256} if self.quick else {1: 200, 32: 512}


class Bench:
    """A backbone's runs: its frames are read and seen by the full model once, and only if a run is still to be done."""

    def __init__(self, backbone: str, plan: RunPlan) -> None:
        self.backbone = backbone
        self.plan = plan

    @cached_property
    def task(self) -> Task:
        return open_task(self.backbone, self.plan.data, self.plan.QUICK if self.plan.quick else None)

    @cached_property
    def whole_task(self) -> Task:
        """All frames, also for a quick look: fewer hardly certify anything."""
        return open_task(self.backbone, self.plan.data) if self.plan.quick else self.task

    @cached_property
    def observed(self) -> Observed:
        say(f"{self.backbone}: the full model answers {len(self.task.frames):,} frames")
        return papers_method.observe(self.task, papers_method.RECIPES[self.backbone])

    def method(self, name: str) -> Learn:
        """The function that learns."""
        if name == "paper":
            return self._paper
        return ours.learn

    def _paper(self, task: Task, seed: int, budget: Budget) -> Outcome:
        recipes = papers_method.RECIPES[self.backbone]
        return papers_method.learn(task, seed, self.observed, recipes, budget.frames, say)

    def run(self, name: str, seed: int, frames: int | None) -> Record:
        """One method on one seed."""
        if name == "compiled":
            return self.run_compiled(seed, frames)
        rows = self.task.evaluation(seed)
        truth = Truth(self.observed.logits[rows].argmax(1).numpy(), self.task.labels[rows])
        began = time.perf_counter()
        outcome = self.method(name)(self.task, seed, Budget(frames, self.plan.quick))
        seconds = time.perf_counter() - began
        points = sweep(outcome, truth)
        chosen = choose(points, truth)
        if name != "paper" and frames is None and (theirs := read(self.plan.path(self.backbone, "paper", seed))):
            chosen[AS_PAPER] = within_disagreement(points, theirs.row(WITHIN_ACCURACY).point.disagreement)
        for limit, thresholds in outcome.certified.items():
            chosen[percent(limit, "certified")] = measure(outcome, thresholds, truth)
        if name != "paper":
            chosen["all exits closed"] = points[0]
        latency = self._latency(outcome, chosen, seed) if frames is None else {}
        return Record(
            task=self.task.name,
            backbone=self.backbone,
            method=name,
            seed=seed,
            learning_frames=len(self.task.learning(seed)[:frames]),
            evaluation_frames=len(rows),
            full_accuracy=truth.accuracy,
            plain=latency.get(PLAIN, ()),
            rows=tuple(Chosen(criterion, point, latency.get(criterion, ())) for criterion, point in chosen.items()),
            curve=tuple(points),
            seconds=seconds,
        )

    def run_compiled(self, seed: int, frames: int | None) -> Record:
        """The plain runtimes, and ours where the model may be compiled, on one seed."""
        task = self.whole_task
        rows = task.evaluation(seed)
        pictures = task.frames[torch.from_numpy(rows)]
        truth = Truth(ours.answered(task, Engine(task.traced), rows).labels, task.labels[rows])
        began = time.perf_counter()
        steps = ours.RECIPES[self.backbone].steps // (2 if self.plan.quick else 1)
        budget = Budget(frames, self.plan.quick)
        outcomes = compiled.learn(task, seed, budget, compiled.proposed(task), steps, say)
        seconds = time.perf_counter() - began
        with one_thread():
            plain_engines = compiled.plain_runtimes(task, seed)
            served = {limit: outcome.engine(outcome.certified[limit]) for limit, outcome in outcomes.items()}
            names = {limit: percent(limit, "certified") + COMPILED for limit in outcomes}
            runners = {PLAIN: plain(task.traced.classifier)}
            runners |= {name: serving(engine) for name, engine in plain_engines.items()}
            runners |= {names[limit]: serving(engine) for limit, engine in served.items()}
            latency = self._times(runners, pictures)
            closed = Point(0.0, 0.0, truth.accuracy, {}, ())
            runtimes = [Chosen(TORCH, closed, latency[PLAIN])]
            for name, engine in plain_engines.items():
                runtimes.append(Chosen(name, compiled.whole(engine, pictures, truth), latency[name]))
        chosen = [
            Chosen(
                names[limit],
                measure(outcome, outcome.certified[limit], truth),
                latency[names[limit]],
                outcome.upper_bound,
                served[limit].segment_ms(),
            )
            for limit, outcome in outcomes.items()
        ]
        return Record(
            task=task.name,
            backbone=self.backbone,
            method="compiled",
            seed=seed,
            learning_frames=len(task.learning(seed)[:frames]),
            evaluation_frames=len(rows),
            full_accuracy=truth.accuracy,
            plain=latency[PLAIN],
            rows=tuple(chosen),
            curve=tuple(sweep(outcomes[min(outcomes)], truth)) if outcomes else (),
            seconds=seconds,
            runtimes=tuple(runtimes),
        )

    def _latency(self, outcome: Outcome, chosen: dict[str, Point], seed: int) -> dict[str, tuple[Latency, ...]]:
        """Times on one thread: as the worker runs. Criteria that chose the same setting are timed once."""
        settings = {str(point.thresholds): point for point in chosen.values()}
        with one_thread():
            runners = {PLAIN: plain(self.task.traced.classifier)}
            runners |= {name: serving(outcome.engine(point.settings)) for name, point in settings.items()}
            found = self._times(runners, self.task.frames[torch.from_numpy(self.task.evaluation(seed))])
        timed = {criterion: found[str(point.thresholds)] for criterion, point in chosen.items()}
        return timed | {PLAIN: found[PLAIN]}

    def _times(
        self, runners: Mapping[str, Callable[[Tensor], object]], frames: Tensor
    ) -> dict[str, tuple[Latency, ...]]:
        """By runner, for each batch size: beside the plain model's."""
        found: dict[str, list[Latency]] = {name: [] for name in runners}
        for batch, count in self.plan.timed.items():
            times = race(runners, frames[:count], batch, repeats=2 if self.plan.quick else 3)
            for name in runners:
                found[name].append(compare(times[name], times[PLAIN], batch))
        return {name: tuple(latencies) for name, latencies in found.items()}


def run(plan: RunPlan) -> list[Record]:
    """Every record of the plan, in the order of the table; what is already there is not done again."""
    records = []
    for backbone in plan.backbones:
        bench = Bench(backbone, plan)
        for method, seed, frames, path in plan.runs(backbone):
            record = read(path)
            if record is None:
                what = f"{backbone}, {method}, seed {seed}" + (f", {frames:,} frames" if frames else "")
                say(what)
                record = bench.run(method, seed, frames)
                write(path, record)
                say(f"{what}: {summary(record)}, learnt in {record.seconds:.0f} s")
            records.append(record)
    return records


def summary(record: Record) -> str:
    """What came of a run, for the line of progress."""
    if not record.runtimes:
        return f"{record.row(percent(0.01)).point.flops_saved:.1%} of FLOPs saved at 1% disagreement"
    ratios = [f"{row.criterion} {row.latency[-1].throughput_ratio:.2f}×" for row in record.rows]
    return f"in batches of {record.plain[-1].batch}: {', '.join(ratios) or 'nothing certified'}"


def report(records: list[Record], out: Path) -> None:
    """Writes ``paper.json``, ``paper.md`` and the plots."""
    out.mkdir(parents=True, exist_ok=True)
    whole = [record for record in records if record.plain]
    rows = publish(whole)
    (out / "paper.json").write_bytes(msgspec.json.format(msgspec.json.encode(rows), indent=1) + b"\n")
    (out / "paper.md").write_text(page.table(rows))
    if swept := [record for record in whole if not record.runtimes]:
        page.plot_savings(swept, out / "paper-savings.png")
    followed = {record.backbone for record in records if not record.plain}
    if followed:
        page.plot_learning([one for one in records if one.backbone in followed], out / "paper-learning.png")
    say(f"wrote {out}/paper.json, paper.md and plots")


def say(what: str) -> None:
    """One line of progress."""
    print(f"{time.strftime('%H:%M:%S')} {what}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    data = os.environ.get("LAYERCACHE_DATA")
    parser.add_argument("--data", type=Path, default=Path(data) if data else None, help="default: LAYERCACHE_DATA")
    parser.add_argument("--backbone", action="append", choices=list(BACKBONES), help="default: all")
    parser.add_argument("--method", action="append", choices=METHODS, help="default: all")
    parser.add_argument("--seeds", default=None, help="default: 1,2,3,4,5; with --quick 1")
    parser.add_argument("--quick", action="store_true", help="a quick look: fewer frames, one seed")
    parser.add_argument("--no-parts", action="store_true", help="do not follow what less frames would have taught")
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1), help="for learning; times: one")
    parser.add_argument("--out", type=Path, default=Path("docs/benchmarks"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    keep_freed_memory()  # as worker and trainer do
    plan = RunPlan(
        backbones=tuple(options.backbone or BACKBONES),
        methods=tuple(options.method or METHODS),
        seeds=tuple(map(int, (options.seeds or ("1" if options.quick else "1,2,3,4,5")).split(","))),
        parts=not options.quick and not options.no_parts,
        quick=options.quick,
        data=options.data,
        work=options.out / ".paper" / ("quick" if options.quick else "full"),
    )
    try:
        report(run(plan), options.out)
    except DataError as error:
        parser.exit(2, f"{error}\n")


if __name__ == "__main__":
    main()
