"""A head candidate in training: several are trained side by side, and the stream decides which is worth its time."""

import copy
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from layercache.early_exit.cutting.costs import count_flops, measure_ms
from layercache.early_exit.cutting.cuts import TracedModel
from layercache.early_exit.cutting.layouts import Layout
from layercache.early_exit.heads.families import SkimHead, build_head, fuse
from layercache.early_exit.heads.loading import tensor_names
from layercache.schemas.manifest import HeadSpec

_TEMPERATURE = 2.0
#: A skim starts from the model's weights, the others from random ones.
_LEARNING_RATE = {"pooled": 3e-3, "branch": 6e-3, "skim": 4e-3}
_WEIGHT_DECAY = {"pooled": 0.02, "branch": 0.1, "skim": 0.05}
#: Weight in the loss of a skim's inner values, compared to its answers; and the cap on a difference, in deviations.
_HINTS, _LARGEST_DIFFERENCE = 2.0, 5.0
_WARM_UP_STEPS = 30
#: After so many steps the learning rate has fallen to 1 / sqrt(2).
_HALF_POWER_STEPS = 1500
_AVERAGING = 0.99
TIMING_BATCH, TIMING_REPEATS = 32, 10


@dataclass(frozen=True)
class Costs:
    """What a candidate, or the way to a cut, costs as shares of the whole model."""

    flops: float
    time: float


class ExitCandidate(Protocol):
    """What may become an exit: a head in training, or the model itself in another precision."""

    @property
    def name(self) -> str:
        """Unique among candidates."""

    @property
    def cut(self) -> str:
        """The exit's name."""

    @property
    def spec(self) -> HeadSpec | None:
        """None where there is no head."""

    @property
    def costs(self) -> Costs:
        """Of the head alone."""

    def weights(self) -> dict[str, Tensor]:
        """The head's tensors, as a version stores them."""


class Candidate:
    """One head in training: its weights, their running average (which is what serves), and its optimizer."""

    def __init__(
        self,
        name: str,
        cut: str,
        spec: HeadSpec,
        costs: Costs,
        seed: int,
        traced: TracedModel | None = None,
        horizon: int | None = None,
    ) -> None:
        """A skim copies layers of ``traced``; with ``horizon`` the learning rate falls to 0 in that many steps."""
        self.name = name
        self.cut = cut
        self.spec = spec
        self.costs = costs
        #: Whether steps compute in bfloat16: they do where this processor is quicker at it.
        self.half = False
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.head = build_head(spec, traced).to(memory_format=torch.channels_last).train()
        self.average = copy.deepcopy(self.head).eval().requires_grad_(False)
        self.optimizer = torch.optim.AdamW(
            self.head.parameters(), lr=_LEARNING_RATE[spec.family], weight_decay=_WEIGHT_DECAY[spec.family]
        )
        self.steps = 0
        self._restored_at = 0
        self._horizon = horizon
        #: Where a skim also learns the model's inner values: cuts, and the shape of the skim's own value there.
        self.hints: tuple[tuple[str, tuple[int, ...]], ...] = self._find_hints(traced)
        self._hint_layouts = [traced.cut(cut).layout for cut, _ in self.hints] if traced else []

    def _find_hints(self, traced: TracedModel | None) -> tuple[tuple[str, tuple[int, ...]], ...]:
        if not isinstance(self.average, SkimHead) or traced is None:
            return ()
        with torch.inference_mode():
            *inside, _ = self.average.values(torch.zeros(1, *self.spec.features))
        starts = [start for start, _ in self.spec.path[1:]]
        hints = tuple((cut, tuple(value.shape[1:])) for cut, value in zip(starts, inside, strict=True))
        comparable = [
            traced.cut(cut).layout in ("chw", "hwc") or traced.cut(cut).shape == shape for cut, shape in hints
        ]
        return hints if all(comparable) else ()  # with fewer tokens than the model's, no value can be compared

    def step(self, maps: Tensor, teacher: Tensor, hints: Sequence[Tensor] = ()) -> None:
        """One step of distillation: maps ``[N, *features]``, the teacher's logits ``[N, classes]``.

        KL to the teacher's softened answer (Hinton, Vinyals, Dean 2015) plus half the cross-entropy to its label, and
        for a skim the distance of its values from the model's (``hints``, in the order and shapes of :attr:`hints`;
        Romero et al. 2015, "FitNets"): with few frames that says far more than the answers alone.
        """
        self.steps += 1
        for group in self.optimizer.param_groups:
            group["lr"] = _LEARNING_RATE[self.spec.family] * self._learning_rate_factor()
        *inside, logits = self._values(self.head, maps)
        soft = F.kl_div(
            F.log_softmax(logits / _TEMPERATURE, 1), F.softmax(teacher / _TEMPERATURE, 1), reduction="batchmean"
        )
        loss = soft * _TEMPERATURE**2 + 0.5 * F.cross_entropy(logits, teacher.argmax(1))
        if hints:
            for value, hint, layout in zip(inside, hints, self._hint_layouts, strict=True):
                loss = loss + _HINTS * _distance(value, hint.float(), layout)
        if not loss.isfinite():
            return  # otherwise one overflow would stay in the weights for ever
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        self._average()

    def measure(self, model_flops: int, model_ms: float) -> None:
        """Measures :attr:`costs` of serving a batch of ``TIMING_BATCH`` frames, and picks a precision for training.

        ``model_flops`` are a frame's, ``model_ms`` a batch's.
        """
        served = fuse(copy.deepcopy(self.average))
        example = torch.zeros(TIMING_BATCH, *self.spec.features)
        if example.ndim == 4:
            example = example.contiguous(memory_format=torch.channels_last)
        flops = count_flops(self.average, example[:1])
        self.costs = Costs(flops / model_flops, measure_ms(served, example, TIMING_REPEATS) / model_ms)
        self._choose_precision()

    def _choose_precision(self, frames: int = 16) -> None:
        """Times a forward and backward pass in float32 and in bfloat16; later steps use the quicker one.

        On a CPU, depthwise convolutions are many times slower in bfloat16, dense ones twice as quick.
        """
        example = torch.zeros(frames, *self.spec.features)
        times = {}
        for half in (False, True, False, True):  # the first of each warms up
            self.half = half
            probe = copy.deepcopy(self.head)
            began = time.perf_counter()
            self._values(probe, example)[-1].sum().backward()
            times[half] = time.perf_counter() - began
        self.half = times[True] < times[False]

    def _values(self, head: nn.Module, maps: Tensor) -> list[Tensor]:
        """A skim's inner values, and every head's logits last; float32."""
        if maps.ndim == 4:
            maps = maps.contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16, enabled=self.half):
            maps = maps if self.half else maps.float()
            values = head.values(maps) if isinstance(head, SkimHead) else [head(maps)]
        return [value.float() for value in values]

    def _learning_rate_factor(self) -> float:
        """A warm-up, then a half-power decay, or a cosine where the last step is known."""
        warm = min(1.0, (self.steps - self._restored_at) / _WARM_UP_STEPS)
        if self._horizon is None:
            return float(warm / (1 + self.steps / _HALF_POWER_STEPS) ** 0.5)
        return float(warm * 0.5 * (1 + math.cos(math.pi * min(1.0, self.steps / self._horizon))))

    @torch.no_grad()
    def _average(self) -> None:
        keep = min(_AVERAGING, (1 + self.steps) / (10 + self.steps))
        for mine, theirs in zip(_tensors(self.average), _tensors(self.head), strict=True):
            if mine.is_floating_point():
                mine.lerp_(theirs, 1 - keep)
            else:
                mine.copy_(theirs)

    def weights(self) -> dict[str, Tensor]:
        """The averaged weights, as a version stores them; a copy, since the average goes on."""
        return {name: tensor.clone() for name, tensor in tensor_names(self.cut, self.average).items()}

    def logits(self, maps: Tensor) -> Tensor:
        """``[N, classes]`` by the averaged weights."""
        with torch.inference_mode():
            result: Tensor = self.average(maps.float())
        return result

    def state(self) -> dict[str, Tensor]:
        """For a checkpoint: weights, averages and the optimizer's moments, all as tensors.

        A skim's moments are left out: they are twice as large as its millions of weights, and a few hundred steps
        bring them back.
        """
        tensors = {f"{self.name}|head|{key}": value for key, value in self.head.state_dict().items()}
        tensors |= {f"{self.name}|average|{key}": value for key, value in self.average.state_dict().items()}
        tensors[f"{self.name}|steps"] = torch.tensor(self.steps)
        kept = self.optimizer.state_dict()["state"] if self.spec.family != "skim" else {}
        for index, moments in kept.items():
            tensors |= {f"{self.name}|optimizer|{index}|{key}": torch.as_tensor(v) for key, v in moments.items()}
        return {key: value.detach().clone().contiguous() for key, value in tensors.items()}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Restores a :meth:`state`; raises ``KeyError`` or ``RuntimeError`` for another candidate's state."""
        for part, module in (("head", self.head), ("average", self.average)):
            module.load_state_dict({key: tensors[f"{self.name}|{part}|{key}"] for key in module.state_dict()})
        self.steps = int(tensors[f"{self.name}|steps"])
        moments: dict[int, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            owner, _, rest = key.partition("|optimizer|")
            if owner == self.name and rest:
                index, name = rest.split("|")
                moments.setdefault(int(index), {})[name] = value
        state = self.optimizer.state_dict()
        self.optimizer.load_state_dict({**state, "state": moments})
        self._restored_at = 0 if moments else self.steps


def _distance(value: Tensor, hint: Tensor, layout: Layout) -> Tensor:
    """Mean squared difference, in units of each channel's standard deviation, outliers clamped."""
    across = (0, 2, 3) if layout == "chw" else tuple(range(hint.ndim - 1))
    deviation = hint.std(across, keepdim=True) + 1e-3
    return ((value - hint) / deviation).square().clamp(max=_LARGEST_DIFFERENCE**2).mean()


def _tensors(module: nn.Module) -> Sequence[Tensor]:
    return [*module.parameters(), *module.buffers()]
