"""The search for the paper's heads, on seed 0: what it ends with is :data:`benchmarks.paper.method.RECIPES`.

    python -m benchmarks.paper.search --data DIR --backbone resnet20

For each of the paper's layers one choice after the other (pooling, width, learning rate, weight decay, epochs) is set
to what saves most; then the heads are chosen that save most together. It is judged on seed 0's evaluation half, which
favours the paper's method; no published number comes from that seed.
"""

import argparse
import os
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from math import inf, prod
from pathlib import Path

import numpy as np
import torch

from benchmarks.paper.data import BACKBONES, Task, open_task
from benchmarks.paper.method import RECIPES, Observed, Recipe, flatten, learn, observe
from benchmarks.paper.rows import Outcome, Truth, choose, sweep

#: Tried one after the other, each time keeping what saves most.
_CHOICES: dict[str, tuple[float, ...]] = {
    "pool": (1, 2, 4, 8),
    "learning_rate": (0.01, 0.03),
    "hidden": (64, 128, 512),
    "epochs": (10, 30),
    "weight_decay": (1e-4, 1e-2),
}


def worth(outcome: Outcome, truth: Truth) -> float:
    """FLOPs saved, averaged over the criteria that the table shows."""
    return float(np.mean([point.flops_saved for point in choose(sweep(outcome, truth), truth).values()]))


def search_head(task: Task, raw: Observed, index: int, start: Recipe, truth: Truth, largest: int) -> Recipe:
    """The recipe that saves most with this head alone; a first layer of more than ``largest`` weights is not tried."""
    shape = task.traced.cut(start.cut).shape
    tried: dict[Recipe, float] = {}
    best = start
    for choice, values in _CHOICES.items():
        for value in values:
            recipe = replace(best, **{choice: type(getattr(best, choice))(value)})
            size = shape[0] * prod(length // recipe.pool for length in shape[1:])
            if recipe in tried or not 0 < size * recipe.hidden <= largest:
                continue
            seen = pooled(raw, index, shape, recipe.pool)
            tried[recipe] = worth(learn(task, 0, seen, (recipe,), report=lambda _: None), truth)
            print(f"  {recipe}: {tried[recipe]:.2%}", flush=True)
        best = max(tried, key=lambda recipe: tried[recipe])
    return best


def pooled(raw: Observed, index: int, shape: Sequence[int], pool: int) -> Observed:
    """One layer's features, averaged over windows of pool × pool."""
    channels, height, width = shape
    parts = [
        flatten(part.view(-1, height, width, channels).permute(0, 3, 1, 2).float(), pool).half()
        for part in raw.features[index].split(500)
    ]
    return Observed((torch.cat(parts),), raw.logits)


def choose_subset(outcome: Outcome, truth: Truth) -> tuple[bool, ...]:
    """Which heads to keep: a head that nobody leaves at costs every frame."""

    def value(kept: tuple[bool, ...]) -> float:
        settings = tuple(
            tuple(level if keep else inf for level, keep in zip(setting, kept, strict=True))
            for setting in outcome.settings
        )
        return worth(replace(outcome, settings=settings), truth)

    subsets = [kept for kept in product((True, False), repeat=len(outcome.exits)) if any(kept)]
    for kept in subsets:
        print(f"  heads {kept}: {value(kept):.2%}", flush=True)
    return max(subsets, key=value)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    data = os.environ.get("LAYERCACHE_DATA")
    parser.add_argument("--data", type=Path, default=Path(data) if data else None, help="default: LAYERCACHE_DATA")
    parser.add_argument("--backbone", action="append", choices=list(BACKBONES), help="default: all")
    parser.add_argument("--largest", type=int, default=5_000_000, help="weights of a first layer that is still tried")
    options = parser.parse_args()
    for backbone in options.backbone or BACKBONES:
        task = open_task(backbone, options.data)
        layers = tuple(replace(recipe, pool=1) for recipe in RECIPES[backbone])
        raw = observe(task, layers)
        rows = task.evaluation(0)
        truth = Truth(raw.logits[rows].argmax(1).numpy(), task.labels[rows])
        found = []
        for index, layer in enumerate(layers):
            print(f"{backbone}, {layer.cut}", flush=True)
            start = replace(layer, hidden=128)
            found.append(search_head(task, raw, index, start, truth, options.largest))
        seen = [
            pooled(raw, index, task.traced.cut(recipe.cut).shape, recipe.pool).features[0]
            for index, recipe in enumerate(found)
        ]
        kept = choose_subset(learn(task, 0, Observed(tuple(seen), raw.logits), tuple(found)), truth)
        print(f"{backbone}:", *(recipe for recipe, keep in zip(found, kept, strict=True) if keep), sep="\n  ")


if __name__ == "__main__":
    main()
