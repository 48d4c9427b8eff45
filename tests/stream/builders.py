"""Frames and engines for tests without Kafka."""

import numpy as np
import torch
from torch import Tensor

from layercache.early_exit.cutting.cuts import TracedModel
from layercache.early_exit.engine import Engine
from layercache.early_exit.heads.families import build_head
from layercache.early_exit.heads.loading import load_heads, tensor_names
from layercache.schemas.frame import FrameHeaders
from layercache.schemas.manifest import Exit, HeadSpec, Manifest
from layercache.stream.frames.decode_pool import Decoded
from layercache.stream.frames.frame import Frame
from layercache.stream.worker.answering.micro_batch import MicroBatch
from tests.support.manifests import certified
from tests.support.pictures import COLOURS, coloured
from tests.support.tiny_model import CLASSES


def frame(offset: int, partition: int = 0, value: bytes | None = b"", ce_id: str | None = None) -> Frame:
    """A record of the topic ``frames``."""
    return Frame("frames", partition, offset, 1_000 + offset, b"camera-1", value, FrameHeaders(ce_id=ce_id).as_kafka())


def picture(colour: str, noise: int = 0) -> Tensor:
    """uint8 ``[3, 16, 16]``."""
    return torch.from_numpy(coloured(colour, 16, 16, noise)).permute(2, 0, 1)


def micro_batch(count: int, audit_rate: float, first: int = 0) -> MicroBatch:
    """Frames in turn red, green and blue."""
    frames = [frame(first + n) for n in range(count)]
    decoded = [Decoded(picture(tuple(COLOURS)[n % 3], n), 0.1 * n) for n in range(count)]
    return MicroBatch.of_decoded(frames, decoded, audit_rate)


def heads(
    traced: TracedModel, version: str = "v1", label: str = "blue", audit_rate: float = 0.0, threshold: float = 0.0
) -> tuple[Manifest, dict[str, Tensor]]:
    """A version whose one exit answers ``label`` to every frame whose score reaches ``threshold`` (all score 1)."""
    cut = traced.proposed[0]
    spec = HeadSpec(family="pooled", features=cut.shape, classes=len(CLASSES))
    head = build_head(spec)
    tensors = {name: torch.zeros_like(value) for name, value in tensor_names(cut.name, head).items()}
    tensors[f"{cut.name}.classify.bias"] = torch.eye(3)[CLASSES.index(label)] * 30
    tensors[f"{cut.name}.standardise.running_var"] += 1
    manifest = Manifest(
        version=version, model=traced.classifier.fingerprint, model_name="tiny", created="2026-01-01T00:00:00Z",
        reason="first", predecessor=None, audit_rate=audit_rate, certificate=certified(), expected=None,
        exits=(Exit(cut=cut.name, head=spec, temperature=1.0, threshold=threshold, flops_share=0.3, time_share=0.2),),
    )  # fmt: skip
    return manifest, tensors


def engine(traced: TracedModel, mode: str = "serve", **options: object) -> Engine:
    """An engine with :func:`heads`."""
    manifest, tensors = heads(traced, **options)  # type: ignore[arg-type]
    return Engine(traced, load_heads(manifest, tensors, traced), "shadow" if mode == "shadow" else "serve")


def all_audits(count: int) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    return np.ones(count, np.bool_)
