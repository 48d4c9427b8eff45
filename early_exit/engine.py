"""Runs a micro-batch: segment, head, who leaves, shrink, next segment."""

import copy
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from layercache.early_exit.cascades import cascade_of
from layercache.early_exit.cutting.costs import fair_clock
from layercache.early_exit.cutting.cuts import TracedModel
from layercache.early_exit.heads.cache_heads import CacheHeads
from layercache.early_exit.heads.scoring import scored
from layercache.early_exit.memory import forget_generated_sources
from layercache.schemas.manifest import Certificate, flops_shares, time_shares

T = TypeVar("T")

#: How much a new time moves the running mean of a segment's times.
_TIME_WEIGHT = 0.1


@dataclass(frozen=True)
class Answers:
    """What a micro-batch of N frames was answered; M of them ran the full path."""

    labels: npt.NDArray[np.int64]
    """``[N]``"""
    probabilities: npt.NDArray[np.float32]
    """``[N, classes]``, of the head where a frame left, else of the model."""
    exits: npt.NDArray[np.int16]
    """``[N]``: index of the exit where the frame left, -1 for the full path."""
    full_rows: npt.NDArray[np.int64]
    """``[M]``: the rows of the frames that ran the full path."""
    logits: npt.NDArray[np.float32]
    """``[M, classes]``: the full model's."""
    live_exit: npt.NDArray[np.int32]
    """``[M]``: where the frame would have left had it not been kept for an audit (or for shadow mode); -1: nowhere."""
    live_label: npt.NDArray[np.int32]
    """``[M]``: what it would have been answered there; the full model's label where nowhere."""
    overload_label: npt.NDArray[np.int32] | None = None
    """``[M]``: the same under the thresholds for overload; None where the heads have none."""

    @property
    def finite(self) -> npt.NDArray[np.bool_]:
        """bool ``[N]``: False where the model's logits gave no probabilities, so that the label says nothing.

        Only the full path can end so: a head's score that is no number reaches no threshold.
        """
        return np.asarray(np.isfinite(self.probabilities).all(1), np.bool_)

    def only(self, kept: npt.NDArray[np.bool_]) -> "Answers":
        """The answers to some of the frames, ``kept`` bool ``[N]``, as if the others had not been there."""
        full = kept[self.full_rows]
        overload = self.overload_label
        return Answers(
            labels=self.labels[kept],
            probabilities=self.probabilities[kept],
            exits=self.exits[kept],
            full_rows=(np.cumsum(kept) - 1)[self.full_rows[full]],
            logits=self.logits[full],
            live_exit=self.live_exit[full],
            live_label=self.live_label[full],
            overload_label=None if overload is None else overload[full],
        )

    @classmethod
    def to_nothing(cls, classes: int) -> "Answers":
        """The answers to no frame at all, by a model of so many classes."""
        none, chances = np.empty(0, np.int64), np.empty((0, classes), np.float32)
        return cls(none, chances, none.astype(np.int16), none, chances, none.astype(np.int32), none.astype(np.int32))

    @classmethod
    def joined(cls, parts: Sequence["Answers"]) -> "Answers":
        """The answers to several batches in a row, by one engine, as those to a single batch."""
        begins = np.cumsum([0, *(len(part.labels) for part in parts[:-1])])
        overload = [part.overload_label for part in parts if part.overload_label is not None]
        return cls(
            labels=np.concatenate([part.labels for part in parts]),
            probabilities=np.concatenate([part.probabilities for part in parts]),
            exits=np.concatenate([part.exits for part in parts]),
            full_rows=np.concatenate([part.full_rows + begin for part, begin in zip(parts, begins, strict=True)]),
            logits=np.concatenate([part.logits for part in parts]),
            live_exit=np.concatenate([part.live_exit for part in parts]),
            live_label=np.concatenate([part.live_label for part in parts]),
            overload_label=np.concatenate(overload) if overload else None,
        )


class Engine:
    """The early-exit model: a traced model with the exits of one version of heads, or with none.

    In ``shadow`` mode every frame runs the full path and is answered by the model; what the exits would have said is
    in ``live_exit`` and ``live_label``. An engine never changes: new heads get a new engine. For a version that has
    thresholds for overload :meth:`overloaded` gives the engine that answers by them; what either would have said, both
    report alike, so that a watch over the exits never mixes their budgets.

    Raises :class:`layercache.early_exit.cutting.cuts.CutError` where the heads' cuts are not the model's. Heads of
    :func:`layercache.early_exit.heads.loading.load_heads` fit.

    >>> frames = torch.zeros(3, 1, 28, 28, dtype=torch.uint8)
    >>> answers = Engine(traced, heads).run(frames, audits=np.array([False, True, False]))
    >>> answers.exits.tolist(), answers.full_rows.tolist(), answers.live_exit.tolist()
    ([0, -1, 0], [1], [0])
    """

    def __init__(
        self, traced: TracedModel, heads: CacheHeads | None = None, mode: Literal["serve", "shadow"] = "serve"
    ) -> None:
        self.traced = traced
        self.heads = heads
        self.mode = mode
        classifier = traced.classifier
        manifest = heads.manifest if heads else None
        self.version: str | None = manifest.version if manifest else None
        self.audit_rate: float = manifest.audit_rate if manifest else 1.0
        exits = manifest.exits if manifest else ()
        self.exits: tuple[str, ...] = tuple(exit_.cut for exit_ in exits)
        shares = flops_shares(manifest)
        self.end: int | None = len(exits) - 1 if exits and exits[-1].head is None else None
        """Index of the exit that is the model itself, compiled; None where all exits are heads."""
        self.exit_names: tuple[str, ...] = tuple(shares)
        """By :attr:`Answers.exits`: the exits, then ``full``, which the index -1 finds as the last."""
        self.flops_shares: npt.NDArray[np.float64] = np.array([*shares.values()])
        """By the same index: FLOPs of a frame, as a share of the plain model's."""
        self.time_shares: npt.NDArray[np.float64] = np.array([*time_shares(manifest).values()])
        """The same of time, as it was on the trainer's machine."""
        self._cascade = cascade_of(traced, heads)
        self._temperatures = [exit_.temperature for exit_ in exits]
        # As the policy compares them: everyday's, and overload's where there are any, ``[settings, exits]``.
        everyday, overload = [exit_.threshold for exit_ in exits], manifest.overload if manifest else None
        self._thresholds = np.array([everyday, overload.thresholds] if overload else [everyday], np.float32)
        self._in_force = 0
        self.budget: Literal["normal", "overload"] = "normal"
        self.max_disagreement = self._served_budget(manifest.certificate if manifest else None)
        self._clock = fair_clock(classifier.device)
        self._times: defaultdict[str, dict[int, tuple[float, float]]] = defaultdict(dict)
        forget_generated_sources()

    def overloaded(self) -> "Engine | None":
        """The same engine with exits open as wide as overload allows; None where the heads have no such thresholds.

        It shares all but the thresholds, so that it is as warm as this one; only one of the two may run at a time.

        >>> Engine(traced, heads).overloaded() is None
        True
        """
        overload = self.heads.manifest.overload if self.heads else None
        if overload is None:
            return None
        bolder = copy.copy(self)
        bolder._in_force, bolder.budget = 1, "overload"
        bolder.max_disagreement = self._served_budget(overload.certificate)
        return bolder

    def _served_budget(self, certificate: Certificate | None) -> float | None:
        """How often exits may answer otherwise than the model; None where none answers, or no certificate says so."""
        return certificate.max_disagreement if certificate and self.exits and self.mode == "serve" else None

    def run(self, frames: Tensor, audits: npt.NDArray[np.bool_]) -> Answers:
        """Answers ``frames``, uint8 ``[N, C, h, w]`` of :meth:`Preprocessing.fit`; ``audits`` bool ``[N]``.

        An audited frame runs the full path, and its answer is the full model's.

        >>> answers = Engine(traced).run(torch.zeros(2, 1, 28, 28, dtype=torch.uint8), audits=np.zeros(2, np.bool_))
        >>> answers.exits.tolist(), answers.logits.shape
        ([-1, -1], (2, 10))
        """
        with torch.inference_mode():
            return self._run(frames, audits)

    def _run(self, frames: Tensor, audits: npt.NDArray[np.bool_]) -> Answers:
        # numpy decides which frames leave: on so few numbers torch's dispatch costs many times the work itself.
        n = len(frames)
        kept = np.ones(n, np.bool_) if self.mode == "shadow" else audits
        value = self._enter(frames)
        alive = np.arange(n)
        labels = np.empty(n, np.int64)
        exits = np.full(n, -1, np.int16)
        probabilities = np.empty((n, len(self.traced.classifier.classes)), np.float32)
        # Where a frame leaves by each setting's thresholds, were it not kept, and with which answer.
        would_leave = np.full((len(self._thresholds), n), -1, np.int32)
        would_answer = np.empty((len(self._thresholds), n), np.int32)
        for index in range(len(self.exits)):
            value, exit_logits = self._cascade.step(index, value, self._timed)
            chances, score, label = scored(exit_logits, self._temperatures[index])
            fires = score.cpu().numpy() >= self._thresholds[:, index, None]
            if not fires.any():
                continue
            answered = label.cpu().numpy()
            for setting, fire in enumerate(fires):
                first = fire & (would_leave[setting, alive] < 0)
                would_leave[setting, alive[first]], would_answer[setting, alive[first]] = index, answered[first]
            leaves = fires[self._in_force] & ~kept[alive]
            if leaves.any():
                rows = alive[leaves]
                labels[rows], exits[rows] = answered[leaves], index
                probabilities[rows] = chances.cpu().numpy()[leaves]
                stays = np.flatnonzero(~leaves)
                alive = alive[stays]
                if not len(alive):
                    break
                value = self._cascade.keep(value, stays)
        logits = np.empty((0, probabilities.shape[1]), np.float32)
        if len(alive):
            ends = self._cascade.finish(frames, alive, value, self._timed).float()
            logits = ends.cpu().numpy()
            labels[alive] = ends.argmax(1).cpu().numpy()
            probabilities[alive] = ends.softmax(1).cpu().numpy()
            np.copyto(would_answer, labels, where=would_leave < 0, casting="same_kind")
        would_answer = would_answer[:, alive]
        return Answers(
            labels=labels,
            probabilities=probabilities,
            exits=exits,
            full_rows=alive,
            logits=logits,
            live_exit=would_leave[0, alive],
            live_label=would_answer[0],
            overload_label=would_answer[1] if len(would_answer) > 1 else None,
        )

    def score(self, frames: Tensor) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
        """Every exit's score and label for every frame, ``[N, exits]`` each: what thresholds are judged on.

        A score is the largest probability of the exit's head, in (0, 1]; -1, which reaches no threshold, where the
        head's logits are not finite.

        >>> scores, labels = Engine(traced, heads).score(torch.zeros(2, 1, 28, 28, dtype=torch.uint8))
        >>> scores.shape, scores.dtype, labels.dtype
        ((2, 1), dtype('float32'), dtype('int64'))
        """
        scores, labels = [], []
        with torch.inference_mode():
            value = self._enter(frames)
            for index, temperature in enumerate(self._temperatures):
                value, logits = self._cascade.step(index, value, lambda name, frames, call: call())
                _, score, label = scored(logits, temperature)
                scores.append(score.cpu().numpy())
                labels.append(label.cpu().numpy())
        if not scores:
            return np.empty((len(frames), 0), np.float32), np.empty((len(frames), 0), np.int64)
        return np.nan_to_num(np.stack(scores, 1), nan=-1.0), np.stack(labels, 1)

    def warm_up(self, max_batch: int) -> None:
        """Runs batches of every power of two up to ``max_batch``, so that the first real ones find kernels ready."""
        preprocessing = self.traced.classifier.preprocessing
        size = 1
        while size <= max_batch:
            frames = torch.zeros(size, preprocessing.channels, *preprocessing.size, dtype=torch.uint8)
            for audited in (np.ones, np.zeros):
                self.run(frames, audited(size, np.bool_))
            size *= 2
        self._times.clear()

    def segment_ms(self) -> dict[str, dict[int, float]]:
        """Running means of the times of segments and heads: name to frames to ms, for :class:`TimeTable`.

        Up to 64 numbers of frames would be too many to send along, so those up to the same power of two are taken
        together, under their mean. Empty on devices other than the CPU.

        >>> engine = Engine(traced, heads)
        >>> _ = engine.run(torch.zeros(3, 1, 28, 28, dtype=torch.uint8), audits=np.ones(3, np.bool_))
        >>> {piece: list(by_frames) for piece, by_frames in engine.segment_ms().items()}
        {'to layer2': [3], 'head layer2': [3], 'to the end': [3]}
        """
        return {name: {round(n): ms for n, ms in means.values()} for name, means in self._times.items()}

    def _enter(self, frames: Tensor) -> Any:
        return self._cascade.enter(frames)

    def _timed(self, name: str, frames: int, call: Callable[[], T]) -> T:
        began = self._clock()
        result = call()
        if self.traced.classifier.device.type == "cpu":  # elsewhere the call returns before the work is done
            spent = (self._clock() - began) * 1000
            means = self._times[name]
            power = (frames - 1).bit_length()
            n, ms = means.get(power, (frames, spent))
            means[power] = (n + _TIME_WEIGHT * (frames - n), ms + _TIME_WEIGHT * (spent - ms))
        return result
