"""Heads for the pipeline benchmark: learnt and certified once on three quarters of the demo's frames, then kept.

The benchmark serves the last quarter, which the heads have never seen.
"""

import sys
import time
import zipfile
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import torch

from benchmarks import learning
from benchmarks.pipeline.load import Load
from benchmarks.pipeline.systems import ROOT, Exits
from layercache.cache_training.trainer import OnlineTrainer
from layercache.early_exit.cutting import cuts
from layercache.early_exit.cutting.cuts import TracedModel
from layercache.early_exit.engine import Engine
from layercache.early_exit.heads.loading import load_heads
from layercache.early_exit.model import loading
from layercache.early_exit.store.head_store import HeadStore, open_store
from layercache.schemas.settings import Model, Promise, Store, Trainer

MODEL = str(ROOT / "examples" / "fashion_mnist.py") + ":build"
FRAMES = ROOT / "examples" / "fashion-mnist-frames.zip"
_LEARNT_SHARE = 0.75
_MAX_CUTS = 4
#: The demo's frames a second; of the trainer's own processor time here.
_RATE = 55.0


def served_pictures() -> tuple[bytes, ...]:
    """The pictures that no head has learnt from, in order."""
    with zipfile.ZipFile(FRAMES) as archive:
        names = sorted(info.filename for info in archive.infolist() if not info.is_dir())
        return tuple(archive.read(name) for name in names[round(len(names) * _LEARNT_SHARE) :])


def prepare(folder: Path) -> str:
    """The version of the heads in ``folder``; learns them first where there is none, which takes minutes."""
    traced = _traced(MODEL)
    store = _store(traced, folder)
    live = store.live().version
    if live is None:
        print("learning heads on three quarters of the frames, once; takes three minutes or more", file=sys.stderr)
        torch.set_num_threads(1)
        with redirect_stdout(sys.stderr):
            _learn(traced, store)
        live = store.live().version
    if live is None or not store.load(live)[0].exits:
        raise RuntimeError(f"no exit could be certified; the versions are in {store.url}")
    return live


def live_engine(model: str, folder: Path, exits: Exits) -> Engine:
    """An engine of the live heads in ``folder``, or of none; audits nothing without heads."""
    traced = _traced(model)
    if exits == "closed":
        return Engine(traced)
    store = _store(traced, folder)
    manifest, tensors = store.load(store.live().version or "")
    return Engine(traced, load_heads(manifest, tensors, traced))


def full_labels(load: Load) -> list[int]:
    """What the full model answers to the load's pictures."""
    from layercache.schemas.settings import Worker
    from layercache.stream.frames.decoding import Limits, decode_frame

    torch.set_num_threads(1)
    engine = Engine(_traced(load.model))
    preprocessing, limits = engine.traced.classifier.preprocessing, Limits.of(Worker())
    labels: list[int] = []
    for start in range(0, len(load.pictures), 100):
        pictures = torch.stack(
            [decode_frame(value, None, preprocessing, limits) for value in load.pictures[start : start + 100]]
        )
        labels += engine.run(pictures, np.zeros(len(pictures), np.bool_)).labels.tolist()
    return labels


def _learn(traced: TracedModel, store: HeadStore) -> None:
    frames = learning.read(FRAMES, traced)
    frames = frames[: round(len(frames) * _LEARNT_SHARE)]
    full = Engine(traced)
    truth = np.concatenate([full.run(part, np.ones(len(part), np.bool_)).labels for part in frames.split(32)])
    trainer = OnlineTrainer(traced, store, Promise(), Trainer(max_cuts=_MAX_CUTS), clock=time.thread_time)
    learning.stream(traced, trainer, store, frames, truth, _RATE, lessons=True)


def _traced(model: str) -> TracedModel:
    return cuts.trace(loading.load(Model(spec=model)), _MAX_CUTS)


def _store(traced: TracedModel, folder: Path) -> HeadStore:
    classifier = traced.classifier
    return open_store(Store(url=f"file://{folder.resolve()}"), classifier.name, classifier.fingerprint)
