"""Makes a version of heads: a choice becomes a draft, and a draft that has passed its test becomes a manifest."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from typing import Literal, Protocol

import msgspec
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from layercache.cache_training.certifying.choosing import ExitChoice
from layercache.cache_training.certifying.threshold_family import CLOSED, ThresholdFamily
from layercache.cache_training.learning.candidates import Costs
from layercache.schemas.manifest import Certificate, Exit, Expected, Manifest, Overload, encoder


class ServedModel(Protocol):
    """What a manifest says about its model."""

    @property
    def name(self) -> str:
        """For readers."""

    @property
    def fingerprint(self) -> str:
        """Hexadecimal."""

    @property
    def classes(self) -> Sequence[str]:
        """Their names."""


def draft(
    model: ServedModel, live: Manifest | None, choice: ExitChoice | None, audit_rate: float, now: datetime
) -> tuple[Manifest, dict[str, Tensor]]:
    """The version that would follow ``live``, without thresholds and certificate yet, and its tensors.

    Without a choice: the version that closes every exit because ``live`` has become unsafe. It audits every frame,
    which costs nothing then; a version with exits audits frames at ``audit_rate``.
    """
    exits = choice.exits if choice else ()
    *left, nowhere = choice.route.by_exit([one.candidate for one in exits]) if choice else [Costs(1.0, 1.0)]
    tensors = dict(choice.route.tensors) if choice else {}
    for one in exits:
        tensors |= one.candidate.weights()
    manifest = Manifest(
        version=_name(live, now),
        model=model.fingerprint,
        model_name=model.name,
        created=now.isoformat(timespec="seconds"),
        reason=_reason(live, choice),
        predecessor=live.version if live else None,
        exits=tuple(
            Exit(
                cut=one.candidate.cut,
                head=one.candidate.spec,
                temperature=one.temperature,
                threshold=CLOSED,  # until a threshold is certified
                flops_share=costs.flops,
                time_share=costs.time,
            )
            for one, costs in zip(exits, left, strict=True)
        ),
        path=choice.route.path if choice else None,
        full_flops_share=nowhere.flops,
        full_time_share=nowhere.time,
        audit_rate=audit_rate if choice else 1.0,
        certificate=None,
        expected=None,
    )
    return manifest, tensors


def _name(live: Manifest | None, now: datetime) -> str:
    """The name of the version that follows ``live``."""
    return f"{now:%Y%m%dT%H%M%S}-{_number(live):04d}"


def _number(live: Manifest | None) -> int:
    """The number of the version that follows ``live``."""
    last = live.version.rpartition("-")[2] if live else "0"
    return int(last) + 1 if last.isdigit() else 1


def _reason(live: Manifest | None, choice: ExitChoice | None) -> Literal["first", "better", "unsafe"]:
    if choice is None:
        return "unsafe"
    return "better" if live and live.exits else "first"


def expected_savings(choice: ExitChoice, exits: npt.NDArray[np.int32]) -> Expected:
    """What the choice saves on a stream whose frames leave at ``exits`` (int32 ``[N]``, -1: nowhere)."""
    count = len(choice.exits)
    left = np.bincount(np.where(exits < 0, count, exits), minlength=count + 1) / len(exits)
    candidates = [one.candidate for one in choice.exits]
    return Expected(
        hit_rate=float((exits >= 0).mean()),
        flops_saved=1 - float(choice.route.flops(candidates, left)),
        time_saved=1 - float(choice.route.time(candidates, left)),
    )


def thresholds(choice: ExitChoice, index: int) -> tuple[float, ...]:
    """Of setting number ``index``, one for each exit of the choice: the very float32 numbers that were tested."""
    return tuple(choice.family.thresholds[index].tolist())


def with_thresholds(manifest: Manifest, of_exits: Sequence[float]) -> Manifest:
    """The draft with a threshold for each of its exits."""
    exits = zip(manifest.exits, of_exits, strict=True)
    opened = tuple(msgspec.structs.replace(exit_, threshold=threshold) for exit_, threshold in exits)
    return msgspec.structs.replace(manifest, exits=opened)


def family_hash(manifest: Manifest, tensors: dict[str, Tensor], family: ThresholdFamily) -> str:
    """SHA-256 of a draft's heads and of the thresholds of every setting: of what an attempt is about to test."""
    digest = sha256(encoder.encode((manifest.path, manifest.exits)))
    digest.update(family.thresholds.tobytes())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        # A convolution's weights lie with their channels last, as no file has them.
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).cpu().numpy().tobytes())
    return digest.hexdigest()


@dataclass(frozen=True)
class Certified:
    """A setting that passed its test."""

    thresholds: tuple[float, ...]
    certificate: Certificate
    expected: Expected


def with_certificate(manifest: Manifest, certified: Certified, overload: Overload | None = None) -> Manifest:
    """The draft as it is published, with its certificates and the thresholds that passed, one for each exit."""
    opened = with_thresholds(manifest, certified.thresholds)
    return msgspec.structs.replace(
        opened, certificate=certified.certificate, expected=certified.expected, overload=overload
    )


def without_overload(live: Manifest, now: datetime) -> Manifest:
    """The version that follows ``live`` when its overload thresholds have become unsafe: the same without them."""
    return msgspec.structs.replace(
        live,
        version=_name(live, now),
        created=now.isoformat(timespec="seconds"),
        reason="overload-unsafe",
        predecessor=live.version,
        overload=None,
    )


def describe_version(manifest: Manifest) -> str:
    """One line for the log."""
    certificate, expectation, overload = manifest.certificate, manifest.expected, manifest.overload
    if certificate is None or expectation is None:
        return f"{manifest.version}: every exit closed"
    bolder = (
        f"; under overload {overload.expected.hit_rate:.1%} leave, risk at most {overload.certificate.upper_bound:.2%}"
        if overload
        else ""
    )
    return (
        f"{manifest.version}: exits at {', '.join(exit_.cut for exit_ in manifest.exits)}, "
        f"{expectation.hit_rate:.1%} of frames leave, {expectation.flops_saved:.1%} of FLOPs saved; "
        f"risk at most {certificate.upper_bound:.2%} ({certificate.disagreements} of {certificate.frames} disagreed)"
        f"{bolder}"
    )
