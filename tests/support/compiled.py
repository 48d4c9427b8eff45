"""Versions of heads with a compiled path, of any model, and the times of such a path."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest
from torch import Tensor

from layercache.cache_training.learning import compiled_exits, compiled_routes
from layercache.early_exit.compiled.chains import Chain
from layercache.early_exit.compiled.probes import Probe
from layercache.early_exit.cutting.cuts import TracedModel
from layercache.early_exit.heads.compiling import CompiledPieces
from layercache.schemas.manifest import Exit, HeadSpec, Manifest
from tests.support.manifests import certified


def head_spec(traced: TracedModel, cut: str) -> HeadSpec:
    """Of a pooled head."""
    classes = len(traced.classifier.classes)
    return HeadSpec(family="pooled", features=traced.cut(cut).shape, classes=classes, grid=2)


def compiled_version(
    traced: TracedModel, path: CompiledPieces, thresholds: tuple[float, ...] = (0.7,), version: str = "v1"
) -> tuple[Manifest, dict[str, Tensor]]:
    """A version with all exits of a path, at these thresholds, and its tensors: graphs and a probe."""
    names = (*path.cuts, path.precision)
    exits = tuple(
        Exit(cut=name, head=head_spec(traced, name) if name in path.cuts else None, temperature=1.0,
             threshold=threshold, flops_share=1.0, time_share=0.3)
        for name, threshold in zip(names, thresholds, strict=True)
    )  # fmt: skip
    manifest = Manifest(
        version=version, model=traced.classifier.fingerprint, model_name="tiny", created="2026-01-01T00:00:00Z",
        reason="first", predecessor=None, exits=exits, path=path.described, full_flops_share=2.0, full_time_share=1.3,
        audit_rate=0.1, certificate=certified(), expected=None,
    )  # fmt: skip
    preprocessing = traced.classifier.preprocessing
    probe = Probe.make(preprocessing.channels, preprocessing.size, Chain(path.chain).logits)
    return manifest, path.tensors() | probe.tensors()


def set_path_times(monkeypatch: pytest.MonkeyPatch, segments: int) -> None:
    """A compiled path takes a quarter of the plain model's time, each piece before its end a tenth of that.

    The plain model's ``segments`` take a millisecond a frame each.
    """

    def times(pieces: Sequence[object], _: npt.NDArray[np.uint8]) -> list[dict[int, float]]:
        early = len(pieces) - 1
        shares = [0.025] * early + [0.25 - early * 0.025]
        return [{n: share * n * segments for n in compiled_exits.TIMED_BATCHES} for share in shares]

    monkeypatch.setattr(compiled_exits, "pieces_ms", times)
    monkeypatch.setattr(compiled_routes, "pieces_ms", times)
