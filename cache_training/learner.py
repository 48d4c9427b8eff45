"""Teaches all candidates: teacher passes over views fill a ring, head steps draw from it, each at a rate of its own."""

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor, nn

from cache_training.candidates import Candidate, Costs, head_flops, propose_heads
from cache_training.frames import FrameBuffer, Frames, together
from cache_training.ring import FeatureRing
from cache_training.views import views
from early_exit.costs import chain_ms, measure_ms
from early_exit.cuts import TracedModel

_PASS_FRAMES = 64
_STEP_FRAMES = 128
#: How often a view is learnt from before it is old: more passes cost the teacher's time, fewer make heads overfit.
_USES_OF_A_VIEW = 5
#: Share of learning audits in what is taught, the stream as it is; the rest are misses, its hard side.
_AUDIT_SHARE = 0.5
_TIMING_BATCH, _TIMING_REPEATS = 32, 10


class Teacher:
    """The full model, cut at the places where heads are tried."""

    def __init__(self, traced: TracedModel, cuts: Sequence[str]) -> None:
        self.traced = traced
        self.cuts = tuple(cuts)
        self._segments: list[nn.Module] = [
            segment.to(memory_format=torch.channels_last) for segment in traced.segments(self.cuts)
        ]

    def answer(self, inputs: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Maps by cut and float32 logits ``[N, classes]`` of uint8 ``[N, C, H, W]``."""
        classifier = self.traced.classifier
        with torch.inference_mode():
            x = classifier.preprocessing.normalise(inputs.to(classifier.device), classifier.dtype)
            x = x.contiguous(memory_format=torch.channels_last)
            maps = {}
            for cut, segment in zip(self.cuts, self._segments[:-1], strict=True):
                x = maps[cut] = segment(x)
            return maps, self._segments[-1](x).float()

    def costs(self) -> dict[str, Costs]:
        """What it costs to reach each cut; time as measured now, for a batch of 32."""
        preprocessing = self.traced.classifier.preprocessing
        frames = torch.zeros(_TIMING_BATCH, preprocessing.channels, *preprocessing.size, dtype=torch.uint8)
        x = preprocessing.normalise(frames.to(self.traced.classifier.device), self.traced.classifier.dtype)
        x = x.contiguous(memory_format=torch.channels_last)
        spent = list(accumulate(chain_ms(self._segments, x, _TIMING_REPEATS)))
        self.total_ms = spent[-1]
        return {
            cut: Costs(self.traced.cut(cut).flops_share, time / self.total_ms)
            for cut, time in zip(self.cuts, spent, strict=False)
        }


class Learner:
    """All candidates, what they learn from, and what they are compared on."""

    def __init__(self, traced: TracedModel, cuts: Sequence[str], ring_mb: float, seed: int) -> None:
        self.teacher = Teacher(traced, cuts)
        self.cut_costs = self.teacher.costs()
        classes = len(traced.classifier.classes)
        shapes = {cut: traced.cut(cut).shape for cut in cuts}
        self.ring = FeatureRing(shapes, classes, 0.6 * ring_mb * 1e6)
        self.tuning = FeatureRing(shapes, classes, 0.4 * ring_mb * 1e6)
        self.candidates = list(self._propose(traced, classes, seed))
        self.views_made = 0
        self.disagreeing_passes = 0
        self._generator = torch.Generator().manual_seed(seed)
        self._uses = 0

    def _propose(self, traced: TracedModel, classes: int, seed: int) -> Sequence[Candidate]:
        candidates: list[Candidate] = []
        for cut in self.teacher.cuts:
            for spec in propose_heads(traced.cut(cut), classes, traced.flops):
                probe = Candidate(f"{cut}/{spec.family}", cut, spec, Costs(0, 0), seed + len(candidates))
                example = torch.zeros(_TIMING_BATCH, *spec.features)
                with torch.inference_mode():
                    time = measure_ms(probe.average, example, _TIMING_REPEATS) / self.teacher.total_ms
                probe.costs = Costs(head_flops(spec) / traced.flops, time)
                candidates.append(probe)
        return candidates

    def keep_for_tuning(self, frames: Frames) -> None:
        """Takes in tuning audits: the maps are the teacher's, the logits those that the worker sent."""
        for start in range(0, len(frames), _PASS_FRAMES):
            part = frames.rows(slice(start, start + _PASS_FRAMES))
            maps, logits = self.teacher.answer(torch.from_numpy(part.inputs))
            # The worker's numerics may differ from ours; where labels differ, somebody should know.
            self.disagreeing_passes += int((logits.argmax(1).cpu().numpy() != part.labels).sum())
            self.tuning.add(maps, torch.from_numpy(part.logits))

    def learn(self, audits: FrameBuffer, misses: FrameBuffer) -> bool:
        """One step for every candidate, after a teacher pass where views are used up; False without frames."""
        if self._uses <= 0:
            share = _AUDIT_SHARE if len(misses) else 1.0
            wanted = round(_PASS_FRAMES * share) if len(audits) else 0
            frames = together((audits.sample(wanted), misses.sample(_PASS_FRAMES - wanted)))
            if frames is None:
                return False
            seen = views(torch.from_numpy(frames.inputs), self._generator)
            self.ring.add(*self.teacher.answer(seen))
            self.views_made += len(seen)
            self._uses += _USES_OF_A_VIEW * len(seen)
        rows = self.ring.sample(_STEP_FRAMES, self._generator)
        teacher = self.ring.logits(rows)
        for cut in self.teacher.cuts:
            maps = self.ring.at(cut, rows)
            for candidate in self.candidates:
                if candidate.cut == cut:
                    candidate.step(maps, teacher)
        self._uses -= _STEP_FRAMES
        return True

    def forget(self) -> None:
        """Forgets the stream as it was; the heads keep what they know."""
        self.ring.clear()
        self.tuning.clear()
        self._uses = 0

    def tuning_logits(self, candidate: Candidate, rows: Tensor) -> Tensor:
        """``[len(rows), classes]``: a candidate's answers to tuning audits."""
        return torch.cat([candidate.logits(self.tuning.at(candidate.cut, part)) for part in rows.split(256)])
