"""A stream that repeats itself: what its certificates are worth on its own pictures, and on pictures that it never had.

    python -m benchmarks.repeats --data DIR                  # as the trainer deals pictures
    python -m benchmarks.repeats --data DIR --by-position    # as if each frame were another picture

ResNet-18 on CIFAR-10: some pictures without keys, published in a loop; the others are looked at once the stream ends.
Time is the trainer's own processor time, as for ``benchmarks.learning``.
"""

import argparse
import logging
import os
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.learning import stream
from benchmarks.paper.data import Task, open_task
from benchmarks.promise.mutants import MUTANTS
from layercache.cache_training.trainer import OnlineTrainer
from layercache.early_exit.engine import Engine
from layercache.early_exit.heads.loading import load_heads
from layercache.early_exit.store.head_store import HeadStore
from layercache.schemas.settings import Promise, Trainer

_BATCH = 32


def labels_of(engine: Engine, pictures: Tensor, full: bool) -> np.ndarray:
    """int64 ``[N]``: what the engine answers, as it serves or, with ``full``, by the full model."""
    parts = pictures.split(_BATCH)
    return np.concatenate([engine.run(part, np.full(len(part), full)).labels for part in parts])


def differs(task: Task, store: HeadStore, repeated: int) -> None:
    """Prints how often each version that opened exits differs from the full model, on either part of the pictures."""
    truth = labels_of(Engine(task.traced), task.frames, full=True)
    for manifest in reversed(store.versions()):
        if manifest.certificate is None:
            continue
        engine = Engine(task.traced, load_heads(manifest, store.load(manifest.version)[1], task.traced))
        wrong = labels_of(engine, task.frames, full=False) != truth
        of = manifest.certificate
        print(
            f"{manifest.version}: certified at most {of.upper_bound:.2%} ({of.disagreements} of {of.frames} audits, "
            f"{of.repeated} more of known pictures); differs on {wrong[:repeated].mean():.2%} of the {repeated:,} "
            f"repeated pictures, on {wrong[repeated:].mean():.2%} of {len(wrong) - repeated:,} others",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    data = os.environ.get("LAYERCACHE_DATA")
    parser.add_argument("--data", type=Path, default=Path(data) if data else None, help="default: LAYERCACHE_DATA")
    parser.add_argument("--pictures", type=int, default=1_500, help="in the loop")
    parser.add_argument("--others", type=int, default=2_500, help="never published")
    parser.add_argument("--limit", type=int, default=12_000, help="frames")
    parser.add_argument("--rate", type=float, default=55, help="frames per second of the trainer's processor time")
    parser.add_argument("--max-disagreement", type=float, default=0.01)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--by-position", action="store_true", help="deal each frame as if it were another picture")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(1)
    task = open_task("resnet18", options.data, options.pictures + options.others)
    shown = torch.arange(options.limit) % options.pictures
    truth = labels_of(Engine(task.traced), task.frames[: options.pictures], full=True)[shown.numpy()]
    dealt = MUTANTS["dealt by position"]() if options.by_position else nullcontext()
    with tempfile.TemporaryDirectory() as folder, dealt:
        store = HeadStore(f"file://{folder}", "resnet18", keep_last=100)
        promise, settings = Promise(max_disagreement=options.max_disagreement), Trainer(seed=options.seed)
        trainer = OnlineTrainer(task.traced, store, promise, settings, clock=time.thread_time)
        stream(task.traced, trainer, store, task.frames[shown], truth, options.rate, lessons=True)
        at = trainer.progress()
        print(f"{at.audits:,} audits, {at.repeated:,} of pictures that had come before; {at.attempts} attempts")
        differs(task, store, options.pictures)


if __name__ == "__main__":
    main()
