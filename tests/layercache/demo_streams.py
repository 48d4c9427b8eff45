"""Streams as the demo's worker would answer them, made up: for the tests of the tally, the report and the chart."""

import numpy as np

from layercache.measuring.columns import Integers
from layercache.measuring.summary import Machine, Plain, Race, Round
from layercache.measuring.tally import Answer
from layercache.schemas.manifest import Exit, HeadSpec, Manifest, flops_shares, time_shares
from layercache.schemas.prediction import FULL
from tests.support.manifests import certified

MACHINE = Machine(cpus=2, platform="Linux", python="3.11", torch="2.4")
RACE = Race(
    frames=250, max_batch=32, torch_threads=1, heads_version="v2", audit_rate=0.1,
    rounds=(Round(with_exits_fps=500, closed_fps=250, plain_fps=400, ratio=2.0, ratio_plain=1.25),) * 3,
    with_exits_fps=500, closed_fps=250, plain_fps=400, speedup=2.0, speedup_plain=1.25,
    plain=Plain(
        name="OpenVINO int8", disagreement=0.012, heats_fps={"PyTorch": 250, "OpenVINO int8": 400}, note=""
    ),
)  # fmt: skip


def manifest(version: str, exits: dict[str, float], audit_rate: float = 0.1, created: str = "") -> Manifest:
    """A version with ``exits``: cut to share of FLOPs."""
    head = HeadSpec(family="pooled", features=(64, 14, 14), classes=10)
    return Manifest(
        version=version, model="f" * 64, model_name="model", created=created or version, reason="better",
        predecessor=None, full_flops_share=1.02 if exits else 1.0, audit_rate=audit_rate, expected=None,
        certificate=certified() if exits else None,
        exits=tuple(
            Exit(cut=cut, head=head, temperature=1.0, threshold=0.9, flops_share=share, time_share=share)
            for cut, share in exits.items()
        ),
    )  # fmt: skip


def answer(
    frame: int, exit_name: str = FULL, heads: Manifest | None = None, *, label: int = 0, audited: bool = False,
    frame_ms: int = 0, predicted_ms: int = 0, inference_ms: float = 1.0,
) -> Answer:  # fmt: skip
    """Frame ``frame``'s answer by ``heads``; on partition ``frame % 4``."""
    return Answer(
        frame=frame, partition=frame % 4, offset=frame // 4, label=label, exit=exit_name, audited=audited,
        version=heads.version if heads else None, flops_share=flops_shares(heads)[exit_name],
        time_share=time_shares(heads)[exit_name], frame_ms=frame_ms, predicted_ms=predicted_ms,
        inference_ms=inference_ms,
    )  # fmt: skip


def stream(frames: int) -> tuple[list[Answer], dict[tuple[int, int], bool], Integers, Integers, dict[str, Manifest]]:
    """Answers, audits, the full model's labels, the truth and the versions of a stream of micro-batches of 8.

    Nothing is open in its first half; then version ``v1`` lets 40 % leave at one exit, and in the last quarter ``v2``
    lets 80 % leave at two. One answer in 200 of those that leave is wrong.
    """
    draw = np.random.default_rng(0)
    versions = {"v1": manifest("v1", {"layer2": 0.5}, 0.3), "v2": manifest("v2", {"layer1": 0.3, "layer2": 0.5})}
    full = draw.integers(0, 10, frames)
    truth = np.where(draw.random(frames) < 0.93, full, (full + 1) % 10)
    answers, audits = [], {}
    for frame in range(frames):
        name = None if frame < frames // 2 else "v1" if frame < frames - frames // 4 else "v2"
        heads = versions[name] if name else None
        audited = bool(draw.random() < (heads.audit_rate if heads else 1.0))
        leaves = heads is not None and draw.random() < (0.4 if name == "v1" else 0.8)
        wrong = leaves and draw.random() < 0.005
        if heads is not None and audited:
            audits[frame % 4, frame // 4] = wrong
        at = str(draw.choice([exit_.cut for exit_ in heads.exits])) if heads and leaves and not audited else FULL
        label = int(full[frame] + wrong) % 10 if at != FULL else int(full[frame])
        sent_ms = frame // 8 * 150
        batch_ms = 30.0 - 20.0 * (frame // 8 * 8 >= frames // 2)
        answers.append(
            answer(
                frame, at, heads, label=label, audited=audited, frame_ms=sent_ms, predicted_ms=sent_ms + 40,
                inference_ms=batch_ms,
            )
        )  # fmt: skip
    return answers, audits, full, truth, versions
