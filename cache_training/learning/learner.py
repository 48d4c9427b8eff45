"""Teaches all candidates: teacher passes over views fill a ring, and heads learn from it, each at its own rate."""

import copy
from collections.abc import Mapping, Sequence
from itertools import accumulate

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from layercache.cache_training.learning.batch_times import BatchTimes
from layercache.cache_training.learning.candidates import TIMING_BATCH, Candidate, Costs
from layercache.cache_training.learning.kept_frames import FrameBuffer, Frames
from layercache.cache_training.learning.proposals import propose_heads
from layercache.cache_training.learning.ring import FeatureRing
from layercache.cache_training.learning.routes import Route
from layercache.cache_training.learning.views import make_views
from layercache.early_exit.cutting.costs import TimeTable, chain_ms, measure_ms, measure_times
from layercache.early_exit.cutting.cuts import TracedModel
from layercache.early_exit.cutting.layouts import Layout
from layercache.early_exit.heads.families import fuse
from layercache.early_exit.runtimes import full_model
from layercache.schemas.manifest import HeadSpec

_PASS_FRAMES = 64
_STEP_FRAMES = 128
_SKIMS_AT_A_TIME = 1
#: Where a single skim counts, another one takes a step only once in so many.
_OTHERS_EVERY = 4
#: Batch sizes that a model's pieces are timed with; together about as many frames as ``TIMING_REPEATS`` large batches.
_TIMED_BATCHES, _TIMED_REPEATS = (1, 4, 8, TIMING_BATCH), 7
#: How many steps use a view before new ones are made: fewer cost the teacher more time, more make heads overfit.
_USES_OF_A_VIEW = 5
#: Share of learning audits, which are the stream as it is, among taught frames; the rest are misses and lessons, its
#: hard frames.
_AUDIT_SHARE = 0.5


class Teacher:
    """The full model, cut at the places where heads are tried."""

    def __init__(self, traced: TracedModel, cuts: Sequence[str]) -> None:
        self.traced = traced
        self.cuts = tuple(cuts)
        self._segments: list[nn.Module] = [
            segment.to(memory_format=torch.channels_last) for segment in traced.segments(self.cuts)
        ]
        self._quick: list[nn.Module] | None = None
        self.full = full_model(traced.classifier)
        """The reference's logits, float32 ``[N, classes]``, by what runs it as a whole: without maps."""

    def answer(self, inputs: Tensor, quick: bool = False) -> tuple[dict[str, Tensor], Tensor]:
        """Maps by cut and float32 logits ``[N, classes]`` of uint8 ``[N, C, H, W]``.

        ``quick``: in bfloat16 where the processor is quicker at it. That is good enough to learn from (twice as many
        views in the same time); candidates are never judged by it.
        """
        classifier = self.traced.classifier
        segments, dtype = self._segments, classifier.dtype
        if quick and dtype == torch.float32:
            segments = self._faster_segments()
            dtype = dtype if segments is self._segments else torch.bfloat16
        with torch.inference_mode():
            x = classifier.inputs(inputs, dtype)
            maps = {}
            for cut, segment in zip(self.cuts, segments[:-1], strict=True):
                x = maps[cut] = segment(x)
            return maps, segments[-1](x).float()

    def _faster_segments(self) -> list[nn.Module]:
        """The segments in float32 or in bfloat16, whichever ran quicker at the first call."""
        if self._quick is None:
            half = [copy.deepcopy(segment).to(torch.bfloat16) for segment in self._segments]
            example = self.traced.classifier.example(TIMING_BATCH).contiguous(memory_format=torch.channels_last)
            times = [
                sum(chain_ms(segments, example.to(dtype), 2))
                for segments, dtype in ((self._segments, torch.float32), (half, torch.bfloat16))
            ]
            self._quick = half if times[1] < times[0] else self._segments
        return self._quick

    def times(self) -> dict[str, dict[int, float]]:
        """Milliseconds of ``to <cut>`` and ``to the end`` by size of the micro-batch, measured now."""
        names = [f"to {cut}" for cut in (*self.cuts, "the end")]
        segments = dict(zip(names, self._segments, strict=True))
        return measure_times(segments, {}, self.traced.classifier.example, _TIMED_BATCHES, _TIMED_REPEATS)

    def costs(self, times: Mapping[str, Mapping[int, float]]) -> dict[str, Costs]:
        """What it costs to reach each cut, from :meth:`times` of the largest batch."""
        spent = list(accumulate(by_batch[TIMING_BATCH] for by_batch in times.values()))
        return {
            cut: Costs(self.traced.cut(cut).flops_share, time / spent[-1])
            for cut, time in zip(self.cuts, spent, strict=False)
        }


class Learner:
    """All candidates, the ring that they learn from, and the tuning audits that they are compared on."""

    def __init__(
        self,
        traced: TracedModel,
        cuts: Sequence[str],
        ring_mb: float,
        seed: int,
        heads: Mapping[str, Sequence[HeadSpec]] | None = None,
        horizon: int | None = None,
    ) -> None:
        """``heads`` by cut replaces the proposed heads; ``horizon`` is the number of steps, where it is known."""
        self.cuts = tuple(cuts)
        proposed = heads or {cut: propose_heads(traced.cut(cut), traced) for cut in cuts}
        specs = [(cut, spec) for cut in cuts for spec in proposed.get(cut, ())]
        self.candidates = [
            Candidate(f"{cut}/{spec.family}", cut, spec, Costs(0.0, 0.0), seed + number, traced, horizon)
            for number, (cut, spec) in enumerate(specs)
        ]
        wanted = {*cuts, *(cut for one in self.candidates for cut, _ in one.hints)}
        self.teacher = Teacher(traced, [cut.name for cut in traced.cuts if cut.name in wanted])
        times = self.teacher.times()
        costs = self.teacher.costs(times)
        #: Milliseconds of the plain model's segments, by the size of the micro-batch.
        self.plain_times = times
        for candidate in self.candidates:
            candidate.measure(traced.flops, sum(by_batch[TIMING_BATCH] for by_batch in times.values()))
        #: The same of each candidate's head, named ``head <name>``.
        self.head_times = {f"head {candidate.name}": _head_times(candidate) for candidate in self.candidates}
        #: Expected times of the model with each candidate.
        self.times = BatchTimes(TimeTable(times | self.head_times), TIMING_BATCH)
        #: The model's own layers, with candidates at the cuts.
        self.route = Route({cut: costs[cut] for cut in cuts}, self.times)
        shapes = {cut: traced.cut(cut).shape for cut in cuts}
        hints = {_hint_name(*hint): hint[1] for candidate in self.candidates for hint in candidate.hints}
        classes = len(traced.classifier.classes)
        self.ring = FeatureRing(shapes | hints, classes, 0.6 * ring_mb * 1e6)
        self.tuning = FeatureRing(shapes, classes, 0.4 * ring_mb * 1e6)
        self.views_made = 0
        #: Frames that this machine's model and the workers' gave labels, and of these those with two different ones.
        self.compared_passes = 0
        self.disagreeing_passes = 0
        self.disagreeing_runtimes = 0
        self._generator = torch.Generator().manual_seed(seed)
        self._uses = 0
        self._every_skim_each_step = horizon is not None
        self._worth: Mapping[str, float] = {}
        self._one_counts = False
        self._turn = 0

    def keep_for_tuning(self, frames: Frames) -> None:
        """Takes in tuning audits: this teacher's maps, and the logits that the worker sent."""
        for start in range(0, len(frames), _PASS_FRAMES):
            part = frames.rows(slice(start, start + _PASS_FRAMES))
            inputs = torch.from_numpy(part.inputs)
            maps, logits = self.teacher.answer(inputs)
            # The worker's numerics may differ from ours, and OpenVINO's from those of the layers that heads learn from;
            # the trainer logs how many labels differ.
            self.compared_passes += len(part)
            self.disagreeing_passes += int((logits.argmax(1).cpu().numpy() != part.labels).sum())
            if self.teacher.traced.classifier.reference.runtime != "torch":
                self.disagreeing_runtimes += int((logits.argmax(1) != self.teacher.full(inputs).argmax(1)).sum())
            self.tuning.add(maps, torch.from_numpy(part.logits))

    def learn(self, audits: FrameBuffer, misses: FrameBuffer, lessons: FrameBuffer | None = None) -> bool:
        """One step for every candidate, after a teacher pass if the views are used up; False without frames.

        The teacher answers every view anew, so that lessons need no answers.
        """
        if self._uses <= 0:
            inputs = _drawn(audits, (misses,) if lessons is None else (misses, lessons))
            if inputs is None:
                return False
            seen = make_views(torch.from_numpy(inputs), self._generator)
            self._remember(*self.teacher.answer(seen, quick=True))
            self.views_made += len(seen)
            self._uses += _USES_OF_A_VIEW * len(seen)
        rows = self.ring.sample(_STEP_FRAMES, self._generator)
        teacher = self.ring.logits(rows)
        learning = self._candidates_of_this_step()
        for cut in self.cuts:
            here = [candidate for candidate in learning if candidate.cut == cut]
            maps = self.ring.at(cut, rows) if here else teacher
            for candidate in here:
                hints = [self.ring.at(_hint_name(*hint), rows) for hint in candidate.hints]
                candidate.step(maps, teacher, hints)
        self._uses -= _STEP_FRAMES
        return True

    def prioritise(self, worth: Mapping[str, float], one_counts: bool = False) -> None:
        """Takes the time that each candidate (by name) would save now; the best skim then learns at every step.

        ``one_counts``: a compiled end follows, past which a second skim hardly saves more than it costs; then the best
        one has most of the time.
        """
        self._worth, self._one_counts = worth, one_counts

    def _candidates_of_this_step(self) -> list[Candidate]:
        """The candidates that take this step: all small heads, and with several skims only two of these.

        A step of a skim costs as much as the steps of all small heads. The two are the skim that saves most and, in
        turn, one of the others; where one skim counts, these wait for longer.
        """
        skims = [one for one in self.candidates if one.spec.family == "skim"]
        if self._every_skim_each_step or len(skims) <= _SKIMS_AT_A_TIME:
            return self.candidates
        self._turn += 1
        skims.sort(key=lambda one: -self._worth.get(one.name, 0.0))
        waiting = skims[_SKIMS_AT_A_TIME:]
        every = _OTHERS_EVERY if self._one_counts else 1
        turn, is_due = self._turn // every, self._turn % every == 0
        resting = [one for one in waiting if not is_due or one is not waiting[turn % len(waiting)]]
        return [one for one in self.candidates if one not in resting]

    def _remember(self, maps: dict[str, Tensor], logits: Tensor) -> None:
        """Puts a teacher's pass into the ring; hints are averaged to the size of the skims' own values."""
        hints = {
            _hint_name(cut, shape): _shrunk(maps[cut], shape, self.teacher.traced.cut(cut).layout)
            for candidate in self.candidates
            for cut, shape in candidate.hints
        }
        self.ring.add(maps | hints, logits)

    def forget(self) -> None:
        """Forgets the old stream's frames; the heads keep their weights."""
        self.ring.clear()
        self.tuning.clear()
        self._uses = 0

    def tuning_logits(self, candidate: Candidate, rows: Tensor) -> Tensor:
        """``[len(rows), classes]``: a candidate's answers to tuning audits."""
        return torch.cat([candidate.logits(self.tuning.at(candidate.cut, part)) for part in rows.split(256)])


def _drawn(audits: FrameBuffer, hard: Sequence[FrameBuffer]) -> npt.NDArray[np.uint8] | None:
    """uint8 ``[N, C, H, W]``: the pictures for a teacher's pass; None where there are none.

    The ``hard`` ones come from each buffer in proportion to how many it holds.
    """
    in_all = sum(len(buffer) for buffer in hard)
    wanted = round(_PASS_FRAMES * (_AUDIT_SHARE if in_all else 1.0)) if len(audits) else 0
    bounds = np.cumsum([0, *(len(buffer) for buffer in hard)]) * (_PASS_FRAMES - wanted) / max(1, in_all)
    drawn = [audits.sample(wanted)]
    drawn += [buffer.sample(n) for buffer, n in zip(hard, np.diff(bounds.round()).astype(int).tolist(), strict=True)]
    inputs = [frames.inputs for frames in drawn if frames is not None and len(frames)]
    return np.concatenate(inputs) if inputs else None


def _head_times(candidate: Candidate) -> dict[int, float]:
    """Milliseconds of a candidate's head in its serving form, by size of the micro-batch."""
    served = fuse(copy.deepcopy(candidate.average))
    times = {}
    for batch in _TIMED_BATCHES:
        example = torch.zeros(batch, *candidate.spec.features)
        if example.ndim == 4:
            example = example.contiguous(memory_format=torch.channels_last)
        times[batch] = measure_ms(served, example, _TIMED_REPEATS)
    return times


def _hint_name(cut: str, shape: tuple[int, ...]) -> str:
    """The ring's key for the model's value at a cut, averaged to a skim's shape."""
    return f"{cut} {'x'.join(map(str, shape))}"


def _shrunk(value: Tensor, shape: tuple[int, ...], layout: Layout) -> Tensor:
    """The model's value, averaged to a skim's shape."""
    if tuple(value.shape[1:]) == shape:
        return value
    if layout == "hwc":
        pooled = F.adaptive_avg_pool2d(value.permute(0, 3, 1, 2), (shape[0], shape[1]))
        return pooled.permute(0, 2, 3, 1)
    return F.adaptive_avg_pool2d(value, (shape[1], shape[2]))
