"""What heads that were taught once say of pictures that they have not seen: on PyTorch's layers, and before int8."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from benchmarks.paper import compiled, ours
from benchmarks.paper.data import Task
from benchmarks.paper.latency import one_thread
from layercache.cache_training.certifying.windows import Windows
from layercache.cache_training.learning.candidates import Costs, ExitCandidate
from layercache.cache_training.learning.compiled_routes import CompiledRoutes
from layercache.early_exit.compiled.allowed import allowed_precisions
from layercache.early_exit.cutting.cuts import trace
from layercache.early_exit.engine import Engine
from layercache.early_exit.runtimes import with_reference

#: The names of the ways through the model: its own layers, the model in int8, and that with a head in front of it.
TORCH, END, PATH = "torch", "int8", "int8 with a head"
#: Frames that heads and int8's ranges come from, as in ``benchmarks.paper``.
_FRAMES = 4000
_MEMORY_MB = 1e5
#: Frames whose maps fit the learner's ring.
_AT_ONCE = 900


@dataclass(frozen=True)
class Reached:
    """An exit of a route: what it takes to get there, and what its head takes, as shares of the model's time."""

    cut: str
    time: float
    head_time: float


@dataclass(frozen=True)
class ScoredRoute:
    """N frames at every exit of a route."""

    exits: tuple[Reached, ...]
    logits: npt.NDArray[np.float32]
    """``[exits, N, classes]``"""
    nowhere_time: float
    """What a frame takes that no exit answers, heads apart."""


@dataclass(frozen=True)
class ScoredFrames:
    """N frames at every exit of every route."""

    labels: npt.NDArray[np.int64]
    """``[N]``: the full model's."""
    routes: dict[str, ScoredRoute]

    def save(self, path: Path) -> None:
        """As npz, with a JSON header."""
        header = {name: (route.exits, route.nowhere_time) for name, route in self.routes.items()}
        arrays = {f"logits {name}": route.logits for name, route in self.routes.items()}
        described = np.frombuffer(msgspec.json.encode(header), np.uint8)
        np.savez_compressed(path, labels=self.labels, header=described, **arrays)  # type: ignore[arg-type]

    @classmethod
    def load(cls, path: Path) -> "ScoredFrames":
        """What :meth:`save` wrote."""
        with np.load(path) as file:
            header = msgspec.json.decode(file["header"].tobytes(), type=dict[str, tuple[tuple[Reached, ...], float]])
            routes = {
                name: ScoredRoute(exits, file[f"logits {name}"], nowhere) for name, (exits, nowhere) in header.items()
            }
            return cls(file["labels"], routes)


def score(task: Task, seed: int) -> ScoredFrames:
    """Teaches the backbone's heads on the frames that teach, and scores all others. Takes a quarter of an hour."""
    taught, *others = ours.split(task.learning(seed)[:_FRAMES])
    unseen = np.concatenate((*others, task.evaluation(seed)))
    full = Engine(task.traced)
    windows = Windows(_MEMORY_MB, len(task.frames), len(unseen), seed)
    windows.learning.add(ours.answered(task, full, taught))
    windows.tuning.add(ours.answered(task, full, unseen))
    learning, frames = windows.learning.frames(), windows.tuning.frames()
    assert learning is not None
    assert frames is not None
    recipe = ours.RECIPES[task.backbone]
    learner = ours.taught(task, recipe.heads(task), seed, learning, recipe.steps)
    parts = []
    for rows in np.array_split(np.arange(len(frames)), -(-len(frames) // _AT_ONCE)):
        learner.keep_for_tuning(frames.rows(rows))
        kept = learner.tuning.latest(len(rows))
        parts.append(np.stack([learner.tuning_logits(one, kept).numpy() for one in learner.candidates]))
    routes = {TORCH: _route(learner.route.by_exit, learner.candidates, np.concatenate(parts, 1))}
    with one_thread():
        served = trace(with_reference(task.traced.classifier))
        precisions = allowed_precisions(served.classifier).precisions
        paths = CompiledRoutes(served, precisions, learner.teacher.times(), learner.head_times)
        paths.make_end(windows.learning)
        heads = [one for one in learner.candidates if one.cut in compiled.CUTS[task.backbone]]
        paths.add_heads(paths.ends[0], heads, windows.learning)
        for name, path in zip((END, PATH), (paths.ends[0], paths.made[-1]), strict=True):
            routes[name] = _route(path.route.by_exit, path.exits, path.logits_of(windows.tuning))
    return ScoredFrames(frames.labels, routes)


def _route(
    by_exit: Callable[[Sequence[ExitCandidate]], list[Costs]],
    exits: Sequence[ExitCandidate],
    logits: npt.NDArray[np.float32],
) -> ScoredRoute:
    reached = []
    for one in exits:
        alone, _ = by_exit([one])
        reached.append(Reached(one.cut, alone.time - one.costs.time, one.costs.time))
    return ScoredRoute(tuple(reached), logits, by_exit([])[-1].time)
