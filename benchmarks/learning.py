"""What the heads learn from a stream, without Kafka: hit rate, savings and true disagreement as frames go by.

    python -m benchmarks.learning --model examples/fashion_mnist.py:build --frames examples/fashion-mnist-frames.zip

Time is the trainer's own processor time: between two rounds of work as many frames arrive as the rate allows, and what
answering them costs is not counted. So a result does not depend on what else the machine is doing.
"""

import argparse
import logging
import tempfile
import time
import zipfile
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import torch
from torch import Tensor
from torchvision.io import ImageReadMode, decode_image

from layercache.cache_training.trainer import OnlineTrainer
from layercache.early_exit.cutting import cuts
from layercache.early_exit.cutting.cuts import TracedModel
from layercache.early_exit.engine import Engine
from layercache.early_exit.heads.loading import load_heads
from layercache.early_exit.model import loading
from layercache.early_exit.store.head_store import HeadStore
from layercache.schemas.settings import Model, Promise, Trainer
from layercache.stream.frames.frame import Frame
from layercache.stream.worker.answering.micro_batch import MicroBatch
from layercache.stream.worker.answering.records import DistillationWriter

_BATCH = 32


def read(path: Path, traced: TracedModel) -> Tensor:
    """uint8 ``[N, C, h, w]``: all pictures of a zip, in order of their names."""
    preprocessing = traced.classifier.preprocessing
    mode = ImageReadMode.GRAY if preprocessing.channels == 1 else ImageReadMode.RGB
    with zipfile.ZipFile(path) as archive:
        raw = [
            torch.frombuffer(bytearray(archive.read(name)), dtype=torch.uint8) for name in sorted(archive.namelist())
        ]
    images = []
    for data in raw:
        image = decode_image(data, ImageReadMode.RGB) if mode == ImageReadMode.GRAY else decode_image(data, mode)
        images.append(preprocessing.fit(image[:1] if mode == ImageReadMode.GRAY else image))
    return torch.stack(images)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--frames", type=Path, required=True)
    parser.add_argument("--rate", type=float, default=55, help="frames per second of the trainer's processor time")
    parser.add_argument("--max-disagreement", type=float, default=0.01)
    parser.add_argument("--max-cuts", type=int, default=4)
    parser.add_argument("--limit", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--precisions", nargs="*", default=[], choices=["int8", "bfloat16"],
                        help="try the compiled model as an exit, too")  # fmt: skip
    parser.add_argument("--without-lessons", action="store_true",
                        help="keep from the trainer what the compiled model answered")  # fmt: skip
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(1)
    traced = cuts.trace(loading.load(Model(spec=options.model)), options.max_cuts)
    frames = read(options.frames, traced)[: options.limit]
    full = Engine(traced)
    truth = np.concatenate([full.run(part, np.ones(len(part), np.bool_)).labels for part in frames.split(_BATCH)])
    with tempfile.TemporaryDirectory() as folder:
        store = HeadStore(f"file://{folder}", "model")
        promise = Promise(max_disagreement=options.max_disagreement)
        trainer = OnlineTrainer(traced, store, promise, Trainer(seed=options.seed, max_cuts=options.max_cuts),
                                clock=time.thread_time, precisions=options.precisions)  # fmt: skip
        for candidate in trainer.learner.candidates:
            print(f"{candidate.name:24} {candidate.costs.flops:6.2%} of FLOPs, {candidate.costs.time:6.2%} of time")
        stream(traced, trainer, store, frames, truth, options.rate, not options.without_lessons)


def stream(
    traced: TracedModel, trainer: OnlineTrainer, store: HeadStore, frames: Tensor, truth: np.ndarray, rate: float,
    lessons: bool,
) -> None:  # fmt: skip
    """Sends the frames through engine and trainer, as a worker does; prints every thousand."""
    engine, writer = Engine(traced), DistillationWriter(traced.classifier.fingerprint, "", 0)
    at, began, waiting, rest = 0, time.thread_time(), 0.0, 0.0
    left = np.empty((2, len(frames)), np.bool_)  # at any exit, and at a head
    costs, wrong = np.ones((2, len(frames))), np.zeros(len(frames), np.bool_)
    while at < len(frames):
        waiting += rate * (time.thread_time() - began + rest)
        while waiting >= _BATCH and at < len(frames):
            rows = slice(at, min(len(frames), at + _BATCH))
            if engine.version != store.latest():
                manifest, tensors = store.load(store.latest() or "")
                engine = Engine(traced, load_heads(manifest, tensors, traced))
            sent = [Frame("frames", 0, position, 0, None, None) for position in range(rows.start, rows.stop)]
            answered = MicroBatch.of(sent, frames[rows], engine.audit_rate).answer(engine)
            answers = answered.answers
            early = answers.exits >= 0
            left[:, rows] = early, early & (answers.exits != (-1 if engine.end is None else engine.end))
            wrong[rows] = answers.labels != truth[rows]
            costs[:, rows] = engine.flops_shares[answers.exits], engine.time_shares[answers.exits]
            for record in writer.records(answered):
                if lessons or not record.of_lessons:
                    # Without the times that this process measured, which depend on what else the machine is doing.
                    header = msgspec.structs.replace(record.header, segment_ms={})
                    trainer.ingest(replace(record, header=header))
            if rows.stop // 1000 > at // 1000:
                report(f"{rows.stop:6} frames", slice(max(0, rows.stop - 1000), rows.stop), left, costs, wrong)
            at, waiting = rows.stop, waiting - _BATCH
        began = time.thread_time()
        rest = trainer.work()
        rest = rest if rest > 0.31 else 0.0
    quarter = slice(3 * len(frames) // 4, None)
    report("last quarter", quarter, left, costs, wrong)


def report(what: str, rows: slice, left: np.ndarray, costs: np.ndarray, wrong: np.ndarray) -> None:
    """One line about some of the frames."""
    (hits, at_heads), (flops, spent) = left[:, rows].mean(1), costs[:, rows].mean(1)
    disagreement = wrong[rows].mean()
    print(f"{what}: hits {hits:.1%} ({at_heads:.1%} at heads), FLOPs saved {1 - flops:.1%}, time saved {1 - spent:.1%} "
          f"({1 / spent:.2f} times as quick), disagreement {disagreement:.2%}", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
