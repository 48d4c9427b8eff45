"""Makes a version of heads: a choice becomes a draft, and a draft that has passed its test becomes a manifest."""

from collections.abc import Sequence
from datetime import datetime
from typing import Literal, Protocol

import msgspec
import numpy as np
import numpy.typing as npt
from torch import Tensor

from layercache.cache_training.certifying.choosing import DOUBTS, ExitChoice, shares
from layercache.cache_training.learning.batch_times import BatchTimes
from layercache.cache_training.learning.candidates import Costs
from layercache.early_exit.heads.loading import tensor_names
from layercache.schemas.manifest import Certificate, Exit, Expected, Manifest, Overload

#: Audit rate of the first version, and the divisor for each later one: later versions have less to gain.
_OPENING_AUDIT_RATE, _AUDIT_RATE_STEP = 0.6, 20.0
#: A threshold that no score reaches: a draft's exits stay closed until a threshold is certified.
_NOT_YET = 2.0


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
    model: ServedModel,
    live: Manifest | None,
    choice: ExitChoice | None,
    cut_costs: dict[str, Costs],
    min_audit_rate: float,
    now: datetime,
) -> tuple[Manifest, dict[str, Tensor]]:
    """The version that would follow ``live``, without thresholds and certificate yet, and its tensors.

    Without a choice: the version that closes every exit because ``live`` has become unsafe.
    """
    tensors: dict[str, Tensor] = {}
    exits: list[Exit] = []
    passed = Costs(0.0, 0.0)
    for one in choice.exits if choice else ():
        candidate = one.candidate
        tensors |= {name: tensor.clone() for name, tensor in tensor_names(candidate.cut, candidate.average).items()}
        passed = Costs(passed.flops + candidate.costs.flops, passed.time + candidate.costs.time)
        reach = cut_costs[candidate.cut]
        exits.append(
            Exit(
                cut=candidate.cut,
                head=candidate.spec,
                temperature=one.temperature,
                threshold=_NOT_YET,
                flops_share=reach.flops + passed.flops,
                time_share=reach.time + passed.time,
            )
        )
    manifest = Manifest(
        version=_name(live, now),
        model=model.fingerprint,
        model_name=model.name,
        created=now.isoformat(timespec="seconds"),
        reason=_reason(live, choice),
        predecessor=live.version if live else None,
        exits=tuple(exits),
        full_flops_share=1 + passed.flops,
        audit_rate=_audit_rate(live, choice, min_audit_rate),
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


def _audit_rate(live: Manifest | None, choice: ExitChoice | None, least: float) -> float:
    """1 while all exits are closed, since audits cost nothing then; less with each version."""
    if choice is None:
        return 1.0
    return max(least, live.audit_rate / _AUDIT_RATE_STEP if live and live.exits else _OPENING_AUDIT_RATE)


def expected_savings(
    choice: ExitChoice, exits: npt.NDArray[np.int32], cut_costs: dict[str, Costs], times: BatchTimes | None = None
) -> Expected:
    """What the choice saves on a stream whose frames leave at ``exits`` (int32 ``[N]``, -1: nowhere).

    Time is a shrinking micro-batch's, by ``times``; without it, each piece costs every frame that passes it the same.
    """
    reach = [cut_costs[one.candidate.cut] for one in choice.exits]
    heads = [one.candidate.costs for one in choice.exits]
    spent = shares(exits, [cost.time for cost in reach], [cost.time for cost in heads])
    if times:
        left = np.bincount(np.where(exits < 0, len(reach), exits), minlength=len(reach) + 1) / len(exits)
        spent = float(times.share([one.candidate for one in choice.exits], left))
    return Expected(
        hit_rate=float((exits >= 0).mean()),
        flops_saved=1 - shares(exits, [cost.flops for cost in reach], [cost.flops for cost in heads]),
        time_saved=1 - spent,
    )


def thresholds(manifest: Manifest, index: int) -> tuple[float, ...]:
    """Thresholds of setting number ``index`` of the family, for each of the manifest's exits."""
    return (float(np.float32(1 - DOUBTS[index])),) * len(manifest.exits)


def with_certificate(
    manifest: Manifest, index: int, certificate: Certificate, expectation: Expected, overload: Overload | None = None
) -> Manifest:
    """The draft as it is published, with its certificates and the thresholds of setting ``index``, which passed."""
    exits = zip(manifest.exits, thresholds(manifest, index), strict=True)
    return msgspec.structs.replace(
        manifest,
        exits=tuple(msgspec.structs.replace(exit_, threshold=threshold) for exit_, threshold in exits),
        certificate=certificate,
        expected=expectation,
        overload=overload,
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
