"""Manifests and tensors of heads for tests of the store and of who reads it."""

import torch
from torch import Tensor

from layercache.early_exit.store.head_store import HeadStore
from layercache.schemas.manifest import Certificate, Exit, Expected, HeadSpec, Manifest, Overload


def manifest(number: int, predecessor: int | None = None, model: str = "ab" * 32) -> Manifest:
    """Version ``v0007`` for number 7, with one exit, created one second after the version before."""
    spec = HeadSpec(family="pooled", features=(8, 16, 16), classes=3)
    return Manifest(
        version=name(number),
        model=model,
        model_name="tiny",
        created=f"2026-01-01T{number // 3600:02d}:{number // 60 % 60:02d}:{number % 60:02d}Z",
        reason="better",
        predecessor=None if predecessor is None else name(predecessor),
        exits=(Exit(cut="first", head=spec, temperature=1.5, threshold=0.9, flops_share=0.44, time_share=0.5),),
        audit_rate=0.1,
        certificate=certified(attempt=number + 1),
        expected=Expected(hit_rate=0.7, flops_saved=0.4, time_saved=0.35),
    )


def certified(budget: float = 0.01, attempt: int = 1) -> Certificate:
    """A certificate for ``budget``, by an attempt that saw few disagreements."""
    return Certificate(
        max_disagreement=budget, confidence=0.95, attempt=attempt, error=0.025, frames=1000, disagreements=2,
        p_value=0.003, upper_bound=0.8 * budget,
    )  # fmt: skip


def overload(thresholds: tuple[float, ...], budget: float = 0.03) -> Overload:
    """What a worker may do that is behind, certified for ``budget``."""
    expected = Expected(hit_rate=0.9, flops_saved=0.6, time_saved=0.55)
    return Overload(thresholds=thresholds, certificate=certified(budget, attempt=2), expected=expected)


def name(number: int) -> str:
    """The version's name."""
    return f"v{number:04d}"


def publish_forever(url: str, folder: str, size: int) -> None:
    """Claims an attempt and publishes a version of its number, again and again, until killed."""
    store = HeadStore(url, folder, keep_last=50)
    while True:
        number = store.claim_attempt()
        store.publish(manifest(number, number - 1), tensors(number, size))


def tensors(number: int, size: int = 64) -> dict[str, Tensor]:
    """Tensors that tell which version they belong to."""
    return {
        "first.classify.weight": torch.full((3, size), float(number)),
        "first.classify.bias": torch.arange(3.0),
        "first.standardise.num_batches_tracked": torch.tensor(number),
    }
