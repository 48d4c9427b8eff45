"""One run's numbers, kept per backbone, method, seed and frames, and the published rows: means over seeds."""

import os
from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path

import msgspec
import numpy as np

from benchmarks.paper.latency import Latency
from benchmarks.paper.rows import Point

#: The published names of the whole model by PyTorch, and by OpenVINO in int8.
TORCH, INT8 = "torch", "openvino int8"
#: So begin the names of all plain runtimes.
RUNTIMES = ("torch", "openvino")
EVERY_FRAME = "every frame"
#: Ends the criteria of ours where the model may be compiled.
COMPILED = ", compiled"
#: By the name of a method here: its published name. Ours is one method, on the model's own layers and compiled.
_PUBLISHED = {"compiled": "layercache"}


class Chosen(msgspec.Struct, frozen=True):
    """The setting that a criterion picked, what it did, and how long it took by batch size."""

    criterion: str
    point: Point
    latency: tuple[Latency, ...]
    upper_bound: float | None = None
    """On the disagreement, where one was certified."""
    piece_ms: dict[str, dict[int, float]] = {}
    """By piece and frames in a micro-batch."""


class Record(msgspec.Struct, frozen=True):
    """What one method did with one seed on one backbone."""

    task: str
    backbone: str
    method: str
    seed: int
    learning_frames: int
    evaluation_frames: int
    full_accuracy: float
    plain: tuple[Latency, ...]
    """The plain model's own times, beside which this run's were measured."""
    rows: tuple[Chosen, ...]
    curve: tuple[Point, ...]
    seconds: float
    """Learning and scoring, without measuring times."""
    runtimes: tuple[Chosen, ...] = ()
    """The whole model by each plain runtime, whose name is the criterion; timed in turns with the rows."""

    def row(self, criterion: str) -> Chosen:
        """The setting of that criterion; raises ``KeyError``."""
        for row in self.rows:
            if row.criterion == criterion:
                return row
        raise KeyError(f"{self.backbone}, {self.method}, seed {self.seed} has no row {criterion!r}")


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """A published row: means over seeds; what is saved is a share of the plain model's."""

    task: str
    backbone: str
    method: str
    criterion: str
    batch: int
    flops_saved: float
    mean_latency_saved: float
    p99_latency_saved: float
    throughput_ratio: float
    hit_rates: dict[str, float]
    disagreement: float
    accuracy: float
    full_accuracy: float
    mean_ms: float
    p99_ms: float
    learning_frames: int
    evaluation_frames: int
    seeds: tuple[int, ...]
    spread: dict[str, tuple[float, float]]
    """Least and most over the seeds, by column."""
    upper_bound: float | None = None
    """On the disagreement, where one was certified."""
    ratio_to_int8: float | None = None
    """Frames per second over OpenVINO's in int8, where that was timed in turns with this."""

    @property
    def is_compiled(self) -> bool:
        """Whether this is a plain runtime's, or ours where the model may be compiled."""
        return self.method.startswith(RUNTIMES) or self.criterion.endswith(COMPILED)


def write(path: Path, record: Record) -> None:
    """Whole or not at all, so that a run that was stopped goes on where it was."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_bytes(msgspec.json.format(msgspec.json.encode(record), indent=1))
    os.replace(part, path)


def read(path: Path) -> Record | None:
    """The record, or None where that run is still to be done."""
    return msgspec.json.decode(path.read_bytes(), type=Record) if path.is_file() else None


def publish(records: Iterable[Record]) -> list[Row]:
    """Rows by backbone, method, criterion and batch, the full model's first; ``records`` in the order of the table."""
    rows: list[Row] = []
    for _, of_backbone in groupby(records, key=lambda record: record.backbone):
        backbone = list(of_backbone)
        rows += _full([record for record in backbone if not record.runtimes])
        for _, of_method in groupby(backbone, key=lambda record: record.method):
            method = list(of_method)
            for name in dict.fromkeys(runtime.criterion for record in method for runtime in record.runtimes):
                found = _rows([(record, one) for record in method for one in record.runtimes if one.criterion == name])
                rows += [msgspec.structs.replace(row, method=name, criterion=EVERY_FRAME) for row in found]
            for criterion in dict.fromkeys(row.criterion for record in method for row in record.rows):
                # Not every seed may have certified something.
                rows += _rows([(record, row) for record in method for row in record.rows if row.criterion == criterion])
    return rows


def _rows(chosen: Sequence[tuple[Record, Chosen]]) -> list[Row]:
    """A criterion's rows by batch size; ``chosen`` has a case for each seed."""
    rows = []
    for index, latency in enumerate(chosen[0][1].latency):
        cases = [(record, row.point, row.latency[index]) for record, row in chosen]
        bounds = [row.upper_bound for _, row in chosen if row.upper_bound is not None]
        ratios = [one.latency[index].mean_ms / row.latency[index].mean_ms
                  for record, row in chosen for one in record.runtimes if one.criterion == INT8]  # fmt: skip
        row = _row(chosen[0][1].criterion, latency.batch, cases)
        rows.append(
            msgspec.structs.replace(
                row,
                method=_PUBLISHED.get(row.method, row.method),
                upper_bound=float(np.mean(bounds)) if bounds else None,
                ratio_to_int8=float(np.mean(ratios)) if ratios else None,
            )
        )
    return rows


def _full(records: Sequence[Record]) -> list[Row]:
    rows = []
    for index, latency in enumerate(records[0].plain if records else ()):
        seen = {record.seed: record for record in records}
        cases = [
            (record, Point(0.0, 0.0, record.full_accuracy, {}, ()), record.plain[index]) for record in seen.values()
        ]
        rows.append(msgspec.structs.replace(_row(EVERY_FRAME, latency.batch, cases), method="full"))
    return rows


def _row(criterion: str, batch: int, cases: Sequence[tuple[Record, Point, Latency]]) -> Row:
    first = cases[0][0]
    columns = {
        "flops_saved": [point.flops_saved for _, point, _ in cases],
        "mean_latency_saved": [latency.mean_saved for _, _, latency in cases],
        "p99_latency_saved": [latency.p99_saved for _, _, latency in cases],
        "throughput_ratio": [latency.throughput_ratio for _, _, latency in cases],
        "disagreement": [point.disagreement for _, point, _ in cases],
        "accuracy": [point.accuracy for _, point, _ in cases],
        "full_accuracy": [record.full_accuracy for record, _, _ in cases],
        "mean_ms": [latency.mean_ms for _, _, latency in cases],
        "p99_ms": [latency.p99_ms for _, _, latency in cases],
    }
    cuts = dict.fromkeys(cut for _, point, _ in cases for cut in point.hit_rates)
    return Row(
        task=first.task,
        backbone=first.backbone,
        method=first.method,
        criterion=criterion,
        batch=batch,
        hit_rates={cut: float(np.mean([point.hit_rates.get(cut, 0.0) for _, point, _ in cases])) for cut in cuts},
        learning_frames=first.learning_frames,
        evaluation_frames=first.evaluation_frames,
        seeds=tuple(record.seed for record, _, _ in cases),
        spread={name: (min(values), max(values)) for name, values in columns.items()},
        **{name: float(np.mean(values)) for name, values in columns.items()},
    )
