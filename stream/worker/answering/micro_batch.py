"""The one way to answer a micro-batch: pictures go in, audits are drawn by position, the engine runs, answers come out.

It knows no Kafka. The worker, the offline worker, a model in a user's own loop and the report answer by it; what is
sent of the answers, :mod:`layercache.stream.worker.answering.records` writes.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from time import perf_counter

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from layercache.early_exit.engine import Answers, Engine
from layercache.early_exit.policy import Bools, audit_draws
from layercache.stream.frames.decode_pool import Decoded
from layercache.stream.frames.decoding import Unanswerable
from layercache.stream.frames.frame import Frame
from layercache.stream.worker.answering.culprits import Outcome

#: Runs an engine on pictures uint8 ``[N, C, h, w]`` of which ``audits``, bool ``[N]``, are to run the full path.
Run = Callable[[Engine, Tensor, Bools], Outcome]


def run_once(engine: Engine, pictures: Tensor, audits: Bools) -> Outcome:
    """All frames at once, for callers who want to hear what the model raises."""
    return Outcome(engine.run(pictures, audits), {})


@dataclass(frozen=True)
class MicroBatch:
    """N frames of one topic, ready for the engine."""

    frames: Sequence[Frame]
    pictures: Tensor
    """uint8 ``[N, C, h, w]``"""
    decode_ms: Sequence[float]
    draws: npt.NDArray[np.float64]
    """``[N]``, see :func:`layercache.early_exit.policy.audit_draws`"""
    audit_rate: float

    @property
    def audits(self) -> Bools:
        """``[N]``: which frames are audited."""
        return self.draws < self.audit_rate

    @classmethod
    def of(
        cls, frames: Sequence[Frame], pictures: Tensor, audit_rate: float, decode_ms: Sequence[float] | None = None
    ) -> "MicroBatch":
        """Draws the audits by the frames' positions; without ``decode_ms`` no time was spent on decoding."""
        partitions = np.array([frame.partition for frame in frames], np.int32)
        offsets = np.array([frame.offset for frame in frames], np.int64)
        draws = audit_draws(frames[0].topic, partitions, offsets)
        return cls(frames, pictures, [0.0] * len(frames) if decode_ms is None else decode_ms, draws, audit_rate)

    @classmethod
    def of_decoded(cls, frames: Sequence[Frame], decoded: Sequence[Decoded], audit_rate: float) -> "MicroBatch":
        """The same of frames as the pool has decoded them; all of them must have a picture."""
        pictures = torch.stack([one.picture for one in decoded if isinstance(one.picture, Tensor)])
        return cls.of(frames, pictures, audit_rate, [one.decode_ms for one in decoded])

    def only(self, kept: Bools) -> "MicroBatch":
        """Some of its frames, ``kept`` bool ``[N]``."""
        rows = np.flatnonzero(kept).tolist()
        return MicroBatch(
            [self.frames[row] for row in rows],
            self.pictures[torch.from_numpy(kept)],
            [self.decode_ms[row] for row in rows],
            self.draws[kept],
            self.audit_rate,
        )

    def answer(self, engine: Engine, run: Run = run_once) -> "AnsweredBatch":
        """Has ``run`` answer it, and leaves out the frames at which the model failed, as ``run`` tells."""
        began = perf_counter()
        outcome = run(engine, self.pictures, self.audits)
        inference_ms = (perf_counter() - began) * 1000
        answered = self.only(outcome.answered(len(self.frames))) if outcome.failures else self
        answers = outcome.answers
        if answers is None:
            answers = Answers.to_nothing(len(engine.traced.classifier.classes))
        return AnsweredBatch(answered, engine, answers, inference_ms, outcome.failures, outcome.raised)


@dataclass(frozen=True)
class AnsweredBatch:
    """A micro-batch with its answers: N frames, of which M ran the full path."""

    batch: MicroBatch
    """The frames that were answered."""
    engine: Engine
    """It gave the answers: exits, version and budget are its own."""
    answers: Answers
    inference_ms: float
    """Spent by the engine on all frames that it was given."""
    failures: Mapping[int, Unanswerable]
    """Row, in the batch that was given, of each frame at which the model failed, and why it has no answer."""
    raised: str | None = None
    """The last error of the model, also where it answered the same frames in smaller batches."""

    def __len__(self) -> int:
        return len(self.batch.frames)

    def only(self, kept: Bools) -> "AnsweredBatch":
        """Some of its frames, ``kept`` bool ``[N]``."""
        return replace(self, batch=self.batch.only(kept), answers=self.answers.only(kept))

    @property
    def exits(self) -> list[str]:
        """``[N]``: the name of the exit that answered each frame, ``full`` for the full path."""
        return list(map(self.engine.exit_names.__getitem__, self.answers.exits.tolist()))

    @property
    def flops_shares(self) -> npt.NDArray[np.float64]:
        """``[N]``: FLOPs spent on each frame, as a share of the plain model's."""
        return self.engine.flops_shares[self.answers.exits]

    @property
    def misses(self) -> Bools:
        """``[M]``: which of the frames that ran the full path did so because no exit was sure of them."""
        # Shadow mode runs all frames to the end, and teaches from those alone that it would have run in earnest.
        return ~self.batch.audits[self.answers.full_rows] & (self.answers.live_exit < 0)
