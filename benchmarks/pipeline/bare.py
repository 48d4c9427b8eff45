"""Decoding and the engine without Kafka, in a process of its own: what the model and the machine allow."""

import multiprocessing
import os
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import msgspec
import numpy as np
import torch
from torch import Tensor

from benchmarks.pipeline.load import Load
from benchmarks.pipeline.process import usage
from benchmarks.pipeline.systems import BATCH, DECODE_THREADS, Exits
from layercache.early_exit.engine import Engine
from layercache.early_exit.memory import keep_freed_memory
from layercache.early_exit.model.preprocessing import Preprocessing
from layercache.early_exit.policy import draw_audits
from layercache.schemas.settings import Worker
from layercache.stream.frames.decoding import Limits, decode_frame

#: Batches that are decoded ahead, as the worker does.
_AHEAD = 3


class Bare(msgspec.Struct, frozen=True):
    """What the loop did."""

    frames: int
    frames_per_s: float
    cpu_ms_per_frame: float
    memory_mb: float


def measure(load: Load, heads: Path, exits: Exits, frames: int) -> Bare:
    """Runs the loop over ``frames`` frames in a fresh process."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_run, load, heads, exits, frames).result()


def _run(load: Load, heads: Path, exits: Exits, frames: int) -> Bare:
    from benchmarks.pipeline.heads import live_engine

    keep_freed_memory()
    torch.set_num_threads(1)
    engine = live_engine(load.model, heads, exits)
    engine.warm_up(BATCH)
    batches = [
        [load.pictures[number % len(load.pictures)] for number in range(start, start + BATCH)]
        for start in range(0, frames, BATCH)
    ]
    with ThreadPoolExecutor(DECODE_THREADS) as pool:
        _answer(engine, pool, batches[:4])
        began, before = time.perf_counter(), usage(os.getpid())
        _answer(engine, pool, batches)
        seconds, after = time.perf_counter() - began, usage(os.getpid())
    count = len(batches) * BATCH
    return Bare(count, count / seconds, (after.cpu_s - before.cpu_s) * 1000 / count, after.memory_mb)


def _answer(engine: Engine, pool: ThreadPoolExecutor, batches: Sequence[Sequence[bytes]]) -> None:
    preprocessing, limits = engine.traced.classifier.preprocessing, Limits.of(Worker())
    ahead: deque[list[Future[list[Tensor]]]] = deque()
    offset = 0
    part = BATCH // DECODE_THREADS
    for index in range(len(batches) + _AHEAD):
        if index < len(batches):
            parts = [batches[index][start : start + part] for start in range(0, BATCH, part)]
            ahead.append([pool.submit(_decode, some, preprocessing, limits) for some in parts])
        if index >= _AHEAD or index >= len(batches):
            pictures = [picture for future in ahead.popleft() for picture in future.result()]
            offsets = np.arange(offset, offset + len(pictures), dtype=np.int64)
            audits = draw_audits("frames", np.zeros(len(pictures), np.int32), offsets, engine.audit_rate)
            engine.run(torch.stack(pictures), audits)
            offset += len(pictures)


def _decode(values: Sequence[bytes], preprocessing: Preprocessing, limits: Limits) -> list[Tensor]:
    return [decode_frame(value, None, preprocessing, limits) for value in values]
