"""Head candidates: several at every cut, trained side by side; the stream decides which is worth its time."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from early_exit.costs import count_flops
from early_exit.cuts import Cut
from early_exit.heads import build_head
from schemas.manifest import HeadSpec

#: A branch may cost this share of the model's FLOPs at most: it is paid by every frame that reaches it.
_BRANCH_SHARE = 0.025
_TEMPERATURE = 2.0
_LEARNING_RATE = 3e-3
_WEIGHT_DECAY = 0.02
_WARM_UP_STEPS = 30
#: After so many steps the learning rate has fallen to 1 / sqrt(2).
_HALF_POWER_STEPS = 1500
_AVERAGING = 0.995


def propose_heads(cut: Cut, classes: int, model_flops: int) -> list[HeadSpec]:
    """What to try at a cut: a pooled head that learns at once, and, on maps, a branch within its share of FLOPs."""
    heads = [HeadSpec(family="pooled", features=cut.shape, classes=classes, grid=2, hidden=128)]
    if len(cut.shape) == 3 and min(cut.shape[1:]) >= 4:
        depth = max(1, min(3, (min(cut.shape[1:]) - 1).bit_length() - 1))
        for width in (128, 96, 64, 48, 32, 24, 16):
            spec = HeadSpec(family="branch", features=cut.shape, classes=classes, width=width, depth=depth)
            if width <= max(16, cut.shape[0]) and head_flops(spec) <= _BRANCH_SHARE * model_flops:
                heads.append(spec)
                break
    return heads


def head_flops(spec: HeadSpec) -> int:
    """FLOPs of a head for one frame."""
    return count_flops(build_head(spec).eval(), torch.zeros(1, *spec.features))


@dataclass(frozen=True)
class Costs:
    """What a candidate or a way to a cut costs, as shares of the whole model."""

    flops: float
    time: float


class Candidate:
    """One head in training: its weights, their running average (which is what serves), and its optimizer."""

    def __init__(self, name: str, cut: str, spec: HeadSpec, costs: Costs, seed: int) -> None:
        self.name = name
        self.cut = cut
        self.spec = spec
        self.costs = costs
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.head = build_head(spec).train()
        self.average = copy.deepcopy(self.head).eval().requires_grad_(False)
        self.optimizer = torch.optim.AdamW(self.head.parameters(), lr=_LEARNING_RATE, weight_decay=_WEIGHT_DECAY)
        self.steps = 0

    def step(self, maps: Tensor, teacher: Tensor) -> None:
        """One step of distillation: maps ``[N, *features]``, the teacher's logits ``[N, classes]``.

        KL to the teacher's softened answer (Hinton, Vinyals, Dean 2015) plus half the cross-entropy to its label.
        """
        self.steps += 1
        warm = min(1.0, self.steps / _WARM_UP_STEPS)
        for group in self.optimizer.param_groups:
            group["lr"] = _LEARNING_RATE * warm / (1 + self.steps / _HALF_POWER_STEPS) ** 0.5
        logits = self.head(maps)
        soft = F.kl_div(
            F.log_softmax(logits / _TEMPERATURE, 1), F.softmax(teacher / _TEMPERATURE, 1), reduction="batchmean"
        )
        loss = soft * _TEMPERATURE**2 + 0.5 * F.cross_entropy(logits, teacher.argmax(1))
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        self._average()

    @torch.no_grad()
    def _average(self) -> None:
        keep = min(_AVERAGING, (1 + self.steps) / (10 + self.steps))
        for mine, theirs in zip(_tensors(self.average), _tensors(self.head), strict=True):
            if mine.is_floating_point():
                mine.lerp_(theirs, 1 - keep)
            else:
                mine.copy_(theirs)

    def logits(self, maps: Tensor) -> Tensor:
        """``[N, classes]`` by the averaged weights."""
        with torch.inference_mode():
            result: Tensor = self.average(maps)
        return result

    def state(self) -> dict[str, Tensor]:
        """For a checkpoint: weights, averages and the optimizer's moments, all as tensors."""
        tensors = {f"{self.name}|head|{key}": value for key, value in self.head.state_dict().items()}
        tensors |= {f"{self.name}|average|{key}": value for key, value in self.average.state_dict().items()}
        tensors[f"{self.name}|steps"] = torch.tensor(self.steps)
        for index, moments in self.optimizer.state_dict()["state"].items():
            tensors |= {f"{self.name}|optimizer|{index}|{key}": torch.as_tensor(v) for key, v in moments.items()}
        return {key: value.detach().clone().contiguous() for key, value in tensors.items()}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """What :meth:`state` gave; raises ``KeyError`` or ``RuntimeError`` where it is another candidate's."""
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


def _tensors(module: nn.Module) -> Sequence[Tensor]:
    return [*module.parameters(), *module.buffers()]
