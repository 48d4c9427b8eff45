"""The paper's method: dense heads on the raw features of the paper's layers, one confidence threshold for all.

Abedi, Ioannou, Jamshidi, Hemmati 2022, "Improving the Performance of DNN-based Software Services using Automated Layer
Caching" (arXiv 2209.08625), and the configuration published with it. A head flattens the value at its layer and puts
two dense layers on it, ReLU between; it learns by SGD with momentum to minimise the KL divergence to the full model's
softmax, on unlabelled frames of the service. A frame leaves at the first head whose largest softmax reaches the
threshold.

Where that leaves room this implementation takes what works better: inputs standardised by channel (a linear map that
folds into the first layer, so it costs nothing when serving), a cosine schedule, the best epoch by validation, and a
choice of pooling, width and learning rate (:data:`RECIPES`, searched on seed 0 by ``benchmarks.paper.search``).
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.paper.data import Rows, Task
from benchmarks.paper.rows import Exit, Outcome, Thresholds
from layercache.early_exit.cutting.costs import count_flops
from layercache.early_exit.engine import Engine
from layercache.early_exit.heads.cache_heads import CacheHeads
from layercache.schemas import manifest as schema

#: The share of the learning half that only decides which epoch was best.
_VALIDATION = 0.1
#: How many global thresholds are swept.
_SETTINGS = 400
_MOMENTUM = 0.9


@dataclass(frozen=True)
class Recipe:
    """How one head looks and learns. ``pool``: windows of pool × pool are averaged first; 1 is the raw map."""

    cut: str
    pool: int = 1
    hidden: int = 512
    learning_rate: float = 0.01
    epochs: int = 10
    batch: int = 64
    weight_decay: float = 1e-4


#: By backbone the heads, at the paper's layers: for ResNet-18 after the stem and each stage but the last, which the
#: small ResNets follow; for MobileFaceNet after each group of bottlenecks of one width. The paper's own widths are 512,
#: 512, 512, 256 and 256 throughout, on raw maps; pooled maps and narrower heads save more here, their own cost counted.
RECIPES: dict[str, tuple[Recipe, ...]] = {
    "resnet18": (
        Recipe("maxpool", pool=8, hidden=512, learning_rate=0.03, epochs=30, weight_decay=1e-2),
        Recipe("layer1", pool=8, hidden=512, learning_rate=0.03),
        Recipe("layer2", pool=4, hidden=512, learning_rate=0.03, epochs=30),
        Recipe("layer3", pool=2, hidden=128, learning_rate=0.03, epochs=30),
    ),
    "resnet56": (
        Recipe("relu", pool=4, hidden=128, weight_decay=1e-2),
        Recipe("layer1", pool=4, hidden=64, weight_decay=1e-2),
        Recipe("layer2", pool=4, hidden=128),
    ),
    "resnet20": (
        Recipe("relu", pool=4, hidden=64, weight_decay=1e-2),
        Recipe("layer1", pool=4, hidden=128, weight_decay=1e-2),
        Recipe("layer2", pool=4, hidden=128),
    ),
    "mobilefacenet": (
        Recipe("blocks.4", pool=4, hidden=256, learning_rate=0.03, epochs=60),
        Recipe("blocks.11", pool=2, hidden=256, learning_rate=0.03, epochs=60),
        Recipe("blocks", hidden=256, learning_rate=0.03, epochs=60),
    ),
}


class DenseHead(nn.Module):
    """Two dense layers on the flattened map: features ``[N, C, H, W]`` to logits ``[N, classes]``."""

    def __init__(self, shape: tuple[int, ...], recipe: Recipe, classes: int) -> None:
        super().__init__()
        channels, height, width = shape
        self.pool = recipe.pool
        self.first = nn.Linear(channels * (height // recipe.pool) * (width // recipe.pool), recipe.hidden)
        self.second = nn.Linear(recipe.hidden, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.classify(flatten(x, self.pool))

    def classify(self, features: Tensor) -> Tensor:
        """Logits for what :func:`flatten` made."""
        logits: Tensor = self.second(F.relu(self.first(features)))
        return logits


def flatten(x: Tensor, pool: int) -> Tensor:
    """Maps ``[N, C, H, W]`` as vectors, channels last: in the order in which the engine has them in memory."""
    if pool > 1:
        x = F.avg_pool2d(x, pool)
    return x.permute(0, 2, 3, 1).flatten(1)


@dataclass(frozen=True)
class Observed:
    """One pass of the full model over all frames of a task."""

    features: tuple[Tensor, ...]
    """By recipe: float16 ``[N, D]``, flattened."""
    logits: Tensor
    """float32 ``[N, classes]``"""


def observe(task: Task, recipes: tuple[Recipe, ...], batch: int = 64) -> Observed:
    """What the heads learn from and are judged on: no seed changes it, so one pass serves them all."""
    segments = task.traced.segments([recipe.cut for recipe in recipes])
    for segment in segments:
        segment.to(memory_format=torch.channels_last)
    normalise = task.traced.classifier.preprocessing.normalise
    parts: list[list[Tensor]] = [[] for _ in segments]
    with torch.inference_mode():
        for frames in task.frames.split(batch):
            x = normalise(frames).contiguous(memory_format=torch.channels_last)
            for index, segment in enumerate(segments):
                x = segment(x)
                parts[index].append(flatten(x, recipes[index].pool).half() if index < len(recipes) else x)
    *features, logits = (torch.cat(part) for part in parts)
    return Observed(tuple(features), logits)


def train(head: DenseHead, recipe: Recipe, channels: int, features: Tensor, logits: Tensor, seed: int) -> float:
    """Teaches a head on ``features`` ``[N, D]``; returns the validation KL of the epoch that it keeps."""
    generator = torch.Generator().manual_seed(seed)
    validating = max(1, round(_VALIDATION * len(features)))
    validation_target, target = logits[:validating].log_softmax(1), logits[validating:].log_softmax(1)
    mean, scale = _standardise(features[validating:], channels)
    inputs = (features.float() - mean) * scale
    validation_inputs, inputs = inputs[:validating], inputs[validating:]
    optimizer = torch.optim.SGD(
        head.parameters(), recipe.learning_rate, momentum=_MOMENTUM, weight_decay=recipe.weight_decay
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, recipe.epochs * -(-len(inputs) // recipe.batch))
    best, kept = float("inf"), {name: value.clone() for name, value in head.state_dict().items()}
    for _ in range(recipe.epochs):
        for rows in torch.randperm(len(inputs), generator=generator).split(recipe.batch):
            loss = _divergence(head.classify(inputs[rows]), target[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        with torch.no_grad():
            validation_loss = float(_divergence(head.classify(validation_inputs), validation_target))
        if validation_loss < best:
            best, kept = validation_loss, {name: value.clone() for name, value in head.state_dict().items()}
    head.load_state_dict(kept)
    _fold(head.first, mean, scale)
    return best


def _divergence(logits: Tensor, target: Tensor) -> Tensor:
    return F.kl_div(logits.log_softmax(1), target, reduction="batchmean", log_target=True)


def _standardise(features: Tensor, channels: int) -> tuple[Tensor, Tensor]:
    """Mean and one over the deviation of every input ``[D]``, by channel."""
    maps = features[:1000].float().view(-1, channels)
    deviation, mean = torch.std_mean(maps, 0)
    repeats = features.shape[1] // channels
    return mean.repeat(repeats), (1 / (deviation + 1e-5)).repeat(repeats)


@torch.no_grad()
def _fold(layer: nn.Linear, mean: Tensor, scale: Tensor) -> None:
    """Puts the standardising of its inputs into a dense layer."""
    layer.weight.mul_(scale)
    layer.bias.sub_(layer.weight @ mean)


def learn(
    task: Task,
    seed: int,
    observed: Observed,
    recipes: tuple[Recipe, ...],
    frames: int | None = None,
    report: Callable[[str], None] = print,
) -> Outcome:
    """Trains a head per recipe on the learning half (its first ``frames``) and scores the evaluation half."""
    classes, shapes = len(task.traced.classifier.classes), [task.traced.cut(r.cut).shape for r in recipes]
    rows, judged = task.learning(seed)[:frames], task.evaluation(seed)
    heads, scores, labels = [], [], []
    for recipe, shape, features in zip(recipes, shapes, observed.features, strict=True):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            head = DenseHead(shape, recipe, classes)
        loss = train(head, recipe, shape[0], features[rows], observed.logits[rows], seed)
        score, label = _score(head.eval().requires_grad_(False), features, judged)
        agreement = float(np.mean(label == observed.logits[judged].argmax(1).numpy()))
        report(f"  {recipe.cut}: validation KL {loss:.3f}, agrees with the full model on {agreement:.1%} of frames")
        heads.append(head)
        scores.append(score)
        labels.append(label)
    exits = tuple(
        Exit(
            recipe.cut,
            task.traced.cut(recipe.cut).flops_share,
            count_flops(head, torch.zeros(1, *shape)) / task.traced.flops,
        )
        for recipe, shape, head in zip(recipes, shapes, heads, strict=True)
    )
    stacked = np.stack(scores, 1)
    levels = np.unique(np.quantile(stacked, np.linspace(1, 0, _SETTINGS)))[::-1]
    return Outcome(
        exits,
        stacked,
        np.stack(labels, 1),
        settings=tuple((float(level),) * len(exits) for level in levels),
        engine=lambda thresholds: _engine(task, exits, tuple(heads), thresholds),
    )


def _score(head: DenseHead, features: Tensor, rows: Rows) -> tuple[np.ndarray, np.ndarray]:
    scores, labels = [], []
    with torch.inference_mode():
        for part in torch.from_numpy(rows).split(256):
            score, label = head.classify(features[part].float()).softmax(1).max(1)
            scores.append(score)
            labels.append(label)
    return torch.cat(scores).numpy(), torch.cat(labels).numpy()


def _engine(task: Task, exits: tuple[Exit, ...], heads: tuple[DenseHead, ...], thresholds: Thresholds) -> Engine:
    """Layercache's own engine with the paper's heads, so that a comparison of times is one of heads."""
    open_ = [index for index, threshold in enumerate(thresholds) if np.isfinite(threshold)]
    described = tuple(
        schema.Exit(
            cut=exits[index].cut,
            head=schema.HeadSpec(
                family="pooled",
                features=task.traced.cut(exits[index].cut).shape,
                classes=len(task.traced.classifier.classes),
                hidden=heads[index].first.out_features,
            ),
            temperature=1.0,
            threshold=thresholds[index],
            flops_share=exits[index].trunk,
            time_share=exits[index].trunk,
        )
        for index in open_
    )
    manifest = schema.Manifest(
        version="paper",
        model=task.traced.classifier.fingerprint,
        model_name=task.backbone,
        created="",
        reason="first",
        predecessor=None,
        exits=described,
        audit_rate=0.0,
        certificate=None,
        expected=None,
    )
    return Engine(task.traced, CacheHeads(manifest, tuple(heads[index] for index in open_)))
