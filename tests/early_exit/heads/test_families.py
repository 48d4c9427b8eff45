"""Heads fit every kind of value at a cut, and another model's or damaged ones are refused by name."""

import resource

import msgspec
import pytest
import torch
from torch import Tensor

from layercache.early_exit.cutting import cuts
from layercache.early_exit.cutting.cuts import TracedModel
from layercache.early_exit.heads.families import HeadsError, PooledHead, build_head, fuse
from layercache.early_exit.heads.loading import load_heads, tensor_names
from layercache.early_exit.model import loading
from layercache.schemas.manifest import Exit, HeadSpec, Manifest
from tests.support.tiny_model import TinyModel

SPECS = [
    HeadSpec(family="pooled", features=(8, 7, 5), classes=4, grid=2, hidden=6),
    HeadSpec(family="pooled", features=(8, 1, 1), classes=4, grid=2),
    HeadSpec(family="pooled", features=(9, 12), classes=4, hidden=6),
    HeadSpec(family="pooled", features=(12,), classes=4),
    HeadSpec(family="branch", features=(8, 7, 5), classes=4, width=6, depth=2),
]


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_a_head_answers_every_kind_of_value(spec: HeadSpec) -> None:
    head = build_head(spec).eval()
    assert head(torch.rand(3, *spec.features)).shape == (3, 4)


@pytest.mark.parametrize("size", [(6, 10), (7, 5), (3, 8), (2, 2), (1, 4)], ids=str)
def test_a_map_is_averaged_to_the_grid_whether_that_divides_it_or_not(size: tuple[int, int]) -> None:
    grid = min(2, size[0]), min(2, size[1])
    maps = torch.rand(3, 4, *size)
    wanted = torch.nn.functional.adaptive_avg_pool2d(maps, grid).flatten(1)
    for last in (False, True):
        shape = (*size, 4) if last else (4, *size)
        head = build_head(HeadSpec(family="pooled", features=shape, classes=2, grid=2, channels_last=last))
        assert isinstance(head, PooledHead)
        torch.testing.assert_close(head.flat(maps.permute(0, 2, 3, 1) if last else maps), wanted)


def test_no_head_fits_a_video() -> None:
    with pytest.raises(HeadsError, match="no head fits a value of shape"):
        build_head(HeadSpec(family="pooled", features=(1, 2, 3, 4), classes=2))
    with pytest.raises(HeadsError, match="a branch needs a map"):
        build_head(HeadSpec(family="branch", features=(9, 12), classes=2, width=4, depth=1))


def test_fusing_changes_nothing_but_rounding() -> None:
    head = build_head(SPECS[-1])
    for _ in range(3):
        head(torch.randn(16, 8, 7, 5) * 3 + 1)  # moves the batch norms' statistics
    head.eval()
    maps = torch.randn(5, 8, 7, 5)
    before = head(maps)
    torch.testing.assert_close(fuse(head)(maps), before, rtol=1e-4, atol=1e-5)


@pytest.fixture
def traced(tiny_model: TinyModel) -> TracedModel:
    return cuts.trace(loading.load(tiny_model.settings))


def version(traced: TracedModel, **changes: object) -> tuple[Manifest, dict[str, Tensor]]:
    spec = HeadSpec(family="branch", features=traced.cut("first").shape, classes=3, width=4, depth=1)
    exit_ = Exit(cut="first", head=spec, temperature=1.0, threshold=0.5, flops_share=0.2, time_share=0.2)
    manifest = Manifest(
        version="v1", model=traced.classifier.fingerprint, model_name="tiny", created="", reason="first",
        predecessor=None, exits=(exit_,), audit_rate=0.1, certificate=None, expected=None,
    )  # fmt: skip
    return msgspec.structs.replace(manifest, **changes), tensor_names("first", build_head(spec))


def test_a_version_loads_with_its_own_weights(traced: TracedModel) -> None:
    manifest, tensors = version(traced)
    heads = load_heads(manifest, tensors, traced)
    assert torch.equal(heads.modules[0].classify.weight, tensors["first.classify.weight"])  # type: ignore[union-attr,arg-type]
    assert not heads.modules[0].training


def test_what_must_not_be_served_is_refused_by_name(traced: TracedModel) -> None:
    manifest, tensors = version(traced, model="f" * 64)
    with pytest.raises(HeadsError, match=f"heads v1 were trained for model ffff.*{traced.classifier.fingerprint[:12]}"):
        load_heads(manifest, tensors, traced)
    manifest, tensors = version(traced)
    missing = {name: tensor for name, tensor in tensors.items() if name != "first.classify.bias"}
    with pytest.raises(HeadsError, match=r"'first' does not load: .*classify\.bias"):
        load_heads(manifest, missing, traced)
    with pytest.raises(HeadsError, match="does not load"):
        load_heads(manifest, {**tensors, "first.classify.bias": torch.zeros(9)}, traced)
    with pytest.raises(HeadsError, match=r"first\.classify\.bias is not finite"):
        load_heads(manifest, {**tensors, "first.classify.bias": torch.full((3,), torch.nan)}, traced)
    moved = msgspec.structs.replace(manifest, exits=(msgspec.structs.replace(manifest.exits[0], cut="second"),))
    with pytest.raises(HeadsError, match="the head at 'second' is for"):
        load_heads(moved, tensors, traced)
    unknown = msgspec.structs.replace(manifest, exits=(msgspec.structs.replace(manifest.exits[0], cut="nowhere"),))
    with pytest.raises(HeadsError, match="'nowhere', which is no cut"):
        load_heads(unknown, tensors, traced)


def test_no_memory_is_taken_for_sizes_that_the_tensors_do_not_have(traced: TracedModel) -> None:
    manifest, tensors = version(traced)
    exit_ = manifest.exits[0]
    assert exit_.head is not None
    for changes in (
        {"family": "pooled", "hidden": 65_536, "grid": 16},  # half a gigabyte
        {"family": "pooled", "hidden": 10**12},
        {"family": "pooled", "hidden": -1},
        {"family": "branch", "width": 10**12},
        {"family": "branch", "depth": 10**9},
        {"family": "pooled", "grid": -(10**12)},
    ):
        spec = msgspec.structs.replace(exit_.head, **changes)
        wrong = msgspec.structs.replace(manifest, exits=(msgspec.structs.replace(exit_, head=spec),))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with pytest.raises(HeadsError, match="heads v1: the head at 'first'"):
            load_heads(wrong, tensors, traced)
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kB


def test_tensors_of_another_dtype_and_tensors_of_no_exit_are_refused(traced: TracedModel) -> None:
    manifest, tensors = version(traced)
    with pytest.raises(HeadsError, match=r"classify\.bias is torch\.float64 \(3,\), not torch\.float32 \(3,\)"):
        load_heads(manifest, {**tensors, "first.classify.bias": torch.zeros(3, dtype=torch.float64)}, traced)
    for name in ("first.classify.more", "second.classify.bias", "x"):
        with pytest.raises(HeadsError, match=f"tensor '{name}' belongs to no exit"):
            load_heads(manifest, {**tensors, name: torch.zeros(3)}, traced)
    closed = msgspec.structs.replace(manifest, exits=())
    assert load_heads(closed, tensors, traced).modules == ()
