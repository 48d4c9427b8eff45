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
from pathlib import Path

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
from layercache.early_exit.policy import draw_audits
from layercache.early_exit.store.head_store import HeadStore
from layercache.schemas.distillation import DistillationBatch, DistillationHeader
from layercache.schemas.settings import Model, Promise, Trainer

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
                                clock=time.thread_time)  # fmt: skip
        for candidate in trainer.learner.candidates:
            print(f"{candidate.name:24} {candidate.costs.flops:6.2%} of FLOPs, {candidate.costs.time:6.2%} of time")
        stream(traced, trainer, store, frames, truth, options.rate)


def stream(
    traced: TracedModel, trainer: OnlineTrainer, store: HeadStore, frames: Tensor, truth: np.ndarray, rate: float
) -> None:
    """Sends the frames through engine and trainer; prints every thousand."""
    engine = Engine(traced)
    at, began, waiting, rest = 0, time.thread_time(), 0.0, 0.0
    exits = np.empty(len(frames), np.int16)
    costs, wrong = np.ones(len(frames)), np.zeros(len(frames), np.bool_)
    while at < len(frames):
        waiting += rate * (time.thread_time() - began + rest)
        while waiting >= _BATCH and at < len(frames):
            rows = slice(at, min(len(frames), at + _BATCH))
            if engine.version != store.latest():
                manifest, tensors = store.load(store.latest() or "")
                engine = Engine(traced, load_heads(manifest, tensors, traced))
            positions = np.arange(rows.start, rows.stop)
            audits = draw_audits("frames", np.zeros(len(positions), np.int32), positions, engine.audit_rate)
            answers = engine.run(frames[rows], audits)
            exits[rows], wrong[rows] = answers.exits, answers.labels != truth[rows]
            costs[rows] = engine.flops_shares[answers.exits]
            ids = tuple(str(position) for position in positions[answers.full_rows])
            trainer.ingest(
                DistillationBatch(
                    DistillationHeader(model=traced.classifier.fingerprint, topic="frames", worker="", frame_ids=ids,
                                       audit_rate=engine.audit_rate, heads_version=engine.version),
                    frames[rows].numpy()[answers.full_rows], answers.logits, audits[answers.full_rows].astype(np.uint8),
                    answers.live_exit, answers.live_label, np.zeros(len(ids), np.int32), positions[answers.full_rows],
                    np.zeros(len(ids), np.int64), np.zeros(len(ids), np.int64),
                )
            )  # fmt: skip
            if rows.stop // 1000 > at // 1000:
                report(f"{rows.stop:6} frames", slice(max(0, rows.stop - 1000), rows.stop), exits, costs, wrong)
            at, waiting = rows.stop, waiting - _BATCH
        began = time.thread_time()
        rest = trainer.work()
        rest = rest if rest > 0.31 else 0.0
    quarter = slice(3 * len(frames) // 4, None)
    report("last quarter", quarter, exits, costs, wrong)


def report(what: str, rows: slice, exits: np.ndarray, costs: np.ndarray, wrong: np.ndarray) -> None:
    """One line about some of the frames."""
    hits, saved, disagreement = np.mean(exits[rows] >= 0), 1 - costs[rows].mean(), wrong[rows].mean()
    print(f"{what}: hits {hits:.1%}, FLOPs saved {saved:.1%}, disagreement {disagreement:.2%}", flush=True)


if __name__ == "__main__":
    main()
