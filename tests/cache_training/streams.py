"""A stream of coloured pictures for the tiny model, answered by it: what a worker would send to the trainer."""

import numpy as np
import torch
from torch import Tensor

from layercache.early_exit.cutting import cuts
from layercache.early_exit.cutting.cuts import TracedModel
from layercache.early_exit.engine import Engine
from layercache.early_exit.model import loading
from layercache.schemas.distillation import DistillationBatch, DistillationHeader
from tests.support.tiny_model import SIZE, TinyModel


def traced(model: TinyModel) -> TracedModel:
    """The tiny model, cut."""
    return cuts.trace(loading.load(model.settings))


def pictures(n: int, seed: int) -> Tensor:
    """uint8 ``[n, 3, 16, 16]``: one colour each, with noise; few are near the border between two colours."""
    random = np.random.default_rng(seed)
    colour = random.integers(0, 256, (n, 3, 1, 1))
    noise = random.normal(0, 8, (n, 3, SIZE, SIZE))
    return torch.from_numpy((colour + noise).clip(0, 255).astype(np.uint8))


def answered(engine: Engine, inputs: Tensor, first_offset: int, wrong_share: float = 0.0) -> DistillationBatch:
    """The record of frames that were all audited; ``wrong_share`` of the live answers are made to disagree."""
    n = len(inputs)
    answers = engine.run(inputs, np.ones(n, np.bool_))
    live_label = answers.live_label.copy()
    off = np.random.default_rng(first_offset).random(n) < wrong_share
    live_label[off] = (answers.labels[off] + 1) % 3
    header = DistillationHeader(
        model=engine.traced.classifier.fingerprint, topic="frames", worker="w", heads_version=engine.version,
        audit_rate=1.0, frame_ids=tuple(str(first_offset + i) for i in range(n)), exits=engine.exits,
    )  # fmt: skip
    return DistillationBatch(
        header, inputs.numpy(), answers.logits, np.ones(n, np.uint8), answers.live_exit, live_label,
        np.zeros(n, np.int32), np.arange(first_offset, first_offset + n), np.zeros(n, np.int64), np.zeros(n, np.int64),
    )  # fmt: skip
