"""The compiled paths that a trainer has made, and what it expects of the paths that it might make."""

import logging
from collections.abc import Sequence

import torch

from layercache.cache_training.learning.batch_times import BatchTimes
from layercache.cache_training.learning.candidates import TIMING_BATCH, Candidate, Costs
from layercache.cache_training.learning.compiled_exits import (
    TIMED_BATCHES,
    CompiledExits,
    FrameTimes,
    PieceTimes,
    pieces_ms,
)
from layercache.cache_training.learning.kept_frames import FrameBuffer
from layercache.cache_training.learning.routes import Route
from layercache.early_exit.compiled.openvino_runtime import CompileError
from layercache.early_exit.cutting.costs import TimeTable
from layercache.early_exit.cutting.cuts import TracedModel
from layercache.early_exit.runtimes import full_model
from layercache.schemas.manifest import PathPrecision

log = logging.getLogger(__name__)

#: int8 takes its ranges from at least so many frames. 64 gave the demo's model no more differing labels than 300.
_FEWEST_FRAMES = 64
#: What being cut is taken to cost, as a share of the path's time: the map leaves one graph and enters another, and
#: layers that would be one operation are on either side. Measured on the demo's int8 model: 2 to 7 %.
_CUT_SHARE = 0.06


class CompiledRoutes:
    """The compiled paths that a trainer has made: an end in each precision that is wanted, and one path with heads.

    ``plain`` are the times of the plain model's segments, and ``heads`` those of heads, by PyTorch.
    """

    def __init__(
        self,
        traced: TracedModel,
        precisions: Sequence[PathPrecision],
        plain: PieceTimes,
        heads: PieceTimes,
        batch: int = TIMING_BATCH,
    ) -> None:
        self._traced = traced
        self._possible = list(precisions)
        self._wanted = list(precisions)
        self._plain = plain
        self._heads = heads
        self._batch = batch
        self._reference = self._reference_ms() if precisions else {}
        self._imagined: Route | None = None
        self.ends: list[CompiledExits] = []
        self.with_heads: CompiledExits | None = None

    @property
    def made(self) -> tuple[CompiledExits, ...]:
        """All of them."""
        return (*self.ends, *([self.with_heads] if self.with_heads else []))

    def judge_by(self, batch: int) -> None:
        """Judges all paths by the time of micro-batches of so many frames."""
        if batch != self._batch:
            self._batch, self._imagined = batch, None
            for path in self.made:
                path.times.judge_by(batch)

    def make_end(self, learning: FrameBuffer) -> bool:
        """Makes the next end from frames of the learning window; False where there is nothing to do yet.

        Each takes seconds to minutes. A precision that cannot be made is given up, with its reason in the log.
        """
        if not self._wanted or len(learning) < min(_FEWEST_FRAMES, learning.capacity):
            return False
        precision = self._wanted.pop(0)
        end = self._made(precision, (), learning)
        if end is None:
            self._possible.remove(precision)
        else:
            self.ends.append(end)
            log.info("the model in %s takes %.0f %% of its time", precision, 100 * end.route.reach[precision].time)
        return True

    def add_heads(self, end: CompiledExits, heads: Sequence[Candidate], learning: FrameBuffer) -> bool:
        """Makes the path of ``end`` anew, with heads on it, as they are now; False where that failed."""
        self.with_heads = made = self._made(end.precision, heads, learning)
        if made is not None:
            log.info(
                "with heads at %s, to its end in %s takes %.0f %% of the model's time",
                ", ".join(head.cut for head in heads), end.precision, 100 * made.route.reach[end.precision].time,
            )  # fmt: skip
        return made is not None

    def imagined(self, plain: Route) -> Route:
        """What the path of the first end would cost with heads at cuts of the ``plain`` route: before it is made.

        Heads and pieces are taken to gain as much by compiling as the whole model. A cut's own cost is charged to its
        heads.
        """
        if self._imagined is None:
            self._imagined = self._imagine(plain)
        return self._imagined

    def forget(self) -> None:
        """Forgets all paths, once the stream is another one: their ranges are the old stream's. Ends are made anew."""
        self.ends.clear()
        self.with_heads = self._imagined = None
        self._wanted = list(self._possible)

    def _imagine(self, plain: Route) -> Route:
        end = self.ends[0]
        (whole,) = end.piece_ms
        faster = {n: whole[n] / end.plain_ms[n] for n in TIMED_BATCHES}
        pieces: dict[str, FrameTimes] = {}
        heads: dict[str, FrameTimes] = {}
        reach: dict[str, Costs] = {}
        before = 0.0
        for cut, costs in plain.reach.items():
            pieces[f"to {cut}"] = {n: (costs.time - before) * ms for n, ms in whole.items()}
            before = costs.time
            reach[cut] = Costs(costs.flops, costs.time * faster[TIMING_BATCH])
            for name, by_torch in self._heads.items():
                if name.startswith(f"head {cut}/"):
                    heads[name] = {n: faster[n] * by_torch[n] + _CUT_SHARE * whole[n] for n in TIMED_BATCHES}
        pieces[f"to {end.precision}"] = {n: (1 - before) * ms for n, ms in whole.items()}
        table = TimeTable({**pieces, **heads, "to the end": self._reference})
        times = BatchTimes(table, self._batch, TimeTable(self._plain))
        return Route({**reach, **end.route.reach}, times, end.route.nowhere)

    def _made(
        self, precision: PathPrecision, heads: Sequence[Candidate], learning: FrameBuffer
    ) -> CompiledExits | None:
        frames = learning.frames()
        assert frames is not None
        try:
            made = CompiledExits(self._traced, precision, heads, frames.inputs, self._plain, self._reference)
        except CompileError as error:
            where = f" with heads at {', '.join(head.cut for head in heads)}" if heads else ""
            log.warning("no path in %s%s: %s", precision, where, error)
            return None
        made.times.judge_by(self._batch)
        return made

    def _reference_ms(self) -> FrameTimes:
        """Of the full model, by what runs it where no exit answers."""
        classifier = self._traced.classifier
        if classifier.reference.runtime == "torch":
            return {n: sum(by_batch[n] for by_batch in self._plain.values()) for n in TIMED_BATCHES}
        answer, size = full_model(classifier), (classifier.preprocessing.channels, *classifier.preprocessing.size)
        (times,) = pieces_ms([lambda x: (answer(torch.from_numpy(x)).numpy(),)], torch.zeros(1, *size).byte().numpy())
        return times
