"""A trainer of the tiny model, and streams to feed it with."""

from dataclasses import replace

import numpy as np

from layercache.cache_training.trainer import OnlineTrainer
from layercache.early_exit.cutting.cuts import TracedModel
from layercache.early_exit.engine import Engine
from layercache.early_exit.store.head_store import HeadStore
from layercache.schemas.distillation import DistillationBatch
from layercache.schemas.settings import Promise, Trainer
from tests.cache_training.streams import answered, pictures

BUDGET = 0.05
SETTINGS = Trainer(replay_mb=64, ring_mb=64)


def new_trainer(model: TracedModel, store: HeadStore, **more: object) -> OnlineTrainer:
    return OnlineTrainer(model, store, Promise(max_disagreement=BUDGET), SETTINGS, **more)  # type: ignore[arg-type]


def feed(trainer: OnlineTrainer, engine: Engine, n: int, first_offset: int = 0, wrong_share: float = 0.0) -> None:
    for start in range(first_offset, first_offset + n, 50):
        assert trainer.ingest(answered(engine, pictures(50, seed=start), start, wrong_share))


def keyed_record(model: TracedModel, keys: np.ndarray, audited: np.ndarray, first_offset: int) -> DistillationBatch:
    """One block of time of many cameras, some of whose frames are audits."""
    n = len(keys)
    batch = answered(Engine(model), pictures(n, seed=first_offset), first_offset)
    return replace(batch, key_hash=keys.astype(np.int64), audit=audited.astype(np.uint8))


def train_until_published(trainer: OnlineTrainer, rounds: int = 60) -> None:
    for _ in range(rounds):
        trainer.work(0.2)
        if trainer.live is not None:
            return
    raise AssertionError(f"nothing was certified: {trainer.progress()}")
